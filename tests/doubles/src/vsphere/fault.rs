//! Faults: what is answered instead of a result, and what a task ends with.

use super::value::{Reference, Value};

/// A fault of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    /// Its type, such as `InvalidLogin`.
    pub(crate) kind: &'static str,
    /// For people.
    pub(crate) message: String,
    pub(crate) fields: Vec<(&'static str, Value)>,
}

impl Fault {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fields: Vec::new() }
    }

    pub(crate) fn with(mut self, field: &'static str, value: Value) -> Self {
        self.fields.push((field, value));
        self
    }

    /// A request that the schema does not allow.
    pub(crate) fn invalid_request(what: impl Into<String>) -> Self {
        Self::new("InvalidRequest", what)
    }

    pub(crate) fn invalid_argument(property: &str) -> Self {
        let message = format!("A specified parameter was not correct: {property}");
        Self::new("InvalidArgument", message).with("invalidProperty", Value::text(property))
    }

    pub(crate) fn not_found(reference: &Reference) -> Self {
        let message = format!(
            "The object 'vim.{}:{}' has already been deleted or has not been completely created",
            reference.kind.name(),
            reference.id
        );
        Self::new("ManagedObjectNotFound", message).with("obj", Value::Reference(reference.clone()))
    }

    pub(crate) fn file(file: &str) -> Self {
        Self::new("FileFault", format!("Error caused by file {file}"))
            .with("file", Value::text(file))
    }

    pub(crate) fn not_authenticated(object: Reference) -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", Value::Reference(object))
            .with("privilegeId", Value::text("System.View"))
    }

    pub(crate) fn invalid_power_state(requested: &'static str, existing: &'static str) -> Self {
        let message =
            "The attempted operation cannot be performed in the current state (".to_owned();
        let said = if existing == "poweredOn" { "Powered on" } else { "Powered off" };
        Self::new("InvalidPowerState", format!("{message}{said})."))
            .with("requestedState", Value::Plain("VirtualMachinePowerState", requested.to_owned()))
            .with("existingState", Value::Plain("VirtualMachinePowerState", existing.to_owned()))
    }

    /// As a data object.
    pub(crate) fn value(&self) -> Value {
        Value::Object(self.kind, self.fields.clone())
    }

    /// As a task and a property that cannot be read carry it.
    pub(crate) fn localized(&self) -> Value {
        Value::Object(
            "LocalizedMethodFault",
            vec![("fault", self.value()), ("localizedMessage", Value::text(&*self.message))],
        )
    }
}
