//! NBD URIs.

use proptest::prelude::*;

use super::super::{Address, NbdUri, NbdUriError, TlsParams};

fn parse(uri: &str) -> NbdUri {
    uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"))
}

fn error(uri: &str) -> NbdUriError {
    let error = uri.parse::<NbdUri>().unwrap_err();
    assert!(!error.to_string().contains('\n'));
    error
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.to_owned(), port }
}

fn unix(path: &str) -> Address {
    Address::Unix { path: path.into() }
}

#[test]
fn the_parts_of_a_uri_are_found() {
    let cases = [
        ("nbd://host", tcp("host", 10809), ""),
        ("nbd://host/", tcp("host", 10809), ""),
        ("nbd://host:10100/disk", tcp("host", 10100), "disk"),
        ("nbd://h//abc", tcp("h", 10809), "/abc"),
        ("nbd://h/hello%20world", tcp("h", 10809), "hello world"),
        ("nbd://h:/a/b", tcp("h", 10809), "a/b"),
        ("NBD://h/a", tcp("h", 10809), "a"),
        ("nbd:///a", tcp("localhost", 10809), "a"),
        ("nbd://[::1]:10100/a", tcp("::1", 10100), "a"),
        ("nbd://[fe80::1%25eth0]/a", tcp("fe80::1%eth0", 10809), "a"),
        ("nbd+unix:///foo?socket=/tmp/nbd.sock", unix("/tmp/nbd.sock"), "foo"),
        ("nbd+unix://?socket=nbd.sock", unix("nbd.sock"), ""),
        ("nbd+unix:///a%3Fb?socket=/tmp/a%20b%26c", unix("/tmp/a b&c"), "a?b"),
    ];
    for (uri, address, export) in cases {
        let parsed = parse(uri);
        assert_eq!((parsed.address, parsed.export.as_str()), (address, export), "{uri}");
        assert!(!parsed.tls, "{uri}");
    }
}

#[test]
fn tls_and_its_parameters_are_found() {
    let uri =
        "nbds+unix://alice@/?socket=s&tls-certificates=/etc/pki&tls-hostname=h&tls-verify-peer=0";
    let parsed = parse(uri);
    assert!(parsed.tls);
    assert_eq!(parsed.user.as_deref(), Some("alice"));
    let expected = TlsParams {
        certificates: Some("/etc/pki".into()),
        hostname: Some("h".to_owned()),
        verify_peer: Some(false),
    };
    assert_eq!(parsed.tls_params, expected);
    assert!(parse("nbds://h/").tls);
}

#[test]
fn unknown_parameters_are_kept_apart_to_be_warned_of() {
    let parsed = parse("nbd://h/a?x-color=blue&&tls-type=psk");
    assert_eq!(parsed.ignored, ["x-color", "tls-type"]);
    assert_eq!(parsed.to_string(), "nbd://h/a");
}

#[test]
fn a_fragment_was_refused_that_means_nothing() {
    for uri in ["nbd://h/a#b", "nbd://h/a#", "nbd://h/a#b#c?socket=d"] {
        let parsed = parse(uri);
        assert_eq!((parsed.to_string().as_str(), parsed.ignored.len()), ("nbd://h/a", 1), "{uri}");
    }
    assert_eq!(parse("nbd+unix:///a?socket=s#t").to_string(), "nbd+unix:///a?socket=s");
}

#[test]
fn the_canonical_form_is_short_and_escaped() {
    let cases = [
        ("nbd://host:10809", "nbd://host"),
        ("nbd://[0::1]:10100/", "nbd://[0::1]:10100"),
        ("nbd://h/a%20b%25%2f%2F?", "nbd://h/a%20b%25//"),
        ("nbd+unix://?socket=a%26b", "nbd+unix:///?socket=a%26b"),
        ("nbds://h/?tls-verify-peer=yes", "nbds://h?tls-verify-peer=1"),
    ];
    for (uri, canonical) in cases {
        assert_eq!(parse(uri).to_string(), canonical);
    }
}

#[test]
fn what_is_no_nbd_uri_is_told_what_one_looks_like() {
    for uri in ["", "disk.qcow2", "http://h/", "nbd:h:10809", "nbd+tcp://h"] {
        assert!(error(uri).to_string().contains("write nbd://HOST"), "{uri}");
    }
}

#[test]
fn a_name_that_looks_like_a_uri_with_a_user_is_a_name() {
    let uri = parse("nbd://host/nbd://bob%3Asecret/x@y");
    assert_eq!((uri.export.as_str(), &uri.user), ("nbd://bob:secret/x@y", &None));
    assert_eq!(parse(&uri.to_string()), uri);
    for cut in
        ["nbd://bob:se/cret@host/x", "nbd://bob%3ase/cret@host", "nbd+unix://a:b/c@d?socket=s"]
    {
        assert_eq!(error(cut), NbdUriError::User, "{cut}");
    }
}

