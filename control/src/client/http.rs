//! The hub, as it is called.

use std::sync::Arc;

use hyper::Method;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::address::HubAddress;
use super::error::ClientError;
use crate::call::{ANSWER_DEADLINE, CallError, Callee, Refused, Sent, Way};

/// A hub, and the token that opens it. Calls block. Clones are the same.
#[derive(Clone, Debug)]
pub struct HubClient {
    address: Arc<HubAddress>,
    hub: Arc<Callee>,
}

impl HubClient {
    /// A client of the hub at `address`, with a token. Nothing is asked yet.
    ///
    /// # Errors
    /// When the token has characters that no token has.
    pub fn new(address: HubAddress, token: &str) -> Result<Self, ClientError> {
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
        authorization.set_sensitive(true);
        let (host, port) = address.target();
        let hub = Callee {
            way: Way::Tcp(host.to_owned(), port),
            authority: address.authority(),
            prefix: address.prefix().to_owned(),
            authorization: Some(authorization),
            patience: ANSWER_DEADLINE,
        };
        Ok(Self { address: Arc::new(address), hub: Arc::new(hub) })
    }

    /// Where the hub is.
    #[must_use]
    pub fn address(&self) -> &HubAddress {
        &self.address
    }

    /// One call, and its answer in full.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        call: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        self.ask_unless(&|| false, method, call, body)
    }

    /// The same, unless `given_up` is true before there is an answer.
    pub(super) fn ask_unless<T: DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        method: Method,
        call: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let sent = body.map_or(Sent::Nothing, Sent::Json);
        self.hub.ask(given_up, method, call, sent).map_err(|error| self.error(error))
    }

    /// A call whose answer goes on: its head is good, and its body follows.
    pub(super) fn open(
        &self,
        given_up: &dyn Fn() -> bool,
        method: Method,
        call: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(Runtime, Incoming), ClientError> {
        let sent = body.map_or(Sent::Nothing, Sent::Json);
        self.hub.open(given_up, method, call, sent).map_err(|error| self.error(error))
    }

    /// A call whose answer is bytes, `most` of them: `take` has them as they come, and says whether
    /// it wants more.
    pub(super) fn fetch(
        &self,
        call: &str,
        most: u64,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        self.hub.fetch(call, most, take).map_err(|error| self.error(error))
    }

    pub(super) fn error(&self, error: CallError) -> ClientError {
        match error {
            CallError::Unreachable(what) => self.unreachable(what),
            CallError::Strange(what) => self.no_hub(what),
            CallError::Refused(Refused { status, code, message, hint, retry_after }) => {
                ClientError::Refused { status, code, message, hint, retry_after }
            }
        }
    }

    pub(super) fn silent(&self) -> ClientError {
        self.error(CallError::silent())
    }

    pub(super) fn unreachable(&self, what: String) -> ClientError {
        ClientError::Unreachable { address: (*self.address).clone(), what }
    }

    pub(super) fn no_hub(&self, what: String) -> ClientError {
        ClientError::NoHub { address: (*self.address).clone(), what }
    }
}
