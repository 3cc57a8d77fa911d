//! Container views: what lies below something, of some types.

use super::call::Call;
use super::collector::Reading;
use super::fault::Fault;
use super::shared::lock;
use super::value::{Kind, Reference, Value};
use super::world::World;

#[derive(Clone, Debug)]
pub(crate) struct View {
    container: Reference,
    kinds: Vec<Kind>,
    recursive: bool,
}

pub(crate) fn create(call: &Call<'_>) -> Result<Value, Fault> {
    let container = call.reference("container")?;
    let container = container.ok_or_else(|| Fault::invalid_argument("container"))?;
    if !call.shared.world().exists(&container) {
        return Err(Fault::not_found(&container));
    }
    let known = |name: &str| Kind::named(name).ok_or_else(|| Fault::invalid_argument("type"));
    let kinds = call.arguments.all("type").map(|kind| known(kind.text.trim()));
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    let view = View { container, kinds, recursive: call.boolean("recursive") };
    let mut reading = lock(&call.shared.reading);
    let id = format!("session[{}]{}", reading.name("view"), "52e2a7b5");
    reading.views.insert(id.clone(), view);
    Ok(Value::Reference(Reference::new(Kind::ContainerView, id)))
}

pub(crate) fn destroy(call: &Call<'_>) -> Result<Value, Fault> {
    match lock(&call.shared.reading).views.remove(&call.this.id) {
        Some(_) => Ok(Value::Unset),
        None => Err(Fault::not_found(&call.this)),
    }
}

/// The properties of a view.
pub(crate) fn describe(world: &World, reading: &Reading, id: &str) -> Option<Value> {
    let view = reading.views.get(id)?;
    let mut found = Vec::new();
    gather(world, view, &view.container, &mut found);
    let kinds = view.kinds.iter().map(|kind| Value::text(kind.name())).collect();
    Some(Value::Object(
        Kind::ContainerView.name(),
        vec![
            ("view", Value::references(found)),
            ("container", Value::Reference(view.container.clone())),
            ("type", Value::Array("string", kinds)),
            ("recursive", Value::boolean(view.recursive)),
        ],
    ))
}

fn gather(world: &World, view: &View, at: &Reference, found: &mut Vec<Reference>) {
    for child in world.children(at) {
        if view.kinds.is_empty() || view.kinds.iter().any(|kind| child.kind.is(*kind)) {
            found.push(child.clone());
        }
        if view.recursive {
            gather(world, view, &child, found);
        }
    }
}
