//! Requests and answers, each on a connection of its own, each wait with a deadline.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use super::address::HubAddress;
use super::error::ClientError;
use crate::api::KEEP_ALIVE;

/// For a connection to the hub.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For an answer in full. A hub waits up to a minute for others who work in its repository.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(90);

/// How often it is looked whether an answer is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// For the next bytes of an answer that goes on; a hub sends something three times as often.
pub(super) const SILENCE: Duration = Duration::from_secs(KEEP_ALIVE.as_secs() * 3);
/// Bytes of an answer: a thousand points with long chains have some.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A hub, and the token that opens it. Calls block. Clones are the same.
#[derive(Clone)]
pub struct HubClient {
    address: Arc<HubAddress>,
    /// With the scheme before it; marked as sensitive, so that nothing prints it.
    authorization: HeaderValue,
}

impl std::fmt::Debug for HubClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubClient").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
    hint: String,
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
        Ok(Self { address: Arc::new(address), authorization })
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
        let runtime = self.runtime()?;
        let asked = async {
            let response = self.send(method, call, body).await?;
            let response = self.accepted(response).await?;
            self.read(response).await
        };
        let bytes = runtime.block_on(self.in_time(given_up, asked))?;
        serde_json::from_slice(&bytes).map_err(|error| self.no_hub(error.to_string()))
    }

    /// A call whose answer goes on: its head is good, and its body follows.
    pub(super) fn open(
        &self,
        given_up: &dyn Fn() -> bool,
        method: Method,
        call: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(Runtime, Incoming), ClientError> {
        let runtime = self.runtime()?;
        let opened = async {
            let response = self.send(method, call, body).await?;
            self.accepted(response).await
        };
        let response = runtime.block_on(self.in_time(given_up, opened))?;
        Ok((runtime, response.into_body()))
    }

    /// What is asked for, within the deadline and as long as it is wanted.
    async fn in_time<T>(
        &self,
        given_up: &dyn Fn() -> bool,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let mut asked = pin!(asked);
        let end = Instant::now() + ANSWER_DEADLINE;
        loop {
            match timeout(TICK, asked.as_mut()).await {
                Ok(answered) => return answered,
                Err(_) if given_up() => return Err(self.unreachable("it does not answer".into())),
                Err(_) if Instant::now() >= end => return Err(self.unanswered()),
                Err(_) => {}
            }
        }
    }

    /// A call whose answer is bytes, `most` of them: `take` has them as they come, and says whether
    /// it wants more.
    pub(super) fn fetch(
        &self,
        call: &str,
        most: u64,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let (runtime, mut body) = self.open(&|| false, Method::GET, call, None)?;
        let mut left = most;
        loop {
            let frame = runtime.block_on(async { timeout(SILENCE, body.frame()).await });
            let frame = match frame {
                Err(_late) => return Err(self.silent()),
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame.map_err(|error| self.unreachable(error.to_string()))?,
            };
            let bytes = frame.data_ref().map_or(&[][..], |data| &data[..]);
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            left = left
                .checked_sub(length)
                .ok_or_else(|| self.no_hub(format!("an answer has more than {most} bytes")))?;
            if !take(bytes) {
                return Ok(());
            }
        }
    }

    fn runtime(&self) -> Result<Runtime, ClientError> {
        let built = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        built.map_err(|error| self.unreachable(format!("no reactor can be had: {error}")))
    }

    async fn send(
        &self,
        method: Method,
        call: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let failed = |error: &dyn std::fmt::Display| self.unreachable(error.to_string());
        let connecting = TcpStream::connect(self.address.target());
        let stream = match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(connected) => connected.map_err(|error| failed(&error))?,
            Err(_late) => {
                let waited_s = CONNECT_DEADLINE.as_secs();
                return Err(self.unreachable(format!("no connection within {waited_s} s")));
            }
        };
        // Requests are short; only speed is lost where the kernel refuses.
        let _as_allowed = stream.set_nodelay(true);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // It moves whenever this thread waits for it; its end is seen in the answer.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(self.address.path(call))
            .header(HOST, self.address.authority())
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, self.authorization.clone());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(|error| failed(&error))?;
        sender.send_request(request).await.map_err(|error| failed(&error))
    }

    /// The answer, if it is not an error.
    async fn accepted(
        &self,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = self.read(response).await?;
        let said: ErrorBody = serde_json::from_slice(&bytes)
            .map_err(|_| self.no_hub(format!("it answers {status}, in no words of a hub")))?;
        let ErrorDetail { code, message, hint } = said.error;
        Err(ClientError::Refused {
            status: status.as_u16(),
            code,
            message,
            hint,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let read = body.collect().await;
        read.map(|read| read.to_bytes()).map_err(|error| self.unreachable(error.to_string()))
    }

    pub(super) fn silent(&self) -> ClientError {
        self.unreachable(format!("it was silent for {} s", SILENCE.as_secs()))
    }

    fn unanswered(&self) -> ClientError {
        self.unreachable(format!("no answer within {} s", ANSWER_DEADLINE.as_secs()))
    }

    pub(super) fn unreachable(&self, what: String) -> ClientError {
        ClientError::Unreachable { address: (*self.address).clone(), what }
    }

    pub(super) fn no_hub(&self, what: String) -> ClientError {
        ClientError::NoHub { address: (*self.address).clone(), what }
    }
}

/// Text as it may stand in a path or behind a question mark.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
