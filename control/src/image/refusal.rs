//! What qemu's programs mean by what they write to stderr.

/// A refusal for which there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another process has the image open.
    Locked,
    /// A file of the chain below the image is not there.
    BackingMissing,
    /// The file is not there.
    Missing,
    /// The file system or quota is full.
    NoSpace,
    /// The system forbids it.
    Forbidden,
}

/// Words of qemu, and of strerror(3) in the C locale, in the order in which they decide. A chain
/// below an image that is not there is reported with both a backing file and a missing file.
const WORDS: &[(Refusal, &[&str])] = &[
    (Refusal::Locked, &[" lock", "Is another process using the image"]),
    (Refusal::NoSpace, &["No space left on device"]),
    (Refusal::NoSpace, &["Disk quota exceeded"]),
    (Refusal::BackingMissing, &["backing", "No such file or directory"]),
    (Refusal::Missing, &["No such file or directory"]),
    (Refusal::Forbidden, &["Permission denied"]),
    (Refusal::Forbidden, &["Operation not permitted"]),
    (Refusal::Forbidden, &["Read-only file system"]),
];

impl Refusal {
    /// Sorts the last lines that a program wrote; `None` for what is not known.
    pub(crate) fn of(said: &[String]) -> Option<Self> {
        let has = |word: &&str| said.iter().any(|line| line.contains(*word));
        WORDS.iter().find(|(_, words)| words.iter().all(has)).map(|(refusal, _)| *refusal)
    }
}

/// The lines in one, fit for an error.
pub(crate) fn in_one_line(said: &[String]) -> String {
    let lines: Vec<&str> =
        said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ");
    if line.is_empty() { "it said nothing".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_words() {
        let cases: [(&str, Option<Refusal>); 5] = [
            (
                "qemu-nbd: Failed to blk_new_open 'a': Failed to get \"write\" lock\nIs another process using the image [a]?",
                Some(Refusal::Locked),
            ),
            (
                "qemu-img: b: Could not open './n': No such file or directory\nCould not open backing image.",
                Some(Refusal::BackingMissing),
            ),
            (
                "qemu-img: Could not open 'n': Could not open 'n': No such file or directory",
                Some(Refusal::Missing),
            ),
            ("qemu-img: a: Could not resize file: No space left on device", Some(Refusal::NoSpace)),
            ("qemu-img: Could not open 'c': Image is not in qcow2 format", None),
        ];
        for (said, refusal) in cases {
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            assert_eq!(Refusal::of(&lines), refusal, "{said}");
        }
    }
}
