//! The property collector: properties of objects, found by traversal, in pages.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{Call, boolean, reference};
use super::describe::describe;
use super::fault::Fault;
use super::filters::Filter;
use super::session;
use super::shared::{Shared, lock};
use super::value::{Kind, Reference, Value};
use super::views::{self, View};
use super::world::World;
use super::xml::Element;

/// What clients have open.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    next: u64,
    pub(crate) views: BTreeMap<String, View>,
    pub(crate) filters: BTreeMap<String, Filter>,
    /// Token to the objects that are still to come.
    tokens: BTreeMap<String, Vec<Value>>,
}

impl Reading {
    pub(crate) fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}-{}", self.next)
    }
}

/// An object with the properties that were asked for.
pub(crate) type Found = (Reference, BTreeMap<String, Value>);

pub(crate) fn retrieve(call: &Call<'_>) -> Result<Value, Fault> {
    let options = call.arguments.child("options");
    let asked = options.and_then(|options| options.text_of("maxObjects")?.trim().parse().ok());
    let page = asked.unwrap_or(usize::MAX).min(call.shared.options.page_objects);
    if page == 0 {
        return Err(Fault::invalid_argument("options.maxObjects"));
    }
    let objects = contents(call)?;
    Ok(first_page(call.shared, objects, page))
}

/// One property of the object itself.
pub(crate) fn fetch(call: &Call<'_>) -> Result<Value, Fault> {
    let world = call.shared.world();
    let reading = lock(&call.shared.reading);
    let value = describe_any(call.shared, call.cookie, &world, &reading, &call.this);
    let value = value.ok_or_else(|| Fault::not_found(&call.this))?;
    let path = call.text("prop");
    value.at(path).cloned().ok_or_else(|| invalid_property(path))
}

/// As the oldest clients ask: all at once.
pub(crate) fn all(call: &Call<'_>) -> Result<Value, Fault> {
    Ok(Value::Array("ObjectContent", contents(call)?))
}

pub(crate) fn go_on(call: &Call<'_>) -> Result<Value, Fault> {
    let rest = lock(&call.shared.reading).tokens.remove(call.text("token"));
    let rest = rest.ok_or_else(|| Fault::invalid_argument("token"))?;
    Ok(first_page(call.shared, rest, call.shared.options.page_objects))
}

pub(crate) fn cancel(call: &Call<'_>) -> Result<Value, Fault> {
    let rest = lock(&call.shared.reading).tokens.remove(call.text("token"));
    rest.map(|_| Value::Unset).ok_or_else(|| Fault::invalid_argument("token"))
}

/// What a session that is over may be answered: each property with the reason why it is not there.
pub(crate) fn retrieve_unauthenticated(call: &Call<'_>) -> Result<Value, Fault> {
    let mut objects = Vec::new();
    for spec in call.arguments.all("specSet") {
        let paths: Vec<&str> = spec.all("propSet").flat_map(paths).collect();
        for object in spec.all("objectSet") {
            let object = reference(object.child("obj").expect("the schema was checked"))?;
            let fault = Fault::not_authenticated(object.clone()).localized();
            let missing = |path: &&str| {
                let fields = vec![("path", Value::text(*path)), ("fault", fault.clone())];
                Value::Object("MissingProperty", fields)
            };
            let missing = paths.iter().map(missing).collect();
            objects.push(Value::Object(
                "ObjectContent",
                vec![
                    ("obj", Value::Reference(object)),
                    ("missingSet", Value::Array("MissingProperty", missing)),
                ],
            ));
        }
    }
    Ok(first_page(call.shared, objects, usize::MAX))
}

fn first_page(shared: &Shared, mut objects: Vec<Value>, count: usize) -> Value {
    if objects.is_empty() {
        return Value::Unset;
    }
    let rest = objects.split_off(count.min(objects.len()));
    let token = (!rest.is_empty()).then(|| {
        let mut reading = lock(&shared.reading);
        let token = reading.name("token");
        reading.tokens.insert(token.clone(), rest);
        Value::text(token)
    });
    Value::Object(
        "RetrieveResult",
        vec![
            ("token", Value::or_unset(token)),
            ("objects", Value::Array("ObjectContent", objects)),
        ],
    )
}

fn contents(call: &Call<'_>) -> Result<Vec<Value>, Fault> {
    let mut contents = Vec::new();
    for spec in call.arguments.all("specSet") {
        contents.extend(find(call.shared, call.cookie, spec)?.into_iter().map(content));
    }
    Ok(contents)
}

fn content((object, properties): Found) -> Value {
    let property = |(name, value)| {
        Value::Object("DynamicProperty", vec![("name", Value::text(name)), ("val", value)])
    };
    let set = properties.into_iter().filter(|(_, value)| *value != Value::Unset);
    let set = set.map(|(name, value): (String, Value)| property((name, value))).collect();
    Value::Object(
        "ObjectContent",
        vec![("obj", Value::Reference(object)), ("propSet", Value::Array("DynamicProperty", set))],
    )
}

