//! XML as SOAP uses it: bodies written with everything escaped, answers read within bounds.
//!
//! ```text
//!  bytes ──▶ XmlReader ──▶ Event { Start | Text | End }     names by namespace and local name,
//!              │ bytes, depth, time                         never by prefix
//!              ▼
//!            Element                                        a tree, where a tree is small enough
//! ```
//!
//! A server is not trusted: document types and entities of its own are refused, and so is whatever
//! is too long, too deep or takes too long. Nothing is resolved, fetched or expanded.

mod element;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use element::Element;
pub(super) use read::{Space, Start, XmlError, XmlReader};
pub(super) use write::{Body, Moref, can_be_said};
