//! Text from a server, made fit for a terminal and a log.

/// Longest text that is printed, in characters; the rest is cut off.
const PRINTABLE_LIMIT: usize = 256;

/// Text from the wire in one line, with control and direction characters escaped, and cut at 256
/// characters: a server must not be able to write its own lines into a log.
pub fn printable(text: &[u8]) -> String {
    // Four bytes hold the longest character, so nothing that would be printed is left out here.
    let head = &text[..text.len().min(PRINTABLE_LIMIT * 4 + 4)];
    let lossy = String::from_utf8_lossy(head);
    let mut line = String::with_capacity(lossy.len());
    for (position, character) in lossy.chars().enumerate() {
        if position == PRINTABLE_LIMIT {
            line.push('…');
            break;
        }
        if character.is_control() || deceives(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Line separators, marks and overrides of direction, and the byte order mark.
fn deceives(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
