//! Events of a document, within bounds.

use std::borrow::Cow;
use std::io::{self, BufReader, Read};
use std::time::Instant;

use quick_xml::errors::SyntaxError;
use quick_xml::events::{BytesStart, Event as Raw};
use quick_xml::name::{NamespaceResolver, ResolveResult};
use quick_xml::reader::NsReader;
use quick_xml::{Error, XmlVersion};

/// Bytes of a document. The largest ones, pages of an inventory and changed areas, have a few MB.
const MAX_BYTES: u64 = 32 << 20;
/// Elements within each other. Trees of snapshots and chains of backings are up to 32 deep, each
/// with a few elements around it.
const MAX_DEPTH: usize = 128;
/// Attributes of an element, declarations of namespaces included; the schema has two.
const MAX_ATTRIBUTES: usize = 64;
/// Bytes that are asked of a connection at once.
const BUFFER_BYTES: usize = 64 << 10;

const VIM: &str = "urn:vim25";
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::vsphere) enum XmlError {
    /// It could not be read to its end.
    #[error("it breaks off: {0}")]
    Read(io::Error),
    /// It is none, or has what none of ours has.
    #[error("it is not proper XML: {0}")]
    Malformed(String),
    /// It is beyond a bound.
    #[error("it has more than {0}")]
    TooMuch(String),
    /// It takes too long.
    #[error("it was not there in full in time")]
    Late,
    /// It says something else than it should.
    #[error("{0}")]
    Unexpected(String),
}

/// The namespaces that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vsphere) enum Space {
    /// `urn:vim25`.
    Vim,
    /// The envelope.
    Soap,
    /// None at all.
    None,
    /// Any other.
    Other,
}

/// The begin of an element.
#[derive(Debug)]
pub(in crate::vsphere) struct Start {
    pub(in crate::vsphere) space: Space,
    pub(in crate::vsphere) local: Box<str>,
    /// The local name of its type (`xsi:type`), whatever the prefixes are called.
    pub(in crate::vsphere) kind: Option<Box<str>>,
    /// The plain attribute `type`: what a managed object is.
    pub(in crate::vsphere) object: Option<Box<str>>,
}

impl Start {
    pub(in crate::vsphere) fn is(&self, space: Space, local: &str) -> bool {
        self.space == space && &*self.local == local
    }
}

/// What comes next in a document.
#[derive(Debug)]
pub(in crate::vsphere) enum Event {
    Start(Start),
    /// A piece of text: one run of it may come in several.
    Text(String),
    End,
}

/// A source that ends with an error at a bound.
struct Bounded<R> {
    inner: R,
    left: u64,
    end: Instant,
}

/// What an error of [`Bounded`] is, under the hands of the parser.
#[derive(Debug, thiserror::Error)]
enum Bound {
    #[error("too many bytes")]
    Bytes,
    #[error("too late")]
    Time,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.end {
            return Err(io::Error::other(Bound::Time));
        }
        let read = self.inner.read(buffer)?;
        let length = u64::try_from(read).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or_else(|| io::Error::other(Bound::Bytes))?;
        Ok(read)
    }
}

/// Reads a document from front to back.
pub(in crate::vsphere) struct XmlReader<R> {
    reader: NsReader<BufReader<Bounded<R>>>,
    buffer: Vec<u8>,
    depth: usize,
    has_root: bool,
}

impl<R: Read> XmlReader<R> {
    /// Of these bytes, which have to be there by `end`.
    pub(in crate::vsphere) fn new(source: R, end: Instant) -> Self {
        let source = Bounded { inner: source, left: MAX_BYTES, end };
        let source = BufReader::with_capacity(BUFFER_BYTES, source);
        let mut reader = NsReader::from_reader(source);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_end_names = true;
        config.allow_dangling_amp = false;
        config.allow_unmatched_ends = false;
        Self { reader, buffer: Vec::new(), depth: 0, has_root: false }
    }

