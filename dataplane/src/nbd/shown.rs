//! What a user wrote, shown without its passwords.

/// Stands for a password.
const HIDDEN: &str = "***";
/// Between a user name and a password, also where it is escaped.
const COLONS: [&str; 3] = [":", "%3a", "%3A"];

/// What follows on a URI in a sentence.
const IN_SENTENCES: &[char] = &[',', ';', '.', ':', ')', '\'', '"'];

/// `text` as it may stand in a message, a log or a catalog: URIs in it have no password any more. For
/// whatever may be a URI or have one in it, also where it cannot be read as one. In doubt something is
/// hidden that was none, never the other way.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    text.split_inclusive('\n').map(of_line).collect()
}

fn of_line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(&of_words(before));
        let next = after.find("://").map_or(after.len(), |next| scheme(&after[..next]));
        shown.push_str(&of_uri(&after[..next]));
        rest = &after[next..];
    }
    shown.push_str(&of_words(rest));
    shown
}

/// Where the scheme begins that ends a text.
fn scheme(text: &str) -> usize {
    let in_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    text.trim_end_matches(in_scheme).len()
}

/// What follows on the slashes of a URI, and what stands behind it.
fn of_uri(text: &str) -> String {
    let ends = |letter: char| letter.is_whitespace() || "/?#".contains(letter);
    let authority = text.find(ends).unwrap_or(text.len());
    match text[..authority].rfind('@') {
        Some(at) => format!("{}{}", of_user(&text[..at]), &text[at..]),
        None if is_host(&text[..authority]) => text.to_owned(),
        // A password may have a slash in it, or a blank.
        None => match text.rfind('@') {
            Some(at) => format!("{}{}", of_user(&text[..at]), &text[at..]),
            None => text.to_owned(),
        },
    }
}

/// A name or an address, with a port or without.
fn is_host(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map_or("x:x", |(_, port)| port),
        None => authority,
    };
    match name.split_once(':') {
        None => true,
        // Without a port, a password may begin with a slash.
        Some((_, port)) => {
            let port = port.trim_end_matches(IN_SENTENCES);
            !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
        }
    }
}

/// Words without slashes before them: `USER:PASSWORD@HOST` is a URI that lacks its scheme.
fn of_words(text: &str) -> String {
    let hidden = |word: &str| match word.rfind('@') {
        Some(at) => format!("{}{}", of_user(&word[..at]), &word[at..]),
        None => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace).map(hidden).collect()
}

fn of_user(user: &str) -> String {
    let colon = COLONS.iter().filter_map(|colon| Some((user.find(colon)?, colon))).min();
    match colon {
        Some((at, colon)) => format!("{}{colon}{HIDDEN}", &user[..at]),
        None => user.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_also_where_the_text_is_no_uri() {
        for (text, shown) in [
            ("nbd://u:hunter2@h/x", "nbd://u:***@h/x"),
            ("nbd://:hunter2@h:1/x?a=b", "nbd://:***@h:1/x?a=b"),
            ("nbd://u%3Ahunter2@h/x", "nbd://u%3A***@h/x"),
            ("nbd://u:hunter2@127.0.0.1:999999/x", "nbd://u:***@127.0.0.1:999999/x"),
            ("root=nbdz://u:hunter2@h/x", "root=nbdz://u:***@h/x"),
            ("nbd://u:hun@ter2@h/x", "nbd://u:***@h/x"),
            ("nbd://u:hun/ter2@h/x", "nbd://u:***@h/x"),
            ("nbd://u:hun?t/er2@h/x", "nbd://u:***@h/x"),
            ("nbd://u:/hunter2@h/x", "nbd://u:***@h/x"),
            ("nbd://u:hun ter2@h/x", "nbd://u:***@h/x"),
            ("nbd:u:hunter2@h", "nbd:***@h"),
            ("u:hunter2@h:10080", "u:***@h:10080"),
            (
                "invalid value 'http://u:hunter2@h' for '--hub <URL>': no\n\n http://v:w@i\n",
                "invalid value 'http://u:***@h' for '--hub <URL>': no\n\n http://v:***@i\n",
            ),
            ("a=nbd://u:p@h,b=nbds://v:q@i", "a=nbd://u:***@h,b=nbds://v:***@i"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn what_has_no_password_is_shown_as_it_is() {
        for text in [
            "",
            "nbd://h/x",
            "nbd://h:10809/a@b:c",
            "nbd://[::1]:10809/a@b",
            "nbds://user@h:10809/x",
            "nbd+unix:///x?socket=/run/a@b",
            "listening on http://127.0.0.1:10080, state in /srv/a@b",
            "disk root: nbd://h/x: connection refused (see nbd://i/y)",
            "/srv/images/root.raw",
            "point 01: at 12:30, user@host",
        ] {
            assert_eq!(without_passwords(text), text);
        }
    }
}
