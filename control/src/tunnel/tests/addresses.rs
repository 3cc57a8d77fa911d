use proptest::prelude::*;

use super::super::TunnelAddress;

fn address(text: &str) -> TunnelAddress {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn parts(text: &str) -> (Option<String>, String, u16) {
    let TunnelAddress { user, host, port } = address(text);
    (user, host, port)
}

#[test]
fn an_address_has_a_host_and_may_have_a_user_and_a_port() {
    let me = Some("me".to_owned());
    for (text, expected) in [
        ("ssh://hub", (None, "hub", 22)),
        ("ssh://me@hub", (me.clone(), "hub", 22)),
        ("SSH://me@hub:2222", (me.clone(), "hub", 2222)),
        ("ssh://me@hub:2222/", (me.clone(), "hub", 2222)),
        ("ssh://192.0.2.1:65535", (None, "192.0.2.1", 65535)),
        ("ssh://[::1]", (None, "::1", 22)),
        ("ssh://me@[fe80::1%eth0]:2222", (me, "fe80::1%eth0", 2222)),
        ("ssh://me@example.net@hub", (Some("me@example.net".into()), "hub", 22)),
    ] {
        let (user, host, port) = expected;
        assert_eq!(parts(text), (user, host.to_owned(), port), "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_the_reason() {
    for (text, says) in [
        ("", "write it as ssh://"),
        ("hub", "write it as ssh://"),
        ("hub:22", "write it as ssh://"),
        ("http://hub", "write it as ssh://"),
        ("ssh://", "it has no host"),
        ("ssh://me@", "it has no host"),
        ("ssh://:22", "it has no host"),
        ("ssh://@hub", "its user is no name"),
        ("ssh://m e@hub", "its user is no name"),
        ("ssh://h\u{fc}b", "it has no host"),
        ("ssh://hub:", "from 1 to 65535"),
        ("ssh://hub:0", "from 1 to 65535"),
        ("ssh://hub:65536", "from 1 to 65535"),
        ("ssh://hub:+22", "from 1 to 65535"),
        ("ssh://hub:ssh", "from 1 to 65535"),
        ("ssh://::1", "it has no host"),
        ("ssh://fe80::1", "goes into brackets"),
        ("ssh://[::1", "bracket"),
        ("ssh://[::1]22", "write it as ssh://"),
        ("ssh://[]", "it has no host"),
        ("ssh://[[]", "it has no host"),
        ("ssh://a]", "it has no host"),
        ("ssh://hub/path", "nothing else"),
        ("ssh://hub//", "nothing else"),
        ("ssh://hub?x=1", "nothing else"),
        ("ssh://hub#x", "nothing else"),
    ] {
        let error = text.parse::<TunnelAddress>().expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_password_is_refused_and_not_repeated() {
    for text in ["ssh://me:secret@hub", "ssh://:secret@hub", "ssh://me:se@cret@hub:22"] {
        let error = text.parse::<TunnelAddress>().expect_err(text);
        assert!(error.contains("passwords are not taken"), "{text}: {error}");
        assert!(!error.contains("cret"), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn what_is_shown_is_read_as_the_same(
        user in prop::option::of("[a-z][a-z0-9_.@-]{0,12}"),
        host in prop_oneof!["[a-z0-9][a-z0-9.-]{0,20}", "[0-9a-f]{1,4}(:[0-9a-f]{0,4}){2,7}"],
        port in 1_u16..,
    ) {
        let original = TunnelAddress { user, host, port };
        prop_assert_eq!(&address(&original.to_string()), &original);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(ssh://)?[\\[\\]@:/?#a0%]{0,12}") {
        if let Ok(address) = text.parse::<TunnelAddress>() {
            prop_assert_eq!(address.to_string().parse::<TunnelAddress>(), Ok(address));
        }
    }
}
