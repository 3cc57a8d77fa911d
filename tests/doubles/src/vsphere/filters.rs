//! Filters of the property collector: what has changed since a client last asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::call::Call;
use super::collector::{Found, find};
use super::fault::Fault;
use super::shared::lock;
use super::value::{Kind, Reference, Value};
use super::xml::Element;

/// A client that waits without saying how long waits so long.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// What a client wants to be told of.
#[derive(Debug)]
pub(crate) struct Filter {
    collector: String,
    spec: Element,
    /// What it was told last.
    told: BTreeMap<Reference, BTreeMap<String, Value>>,
    version: u64,
}

pub(crate) fn create_collector(call: &Call<'_>) -> Result<Value, Fault> {
    let name = lock(&call.shared.reading).name("collector");
    Ok(Value::Reference(Reference::new(Kind::PropertyCollector, name)))
}

pub(crate) fn destroy_collector(call: &Call<'_>) -> Result<Value, Fault> {
    lock(&call.shared.reading).filters.retain(|_, filter| filter.collector != call.this.id);
    Ok(Value::Unset)
}

pub(crate) fn create(call: &Call<'_>) -> Result<Value, Fault> {
    let spec = call.arguments.child("spec").expect("the schema was checked").clone();
    // What is wrong with it is told now.
    find(call.shared, call.cookie, &spec)?;
    let mut reading = lock(&call.shared.reading);
    let id = reading.name("filter");
    let collector = call.this.id.clone();
    let filter = Filter { collector, spec, told: BTreeMap::new(), version: 0 };
    reading.filters.insert(id.clone(), filter);
    Ok(Value::Reference(Reference::new(Kind::PropertyFilter, id)))
}

pub(crate) fn destroy(call: &Call<'_>) -> Result<Value, Fault> {
    match lock(&call.shared.reading).filters.remove(&call.this.id) {
        Some(_) => Ok(Value::Unset),
        None => Err(Fault::not_found(&call.this)),
    }
}

/// Answers with what has changed, as soon as something has.
pub(crate) fn wait(call: &Call<'_>) -> Result<Value, Fault> {
    let options = call.arguments.child("options");
    let seconds = options.and_then(|it| it.text_of("maxWaitSeconds")?.trim().parse().ok());
    let longest = seconds.map_or(LONGEST, Duration::from_secs);
    let started = Instant::now();
    if call.text("version").is_empty() {
        let mut reading = lock(&call.shared.reading);
        let mine = reading.filters.values_mut().filter(|it| it.collector == call.this.id);
        mine.for_each(|filter| filter.told.clear());
    }
    loop {
        let seen = call.shared.world().revision;
        if let Some(update) = update(call)? {
            return Ok(update);
        }
        let left = longest.saturating_sub(started.elapsed());
        if left.is_zero() || call.shared.is_closing() {
            return Ok(Value::Unset);
        }
        call.shared.wait_for_change(seen, left);
    }
}

fn update(call: &Call<'_>) -> Result<Option<Value>, Fault> {
    let specs: Vec<(String, Element)> = {
        let reading = lock(&call.shared.reading);
        let mine = reading.filters.iter().filter(|(_, it)| it.collector == call.this.id);
        mine.map(|(id, filter)| (id.clone(), filter.spec.clone())).collect()
    };
    let mut updates = Vec::new();
    let mut version = 0;
    for (id, spec) in specs {
        let found = match find(call.shared, call.cookie, &spec) {
            // The object is gone; that is told as such.
            Err(fault) if fault.kind == "ManagedObjectNotFound" => Vec::new(),
            found => found?,
        };
        let mut reading = lock(&call.shared.reading);
        let Some(filter) = reading.filters.get_mut(&id) else { continue };
        let changes = filter.take(found);
        if !changes.is_empty() {
            filter.version += 1;
            let filter = Value::Reference(Reference::new(Kind::PropertyFilter, id));
            updates.push(Value::Object(
                "PropertyFilterUpdate",
                vec![("filter", filter), ("objectSet", Value::Array("ObjectUpdate", changes))],
            ));
        }
        version += filter.version;
    }
    if updates.is_empty() {
        return Ok(None);
    }
    let updates = Value::Array("PropertyFilterUpdate", updates);
    let fields = vec![("version", Value::text(version.to_string())), ("filterSet", updates)];
    Ok(Some(Value::Object("UpdateSet", fields)))
}

impl Filter {
    /// Notes what is told now; returns the difference to what was told before.
    fn take(&mut self, found: Vec<Found>) -> Vec<Value> {
        let mut changes = Vec::new();
        let now: BTreeMap<_, _> = found.into_iter().collect();
        for (object, properties) in &now {
            let before = self.told.get(object);
            let changed = properties.iter().filter(|(name, value)| {
                before.and_then(|before| before.get(*name)).unwrap_or(&Value::Unset) != *value
            });
            let changed: Vec<Value> = changed.map(|(name, value)| change(name, value)).collect();
            let kind = if before.is_some() { "modify" } else { "enter" };
            if before.is_none() || !changed.is_empty() {
                changes.push(object_update(kind, object, changed));
            }
        }
        for object in self.told.keys().filter(|object| !now.contains_key(*object)) {
            changes.push(object_update("leave", object, Vec::new()));
        }
        self.told = now;
        changes
    }
}

fn change(name: &str, value: &Value) -> Value {
    Value::Object(
        "PropertyChange",
        vec![
            ("name", Value::text(name)),
            ("op", Value::Plain("PropertyChangeOp", "assign".to_owned())),
            ("val", value.clone()),
        ],
    )
}

fn object_update(kind: &str, object: &Reference, changed: Vec<Value>) -> Value {
    Value::Object(
        "ObjectUpdate",
        vec![
            ("kind", Value::Plain("ObjectUpdateKind", kind.to_owned())),
            ("obj", Value::Reference(object.clone())),
            ("changeSet", Value::Array("PropertyChange", changed)),
        ],
    )
}
