//! Names that come from outside: data, checked once, and never parts of a path.

use std::fmt;
use std::str::FromStr;

/// A value that the catalog does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown:?}: {rule}")]
#[non_exhaustive]
pub struct ValueError {
    /// What it was to be.
    pub what: &'static str,
    /// The value, cut where it is long.
    pub shown: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl ValueError {
    pub(super) fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        const SHOWN_CHARS: usize = 80;
        let mut shown: String = value.chars().take(SHOWN_CHARS).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { what, shown, rule }
    }
}

/// What a name of a person's choice may be. A disk's name becomes that of a file when it is
/// restored (`<disk>.qcow2`, and `.partial` while it is made), and a file name has 255 bytes.
fn is_name(text: &str) -> bool {
    const MAX_BYTES: usize = 200;
    (1..=MAX_BYTES).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.trim() == text
        && !text.chars().any(|c| c.is_control() || c == '/' || c == '\\')
}

const NAME_RULE: &str = "a name has 1 to 200 bytes, begins with neither . nor -, has no blank at \
                         either end, and no slash, backslash or control character";

/// Visible ASCII, 1 to `max` bytes.
fn is_token(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                let check: fn(&str) -> bool = $check;
                if !check(text) {
                    return Err(ValueError::new($what, text, $rule));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_text! {
    /// The name of a VM.
    VmName, "VM name", is_name, NAME_RULE
}
checked_text! {
    /// The name of a disk, in words of its VM: `root`, `data`.
    DiskName, "disk name", is_name, NAME_RULE
}
checked_text! {
    /// What a disk is known by, whatever it is called and wherever it is attached.
    DiskUuid, "disk UUID", |text| is_token(text, 128), "it has 1 to 128 visible ASCII characters"
}
checked_text! {
    /// What a VM is known by, whatever it is called and wherever it runs.
    VmUuid, "VM UUID", |text| is_token(text, 128), "it has 1 to 128 visible ASCII characters"
}
checked_text! {
    /// The instant up to which a source's changes are in a layer (`changeId` of vSphere, the name
    /// of a dirty bitmap).
    ChangeId, "change id",
    |text| (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control),
    "it has 1 to 1024 bytes and no control characters"
}
checked_text! {
    /// What tells the content of a digest manifest from that of any other.
    ManifestId, "id of a manifest",
    |text| text.len() == 32 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
    "it has 32 hexadecimal digits"
}
checked_text! {
    /// What tells a request from any other one, besides its key.
    RequestHash, "hash of a request",
    |text| text.len() == 64 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
    "it has 64 hexadecimal digits"
}
checked_text! {
    /// Chosen by who asks for a job, so that asking again gives the same one.
    IdempotencyKey, "idempotency key", |text| is_token(text, 255),
    "it has 1 to 255 visible ASCII characters"
}
