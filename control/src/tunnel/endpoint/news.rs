//! What is told of the endpoint, of those without a key as often as a log can bear.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::EndpointEvent;
use super::places::Full;
use super::sieve::{Batch, Sieve};
use crate::child::held;

/// Strangers that leave, told in a minute.
const GONE_TOLD: u32 = 1;
/// Refusals of strangers, told in a minute. Keys that were forgotten to be enrolled are among them:
/// those of some nodes that come at once are all to be seen.
const REFUSALS_TOLD: u32 = 16;

/// The same refusal is told again after this time: a node that was removed asks every second.
const SAME_AGAIN: Duration = Duration::from_secs(3600);
/// Refusals that are known again.
const MAX_KNOWN: usize = 256;

pub(super) struct News {
    on_event: Box<dyn Fn(EndpointEvent) + Send + Sync>,
    gone: Mutex<Sieve>,
    sent_away: Mutex<Sieve>,
    refused: Mutex<Sieve>,
    /// What was refused to strangers, and when that was told.
    known: Mutex<HashMap<String, Instant>>,
    /// Nodes of which it was told that there is no place for more of their connections.
    full: Mutex<HashSet<String>>,
}

impl News {
    pub(super) fn new(on_event: Box<dyn Fn(EndpointEvent) + Send + Sync>) -> Self {
        Self {
            on_event,
            gone: Mutex::new(Sieve::new(GONE_TOLD)),
            sent_away: Mutex::new(Sieve::new(GONE_TOLD)),
            refused: Mutex::new(Sieve::new(REFUSALS_TOLD)),
            known: Mutex::default(),
            full: Mutex::default(),
        }
    }

    pub(super) fn tell(&self, event: EndpointEvent) {
        (self.on_event)(event);
    }

    /// One that has not logged in is gone.
    pub(super) fn stranger_gone(&self, peer: SocketAddr, why: String) {
        self.pass(&self.gone, peer, why, closed);
    }

    /// One that has not logged in had to leave for another one.
    pub(super) fn stranger_sent_away(&self, peer: SocketAddr) {
        let why = "it had not logged in, and another one wanted its place".into();
        self.pass(&self.sent_away, peer, why, closed);
    }

    /// One that has not logged in was refused something.
    pub(super) fn stranger_refused(&self, peer: SocketAddr, what: String) {
        let now = Instant::now();
        let mut known = held(&self.known);
        known.retain(|_, told| now.duration_since(*told) < SAME_AGAIN);
        if known.contains_key(&what) {
            return;
        }
        let batch = held(&self.refused).add(now, peer, what);
        // What was not told has its turn yet.
        if let Some(told) = batch.as_ref().filter(|_| known.len() < MAX_KNOWN) {
            known.insert(told.what.clone(), now);
        }
        drop(known);
        self.tell_batch(batch, refused);
    }

    /// A node has logged in, and has no place. Told once until it has one.
    pub(super) fn node_refused(&self, node: String, peer: SocketAddr, full: Full) {
        if held(&self.full).insert(node.clone()) {
            let what = full.to_string();
            self.tell(EndpointEvent::Refused { node: Some(node), peer, what, times: 1 });
        }
    }

    /// A node has logged in, and stays.
    pub(super) fn node_connected(&self, node: String, peer: SocketAddr) {
        held(&self.full).remove(&node);
        // It may have been refused before it was enrolled, and be removed again.
        held(&self.known).clear();
        self.tell(EndpointEvent::Connected { node, peer });
    }

    /// Tells what was kept, where the time has come.
    pub(super) fn tell_what_was_kept(&self) {
        for (sieve, event) in [
            (&self.gone, closed as fn(Batch) -> EndpointEvent),
            (&self.sent_away, closed),
            (&self.refused, refused),
        ] {
            let batch = held(sieve).due(Instant::now());
            self.tell_batch(batch, event);
        }
    }

    fn pass(
        &self,
        sieve: &Mutex<Sieve>,
        peer: SocketAddr,
        what: String,
        event: fn(Batch) -> EndpointEvent,
    ) {
        let batch = held(sieve).add(Instant::now(), peer, what);
        self.tell_batch(batch, event);
    }

    fn tell_batch(&self, batch: Option<Batch>, event: fn(Batch) -> EndpointEvent) {
        if let Some(batch) = batch {
            self.tell(event(batch));
        }
    }
}

fn closed(Batch { peer, what, times }: Batch) -> EndpointEvent {
    EndpointEvent::Closed { node: None, peer, why: what, times }
}

fn refused(Batch { peer, what, times }: Batch) -> EndpointEvent {
    EndpointEvent::Refused { node: None, peer, what, times }
}
