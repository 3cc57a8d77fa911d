//! Properties of managed objects.

use std::collections::HashMap;
use std::io::Read;

use super::error::VsphereError;
use super::fault::{Fault, FaultKind};
use super::session::Session;
use super::xml::{Body, Element, Moref, Space, XmlError, XmlReader};

/// Objects of a page: with the devices of a hundred VMs it has 2 MB or less.
const PAGE_OBJECTS: &str = "100";
/// Objects of an inventory: VMs, hosts and folders. A vCenter has 45,000 VMs at most.
const MAX_OBJECTS: usize = 500_000;
const RETRIEVE: &str = "RetrievePropertiesEx";
const CONTINUE: &str = "ContinueRetrievePropertiesEx";

/// An object, and what was asked of it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) moref: Moref,
    values: HashMap<String, Element>,
    missing: Vec<(String, Fault)>,
}

/// What is asked of all objects of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// `VirtualMachine`.
    pub(super) kind: &'static str,
    /// `config.uuid` and the like.
    pub(super) paths: &'static [&'static str],
}

impl Object {
    /// A property, unless it is not set.
    pub(super) fn get(&self, path: &str) -> Option<&Element> {
        self.values.get(path)
    }

    /// The text of one.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(Element::text).filter(|text| !text.is_empty())
    }

    /// The privilege that keeps some of it from being read.
    pub(super) fn denied(&self) -> Option<&str> {
        self.missing.iter().find_map(|(_, fault)| match &fault.kind {
            FaultKind::NoPermission { privilege } => {
                Some(privilege.as_deref().unwrap_or("System.Read"))
            }
            _ => None,
        })
    }

    fn read(element: &Element) -> Result<Self, XmlError> {
        let moref = Moref::of(element.need("obj")?)?;
        let mut missing = Vec::new();
        for set in element.all("missingSet") {
            let path = set.value("path").unwrap_or_default().to_owned();
            missing.push((path, Fault::of_method(set.need("fault")?)));
        }
        Ok(Self { moref, values: HashMap::new(), missing })
    }

    fn with_values(mut self, element: Element) -> Self {
        for set in element.into_inside().into_iter().filter(|it| it.is(Space::Vim, "propSet")) {
            let name = set.value("name").unwrap_or_default().to_owned();
            let value = set.into_inside().into_iter().find(|it| it.is(Space::Vim, "val"));
            if let Some(value) = value {
                self.values.insert(name, value);
            }
        }
        self
    }

    /// A fault of what is missing: of that which has to be had, or of the session.
    fn fault(&self, needed: impl Fn(&str) -> bool) -> Option<&Fault> {
        let over = |fault: &Fault| fault.kind == FaultKind::NotAuthenticated;
        let found = self.missing.iter().find(|(path, fault)| over(fault) || needed(path));
        found.map(|(_, fault)| fault)
    }
}

impl Session {
    /// Properties of one object. One that may not be read is an error; one that is not set is not
    /// there.
    pub(super) fn properties(
        &self,
        object: &Moref,
        paths: &[&str],
    ) -> Result<Object, VsphereError> {
        let collector = &self.content().property_collector;
        let body = Body::call(RETRIEVE, collector).open("specSet");
        let body = wanted(body, &object.kind, paths)
            .open("objectSet")
            .moref("obj", object)
            .close()
            .close()
            .open("options")
            .close();
        let mut found = Vec::new();
        self.page(&body, RETRIEVE, &mut |it| found.push(it))?;
        let found = found.into_iter().find(|it: &Object| it.moref.id == object.id);
        let found = found.ok_or_else(|| {
            let problem = format!("it says nothing of {}", object.id);
            self.strange(RETRIEVE, &XmlError::Unexpected(problem))
        })?;
        match found.fault(|_| true) {
            Some(fault) => Err(self.fault(RETRIEVE, fault.clone())),
            None => Ok(found),
        }
    }

