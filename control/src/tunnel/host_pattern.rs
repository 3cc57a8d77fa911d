//! Which servers a line of known hosts is about: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

use ring::hmac;
use russh::keys::ssh_key::known_hosts::HostPatterns;

use super::address::TunnelAddress;

/// A server as known hosts name it: the port only where it is not 22.
pub(super) fn name(address: &TunnelAddress) -> String {
    let host = address.host.to_ascii_lowercase();
    match address.port {
        22 => host,
        port => format!("[{host}]:{port}"),
    }
}

/// Whether these are the patterns, or the hash, of a server of that name. What cannot be read is
/// about nobody.
pub(super) fn names(patterns: &str, name: &str) -> bool {
    match patterns.parse() {
        Ok(HostPatterns::Patterns(patterns)) => {
            let mut found = false;
            for pattern in patterns {
                let pattern = pattern.to_ascii_lowercase();
                match pattern.strip_prefix('!') {
                    // All but this one.
                    Some(not) if matches(not.as_bytes(), name.as_bytes()) => return false,
                    Some(_) => {}
                    None => found |= matches(pattern.as_bytes(), name.as_bytes()),
                }
            }
            found
        }
        Ok(HostPatterns::HashedName { salt, hash }) => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
            hmac::verify(&key, name.as_bytes(), &hash).is_ok()
        }
        Err(_) => false,
    }
}

/// Whether a pattern with `*` and `?` fits all of `name`; in time of one times the other.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    // Behind the last star, and the first byte that it has not taken yet.
    let mut star = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                at_pattern += 1;
                star = Some((at_pattern, at_name));
                continue;
            }
            Some(byte) if *byte == b'?' || *byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
                continue;
            }
            _ => {}
        }
        let Some((behind, taken)) = star else { return false };
        star = Some((behind, taken + 1));
        (at_pattern, at_name) = (behind, taken + 1);
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_fit_as_in_a_shell() {
        for (pattern, text) in [
            ("hub", "hub"),
            ("*", "hub"),
            ("*", ""),
            ("h?b", "hub"),
            ("*.example.net", "a.b.example.net"),
            ("a*b*c", "a-b-b-c"),
            ("[127.0.0.?]:2222", "[127.0.0.1]:2222"),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("hub", "hubs"),
            ("hubs", "hub"),
            ("", "hub"),
            ("h?b", "hb"),
            ("*.example.net", "example.net"),
            ("a*b", "a-b-c"),
            ("[127.0.0.1]:22", "[127.0.0.1]:2222"),
        ] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn a_long_pattern_takes_no_long_time() {
        let pattern = "*a".repeat(400) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(4000).as_bytes()));
    }

    #[test]
    fn an_exclamation_mark_takes_out_of_a_list() {
        assert!(names("*.example.net,!old.example.net", "hub.example.net"));
        assert!(!names("*.example.net,!old.example.net", "old.example.net"));
        assert!(!names("!old.example.net", "hub.example.net"));
        assert!(names("HUB.example.net,192.0.2.1", "hub.example.net"));
    }
}
