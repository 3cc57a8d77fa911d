use std::io::{self, Read};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn tree(text: &str) -> Result<Element, XmlError> {
    let mut reader = XmlReader::new(text.as_bytes(), later());
    let root = reader.next_start()?;
    let root = root.ok_or_else(|| XmlError::Malformed("empty".into()))?;
    let root = Element::read(root, &mut reader)?;
    reader.finish()?;
    Ok(root)
}

/// Bytes without an end: a begin, and then the same again and again.
struct Endless {
    head: io::Cursor<&'static [u8]>,
    again: &'static [u8],
    at: usize,
}

impl Endless {
    fn new(head: &'static str, again: &'static str) -> Self {
        Self { head: io::Cursor::new(head.as_bytes()), again: again.as_bytes(), at: 0 }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.head.read(buffer)? {
            0 => {}
            some => return Ok(some),
        }
        for byte in buffer.iter_mut() {
            *byte = self.again[self.at];
            self.at = (self.at + 1) % self.again.len();
        }
        Ok(buffer.len())
    }
}

fn endless(head: &'static str, again: &'static str) -> XmlError {
    let mut reader = XmlReader::new(Endless::new(head, again), later());
    let root = match reader.next_start() {
        Ok(root) => root.unwrap(),
        Err(error) => return error,
    };
    Element::read(root, &mut reader).unwrap_err()
}

#[test]
fn values_are_escaped_and_come_back() {
    let password = r#"a<b>&"c"'d'  ]]> é 漢 "#;
    let body = Body::call("Login", &Moref::new("SessionManager", "Session<Manager"))
        .value("userName", "u")
        .value("password", password);
    let document = tree(&body.document()).unwrap();
    assert!(document.is(Space::Soap, "Envelope"));
    let login = &document.inside()[0].inside()[0];
    assert!(login.is(Space::Vim, "Login"));
    assert_eq!(login.child("password").unwrap().exact_text(), password);
    let this = Moref::of(login.child("_this").unwrap()).unwrap();
    assert_eq!(this, Moref::new("SessionManager", "Session<Manager"));
}

#[test]
fn elements_left_open_are_closed() {
    let object = Moref::new("VirtualMachine", "vm-1");
    let body = Body::call("ReconfigVM_Task", &object).open("spec").open_as("device", "VirtualDisk");
    let document = tree(&body.document()).unwrap();
    let spec = document.inside()[0].inside()[0].child("spec").unwrap();
    assert_eq!(spec.child("device").unwrap().kind(), Some("VirtualDisk"));
}

#[test]
fn text_in_pieces_is_one_text() {
    let read =
        tree("<a>one &amp; <!-- not this --><![CDATA[<two> &amp; ]]>&#x33;&#52;</a>").unwrap();
    assert_eq!(read.exact_text(), "one & <two> &amp; 34");
}

