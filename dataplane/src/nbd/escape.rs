//! Percent escapes of URIs, RFC 3986 section 2.1.

use std::fmt;

use super::uri::NbdUriError;

/// What is not escaped in a host or user name, beside letters, digits and `-._~`.
pub(super) const REGISTERED: &[u8] = b"";
/// What is not escaped in a path as well.
pub(super) const PATH: &[u8] = b"/:@!$'()*,+=&;";
/// What is not escaped in a value of a query as well.
pub(super) const QUERY: &[u8] = b"/:@,";

/// Undoes the escapes.
pub(super) fn undo(text: &str) -> Result<Vec<u8>, NbdUriError> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
        let (Some(high), Some(low)) = digits else {
            return Err(NbdUriError::Escape { text: text.to_owned() });
        };
        plain.push(high << 4 | low);
    }
    Ok(plain)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Bytes that are written with escapes, except for those that need none.
pub(super) struct Escaped<'a>(pub(super) &'a [u8], pub(super) &'static [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || self.1.contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}
