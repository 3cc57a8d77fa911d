//! A stream of server-sent events.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::error::ClientError;
use super::http::HubClient;
use crate::call::SILENCE;

/// Bytes of one event: what was found in ten thousand points, of which each has some disks.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// Events that come in. Their data is JSON with the kind in it, so that names need not be read.
pub(super) struct Events {
    runtime: Runtime,
    body: Incoming,
    heard: Instant,
    /// Bytes that are no whole line yet.
    line: Vec<u8>,
    /// Data of the event that is not whole yet.
    data: Vec<u8>,
    /// Whole ones that were not given yet.
    whole: std::collections::VecDeque<Vec<u8>>,
}

/// What came within a while.
pub(super) enum Heard<T> {
    /// An event.
    Event(T),
    /// Nothing yet.
    Nothing,
    /// There will be no other.
    End,
}

impl HubClient {
    /// The events of something that is there, unless `given_up` is true before they begin.
    pub(super) fn events(
        &self,
        given_up: &dyn Fn() -> bool,
        call: &str,
    ) -> Result<Events, ClientError> {
        self.open(given_up, Method::GET, call, None).map(Events::of)
    }

    /// Those of something that is asked for, and lasts as long as its events are followed.
    pub(super) fn events_of(&self, call: &str, body: Vec<u8>) -> Result<Events, ClientError> {
        self.open(&|| false, Method::POST, call, Some(body)).map(Events::of)
    }
}

impl Events {
    fn of((runtime, body): (Runtime, Incoming)) -> Self {
        Self {
            runtime,
            body,
            heard: Instant::now(),
            line: Vec::new(),
            data: Vec::new(),
            whole: std::collections::VecDeque::new(),
        }
    }

    /// Waits for an event, no longer than `patience`.
    pub(super) fn next<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
        client: &HubClient,
    ) -> Result<Heard<T>, ClientError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(data) = self.whole.pop_front() {
                let event = serde_json::from_slice(&data);
                return event.map(Heard::Event).map_err(|error| client.no_hub(error.to_string()));
            }
            let left = end.saturating_duration_since(Instant::now());
            let frame = self.body.frame();
            let came = self.runtime.block_on(async { timeout(left, frame).await });
            let Ok(came) = came else {
                if self.heard.elapsed() > SILENCE {
                    return Err(client.silent());
                }
                return Ok(Heard::Nothing);
            };
            self.heard = Instant::now();
            match came {
                None => return Ok(Heard::End),
                Some(Err(error)) => return Err(client.unreachable(error.to_string())),
                Some(Ok(frame)) => {
                    self.take_in(frame.data_ref().map_or(&[], |data| &data[..]), client)?;
                }
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8], client: &HubClient) -> Result<(), ClientError> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_of_line(line.strip_suffix(b"\r").unwrap_or(&line));
            } else {
                self.line.push(byte);
            }
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(
                    client.no_hub(format!("an event has more than {MAX_EVENT_BYTES} bytes"))
                );
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            if !self.data.is_empty() {
                self.whole.push_back(std::mem::take(&mut self.data));
            }
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
        // Comments keep the connection; names are in the data.
    }
}
