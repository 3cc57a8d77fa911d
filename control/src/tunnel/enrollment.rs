//! The code that makes a machine a node of a hub.

use std::fmt;
use std::str::FromStr;

use super::key::SshKey;

/// Characters of the host key's fingerprint that a code has: 132 bits.
const PIN_CHARS: usize = 22;
const FINGERPRINT_PREFIX: &str = "SHA256:";

/// `NODE.SECRET.PIN`: who is enrolled, by what right, and which hub it is. The node sends the first
/// two as the user of its first SSH connection, when it has seen that the hub's key fits the third.
/// It has no `Debug`, for it is a secret until it was used.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentCode {
    node: String,
    secret: String,
    pin: String,
}

impl EnrollmentCode {
    /// A code for a hub with this key.
    #[must_use]
    pub fn new(node: &str, secret: &str, hub: &SshKey) -> Self {
        Self { node: node.to_owned(), secret: secret.to_owned(), pin: pin(hub) }
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The user of the connection that enrolls.
    #[must_use]
    pub fn user(&self) -> String {
        format!("{}.{}", self.node, self.secret)
    }

    /// Whether a hub with this key made the code.
    #[must_use]
    pub fn is_of(&self, hub: &SshKey) -> bool {
        self.pin == pin(hub)
    }

    /// The name and the secret of a user that enrolls.
    #[must_use]
    pub fn split_user(user: &str) -> Option<(&str, &str)> {
        user.split_once('.').filter(|(_, secret)| !secret.contains('.'))
    }
}

fn pin(hub: &SshKey) -> String {
    // Its alphabet has no dot.
    hub.fingerprint().trim_start_matches(FINGERPRINT_PREFIX).chars().take(PIN_CHARS).collect()
}

impl FromStr for EnrollmentCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        match parts[..] {
            [node, secret, pin]
                if !node.is_empty() && !secret.is_empty() && pin.chars().count() == PIN_CHARS =>
            {
                Ok(Self { node: node.into(), secret: secret.into(), pin: pin.into() })
            }
            // What it is stays unsaid: it may be most of a good one.
            _ => Err("that is no code of `blockferry hub enroll`; copy all of it".into()),
        }
    }
}

impl fmt::Display for EnrollmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.secret, self.pin)
    }
}
