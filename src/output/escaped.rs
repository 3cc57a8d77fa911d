//! Names that somebody else gave.

use std::borrow::Cow;

/// `text` with escapes, as in Rust, in place of what would break a line, steer a terminal or turn the
/// order of letters: names of VMs and their files come from servers, where people may write anything.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if steers(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// Control characters, ends of lines of Unicode, and what sets a direction of writing (Unicode Standard
/// Annex 9, section 2).
fn steers(letter: char) -> bool {
    let direction = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') || direction
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_steers_a_terminal_is_shown_and_letters_stay() {
        assert_eq!(escaped("Zürich, db 1 \\"), "Zürich, db 1 \\");
        assert_eq!(escaped("a\nb\x1b[31mc\u{9b}d\u{202e}e"), "a\\nb\\u{1b}[31mc\\u{9b}d\\u{202e}e");
    }
}
