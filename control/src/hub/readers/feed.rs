//! What happens to a reading, for the one who asked for it.

use std::sync::Arc;

use blockferry_dataplane::{Counts, Event};
use tokio::sync::{mpsc, oneshot};

use super::error::ReaderError;
use super::export::ServedPoint;
use super::ticket::Ticket;
use crate::backup::{Watch, lane_words};
use crate::catalog::{DiskName, FailureKind};
use crate::reading::VerifyReport;

/// Events that the caller may be behind; of who does not read for long, progress and words are
/// lost.
const BEHIND: usize = 256;
/// Places that are kept for what must not be lost: what is served, and the end.
const KEPT_FREE: usize = 2;

/// Something that happened to a reading.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadEvent {
    /// Something that a person should know.
    Note(String),
    /// Something for who wants to know all.
    Detail(String),
    /// How far it is.
    Progress(Counts),
    /// The disks are served from now on.
    Served(ServedPoint),
    /// What was found; the end.
    Verified(Box<VerifyReport>),
    /// It came to nothing, or goes on no more; the end.
    Failed {
        /// Whose fault it is.
        failure: FailureKind,
        /// Why.
        reason: String,
    },
}

/// Tells of a reading.
#[derive(Clone, Debug)]
pub(super) struct ReadFeed(mpsc::Sender<ReadEvent>);

impl ReadFeed {
    /// What is told at most once, or twice.
    pub(super) fn tell(&self, event: ReadEvent) {
        // Only who has left does not hear it: there is a place for it.
        let _ = self.0.try_send(event);
    }

    fn mention(&self, event: ReadEvent) {
        if self.0.capacity() > KEPT_FREE {
            self.tell(event);
        }
    }
}

impl Watch for ReadFeed {
    fn note(&self, text: &str) {
        self.mention(ReadEvent::Note(text.to_owned()));
    }

    fn detail(&self, text: &str) {
        self.mention(ReadEvent::Detail(text.to_owned()));
    }

    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        if let Some(words) = lane_words(disk, event) {
            self.mention(ReadEvent::Detail(words));
        }
    }

    fn progress(&self, disks: &[Counts]) {
        let sum = disks.iter().fold(Counts::default(), |sum, counts| sum.plus(counts));
        self.mention(ReadEvent::Progress(sum));
    }
}

/// A reading, seen by who asked for it. Dropped, it is called off.
#[derive(Debug)]
pub struct Reading {
    opened: Option<oneshot::Receiver<Result<(), ReaderError>>>,
    events: mpsc::Receiver<ReadEvent>,
    ticket: Arc<Ticket>,
}

/// The other end of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) opened: oneshot::Sender<Result<(), ReaderError>>,
    pub(super) feed: ReadFeed,
}

impl Reading {
    pub(super) fn of(ticket: Arc<Ticket>) -> (Self, Told) {
        let (opened, hears) = oneshot::channel();
        let (sender, events) = mpsc::channel(BEHIND);
        let reading = Self { opened: Some(hears), events, ticket };
        (reading, Told { opened, feed: ReadFeed(sender) })
    }

    /// Waits until the point is open, or it is known why not.
    ///
    /// # Errors
    /// [`ReaderError`]; nothing is left of it then.
    pub async fn opened(&mut self) -> Result<(), ReaderError> {
        let Some(opened) = self.opened.take() else { return Ok(()) };
        // A thread that panicked says nothing, and there is no event then.
        opened.await.unwrap_or(Ok(()))
    }

    /// The next event; `None` when there will be no other.
    pub async fn next(&mut self) -> Option<ReadEvent> {
        self.events.recv().await
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.ticket.call_off("its caller has left");
    }
}
