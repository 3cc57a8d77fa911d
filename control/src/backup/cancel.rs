//! Calling something off, from any thread.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use blockferry_dataplane::Canceller;
use tokio::sync::Notify;

use crate::child::held;

/// Calls off what it was given to. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Cancellation {
    inner: Arc<Mutex<Inner>>,
    /// Tells those who wait for it.
    told: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    cancelled: bool,
    /// The lanes at work, if any are.
    lanes: Option<Canceller>,
}

impl Cancellation {
    /// Calls it off: lanes drain and end, and the next step is not taken.
    pub fn cancel(&self) {
        let mut inner = held(&self.inner);
        inner.cancelled = true;
        if let Some(lanes) = &inner.lanes {
            lanes.cancel();
        }
        drop(inner);
        self.told.notify_waiters();
    }

    /// Waits until it is called off; for ever, if it never is.
    pub(crate) async fn called_off(&self) {
        let mut told = pin!(self.told.notified());
        // Before the look: else what comes between is missed.
        told.as_mut().enable();
        if !self.is_cancelled() {
            told.await;
        }
    }

    /// Whether it was called off.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        held(&self.inner).cancelled
    }

    /// Lanes that end with it from now on, and at once if it was called off before.
    pub(crate) fn lanes(&self, lanes: Option<Canceller>) {
        let mut inner = held(&self.inner);
        if let (true, Some(lanes)) = (inner.cancelled, &lanes) {
            lanes.cancel();
        }
        inner.lanes = lanes;
    }
}
