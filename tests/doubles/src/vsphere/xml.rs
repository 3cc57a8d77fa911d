//! What is asked, as a tree: names by namespace, whatever prefixes the client has chosen.

use quick_xml::NsReader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{QName, ResolveResult};

/// Of all that is the server's own.
pub(crate) const VIM: &str = "urn:vim25";
/// Of envelope, body and fault.
pub(crate) const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// Of `type` and `nil`.
pub(crate) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Of the types of plain values.
pub(crate) const XSD: &str = "http://www.w3.org/2001/XMLSchema";

/// Deeper than any request of the API.
const DEPTH: usize = 64;

/// An element, with what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Element {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The attribute without a namespace that says of which type a reference is.
    pub(crate) kind: Option<String>,
    /// `xsi:type` without its prefix.
    pub(crate) xsi_type: Option<String>,
    pub(crate) children: Vec<Element>,
    pub(crate) text: String,
}

impl Element {
    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of this name, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of a child.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// Reads one document; says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Element, String> {
    let mut reader = NsReader::from_str(text);
    let mut open = vec![Element::default()];
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                if open.len() > DEPTH {
                    return Err(format!("more than {DEPTH} elements in each other"));
                }
                open.push(element(&reader, &start)?);
            }
            Event::Empty(start) => {
                let element = element(&reader, &start)?;
                open.last_mut().expect("the document").children.push(element);
            }
            Event::End(_) => {
                let closed = open.pop().expect("the reader checks that ends fit");
                open.last_mut().ok_or("an end too many")?.children.push(closed);
            }
            Event::Text(more) => push(&mut open, &more.xml10_content()),
            Event::CData(more) => push(&mut open, &more.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().map_err(|error| error.to_string())?;
                match character {
                    Some(character) => push(&mut open, character.encode_utf8(&mut [0; 4])),
                    None => {
                        let name = reference.xml10_content();
                        let known = resolve_predefined_entity(&name);
                        push(&mut open, known.ok_or_else(|| format!("unknown entity {name}"))?);
                    }
                }
            }
            Event::DocType(_) => return Err("a document type is not taken".to_owned()),
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    let mut document = open.pop().expect("the document");
    match (open.is_empty(), document.children.pop()) {
        (true, Some(root)) if document.children.is_empty() => Ok(root),
        _ => Err("not one whole document".to_owned()),
    }
}

fn push(open: &mut [Element], text: &str) {
    open.last_mut().expect("the document").text.push_str(text);
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, String> {
    let (namespace, name) = reader.resolver().resolve_element(start.name());
    let mut made = Element {
        namespace: uri(namespace)?,
        name: name.into_inner().to_owned(),
        ..Element::default()
    };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|error| error.to_string())?;
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        match (uri(namespace)?.as_str(), name.into_inner()) {
            ("", "type") => made.kind = Some(value.into_owned()),
            (XSI, "type") => {
                let value = QName(&value);
                made.xsi_type = Some(value.local_name().into_inner().to_owned());
            }
            _ => {}
        }
    }
    Ok(made)
}

fn uri(resolved: ResolveResult<'_>) -> Result<String, String> {
    match resolved {
        ResolveResult::Bound(namespace) => Ok(namespace.0.to_owned()),
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Unknown(prefix) => Err(format!("prefix {prefix:?} stands for nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_namespace_and_not_by_prefix() {
        let root = parse(
            r#"<?xml version="1.0"?><q:a xmlns:q="urn:vim25" xmlns:x="http://www.w3.org/2001/XMLSchema-instance"><q:b x:type="q:C" type="D">1 &lt; &#50;</q:b></q:a>"#,
        )
        .unwrap();
        let child = root.child("b").unwrap();
        assert_eq!((root.namespace.as_str(), root.name.as_str()), (VIM, "a"));
        assert_eq!(child.xsi_type.as_deref(), Some("C"));
        assert_eq!(child.kind.as_deref(), Some("D"));
        assert_eq!(child.text, "1 < 2");
    }

    #[test]
    fn what_is_cut_or_bound_to_nothing_is_refused() {
        for text in ["<a><b></b>", "<a/><b/>", "", "<p:a/>", "<!DOCTYPE a><a/>", "<a>&b;</a>"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
