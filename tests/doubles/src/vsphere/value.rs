//! What is answered, before it is written: values with the types that the schema gives them.

/// A reference to an object of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) kind: Kind,
    pub(crate) id: String,
}

impl Reference {
    pub(crate) fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// The types of objects that this server has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            /// The name in the schema.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }

            /// The type of that name.
            pub(crate) fn named(name: &str) -> Option<Self> {
                match name { $(stringify!($kind) => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

kinds! {
    ClusterComputeResource, ComputeResource, ContainerView, Datacenter, Datastore, Folder,
    HostSystem, ManagedEntity, ManagedObject, PropertyCollector, PropertyFilter, ResourcePool, SearchIndex,
    ServiceInstance, SessionManager, Task, TaskManager, ViewManager, VirtualApp,
    VirtualMachine, VirtualMachineSnapshot,
}

impl Kind {
    /// Whether an object of this type is one of `other` too.
    pub(crate) fn is(self, other: Self) -> bool {
        let entity = matches!(
            self,
            Self::ClusterComputeResource
                | Self::ComputeResource
                | Self::Datacenter
                | Self::Datastore
                | Self::Folder
                | Self::HostSystem
                | Self::ResourcePool
                | Self::VirtualApp
                | Self::VirtualMachine
        );
        self == other
            || other == Self::ManagedObject
            || (other == Self::ManagedEntity && entity)
            || (other == Self::ComputeResource && self == Self::ClusterComputeResource)
    }
}

/// A value of the schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Text of a plain type (`string`, `int`, `dateTime`) or, with a capital, of an enumeration.
    Plain(&'static str, String),
    /// A reference.
    Reference(Reference),
    /// A data object: its type, and its fields in the order of the schema.
    Object(&'static str, Vec<(&'static str, Value)>),
    /// An array of items of this type.
    Array(&'static str, Vec<Value>),
    /// A field that the type has and this object has not.
    Unset,
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Plain("string", text.into())
    }

    pub(crate) fn boolean(value: bool) -> Self {
        Self::Plain("boolean", value.to_string())
    }

    pub(crate) fn int(value: impl Into<i64>) -> Self {
        Self::Plain("int", value.into().to_string())
    }

    pub(crate) fn long(value: u64) -> Self {
        Self::Plain("long", value.to_string())
    }

    pub(crate) fn time(time: std::time::SystemTime) -> Self {
        let time = jiff::Timestamp::try_from(time).expect("a time of this age");
        Self::Plain("dateTime", format!("{time:.6}"))
    }

    pub(crate) fn references(all: impl IntoIterator<Item = Reference>) -> Self {
        let all = all.into_iter().map(Self::Reference).collect();
        Self::Array("ManagedObjectReference", all)
    }

    pub(crate) fn or_unset(value: Option<Self>) -> Self {
        value.unwrap_or(Self::Unset)
    }

    /// What stands at a path such as `config.hardware.device`; `None` where the type has no such
    /// field.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        let mut found = self;
        for name in path.split('.') {
            found = match found {
                Self::Object(_, fields) => {
                    let mut fields = fields.iter();
                    &fields.find(|(field, _)| *field == name)?.1
                }
                // What is below a field that is not set is not set either.
                Self::Unset => return Some(&Self::Unset),
                _ => return None,
            };
        }
        Some(found)
    }

    /// The references in a field.
    pub(crate) fn all_references(&self) -> Vec<Reference> {
        match self {
            Self::Reference(reference) => vec![reference.clone()],
            Self::Array(_, items) => items.iter().flat_map(Self::all_references).collect(),
            _ => Vec::new(),
        }
    }
}
