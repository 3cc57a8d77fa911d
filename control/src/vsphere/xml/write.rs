//! Bodies of calls.

use quick_xml::escape::escape;

use super::Element;
use super::read::XmlError;

const HEAD: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" "#,
    r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" "#,
    r#"xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soapenv:Body>"#,
);
const TAIL: &str = "</soapenv:Body></soapenv:Envelope>";

/// A reference to a managed object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::vsphere) struct Moref {
    /// What it is: `VirtualMachine`.
    pub(in crate::vsphere) kind: String,
    /// Which one: `vm-57`.
    pub(in crate::vsphere) id: String,
}

impl Moref {
    pub(in crate::vsphere) fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }

    /// The one that an element refers to.
    pub(in crate::vsphere) fn of(element: &Element) -> Result<Self, XmlError> {
        match (element.object(), element.text()) {
            (Some(kind), id) if !id.is_empty() => Ok(Self::new(kind, id)),
            _ => {
                let local = element.local();
                Err(XmlError::Unexpected(format!("{local} refers to no managed object")))
            }
        }
    }
}

/// The body of a call. It may hold a password, so it has no `Debug`.
pub(in crate::vsphere) struct Body {
    name: &'static str,
    xml: String,
    open: Vec<&'static str>,
}

impl Body {
    /// A call of a managed object's method.
    pub(in crate::vsphere) fn call(name: &'static str, object: &Moref) -> Self {
        let mut body = Self { name, xml: HEAD.to_owned(), open: Vec::new() };
        body.xml.push('<');
        body.xml.push_str(name);
        body.xml.push_str(r#" xmlns="urn:vim25">"#);
        body.open.push(name);
        body.moref("_this", object)
    }

    /// What is called.
    pub(in crate::vsphere) fn name(&self) -> &'static str {
        self.name
    }

    /// An element with a reference.
    pub(in crate::vsphere) fn moref(mut self, name: &'static str, object: &Moref) -> Self {
        self.begin(name, &format!(r#" type="{}""#, escape(&*object.kind)));
        self.xml.push_str(&escape(&*object.id));
        self.close()
    }

    /// An element with a value.
    pub(in crate::vsphere) fn value(mut self, name: &'static str, value: &str) -> Self {
        self.begin(name, "");
        self.xml.push_str(&escape(value));
        self.close()
    }

    /// An element that others follow into.
    pub(in crate::vsphere) fn open(mut self, name: &'static str) -> Self {
        self.begin(name, "");
        self
    }

    /// An element of a type that is not the one of the schema's field.
    pub(in crate::vsphere) fn open_as(mut self, name: &'static str, kind: &'static str) -> Self {
        self.begin(name, &format!(r#" xsi:type="{kind}""#));
        self
    }

    /// The end of the last one that was opened.
    pub(in crate::vsphere) fn close(mut self) -> Self {
        if let Some(name) = self.open.pop() {
            self.xml.push_str("</");
            self.xml.push_str(name);
            self.xml.push('>');
        }
        self
    }

    /// All of it, closed.
    pub(in crate::vsphere) fn document(&self) -> String {
        let mut document = self.xml.clone();
        for name in self.open.iter().rev() {
            document.push_str("</");
            document.push_str(name);
            document.push('>');
        }
        document.push_str(TAIL);
        document
    }

    fn begin(&mut self, name: &'static str, attributes: &str) {
        self.xml.push('<');
        self.xml.push_str(name);
        self.xml.push_str(attributes);
        self.xml.push('>');
        self.open.push(name);
    }
}

/// Whether a text can stand in XML at all: control characters cannot, however they are written.
pub(in crate::vsphere) fn can_be_said(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
        && !text.contains(['\u{fffe}', '\u{ffff}'])
}
