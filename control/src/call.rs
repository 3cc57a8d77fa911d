//! Calls over HTTP, each on a connection of its own, each wait with a deadline.
//!
//! ```text
//!  Callee    who is called: one call, and its answer in full or as it comes
//!  motion    whether bytes move, of a call and of all attempts of it
//! ```

mod motion;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::api::KEEP_ALIVE;
pub(crate) use motion::Motion;

/// For a connection.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For an answer in full, from when bytes of the call moved last. A hub waits up to a minute for
/// others who work in its repository.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(90);

/// How often it is looked whether an answer is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// For the next bytes of an answer that goes on; a hub sends something three times as often.
pub(crate) const SILENCE: Duration = Duration::from_secs(KEEP_ALIVE.as_secs() * 3);
/// Bytes of an answer: a thousand points with long chains have some.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Bytes of a body that are sent at once, and moved once they are taken.
const UPLOAD_BYTES: usize = 256 << 10;

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection, or no answer over it: what happened.
    Unreachable(String),
    /// It said no.
    Refused(Refused),
    /// What answers is not what was called: what came.
    Strange(String),
}

/// An answer that is an error.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// The status of the answer.
    pub(crate) status: u16,
    /// A word for programs.
    pub(crate) code: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
    /// When to ask again.
    pub(crate) retry_after: Option<Duration>,
}

/// A connection that HTTP is spoken over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Opens connections that are somebody's own.
pub(crate) trait Opens: Send + Sync + fmt::Debug {
    /// A connection, within this time. May block.
    ///
    /// # Errors
    /// What kept it, in words.
    fn open(&self, deadline: Duration) -> Result<UnixStream, String>;
}

/// How to come to whoever answers.
#[derive(Debug)]
pub(crate) enum Way {
    /// TCP, to a name or address and a port.
    Tcp(String, u16),
    /// Whatever is opened.
    Opened(Arc<dyn Opens>),
}

impl Way {
    async fn connect(&self) -> Result<Box<dyn Wire>, String> {
        match self {
            Self::Tcp(host, port) => {
                let connecting = TcpStream::connect((host.as_str(), *port));
                let Ok(connected) = timeout(CONNECT_DEADLINE, connecting).await else {
                    return Err(format!("no connection within {} s", CONNECT_DEADLINE.as_secs()));
                };
                let stream = connected.map_err(|error| error.to_string())?;
                // Requests are short; only speed is lost where the kernel refuses.
                let _as_allowed = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Opened(opens) => {
                // On a thread of its own, which nobody waits for: a call that is given up ends now.
                let (told, opened) = oneshot::channel();
                let opens = Arc::clone(opens);
                let opening = thread::Builder::new().name("open".to_owned()).spawn(move || {
                    // What comes too late is dropped, and so closed.
                    let _late = told.send(opens.open(CONNECT_DEADLINE));
                });
                opening.map_err(|error| error.to_string())?;
                let stream = opened.await.map_err(|_panicked| "it cannot be opened")??;
                let stream = stream.set_nonblocking(true).and_then(|()| stream.try_into());
                let stream: tokio::net::UnixStream =
                    stream.map_err(|error: io::Error| error.to_string())?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// Who is called. Calls block.
pub(crate) struct Callee {
    pub(crate) way: Way,
    /// As it stands in the header Host.
    pub(crate) authority: String,
    /// Before the path of each call; empty, or with a slash before it and none behind.
    pub(crate) prefix: String,
    /// With the scheme before it; marked as sensitive, so that nothing prints it.
    pub(crate) authorization: Option<HeaderValue>,
    /// How long a call may stand still until there is an answer: [`ANSWER_DEADLINE`].
    pub(crate) patience: Duration,
}

impl fmt::Debug for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callee").field("way", &self.way).finish_non_exhaustive()
    }
}

/// What goes with a call.
pub(crate) enum Sent<'a> {
    Nothing,
    Json(Vec<u8>),
    /// The content of a file.
    File(&'a Path),
}

type SentBody = BoxBody<Bytes, io::Error>;

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

impl Callee {
    /// One call, and its answer in full, unless `given_up` is true before there is one.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        method: Method,
        call: &str,
        sent: Sent<'_>,
    ) -> Result<T, CallError> {
        self.attempt(given_up, &Motion::new(), method, call, sent)
    }

    /// The same, as one attempt of several.
    pub(crate) fn attempt<T: DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        motion: &Motion,
        method: Method,
        call: &str,
        sent: Sent<'_>,
    ) -> Result<T, CallError> {
        let runtime = runtime()?;
        motion.begin();
        let asked = async {
            let response = self.send(method, call, sent, motion).await?;
            read(accepted(response, motion).await?, motion).await
        };
        let bytes = runtime.block_on(self.in_time(given_up, motion, asked))?;
        serde_json::from_slice(&bytes).map_err(|error| CallError::Strange(error.to_string()))
    }

    /// A call whose answer goes on: its head is good, and its body follows.
    pub(crate) fn open(
        &self,
        given_up: &dyn Fn() -> bool,
        method: Method,
        call: &str,
        sent: Sent<'_>,
    ) -> Result<(Runtime, Incoming), CallError> {
        let runtime = runtime()?;
        let motion = Motion::new();
        let opened = async {
            let response = self.send(method, call, sent, &motion).await?;
            accepted(response, &motion).await
        };
        let response = runtime.block_on(self.in_time(given_up, &motion, opened))?;
        Ok((runtime, response.into_body()))
    }

    /// A call whose answer is bytes, `most` of them: `take` has them as they come, and says whether
    /// it wants more.
    pub(crate) fn fetch(
        &self,
        call: &str,
        most: u64,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), CallError> {
        let (runtime, mut body) = self.open(&|| false, Method::GET, call, Sent::Nothing)?;
        let mut left = most;
        loop {
            let frame = runtime.block_on(async { timeout(SILENCE, body.frame()).await });
            let frame = match frame {
                Err(_late) => return Err(CallError::silent()),
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => {
                    frame.map_err(|error| CallError::Unreachable(error.to_string()))?
                }
            };
            let bytes = frame.data_ref().map_or(&[][..], |data| &data[..]);
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(length).ok_or_else(|| {
                CallError::Strange(format!("an answer has more than {most} bytes"))
            })?;
            if !take(bytes) {
                return Ok(());
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        call: &str,
        sent: Sent<'_>,
        motion: &Motion,
    ) -> Result<Response<Incoming>, CallError> {
        let failed = |error: &dyn fmt::Display| CallError::Unreachable(error.to_string());
        let wire = self.way.connect().await.map_err(CallError::Unreachable)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(wire)).await.map_err(|error| failed(&error))?;
        // It moves whenever this thread waits for it; its end is seen in the answer.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{call}", self.prefix))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json, text/event-stream");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let body = match sent {
            Sent::Nothing => Empty::new().map_err(|never| match never {}).boxed(),
            Sent::Json(json) => {
                request = request
                    .header(CONTENT_TYPE, "application/json")
                    .header(CONTENT_LENGTH, json.len());
                parts(Cursor::new(json), motion)
            }
            Sent::File(path) => {
                let file = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (bytes, file) =
                    file.map_err(|error| failed(&format!("{}: {error}", path.display())))?;
                request = request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, bytes);
                parts(file, motion)
            }
        };
        let request = request.body(body).map_err(|error| failed(&error))?;
        sender.send_request(request).await.map_err(|error| failed(&error))
    }

