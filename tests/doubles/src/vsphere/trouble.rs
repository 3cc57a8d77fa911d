//! What can go wrong, on order.

use std::time::Duration;

use super::fault::Fault;
use super::value::Value;

/// One thing that goes wrong, once. Methods are named as in the schema: `CreateSnapshot_Task`.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// A login is refused, whatever it says.
    LoginRefused,
    /// The session of the call is over when so many calls were answered. `quietly`, a call that
    /// retrieves properties is told so in an answer of status 200, in its `missingSet`.
    SessionExpires {
        /// Calls that still go well.
        after: u32,
        /// Whether status and form are those of an answer.
        quietly: bool,
    },
    /// The call is not carried out, and answered with a fault.
    CallFails {
        /// The method.
        method: &'static str,
        /// The fault.
        failure: Failure,
    },
    /// The call is answered late.
    CallSlow {
        /// The method.
        method: &'static str,
        /// How late.
        by: Duration,
    },
    /// The call is carried out when the test lets it go, and answered then.
    CallHeld {
        /// The method.
        method: &'static str,
    },
    /// The task fails, and has done nothing.
    TaskFails {
        /// The method.
        method: &'static str,
        /// The fault.
        failure: Failure,
    },
    /// The task runs until it is cancelled, where that is possible, or let go by the test.
    TaskSticks {
        /// The method.
        method: &'static str,
        /// Whether it can be cancelled.
        cancelable: bool,
    },
    /// The task takes longer.
    TaskSlow {
        /// The method.
        method: &'static str,
        /// By this.
        by: Duration,
    },
    /// The task that makes a snapshot fails, and the snapshot is there.
    SnapshotHalfway,
    /// A snapshot that is to be quiesced fails; one that is not succeeds.
    QuiesceFails,
    /// The task that removes a snapshot succeeds, and the disks are not consolidated.
    NotConsolidated,
    /// A page of changed areas is not as it should be.
    Areas(Page),
    /// `"*"` is answered with one area as long as the disk, as off VMFS.
    AllInUse,
    /// The connection ends when so many bytes of the answer's body are sent.
    Cut {
        /// The method.
        method: &'static str,
        /// Bytes of the body.
        bytes: usize,
    },
    /// Nothing comes after so many bytes of the answer's body, until the client goes.
    Stalled {
        /// The method.
        method: &'static str,
        /// Bytes of the body.
        bytes: usize,
    },
    /// The body ends in its middle, and HTTP says that it is whole.
    Truncated {
        /// The method.
        method: &'static str,
        /// Bytes of the body.
        bytes: usize,
    },
    /// The body is as long as this, by text that means nothing.
    Huge {
        /// The method.
        method: &'static str,
        /// Bytes of the body, at least.
        bytes: usize,
    },
    /// The body declares entities that grow to gigabytes.
    EntityBomb {
        /// The method.
        method: &'static str,
    },
}

/// How a page of changed areas goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// It covers nothing.
    Stalls,
    /// It is the first page once more, whatever was asked.
    Repeats,
    /// Its first area begins before what was asked.
    Overlaps,
    /// It covers more than the disk has.
    Exceeds,
    /// Legal: it ends after its first area, and the rest has to be asked for.
    EndsEarly,
    /// Its areas are in no order.
    Unordered,
}

/// A fault by name, for the troubles that want one.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: &'static str,
    message: String,
}

impl Failure {
    /// A fault of this type, such as `FileFault` or `HostNotConnected`.
    pub fn new(kind: &'static str, message: &str) -> Self {
        Self { kind, message: message.to_owned() }
    }

    pub(crate) fn fault(&self) -> Fault {
        match self.kind {
            "FileFault" => Fault::file("/vmfs/volumes/datastore1/web/web-ctk.vmdk"),
            // A file fault too, which says where there is no room.
            "NoDiskSpace" => Fault::new(self.kind, &*self.message)
                .with("file", Value::text("/vmfs/volumes/datastore1/web/web-000001.vmdk"))
                .with("datastore", Value::text("datastore1")),
            kind => Fault::new(kind, &*self.message),
        }
    }
}

impl Trouble {
    /// Whether it befalls a task of this method.
    pub(crate) fn is_of_task(&self, of: &str) -> bool {
        matches!(self, Self::TaskFails { method, .. }
            | Self::TaskSticks { method, .. }
            | Self::TaskSlow { method, .. } if *method == of)
    }

    /// Whether it befalls the call of this method, before it is carried out.
    pub(crate) fn is_of_call(&self, of: &str) -> bool {
        matches!(self, Self::CallFails { method, .. }
            | Self::CallSlow { method, .. }
            | Self::CallHeld { method } if *method == of)
    }

    /// Whether it befalls the answer of this method on its way.
    pub(crate) fn is_of_answer(&self, of: &str) -> bool {
        matches!(self, Self::Cut { method, .. }
            | Self::Stalled { method, .. }
            | Self::Truncated { method, .. }
            | Self::Huge { method, .. }
            | Self::EntityBomb { method } if *method == of)
    }
}