    /// The next event; an error where the document ends, for whoever asks wants more of it.
    pub(in crate::vsphere) fn next(&mut self) -> Result<Event, XmlError> {
        self.step()?.ok_or_else(|| XmlError::Read(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The next begin of an element, with nothing but blanks before it; none if the element that
    /// it would be in ends.
    pub(in crate::vsphere) fn next_start(&mut self) -> Result<Option<Start>, XmlError> {
        loop {
            match self.next()? {
                Event::Start(start) => return Ok(Some(start)),
                Event::End => return Ok(None),
                Event::Text(text) if text.trim().is_empty() => {}
                Event::Text(_) => {
                    return Err(XmlError::Malformed("there is text between elements".into()));
                }
            }
        }
    }

    /// The text of the element that has begun, up to its end.
    pub(in crate::vsphere) fn text(&mut self) -> Result<String, XmlError> {
        let mut whole = String::new();
        loop {
            match self.next()? {
                Event::Text(text) => whole.push_str(&text),
                Event::End => return Ok(whole),
                Event::Start(start) => {
                    let local = start.local;
                    return Err(XmlError::Malformed(format!("there is a {local} within a value")));
                }
            }
        }
    }

    /// Passes over the rest of the element that has begun.
    pub(in crate::vsphere) fn skip(&mut self) -> Result<(), XmlError> {
        let around = self.depth.saturating_sub(1);
        while self.depth > around {
            self.next()?;
        }
        Ok(())
    }

    /// Reads to the end of the document, of which all elements have to be closed by then.
    pub(in crate::vsphere) fn finish(mut self) -> Result<(), XmlError> {
        while self.step()?.is_some() {}
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Event>, XmlError> {
        loop {
            self.buffer.clear();
            let (space, raw) =
                self.reader.read_resolved_event_into(&mut self.buffer).map_err(broken)?;
            match raw {
                Raw::Start(start) => {
                    let space = known(&space)?;
                    let start = begun(space, &start, self.reader.resolver())?;
                    if self.depth == 0 && self.has_root {
                        return Err(XmlError::Malformed("there is a second document".into()));
                    }
                    if self.depth == MAX_DEPTH {
                        return Err(XmlError::TooMuch(format!(
                            "{MAX_DEPTH} elements in each other"
                        )));
                    }
                    self.has_root = true;
                    self.depth += 1;
                    return Ok(Some(Event::Start(start)));
                }
                Raw::End(_) => {
                    self.depth -= 1;
                    return Ok(Some(Event::End));
                }
                Raw::Text(text) => {
                    let text = text.xml10_content();
                    if self.depth > 0 {
                        return Ok(Some(Event::Text(text.into_owned())));
                    }
                    let blank = |c: char| c.is_ascii_whitespace() || c == '\u{feff}';
                    if !text.chars().all(blank) {
                        return Err(XmlError::Malformed("there is text around it".into()));
                    }
                }
                Raw::CData(text) if self.depth > 0 => {
                    return Ok(Some(Event::Text(text.xml10_content().into_owned())));
                }
                Raw::GeneralRef(name) if self.depth > 0 => {
                    return Ok(Some(Event::Text(meant(&name)?.to_string())));
                }
                Raw::Decl(_) | Raw::Comment(_) | Raw::PI(_) => {}
                Raw::DocType(_) => {
                    return Err(XmlError::Malformed("it has a document type".into()));
                }
                Raw::Eof if self.depth > 0 || !self.has_root => {
                    return Err(XmlError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
                Raw::Eof => return Ok(None),
                Raw::CData(_) | Raw::GeneralRef(_) | Raw::Empty(_) => {
                    return Err(XmlError::Malformed("there is text around it".into()));
                }
            }
        }
    }
}

/// What a reference stands for: a character. There are no others without a document type.
fn meant(name: &quick_xml::events::BytesRef<'_>) -> Result<char, XmlError> {
    let refused = || XmlError::Malformed(format!("it refers to {:.40}", &**name));
    if let Some(character) = name.resolve_char_ref().map_err(broken)? {
        return Ok(character);
    }
    match &**name {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(refused()),
    }
}

fn known(space: &ResolveResult<'_>) -> Result<Space, XmlError> {
    match space {
        ResolveResult::Bound(namespace) => Ok(match namespace.as_ref() {
            VIM => Space::Vim,
            SOAP => Space::Soap,
            _ => Space::Other,
        }),
        ResolveResult::Unbound => Ok(Space::None),
        ResolveResult::Unknown(prefix) => {
            Err(XmlError::Malformed(format!("nothing says what the prefix {prefix:.40} is")))
        }
    }
}

fn begun(
    space: Space,
    start: &BytesStart<'_>,
    resolver: &NamespaceResolver,
) -> Result<Start, XmlError> {
    let (mut kind, mut object) = (None, None);
    for (index, attribute) in start.attributes().enumerate() {
        if index == MAX_ATTRIBUTES {
            return Err(XmlError::TooMuch(format!("{MAX_ATTRIBUTES} attributes at one element")));
        }
        let attribute = attribute.map_err(|error| broken(error.into()))?;
        let (of, local) = resolver.resolve_attribute(attribute.key);
        if local.as_ref() != "type" {
            continue;
        }
        // References to entities of its own are refused here too.
        let value = || attribute.normalized_value(XmlVersion::Implicit1_0).map_err(broken);
        match of {
            ResolveResult::Bound(namespace) if namespace.as_ref() == INSTANCE => {
                let value: Cow<'_, str> = value()?;
                let local = value.rsplit_once(':').map_or(&*value, |(_, local)| local);
                kind = Some(local.trim().into());
            }
            ResolveResult::Unbound => object = Some((*value()?).into()),
            _ => {}
        }
    }
    Ok(Start { space, local: start.local_name().as_ref().into(), kind, object })
}

fn broken(error: Error) -> XmlError {
    let error = match error {
        Error::Io(error) => error,
        // What is not closed was cut off, wherever that was.
        Error::Syntax(syntax) if syntax != SyntaxError::InvalidBangMarkup => {
            return XmlError::Read(io::Error::new(io::ErrorKind::UnexpectedEof, syntax));
        }
        error => return XmlError::Malformed(error.to_string()),
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Bound::Bytes) => XmlError::TooMuch(format!("{MAX_BYTES} bytes")),
        Some(Bound::Time) => XmlError::Late,
        None if error.kind() == io::ErrorKind::TimedOut => XmlError::Late,
        None => XmlError::Read(io::Error::new(error.kind(), error.to_string())),
    }
}
