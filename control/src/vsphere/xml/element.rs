//! A tree of elements, of bounded size.

use std::io::Read;

use super::read::{Event, Space, Start, XmlError, XmlReader};

/// Elements of a tree: some 25 MB at most. A page of an inventory has 30,000.
const MAX_ELEMENTS: usize = 200_000;

/// An element with all that is in it.
#[derive(Debug)]
pub(in crate::vsphere) struct Element {
    start: Start,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The element that has begun, up to its end.
    pub(in crate::vsphere) fn read<R: Read>(
        start: Start,
        reader: &mut XmlReader<R>,
    ) -> Result<Self, XmlError> {
        let mut elements = 1;
        let mut open = vec![Self::of(start)];
        loop {
            match reader.next()? {
                Event::Start(start) => {
                    elements += 1;
                    if elements > MAX_ELEMENTS {
                        return Err(XmlError::TooMuch(format!("{MAX_ELEMENTS} elements")));
                    }
                    open.push(Self::of(start));
                }
                Event::Text(text) => {
                    // Blanks between elements are not worth their memory.
                    let last = open.last_mut();
                    if let Some(last) = last.filter(|it| it.children.is_empty()) {
                        last.text.push_str(&text);
                    }
                }
                Event::End => {
                    let Some(mut ended) = open.pop() else { continue };
                    if !ended.children.is_empty() {
                        ended.text = String::new();
                    }
                    match open.last_mut() {
                        Some(around) => around.children.push(ended),
                        None => return Ok(ended),
                    }
                }
            }
        }
    }

    fn of(start: Start) -> Self {
        Self { start, text: String::new(), children: Vec::new() }
    }

    /// Its local name.
    pub(in crate::vsphere) fn local(&self) -> &str {
        &self.start.local
    }

    /// Whether it is this one.
    pub(in crate::vsphere) fn is(&self, space: Space, local: &str) -> bool {
        self.start.is(space, local)
    }

    /// Its type, where it names one: that of the schema, without a prefix.
    pub(in crate::vsphere) fn kind(&self) -> Option<&str> {
        self.start.kind.as_deref()
    }

    /// What the managed object is that it refers to.
    pub(in crate::vsphere) fn object(&self) -> Option<&str> {
        self.start.object.as_deref()
    }

    /// Its text, if there are no elements in it.
    pub(in crate::vsphere) fn text(&self) -> &str {
        self.text.trim()
    }

    /// Its text as it stands, blanks at its ends included.
    pub(in crate::vsphere) fn exact_text(&self) -> &str {
        &self.text
    }

    /// All elements in it, whatever they are called.
    pub(in crate::vsphere) fn inside(&self) -> &[Element] {
        &self.children
    }

    /// The same, taken out of it.
    pub(in crate::vsphere) fn into_inside(self) -> Vec<Element> {
        self.children
    }

    /// The elements of this name in it, of vSphere's namespace.
    pub(in crate::vsphere) fn all(&self, local: &str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |child| child.is(Space::Vim, local))
    }

    /// The first of them.
    pub(in crate::vsphere) fn child(&self, local: &str) -> Option<&Element> {
        self.all(local).next()
    }

    /// The first of them, which has to be there.
    pub(in crate::vsphere) fn need(&self, local: &str) -> Result<&Element, XmlError> {
        self.child(local)
            .ok_or_else(|| XmlError::Unexpected(format!("there is no {local} in {}", self.local())))
    }

    /// The text of an element in it.
    pub(in crate::vsphere) fn value(&self, local: &str) -> Option<&str> {
        self.child(local).map(Self::text)
    }

    /// The number in it.
    pub(in crate::vsphere) fn number<T: std::str::FromStr>(&self) -> Result<T, XmlError> {
        self.text().parse().map_err(|_| {
            let (local, text) = (self.local(), self.text());
            XmlError::Unexpected(format!("{local} is {text:.40}, which is no such number"))
        })
    }

    /// Whether it says true.
    pub(in crate::vsphere) fn truth(&self) -> Result<bool, XmlError> {
        match self.text() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            text => {
                let local = self.local();
                Err(XmlError::Unexpected(format!("{local} is {text:.40}, not true or false")))
            }
        }
    }
}
