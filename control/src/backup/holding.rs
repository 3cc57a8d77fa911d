//! Disks that are held still for a job, and let go while it goes on.

use std::thread::{self, JoinHandle};

use super::origin::Frozen;

/// What a job holds still, if it holds anything. Letting it go blocks, for hours at times: it is done
/// on a thread of its own, whose end is waited for by [`end`](Self::end).
pub(super) struct Holding {
    frozen: Option<Frozen>,
    letting_go: Option<JoinHandle<()>>,
}

impl Holding {
    pub(super) fn of(frozen: Option<Frozen>) -> Self {
        Self { frozen, letting_go: None }
    }

    /// What is held; nothing once it is let go.
    pub(super) fn frozen(&self) -> Option<&Frozen> {
        self.frozen.as_ref()
    }

    /// Begins to let it go.
    pub(super) fn let_go(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.letting_go = Some(thread::spawn(move || drop(frozen)));
        }
    }

    /// Lets it go, and waits for that.
    ///
    /// # Errors
    /// What the thread panicked with; it may be held still then.
    pub(super) fn end(mut self) -> thread::Result<()> {
        self.let_go();
        self.letting_go.map_or(Ok(()), JoinHandle::join)
    }
}