    /// All objects of some kinds, wherever they are, with what is wanted of each. What may not be read
    /// of one is not there.
    pub(super) fn inventory(
        &self,
        kinds: &[Wanted],
        take: &mut dyn FnMut(Object),
    ) -> Result<(), VsphereError> {
        let content = self.content();
        let mut body = Body::call("CreateContainerView", &content.view_manager)
            .moref("container", &content.root);
        for wanted in kinds {
            body = body.value("type", wanted.kind);
        }
        let answer = self.ask(&body.value("recursive", "true"))?;
        let view = answer.need("returnval").and_then(Moref::of);
        let view = view.map_err(|error| self.strange("CreateContainerView", &error))?;
        let listed = self.view(&view, kinds, take);
        // It would go with the session. If this fails, so did what was before, or it is gone.
        let _gone = self.ask(&Body::call("DestroyView", &view));
        listed
    }

    fn view(
        &self,
        view: &Moref,
        kinds: &[Wanted],
        take: &mut dyn FnMut(Object),
    ) -> Result<(), VsphereError> {
        let collector = &self.content().property_collector;
        let mut body = Body::call(RETRIEVE, collector).open("specSet");
        for Wanted { kind, paths } in kinds {
            body = wanted(body, kind, paths);
        }
        let body = body
            .open("objectSet")
            .moref("obj", view)
            .value("skip", "true")
            .open_as("selectSet", "TraversalSpec")
            .value("name", "view")
            .value("type", "ContainerView")
            .value("path", "view")
            .value("skip", "false")
            .close()
            .close()
            .close()
            .open("options")
            .value("maxObjects", PAGE_OBJECTS)
            .close();
        let (mut over, mut count) = (None, 0_usize);
        let mut checked = |object: Object| {
            count += 1;
            match object.fault(|_| false) {
                Some(fault) => over = Some(fault.clone()),
                None => take(object),
            }
            count
        };
        let mut got = 0;
        let mut token = self.page(&body, RETRIEVE, &mut |it| got = checked(it))?;
        while let Some(more) = token {
            let before = got;
            let body = Body::call(CONTINUE, collector).value("token", &more);
            token = self.page(&body, CONTINUE, &mut |it| got = checked(it))?;
            // Pages without an end would be read for ever.
            if got > MAX_OBJECTS || (token.is_some() && got == before) {
                let problem = format!("its pages do not end: {got} objects so far");
                return Err(self.strange(CONTINUE, &XmlError::Unexpected(problem)));
            }
        }
        match over {
            Some(fault) => Err(self.fault(RETRIEVE, fault)),
            None => Ok(()),
        }
    }

    /// One page, object by object, and what the next one is asked with.
    fn page(
        &self,
        body: &Body,
        call: &'static str,
        take: &mut dyn FnMut(Object),
    ) -> Result<Option<String>, VsphereError> {
        debug_assert_eq!(body.name(), call);
        let answer = self.call(body, self.server().deadlines.answer)?;
        answer.stream(|reader| {
            let mut token = None;
            while let Some(start) = reader.next_start()? {
                if start.is(Space::Vim, "returnval") {
                    token = objects(reader, take)?;
                } else {
                    reader.skip()?;
                }
            }
            Ok(token)
        })
    }

    fn fault(&self, call: &'static str, fault: Fault) -> VsphereError {
        let fault = Box::new(fault);
        VsphereError::Fault { server: self.wire().server().to_owned(), call, fault }
    }
}

fn wanted(body: Body, kind: &str, paths: &[&str]) -> Body {
    let body = body.open("propSet").value("type", kind);
    let body = paths.iter().fold(body, |body, path| body.value("pathSet", path));
    body.close()
}

fn objects<R: Read>(
    reader: &mut XmlReader<R>,
    take: &mut dyn FnMut(Object),
) -> Result<Option<String>, XmlError> {
    let mut token = None;
    while let Some(start) = reader.next_start()? {
        if start.is(Space::Vim, "objects") {
            let element = Element::read(start, reader)?;
            take(Object::read(&element)?.with_values(element));
        } else if start.is(Space::Vim, "token") {
            token = Some(reader.text()?).filter(|token| !token.is_empty());
        } else {
            reader.skip()?;
        }
    }
    Ok(token)
}