#[test]
fn document_types_and_entities_are_refused() {
    let bomb = r#"<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;&x;&x;">]><a>&y;</a>"#;
    let external = r#"<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>"#;
    for text in [bomb, external, "<a>&y;</a>", "<a>&nbsp;</a>", r#"<a type="&y;"/>"#, "<a>&#0;</a>"]
    {
        assert!(matches!(tree(text), Err(XmlError::Malformed(_))), "{text}");
    }
}

#[test]
fn what_is_cut_off_is_an_error_wherever_it_is_cut() {
    let whole =
        r#"<?xml version="1.0"?><e:a xmlns:e="urn:vim25"><e:b type="T">t&amp;t</e:b><e:c/></e:a>"#;
    assert!(tree(whole).is_ok());
    for at in 0..whole.len() {
        assert!(tree(&whole[..at]).is_err(), "{}", &whole[..at]);
    }
}

#[test]
fn what_is_no_document_is_refused() {
    for text in [
        "",
        " ",
        "hello",
        "{}",
        "<a></b>",
        "<a/><b/>",
        "<a/>rest",
        "x<a/>",
        "<a",
        "<a b></a>",
        "<a x=\"1\" x=\"2\"/>",
        "<p:a/>",
        "</a>",
        "<a>&</a>",
    ] {
        assert!(tree(text).is_err(), "{text}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let mut reader = XmlReader::new(&b"<a>\xff\xfe</a>"[..], later());
    let root = reader.next_start().unwrap().unwrap();
    assert!(Element::read(root, &mut reader).is_err());
}

#[test]
fn documents_without_an_end_come_to_one() {
    for (head, again) in [
        ("<a>", "text "),
        ("<a>", "<!-- -->"),
        ("<a ", "b='c' "),
        ("<a b='", "x"),
        ("<", "x"),
        ("<!-- ", "x"),
        ("<a><![CDATA[", "x"),
    ] {
        let error = endless(head, again);
        assert!(matches!(error, XmlError::TooMuch(_)), "{head}{again}: {error}");
    }
}

#[test]
fn trees_are_bounded_in_depth_and_size() {
    assert!(matches!(endless("<a>", "<b>"), XmlError::TooMuch(_)));
    assert!(matches!(endless("<a>", "<b/>"), XmlError::TooMuch(_)));
    let deep = format!("{}{}", "<a>".repeat(128), "</a>".repeat(128));
    assert!(tree(&deep).is_ok());
    let deeper = format!("{}{}", "<a>".repeat(129), "</a>".repeat(129));
    assert!(matches!(tree(&deeper), Err(XmlError::TooMuch(_))));
}

#[test]
fn attributes_are_bounded_in_number() {
    let many: String = (0..65).map(|index| format!(" a{index}='1'")).collect();
    assert!(matches!(tree(&format!("<a{many}/>")), Err(XmlError::TooMuch(_))));
}

#[test]
fn a_document_that_takes_too_long_is_late() {
    let mut reader = XmlReader::new(&b"<a/>"[..], Instant::now());
    assert!(matches!(reader.next_start(), Err(XmlError::Late)));
}

#[test]
fn control_characters_cannot_be_said() {
    assert!(can_be_said("pa\u{df}wörd <&> 漢"));
    assert!(!can_be_said("bell\u{7}"));
    assert!(!can_be_said("\u{ffff}"));
}

/// A document that says the same, whatever its prefixes, the order of its attributes, and the place of
/// its declarations.
fn written(prefixes: &[String; 3], on_root: bool, swapped: bool, typed: bool) -> String {
    let [vim, xsi, value] = prefixes;
    let declared = format!(
        r#"xmlns:{vim}="urn:vim25" xmlns:{xsi}="http://www.w3.org/2001/XMLSchema-instance" xmlns:{value}="urn:vim25""#
    );
    let (on_root, on_leaf) = if on_root { (&declared[..], "") } else { ("", &declared[..]) };
    let of_type = if typed { format!("{value}:VirtualDisk") } else { "VirtualDisk".to_owned() };
    let (kind, object) = (format!(r#"{xsi}:type="{of_type}""#), r#"type="VirtualMachine""#);
    let attributes = if swapped { format!("{object} {kind}") } else { format!("{kind} {object}") };
    format!(r#"<root {on_root}><{vim}:leaf {attributes} {on_leaf}>vm-57</{vim}:leaf></root>"#)
}

proptest! {
    #[test]
    fn prefixes_orders_and_places_do_not_matter(
        names in prop::sample::subsequence(
            vec!["xsi", "a", "XMLSchema-instance", "ns0", "soapenv", "_x", "vim25", "xsd"], 3),
        order in Just([0_usize, 1, 2]).prop_shuffle(),
        on_root: bool, swapped: bool, typed: bool,
    ) {
        let prefixes = order.map(|index| names[index].to_owned());
        let read = tree(&written(&prefixes, on_root, swapped, typed)).unwrap();
        let leaf = &read.inside()[0];
        prop_assert!(leaf.is(Space::Vim, "leaf"));
        prop_assert_eq!(leaf.kind(), Some("VirtualDisk"));
        prop_assert_eq!(leaf.object(), Some("VirtualMachine"));
        prop_assert_eq!(leaf.text(), "vm-57");
    }

    #[test]
    fn whatever_comes_is_read_or_refused(text in "[<>/a-c&;!\\[\\]\"'= :?\\-]{0,80}") {
        let _read_or_refused = tree(&text);
    }

    #[test]
    fn any_text_comes_back_as_it_was(text in "\\PC{0,60}") {
        let body = Body::call("X", &Moref::new("T", "t")).value("v", &text);
        let document = tree(&body.document()).unwrap();
        let value = document.inside()[0].inside()[0].child("v").unwrap();
        prop_assert_eq!(value.exact_text(), text);
    }
}

#[test]
fn another_namespace_of_the_same_prefix_is_another_name() {
    let read = tree(r#"<xsi:a xmlns:xsi="urn:other" xsi:type="VirtualDisk" type="T"/>"#).unwrap();
    assert_eq!((read.kind(), read.object()), (None, Some("T")));
    assert!(read.is(Space::Other, "a"));
}
