//! The words of the command line before clap sees them.
//!
//! nbdcopy takes `[ COMMAND ARGS ... ]` as words of their own; clap knows no such thing. Each
//! group becomes one word that no caller can write (it ends in NULs), and is looked up again when
//! the endpoints are read. What stands inside a group is the command's, options too.

use std::ffi::{OsStr, OsString};

use crate::exit::Refusal;

/// The long options of nbdcopy: getopt lets its users abbreviate them, and options of ours must
/// not make those abbreviations ambiguous.
const NBDCOPY_OPTIONS: [&str; 15] = [
    "allocated",
    "connections",
    "destination-is-zero",
    "flush",
    "help",
    "no-extents",
    "progress",
    "queue-size",
    "request-size",
    "requests",
    "sparse",
    "synchronous",
    "target-is-zero",
    "threads",
    "verbose",
];

/// Which names `--long-options` or `--short-options` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionNames {
    Long,
    Short,
}

/// The words, with groups taken out.
#[derive(Debug)]
pub(crate) struct Words {
    plain: Vec<OsString>,
    groups: Vec<Vec<OsString>>,
    asked: Option<OptionNames>,
}

impl Words {
    /// Takes the groups out of the words of `copy`; other subcommands have none.
    ///
    /// # Errors
    /// A group that does not end or has no command in it.
    pub(crate) fn of(argv: Vec<OsString>) -> anyhow::Result<Self> {
        let mut words =
            Self { plain: Vec::with_capacity(argv.len()), groups: Vec::new(), asked: None };
        let mut argv = argv.into_iter();
        words.plain.extend(argv.by_ref().take(2));
        if words.plain.get(1).is_none_or(|command| command != "copy") {
            words.plain.extend(argv);
            return Ok(words);
        }
        let mut options_are_over = false;
        while let Some(word) = argv.next() {
            if word == "[" {
                words.take_group(&mut argv)?;
            } else if options_are_over {
                words.plain.push(word);
            } else {
                options_are_over = word == "--";
                match word.to_str() {
                    Some("--long-options") => words.asked = Some(OptionNames::Long),
                    Some("--short-options") => words.asked = Some(OptionNames::Short),
                    _ => words.plain.push(expanded(&word).unwrap_or(word)),
                }
            }
        }
        Ok(words)
    }

    /// What clap is to read.
    pub(crate) fn plain(&self) -> &[OsString] {
        &self.plain
    }

    /// The words between the brackets that `word` stands for.
    pub(crate) fn group(&self, word: &OsStr) -> Option<&[OsString]> {
        let nuls = word.as_encoded_bytes().iter().rev().take_while(|&&byte| byte == 0);
        self.groups.get(nuls.count().checked_sub(1)?).map(Vec::as_slice)
    }

    /// Whether only names of options are wanted.
    pub(crate) fn options_asked_for(&self) -> Option<OptionNames> {
        self.asked
    }

    fn take_group(&mut self, rest: &mut impl Iterator<Item = OsString>) -> anyhow::Result<()> {
        let mut ended = false;
        let group: Vec<OsString> = rest
            .take_while(|word| {
                ended = word == "]";
                !ended
            })
            .collect();
        if !ended {
            return Err(Refusal::usage(format!(
                "'{}' has no closing ']'; write the brackets as words of their own",
                shown(&group).trim_end_matches(" ]")
            )));
        }
        if group.is_empty() {
            return Err(Refusal::usage("there is no command between '[' and ']'"));
        }
        let nuls = "\0".repeat(self.groups.len() + 1);
        self.plain.push(format!("{}{nuls}", shown(&group)).into());
        self.groups.push(group);
        Ok(())
    }
}

/// Shown in messages in place of the NUL-marked word.
pub(crate) fn shown(group: &[OsString]) -> String {
    let words: Vec<_> = group.iter().map(|word| word.to_string_lossy()).collect();
    format!("[ {} ]", words.join(" "))
}

fn expanded(word: &OsStr) -> Option<OsString> {
    let (name, value) = match word.to_str()?.strip_prefix("--")?.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word.to_str()?.strip_prefix("--")?, None),
    };
    let mut fitting = NBDCOPY_OPTIONS.iter().filter(|option| option.starts_with(name));
    let option = fitting.next().filter(|_| !name.is_empty())?;
    if fitting.next().is_some() {
        return None;
    }
    Some(match value {
        Some(value) => format!("--{option}={value}").into(),
        None => format!("--{option}").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> anyhow::Result<Words> {
        Words::of(line.split(' ').map(OsString::from).collect())
    }

    fn plain(line: &str) -> Vec<String> {
        let words = words(line).unwrap();
        words.plain.iter().map(|word| word.to_string_lossy().replace('\0', "#")).collect()
    }

    #[test]
    fn a_group_becomes_one_word_that_leads_back_to_it() {
        let words = words("blockferry copy -- [ nbdkit -v memory 1M ] [ cat ]").unwrap();
        assert_eq!(words.plain.len(), 5);
        assert_eq!(words.group(&words.plain[3]).unwrap(), ["nbdkit", "-v", "memory", "1M"]);
        assert_eq!(words.group(&words.plain[4]).unwrap(), ["cat"]);
        assert_eq!(words.group(OsStr::new("[ cat ]")), None);
    }

    #[test]
    fn options_inside_a_group_are_left_to_its_command() {
        let line = "blockferry copy -p [ nbdkit --conn -- x ] --flush b";
        assert_eq!(
            plain(line),
            ["blockferry", "copy", "-p", "[ nbdkit --conn -- x ]#", "--flush", "b"]
        );
    }

    #[test]
    fn a_group_without_end_or_command_is_wrong_usage() {
        for line in ["blockferry copy [ nbdkit memory 1M b", "blockferry copy [ ] b", "x copy ["] {
            let error = words(line).unwrap_err();
            assert_eq!(crate::exit::Exit::of_error(&error), crate::exit::Exit::Usage, "{line}");
        }
    }

    #[test]
    fn a_closing_bracket_alone_is_a_name() {
        assert_eq!(plain("blockferry copy a ]"), ["blockferry", "copy", "a", "]"]);
    }

    #[test]
    fn only_copy_has_groups() {
        assert_eq!(plain("blockferry man [ x"), ["blockferry", "man", "[", "x"]);
    }

    #[test]
    fn abbreviations_of_nbdcopy_are_written_out() {
        for (short, long) in [
            ("--fl", "--flush"),
            ("--conn=3", "--connections=3"),
            ("--s", "--s"),
            ("--re", "--re"),
            ("--requests", "--requests"),
            ("--request-size=1", "--request-size=1"),
            ("--p", "--progress"),
            ("--lanes", "--lanes"),
            ("--resume", "--resume"),
            ("--flush-interval=1s", "--flush-interval=1s"),
            ("--", "--"),
            ("--fl=", "--flush="),
        ] {
            assert_eq!(plain(&format!("blockferry copy {short}"))[2], long);
        }
        assert_eq!(plain("blockferry copy -- --fl")[3], "--fl");
    }

    #[test]
    fn names_of_options_can_be_asked_for() {
        let asked = words("blockferry copy --long-options").unwrap().options_asked_for();
        assert_eq!(asked, Some(OptionNames::Long));
    }
}