/// The objects of one specification, in the order in which they are found, each once.
pub(crate) fn find(
    shared: &Shared,
    cookie: Option<&str>,
    spec: &Element,
) -> Result<Vec<Found>, Fault> {
    let world = shared.world();
    let reading = lock(&shared.reading);
    let mut search = Search {
        shared,
        cookie,
        world: &world,
        reading: &reading,
        properties: spec.all("propSet").collect(),
        named: BTreeMap::new(),
        visited: BTreeSet::new(),
        found: Vec::new(),
    };
    for properties in &search.properties {
        let kind = properties.text_of("type").unwrap_or_default();
        Kind::named(kind.trim()).ok_or_else(|| {
            Fault::invalid_argument("specSet.propSet.type").with("name", Value::Unset)
        })?;
    }
    let report = boolean(spec, "reportMissingObjectsInResults").unwrap_or(false);
    for object in spec.all("objectSet") {
        for selection in object.all("selectSet") {
            search.name(selection);
        }
        let start = reference(object.child("obj").expect("the schema was checked"))?;
        if search.describe(&start).is_none() {
            if report {
                continue;
            }
            return Err(Fault::not_found(&start));
        }
        let skip = boolean(object, "skip").unwrap_or(false);
        let selections: Vec<&Element> = object.all("selectSet").collect();
        search.visit(&start, skip, &selections)?;
    }
    Ok(search.found)
}

struct Search<'a> {
    shared: &'a Shared,
    cookie: Option<&'a str>,
    world: &'a World,
    reading: &'a Reading,
    properties: Vec<&'a Element>,
    /// Selections by name, for those that name another one.
    named: BTreeMap<&'a str, &'a Element>,
    visited: BTreeSet<Reference>,
    found: Vec<Found>,
}

impl<'a> Search<'a> {
    fn name(&mut self, selection: &'a Element) {
        if let (Some(name), Some(_)) = (selection.text_of("name"), selection.child("path")) {
            self.named.insert(name, selection);
        }
        for inner in selection.all("selectSet") {
            self.name(inner);
        }
    }

    fn describe(&self, reference: &Reference) -> Option<Value> {
        describe_any(self.shared, self.cookie, self.world, self.reading, reference)
    }

    fn visit(
        &mut self,
        at: &Reference,
        skip: bool,
        selections: &[&'a Element],
    ) -> Result<(), Fault> {
        if !self.visited.insert(at.clone()) {
            return Ok(());
        }
        let Some(value) = self.describe(at) else { return Ok(()) };
        if !skip {
            self.take(at, &value)?;
        }
        for selection in selections {
            let selection = match selection.child("path") {
                Some(_) => selection,
                None => {
                    let name = selection.text_of("name").unwrap_or_default();
                    let named = self.named.get(name);
                    named.ok_or_else(|| Fault::invalid_argument("selectSet"))?
                }
            };
            self.follow(at, &value, selection)?;
        }
        Ok(())
    }

    fn follow(
        &mut self,
        at: &Reference,
        value: &Value,
        selection: &'a Element,
    ) -> Result<(), Fault> {
        let kind = Kind::named(selection.text_of("type").unwrap_or_default().trim());
        if !kind.is_some_and(|kind| at.kind.is(kind)) {
            return Ok(());
        }
        let path = selection.text_of("path").unwrap_or_default().trim();
        let there = value.at(path).ok_or_else(|| invalid_property(path))?;
        let skip = boolean(selection, "skip").unwrap_or(false);
        let inner: Vec<&Element> = selection.all("selectSet").collect();
        for reference in there.all_references() {
            self.visit(&reference, skip, &inner)?;
        }
        Ok(())
    }

    /// Takes what was asked of an object, if anything was asked of its type.
    fn take(&mut self, at: &Reference, value: &Value) -> Result<(), Fault> {
        let mut taken = BTreeMap::new();
        let mut matches = false;
        for properties in &self.properties {
            let kind = Kind::named(properties.text_of("type").unwrap_or_default().trim());
            if !kind.is_some_and(|kind| at.kind.is(kind)) {
                continue;
            }
            matches = true;
            if boolean(properties, "all").unwrap_or(false) {
                let Value::Object(_, fields) = value else { continue };
                taken.extend(fields.iter().map(|(name, it)| ((*name).to_owned(), it.clone())));
            }
            for path in paths(properties) {
                let there = value.at(path).ok_or_else(|| invalid_property(path))?;
                taken.insert(path.to_owned(), there.clone());
            }
        }
        if matches {
            self.found.push((at.clone(), taken));
        }
        Ok(())
    }
}

/// All properties of an object, those too that clients have open.
fn describe_any(
    shared: &Shared,
    cookie: Option<&str>,
    world: &World,
    reading: &Reading,
    reference: &Reference,
) -> Option<Value> {
    match reference.kind {
        Kind::ContainerView => views::describe(world, reading, &reference.id),
        Kind::SessionManager => Some(session::describe(shared, cookie)),
        _ => describe(world, reference),
    }
}

fn paths(properties: &Element) -> impl Iterator<Item = &str> {
    properties.all("pathSet").map(|path| path.text.trim())
}

fn invalid_property(path: &str) -> Fault {
    Fault::new("InvalidProperty", "").with("name", Value::text(path))
}