    /// What is asked for, as long as bytes of it move and it is wanted.
    async fn in_time<T>(
        &self,
        given_up: &dyn Fn() -> bool,
        motion: &Motion,
        asked: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let mut asked = pin!(asked);
        loop {
            match timeout(TICK, asked.as_mut()).await {
                Ok(answered) => return answered,
                Err(_) if given_up() => {
                    return Err(CallError::Unreachable("it does not answer".into()));
                }
                Err(_) if motion.stands_for() >= self.patience => {
                    let waited_s = self.patience.as_secs();
                    return Err(CallError::Unreachable(format!("no answer within {waited_s} s")));
                }
                Err(_) => {}
            }
        }
    }
}

/// What there is to read, a part at a time. It is read by this thread, which has nothing else to do.
fn parts(of: impl Read + Send + Sync + 'static, motion: &Motion) -> SentBody {
    let parts = stream::try_unfold((of, motion.clone()), |(mut of, motion)| async {
        let mut part = Vec::with_capacity(UPLOAD_BYTES);
        let bytes = (&mut of).take(UPLOAD_BYTES as u64).read_to_end(&mut part)?;
        // The one before it is on its way, or this one would not be asked for.
        motion.pass(bytes);
        match bytes {
            0 => Ok(None),
            _ => Ok(Some((Frame::data(Bytes::from(part)), (of, motion)))),
        }
    });
    StreamBody::new(parts).boxed()
}

impl CallError {
    pub(crate) fn silent() -> Self {
        Self::Unreachable(format!("it was silent for {} s", SILENCE.as_secs()))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(what) | Self::Strange(what) => f.write_str(what),
            Self::Refused(Refused { message, hint, .. }) => write!(f, "{message} ({hint})"),
        }
    }
}

fn runtime() -> Result<Runtime, CallError> {
    let built = runtime::Builder::new_current_thread().enable_io().enable_time().build();
    built.map_err(|error| CallError::Unreachable(format!("no reactor can be had: {error}")))
}

/// The answer, if it is not an error.
async fn accepted(
    response: Response<Incoming>,
    motion: &Motion,
) -> Result<Response<Incoming>, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let bytes = read(response, motion).await?;
    let said: ErrorBody = serde_json::from_slice(&bytes)
        .map_err(|_| CallError::Strange(format!("it answers {status}, in no words of a hub")))?;
    let ErrorDetail { code, message, hint } = said.error;
    Err(CallError::Refused(Refused {
        status: status.as_u16(),
        code,
        message,
        hint,
        retry_after: retry_after.map(Duration::from_secs),
    }))
}

async fn read(response: Response<Incoming>, motion: &Motion) -> Result<Bytes, CallError> {
    let body = response.into_body().map_frame(|frame| {
        motion.pass(frame.data_ref().map_or(0, Bytes::len));
        frame
    });
    let body = Limited::new(body, MAX_ANSWER_BYTES);
    let read = body.collect().await;
    read.map(|read| read.to_bytes()).map_err(|error| CallError::Unreachable(error.to_string()))
}

/// Text as it may stand in a path or behind a question mark.
pub(crate) fn escaped(text: &str) -> String {
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
