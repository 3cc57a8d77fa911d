//! Points that a hub reads: asked for, and followed for as long as they are wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::Counts;
use serde::Serialize;

use super::error::ClientError;
use super::events::{Events, Heard};
use super::http::HubClient;
use crate::backup::Watch;
use crate::record::ReadingRecord;

/// A stream of what happens while a hub reads a point. Dropped, the hub calls that off.
pub(super) struct Reading {
    events: Events,
    client: HubClient,
}

impl HubClient {
    /// Asks for a reading, and opens its stream.
    pub(super) fn reading(
        &self,
        call: &str,
        asked: &impl Serialize,
    ) -> Result<Reading, ClientError> {
        let body = serde_json::to_vec(asked).map_err(|error| self.no_hub(error.to_string()))?;
        Ok(Reading { events: self.events_of(call, body)?, client: self.clone() })
    }
}

impl Reading {
    /// What came within a while that the caller has to know; the rest is told. `None` if that is
    /// nothing yet.
    ///
    /// # Errors
    /// Why it goes on no more: what the hub said, or that it is gone.
    pub(super) fn next(
        &mut self,
        patience: Duration,
        watch: &Arc<dyn Watch>,
    ) -> Result<Option<ReadingRecord>, ClientError> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.next(left, &self.client)? {
                Heard::Event(ReadingRecord::Note { text }) => watch.note(&text),
                Heard::Event(ReadingRecord::Detail { text }) => watch.detail(&text),
                Heard::Event(ReadingRecord::Progress { bytes }) => {
                    watch.progress(&[Counts::from(bytes)]);
                }
                Heard::Event(ReadingRecord::Unknown) => {}
                Heard::Event(ReadingRecord::Failed { failure, reason }) => {
                    let failure = failure.parse().map_err(|error| {
                        let error: crate::catalog::ValueError = error;
                        self.client.no_hub(error.to_string())
                    })?;
                    return Err(ClientError::ReadFailed { failure, reason });
                }
                Heard::Event(event) => return Ok(Some(event)),
                Heard::Nothing => return Ok(None),
                Heard::End => {
                    return Err(ClientError::Cut { address: self.client.address().clone() });
                }
            }
        }
    }
}
