//! One SSH connection: a thread that makes it, serves it, and makes it anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use russh::Disconnect;
use russh::keys::PrivateKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ask::{self, Ask};
use super::backoff::Backoff;
use super::channel::Turn;
use super::error::{TunnelError, TunnelEvent};
use super::figures::Figures;
use super::link;
use super::service::Offer;
use super::session::{Session, connect};
use super::settings::TunnelSettings;
use super::trust::Trust;
use crate::child::held;

/// Longest wait between two attempts of a connection that is kept up: data is to flow again within
/// three seconds after the link is back.
const KEPT_WAIT: Duration = Duration::from_secs(2);
/// Time for an attempt of such a connection: one that the link was lost under is not waited for.
/// Where a handshake takes longer it is doubled, up to the deadline.
const KEPT_ATTEMPT: Duration = Duration::from_secs(3);
/// A session that was over sooner than this is made again only after a wait, as one that could not
/// be made.
const STEADY: Duration = Duration::from_secs(5);
/// Different reasons of one outage that are told.
const TOLD: usize = 16;

/// What all connections of a tunnel share.
pub(super) struct Shared {
    pub(super) settings: TunnelSettings,
    pub(super) key: Arc<PrivateKey>,
    pub(super) trust: Trust,
    pub(super) on_event: Box<dyn Fn(TunnelEvent) + Send + Sync>,
    pub(super) states: Mutex<States>,
}

/// The connections that are up, and those that are down, by their numbers. One that was never there
/// is neither until an attempt has failed.
#[derive(Debug, Default)]
pub(super) struct States {
    pub(super) up: BTreeSet<usize>,
    pub(super) down: BTreeMap<usize, Down>,
}

/// Since when a connection is down, and why it is still so.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) since: Instant,
    pub(super) why: String,
}

/// A connection, as its thread sees it.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// From 1.
    pub(super) number: usize,
    pub(super) asks: UnboundedReceiver<Ask>,
    /// Those who wait for the next session.
    pub(super) waiting: Vec<Ask>,
    pub(super) figures: Arc<Figures>,
    /// What the far end may open; such a connection is kept up.
    pub(super) offer: Option<Arc<Offer>>,
}

impl Connection {
    /// Serves until nobody can ask any more. `session` is there already for the first connection.
    pub(super) async fn serve(mut self, mut session: Option<Session>) {
        loop {
            if let Some(session) = session.take() {
                let Some(why) = self.use_session(session).await else { return };
                self.lose(why);
            }
            // Nothing is connected again that nobody asks for.
            if self.waiting.is_empty() {
                let Some(ask) = self.asks.recv().await else { return };
                self.waiting.push(ask);
            }
            session = self.connect_for_waiting().await;
            if session.is_none() {
                self.waiting.clear();
            }
        }
    }

    /// Serves, and connects again whether anybody asks or not, until nobody can ask any more.
    pub(super) async fn keep_up(mut self, mut session: Option<Session>, mut effort: Effort) {
        let mut pause = if session.is_some() { Duration::ZERO } else { effort.backoff.wait() };
        loop {
            if session.is_none() {
                session = self.connect_again(pause, &mut effort).await;
            }
            let Some(made) = session.take() else { return };
            let since = Instant::now();
            let Some(why) = self.use_session(made).await else { return };
            self.lose(why);
            effort.told.clear();
            pause = effort.pause_after(since.elapsed());
        }
    }

    fn lose(&self, why: String) {
        self.figures.lost.fetch_add(1, Ordering::Relaxed);
        self.shared.tell(TunnelEvent::Lost { connection: self.number, why });
    }

