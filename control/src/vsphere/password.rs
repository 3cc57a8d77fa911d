//! A password in a file: read when it is needed, kept nowhere.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::xml::can_be_said;
use crate::sources::vddk;

/// Bytes of a password.
const MAX_BYTES: u64 = 1024;
/// Permissions of others than the owner.
const OF_OTHERS: u32 = 0o077;

/// Why a password cannot be had. Nothing of it is in here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The file cannot be read.
    #[error("the password file {} cannot be read: {error}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others can read it.
    #[error("the password file {} can be read by others than its owner; chmod 600 it", .0.display())]
    Open(PathBuf),
    /// What is there is gone when it is read.
    #[error(
        "the password file {} is no file but a pipe or the like, which can be read only once, and a \
         password is read for each login: write it to a file", .0.display()
    )]
    NoFile(PathBuf),
    /// An editor has put a mark before the password, which would be sent as a part of it: a wrong
    /// password, and enough of them lock an account.
    #[error(
        "the password file {} begins with a UTF-8 byte order mark, which is no part of the password: \
         write the file without it", .0.display()
    )]
    Marked(PathBuf),
    /// What is in it is none.
    #[error(
        "the password file {} holds no password: that is one line of 1 to {MAX_BYTES} bytes without \
         control characters", .0.display()
    )]
    None(PathBuf),
}

/// The file that has a password, which only its owner can read. One that is changed counts from the
/// next login on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordFile(PathBuf);

impl PasswordFile {
    /// This file, which is looked at now: a wrong one is better known early.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub fn at(path: &Path) -> Result<Self, PasswordError> {
        let file = Self(path.to_owned());
        file.read()?;
        Ok(file)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it, for nbdkit.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub(crate) fn for_nbdkit(&self) -> Result<vddk::Password, PasswordError> {
        let password = self.read()?.0;
        vddk::Password::new(password).map_err(|_| PasswordError::None(self.0.clone()))
    }

    pub(super) fn read(&self) -> Result<Password, PasswordError> {
        let unread = |error| PasswordError::Unread { path: self.0.clone(), error };
        // Before it is opened: a pipe that nobody writes to would be waited for.
        if !fs::metadata(&self.0).map_err(unread)?.is_file() {
            return Err(PasswordError::NoFile(self.0.clone()));
        }
        let file = File::open(&self.0).map_err(unread)?;
        // Of what was opened, and not of what has its name by now.
        if file.metadata().map_err(unread)?.mode() & OF_OTHERS != 0 {
            return Err(PasswordError::Open(self.0.clone()));
        }
        // One more for the end of the line, and one that is too many.
        let mut text = Password(String::with_capacity(2048));
        match file.take(MAX_BYTES + 2).read_to_string(&mut text.0) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(unread(error)),
            Err(_) => return Err(PasswordError::None(self.0.clone())),
            Ok(_) => {}
        }
        if text.0.starts_with('\u{feff}') {
            return Err(PasswordError::Marked(self.0.clone()));
        }
        let line = text.0.trim_end_matches(['\r', '\n']).len();
        text.0.truncate(line);
        let fits = u64::try_from(line).is_ok_and(|bytes| (1..=MAX_BYTES).contains(&bytes));
        if !fits || text.0.contains(char::is_control) || !can_be_said(&text.0) {
            return Err(PasswordError::None(self.0.clone()));
        }
        Ok(text)
    }
}

/// A password in memory, for as long as a login takes.
pub(super) struct Password(String);

impl Password {
    /// It itself.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::NamedTempFile;

    use super::*;

    fn file(content: &[u8], mode: u32) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_password_is_the_line_without_its_end() {
        for content in ["s3cr<t & more", "s3cr<t & more\n", "s3cr<t & more\r\n"] {
            let file = file(content.as_bytes(), 0o600);
            let read = PasswordFile::at(file.path()).unwrap().read().unwrap();
            assert_eq!(read.reveal(), "s3cr<t & more");
            assert_eq!(format!("{read:?}"), "Password");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o601] {
            let file = file(b"secret", mode);
            let refused = PasswordFile::at(file.path()).unwrap_err();
            assert!(matches!(refused, PasswordError::Open(_)), "{mode:o}: {refused}");
        }
    }

    #[test]
    fn a_pipe_is_refused_with_the_reason_and_not_waited_for() {
        let folder = tempfile::TempDir::new().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [&*pipe, folder.path(), Path::new("/dev/null")] {
            let refused = PasswordFile::at(path).unwrap_err();
            assert!(matches!(refused, PasswordError::NoFile(_)), "{refused}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_refused_with_the_reason_and_not_sent() {
        for content in ["\u{feff}secret", "\u{feff}secret\r\n", "\u{feff}"] {
            let file = file(content.as_bytes(), 0o600);
            let refused = PasswordFile::at(file.path()).unwrap_err();
            assert!(matches!(refused, PasswordError::Marked(_)), "{refused}");
            let said = format!("{refused} {refused:?}");
            assert!(said.contains("byte order mark") && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn what_is_no_password_is_refused_without_showing_it() {
        let long = "secret".repeat(200);
        for content in
            [&b""[..], b"\n", b"secret\nsecret", b"secret\0", b"\xffsecret", long.as_bytes()]
        {
            let file = file(content, 0o400);
            let refused = PasswordFile::at(file.path()).unwrap_err();
            assert!(matches!(refused, PasswordError::None(_)), "{refused}");
            assert!(!format!("{refused} {refused:?}").contains("secret"));
        }
    }
}
