//! The files of a copy are apart: what is written is no other file of it, under whatever name.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use blockferry_dataplane::manifest::ManifestWriter;

use super::options::CopyOptions;
use super::request::{LaneRequest, Place};
use crate::exit::Refusal;

/// Links that lead from one to the next, at most: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Checks that no manifest and no journal is a source, a target or another one of them, that no
/// target is a file that says what to copy, and that a manifest replaces nothing but a manifest.
/// Makes nothing.
///
/// # Errors
/// Wrong usage, which names the file and what else it is.
pub(super) fn check(lanes: &[LaneRequest], options: &CopyOptions) -> anyhow::Result<()> {
    let many = options.lanes.is_some();
    let of_lane =
        |what: &str, lane: usize| if many { format!("{what} of lane {lane}") } else { what.into() };
    let mut uses = Uses::default();
    for (number, lane) in lanes.iter().enumerate() {
        uses.note(path_of(&lane.target, "/proc/self/fd/1"), || of_lane("the target", number));
    }
    let inputs = [
        ("--changed", &options.changed),
        ("--base-manifest", &options.base_manifest),
        ("--lanes", &options.lanes),
    ];
    for (option, path) in inputs {
        let named = path.as_deref().filter(|path| *path != Path::new("-"));
        named.map_or(Ok(()), |path| uses.check(option, path, path))?;
    }
    for (number, lane) in lanes.iter().enumerate() {
        uses.note(path_of(&lane.source, "/proc/self/fd/0"), || of_lane("the source", number));
    }
    for (number, lane) in lanes.iter().enumerate() {
        if let Some(path) = &lane.settings.manifest {
            check_place(path)?;
            let partial = ManifestWriter::partial_path(path);
            for file in [path, &partial] {
                uses.check("--manifest", path, file)?;
                uses.note(Some(file), || of_lane("the file of --manifest", number));
            }
        }
        if let Some(path) = &lane.settings.journal {
            uses.check("--resume", path, path)?;
            uses.note(Some(path), || of_lane("the file of --resume", number));
        }
    }
    Ok(())
}

fn check_place(manifest: &Path) -> anyhow::Result<()> {
    ManifestWriter::check_place(manifest).map_err(|error| {
        let words = error.to_string();
        if error.is_wrong_request() { Refusal::usage(words) } else { error.into() }
    })
}

/// What each file of the copy is.
#[derive(Default)]
struct Uses(HashMap<String, String>);

impl Uses {
    fn note(&mut self, path: Option<&Path>, what: impl FnOnce() -> String) {
        if let Some(key) = path.and_then(file_key) {
            self.0.entry(key).or_insert_with(what);
        }
    }

    /// Refuses `file`, which comes of `path` as the value of `option`, if it is anything else.
    fn check(&self, option: &str, path: &Path, file: &Path) -> anyhow::Result<()> {
        let Some(what) = file_key(file).and_then(|key| self.0.get(&key)) else {
            return Ok(());
        };
        let shown = path.display();
        let made = if file == path {
            String::new()
        } else {
            format!(", which is {} while it is made", file.display())
        };
        Err(Refusal::usage(format!(
            "{option} {shown}{made}: that file is {what} too; name another one"
        )))
    }
}

/// The path of a file; of a standard stream, the name that the kernel has for what is behind it.
fn path_of<'a>(place: &'a Place, stream: &'static str) -> Option<&'a Path> {
    match place {
        Place::Path(path) => Some(path),
        Place::Standard => {
            Some(Path::new(stream)).filter(|path| path.metadata().is_ok_and(|data| data.is_file()))
        }
        Place::Uri(_) | Place::Command(_) | Place::Null => None,
    }
}

/// The same for all names of one file, also of one that is not there yet; `None` for a terminal or
/// `/dev/null`, which can be used any number of times.
pub(super) fn file_key(path: &Path) -> Option<String> {
    if path.metadata().is_ok_and(|data| data.file_type().is_char_device()) {
        return None;
    }
    Some(match file_id(path) {
        Some((device, inode)) => format!("file {device} {inode}"),
        None => format!("name {}", full_name(path).display()),
    })
}

/// Device and inode of a regular file; of a block device, its own number.
pub(super) fn file_id(path: &Path) -> Option<(u64, u64)> {
    let data = path.metadata().ok()?;
    if data.is_file() {
        Some((data.dev(), data.ino()))
    } else {
        data.file_type().is_block_device().then(|| (u64::MAX, data.rdev()))
    }
}

/// The name from the root on, without links, of what need not be there.
fn full_name(path: &Path) -> PathBuf {
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A link to nothing: the file would be made where it leads to.
    for _ in 0..MAX_LINKS {
        let Ok(leads_to) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(leads_to);
    }
    let mut missing: Vec<OsString> = Vec::new();
    let mut there = path.as_path();
    loop {
        if let Ok(found) = there.canonicalize() {
            return missing.iter().rev().fold(found, |name, part| name.join(part));
        }
        let (Some(parent), Some(last)) = (there.parent(), there.components().next_back()) else {
            return path;
        };
        if last != Component::CurDir {
            missing.push(last.as_os_str().to_owned());
        }
        there = parent;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_has_the_same_key_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "x").unwrap();
        symlink(path("a"), path("b")).unwrap();
        fs::hard_link(path("a"), path("c")).unwrap();
        assert_eq!(file_key(&path("a")), file_key(&path("b")));
        assert_eq!(file_key(&path("a")), file_key(&path("c")));
        assert_ne!(file_key(&path("a")), file_key(&path("d")));
        assert_eq!(file_key(Path::new("/dev/null")), None);
    }

    #[test]
    fn a_file_that_is_not_there_yet_has_the_same_key_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("real")).unwrap();
        symlink("real", path("folder")).unwrap();
        symlink("folder/new", path("link")).unwrap();
        let key = file_key(&path("real/new"));
        for name in ["folder/new", "real/../real/./new", "link"] {
            assert_eq!(file_key(&path(name)), key, "{name}");
        }
        assert_ne!(file_key(&path("new")), key);
        assert_eq!(file_key(&path("folder/x/y")), file_key(&path("real/x/y")));
    }
}