    /// Opens channels until the session is over, and tells why it is; `None` when nobody can ask any
    /// more.
    async fn use_session(&mut self, mut session: Session) -> Option<String> {
        // Dropped with the session, and all sockets of lanes and of the service with them.
        let mut tasks = JoinSet::new();
        let turn = Arc::new(Turn::default());
        let TunnelSettings { keepalive, keepalive_limit, .. } = self.shared.settings;
        let patience = link::patience(keepalive, keepalive_limit);
        if let Some(offer) = self.offer.clone() {
            let (handle, shared) = (Arc::clone(&session.handle), Arc::clone(&self.shared));
            tasks.spawn(offer.make(shared, self.number, handle));
        }
        let lane = |ask: Ask| {
            let (handle, shared) = (Arc::clone(&session.handle), Arc::clone(&self.shared));
            ask::serve(ask, handle, shared, Arc::clone(&turn), Arc::clone(&self.figures))
        };
        for ask in self.waiting.drain(..) {
            tasks.spawn(lane(ask));
        }
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    // It is over, and the word of that is on its way.
                    Some(ask) if session.handle.is_closed() => self.waiting.push(ask),
                    Some(ask) => {
                        tasks.spawn(lane(ask));
                    }
                    None => {
                        // Who has gone already hears no goodbye.
                        let _gone =
                            session.handle.disconnect(Disconnect::ByApplication, "", "en").await;
                        return None;
                    }
                },
                Some(arrival) = session.arrivals.recv() => if let Some(offer) = self.offer.clone() {
                    tasks.spawn(offer.carry(arrival, Arc::clone(&turn), patience));
                },
                Some(_done) = tasks.join_next() => {}
                why = &mut session.over => {
                    return Some(why.unwrap_or_else(|_| "its task has ended".into()));
                }
            }
        }
    }

    /// Connects, again and again until those who wait give up.
    async fn connect_for_waiting(&self) -> Option<Session> {
        let due = self.waiting.iter().map(|ask| ask.due).max()?;
        let mut backoff =
            Backoff::new(self.shared.settings.backoff, self.shared.settings.backoff_limit);
        let mut told = String::new();
        while Instant::now() < due {
            let left = due.saturating_duration_since(Instant::now());
            match connect(&self.shared, self.number, None, left).await {
                Ok(session) => return Some(session),
                Err(error) => {
                    let text = error.to_string();
                    let hopeless = !error.may_pass();
                    if text != told {
                        self.shared.tell(TunnelEvent::NotUp { connection: self.number, error });
                        told = text;
                    }
                    if hopeless {
                        return None;
                    }
                }
            }
            sleep(backoff.wait()).await;
        }
        None
    }

    /// Connects, again and again, first after `pause`; lanes that ask meanwhile wait for as long as
    /// they do. `None` when nobody can ask any more.
    async fn connect_again(&mut self, mut pause: Duration, effort: &mut Effort) -> Option<Session> {
        loop {
            let (shared, number, offer) = (&self.shared, self.number, self.offer.as_ref());
            let limit = effort.limit;
            let attempt = async move {
                sleep(pause).await;
                connect(shared, number, offer, limit).await
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    ask = self.asks.recv() => self.waiting.push(ask?),
                }
            };
            match result {
                Ok(session) => return Some(session),
                Err(error) => {
                    let hopeless = !error.may_pass();
                    pause = effort.pause_after_error(&error);
                    effort.tell(&self.shared, self.number, error);
                    // What is dropped is closed, which its lane sees.
                    self.waiting.retain(|ask| !hopeless && Instant::now() < ask.due);
                }
            }
        }
    }
}

/// How a connection that is kept up is tried for.
pub(super) struct Effort {
    backoff: Backoff,
    /// For one attempt.
    pub(super) limit: Duration,
    deadline: Duration,
    /// What was told of this outage.
    told: HashSet<String>,
}

impl Effort {
    pub(super) fn new(settings: &TunnelSettings) -> Self {
        Self {
            backoff: Backoff::new(settings.backoff, settings.backoff_limit.min(KEPT_WAIT)),
            limit: KEPT_ATTEMPT.min(settings.deadline),
            deadline: settings.deadline,
            told: HashSet::new(),
        }
    }

    /// Tells why there is no connection, once for each reason.
    pub(super) fn tell(&mut self, shared: &Shared, connection: usize, error: TunnelError) {
        if self.told.len() < TOLD && self.told.insert(error.to_string()) {
            shared.tell(TunnelEvent::NotUp { connection, error });
        }
    }

    fn pause_after_error(&mut self, error: &TunnelError) -> Duration {
        if error.is_slow() {
            self.limit = (self.limit * 2).min(self.deadline);
        }
        match error.may_pass() {
            true => self.backoff.wait(),
            false => self.backoff.longest(),
        }
    }

    fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived < STEADY {
            return self.backoff.wait();
        }
        self.backoff.reset();
        Duration::ZERO
    }
}

impl Shared {
    pub(super) fn tell(&self, event: TunnelEvent) {
        let mut states = held(&self.states);
        let States { up, down } = &mut *states;
        match &event {
            TunnelEvent::Up { connection, .. } => {
                up.insert(*connection);
                down.remove(connection);
            }
            TunnelEvent::Lost { connection, why } => {
                up.remove(connection);
                down.insert(*connection, Down { since: Instant::now(), why: why.clone() });
            }
            TunnelEvent::NotUp { connection, error } => {
                let since = down.get(connection).map_or_else(Instant::now, |down| down.since);
                down.insert(*connection, Down { since, why: error.to_string() });
            }
            _ => {}
        }
        drop(states);
        (self.on_event)(event);
    }
}
