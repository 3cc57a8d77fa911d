//! Disks that are held still for a job, and let go while it goes on.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::origin::Frozen;

/// What is over by then needs no words.
const SOON: Duration = Duration::from_secs(1);

/// What a job holds still, if it holds anything. Letting it go blocks, for hours at times: it is done
/// on a thread of its own, whose end is waited for by [`end`](Self::end).
pub(super) struct Holding {
    frozen: Option<Frozen>,
    letting_go: Option<(JoinHandle<()>, Receiver<()>)>,
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
            let (over, heard) = mpsc::channel();
            let thread = thread::spawn(move || {
                drop(frozen);
                // Nobody listens any more once it is told that this takes long.
                let _unheard = over.send(());
            });
            self.letting_go = Some((thread, heard));
        }
    }

    /// Lets it go, and waits for that; `tell` is called where it takes a while.
    ///
    /// # Errors
    /// What the thread panicked with; it may be held still then.
    pub(super) fn end(mut self, tell: impl FnOnce()) -> thread::Result<()> {
        self.let_go();
        let Some((thread, heard)) = self.letting_go else { return Ok(()) };
        if heard.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout) {
            tell();
        }
        thread.join()
    }
}