#[test]
fn each_mistake_has_its_own_error() {
    for uri in ["nbd://h/50%", "nbd://h/%4", "nbd://h/%zz", "nbd://h/%+1"] {
        assert!(matches!(error(uri), NbdUriError::Escape { .. }), "{uri}");
    }
    for uri in ["nbd://h/%ff", "nbd://h/a%00b"] {
        assert_eq!(error(uri), NbdUriError::NotText { what: "export name" });
    }
    let hosts = ["nbd://::1/a", "nbd://[::1/a", "nbd://[host]/a", "nbd://[::1]1/a", "nbd://a%3ab"];
    for uri in hosts {
        assert!(matches!(error(uri), NbdUriError::Host { .. }), "{uri}");
    }
    for uri in ["nbd://h:0/", "nbd://h:65536/", "nbd://h:+1/", "nbd://h:nbd/", "nbd://[::1]:x/"] {
        assert!(matches!(error(uri), NbdUriError::Port { .. }), "{uri}");
    }
    let too_long = format!("nbd://h/{}", "x".repeat(4097));
    assert_eq!(error(&too_long), NbdUriError::ExportTooLong { length: 4097 });
    assert_eq!(parse(&too_long[..too_long.len() - 1]).export.len(), 4096);
    assert_eq!(error("nbd+unix:///tmp/s"), NbdUriError::SocketMissing { scheme: "nbd+unix" });
    assert_eq!(error("nbds://h/?socket=/s"), NbdUriError::SocketForTcp { scheme: "nbds" });
    assert_eq!(error("nbd+unix://tmp/?socket=/s"), NbdUriError::HostForUnix { scheme: "nbd+unix" });
    let long_path = format!("nbd+unix:///?socket=/{}", "x".repeat(107));
    for uri in ["nbd+unix:///?socket=", "nbd+unix:///?socket=%00abstract", &long_path] {
        assert_eq!(error(uri), NbdUriError::SocketPath);
    }
    assert_eq!(error("nbd+unix:///?socket=a&socket=b"), NbdUriError::Twice { name: "socket" });
    assert!(matches!(error("nbds://h/?tls-verify-peer=2"), NbdUriError::Bool { .. }));
}

#[test]
fn a_newline_in_a_truth_value_does_not_break_the_line_of_its_error() {
    error("nbds://h/?tls-verify-peer=1\n2");
}

#[test]
fn a_password_is_kept_nowhere() {
    for uri in ["nbd://bob:hunter2@host/x", "nbd://bob%3Ahunter2@host/x"] {
        let uri: NbdUri = uri.parse().unwrap();
        assert_eq!(uri.to_string(), "nbd://bob@host/x");
        assert!(!format!("{uri:?}").contains("hunter2"));
        assert_eq!(uri.ignored, ["the password"]);
    }
}

fn uris() -> impl Strategy<Value = NbdUri> {
    let text = "\\PC{1,40}";
    let address = prop_oneof![
        (text, 1..=u16::MAX)
            .prop_map(|(host, port)| Address::Tcp { host: host.replace(':', ""), port }),
        any::<[u16; 8]>()
            .prop_map(|address| tcp(&std::net::Ipv6Addr::from(address).to_string(), 1)),
        "[^\\x00]{1,20}".prop_map(|path| Address::Unix { path: path.into() }),
    ];
    let tls = (prop::option::of(text), prop::option::of(text), any::<Option<bool>>());
    let export = "[^\\x00]{0,60}";
    // What stands behind a colon is a password.
    let user = text.prop_map(|user| user.replace(':', ""));
    (any::<bool>(), address, export, prop::option::of(user), tls).prop_map(
        |(tls, mut address, export, user, (certificates, hostname, verify_peer))| {
            if let Address::Tcp { host, .. } = &mut address
                && host.is_empty()
            {
                "localhost".clone_into(host);
            }
            let certificates = certificates.map(Into::into);
            let tls_params = TlsParams { certificates, hostname, verify_peer };
            NbdUri { tls, address, export, user, tls_params, ignored: vec![] }
        },
    )
}

proptest! {
    #[test]
    fn a_written_uri_reads_back_the_same(uri in uris()) {
        prop_assert_eq!(parse(&uri.to_string()), uri);
    }

    #[test]
    fn any_text_gives_a_uri_or_an_error(text in "\\PC*", scheme in "(nbds?(\\+unix)?://)?") {
        if let Ok(uri) = format!("{scheme}{text}").parse::<NbdUri>() {
            let written = uri.to_string();
            prop_assert_eq!(parse(&written).to_string(), written);
        }
    }
}
