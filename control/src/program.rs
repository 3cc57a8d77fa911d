//! Programs of this machine.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The file that a shell would run for `name`: the path itself where it has a slash, else the
/// first executable file of that name in the folders of `PATH`.
pub(crate) fn find(name: &OsStr) -> Option<PathBuf> {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| runs(path));
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| runs(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        let shell = find(OsStr::new("sh")).expect("every machine has a shell");
        assert_eq!(find(shell.as_os_str()), Some(shell));
    }

    #[test]
    fn what_cannot_be_run_is_not_found() {
        for name in ["", "no-such-command-here", "/etc/passwd", "/tmp", "./no-such"] {
            assert_eq!(find(OsStr::new(name)), None, "{name}");
        }
    }
}
