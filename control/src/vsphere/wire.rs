//! Calls over HTTPS, and their answers up to where they begin to mean something.
//!
//! Whoever calls blocks, and waits for what the reactor's thread receives or for the calling off,
//! whichever comes first. A call that is called off is dropped with its connection: the server may
//! carry it out nevertheless.

use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::future::{Either, select};
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use tokio::runtime::{self, Handle, Runtime};

use super::error::VsphereError;
use super::fault::Fault;
use super::settings::VsphereServer;
use super::trust::Verifier;
use super::xml::{Body, Element, Space, Start, XmlError, XmlReader};
use crate::backup::Cancellation;

/// For a connection, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next call. Servers close theirs after a minute or more.
const IDLE: Duration = Duration::from_secs(30);
const SESSION_COOKIE: &str = "vmware_soap_session";

/// The way to a server.
#[derive(Debug)]
pub(super) struct Wire {
    client: Client,
    /// Receives; none when this is being dropped.
    reactor: Option<Runtime>,
    endpoint: Url,
    server: String,
    verifier: Arc<Verifier>,
}

/// An answer whose element of this call's name has begun.
pub(super) struct Answer {
    reader: XmlReader<AnswerBody>,
    start: Start,
    told: Told,
    /// The cookie of the session, where the answer sets one.
    pub(super) cookie: Option<HeaderValue>,
}

/// Whom errors are about.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) server: String,
    pub(super) call: &'static str,
    deadline: Duration,
    called_off: Cancellation,
}

/// The bytes of an answer, as they come.
pub(super) struct AnswerBody {
    response: Response,
    piece: Bytes,
    reactor: Handle,
    called_off: Cancellation,
    end: Instant,
}

impl Read for AnswerBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let coming = unless(&self.called_off, self.response.chunk());
            match self.reactor.block_on(coming) {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => return Ok(0),
                // What cuts an answer off at its deadline does not always say so.
                Some(Err(error)) if error.is_timeout() || Instant::now() >= self.end => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, error));
                }
                Some(Err(error)) => return Err(io::Error::other(causes(&error))),
                // What that means is known by whoever called it off.
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// What comes of it, unless it is called off before.
async fn unless<T>(called_off: &Cancellation, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), pin!(called_off.called_off())).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

impl Wire {
    /// To this server. Nothing is sent yet.
    pub(super) fn to(server: &VsphereServer) -> Result<Self, VsphereError> {
        let authority = server.authority();
        let wrong = |problem: String| VsphereError::Settings { server: authority.clone(), problem };
        let endpoint = Url::parse(&format!("https://{authority}/sdk"));
        let endpoint =
            endpoint.map_err(|error| wrong(format!("this is no name of a server: {error}")))?;
        let bare = endpoint.path() == "/sdk"
            && endpoint.username().is_empty()
            && endpoint.password().is_none()
            && endpoint.query().is_none();
        if !bare {
            return Err(wrong("give its name or address alone".into()));
        }
        let verifier = Arc::new(Verifier::new(&server.trust).map_err(wrong)?);
        let config = Verifier::config(&verifier).map_err(wrong)?;
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .http1_only()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("blockferry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(causes(&error)))?;
        let reactor = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vsphere")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| wrong(format!("no reactor can be had: {error}")))?;
        Ok(Self { client, reactor: Some(reactor), endpoint, server: authority, verifier })
    }

    fn reactor(&self) -> &Handle {
        self.reactor.as_ref().expect("it is there until this is dropped").handle()
    }

    /// Whom errors are about.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// SHA-1 of the certificate that the server showed.
    pub(super) fn thumbprint(&self) -> String {
        self.verifier.good().map(|good| good.to_string()).unwrap_or_default()
    }

    /// A document of the server's that is no answer to a call.
    pub(super) fn fetch(
        &self,
        path: &str,
        what: &'static str,
        deadline: Duration,
        called_off: &Cancellation,
    ) -> Result<Element, VsphereError> {
        let told = self.told(what, deadline, called_off);
        let end = Instant::now() + deadline;
        let mut url = self.endpoint.clone();
        url.set_path(path);
        let response = self.sent(self.client.request(Method::GET, url), &told)?;
        if response.status().as_u16() != 200 {
            return Err(told.status(&response));
        }
        let read = || {
            let mut reader = XmlReader::new(self.body(response, &told, end), end);
            let root = reader.next_start()?;
            let root = root.ok_or_else(|| XmlError::Malformed("it is empty".into()))?;
            let root = Element::read(root, &mut reader)?;
            reader.finish()?;
            Ok(root)
        };
        read().map_err(|error| told.strange(error))
    }

    /// Sends a call, and reads its answer up to the element that it is in.
    pub(super) fn call(
        &self,
        body: &Body,
        action: &HeaderValue,
        cookie: Option<&HeaderValue>,
        deadline: Duration,
        called_off: &Cancellation,
    ) -> Result<Answer, VsphereError> {
        let told = self.told(body.name(), deadline, called_off);
        let end = Instant::now() + deadline;
        let mut request = self
            .client
            .request(Method::POST, self.endpoint.clone())
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", action)
            .body(body.document());
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = self.sent(request, &told)?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 500) {
            return Err(told.status(&response));
        }
        let cookie = session_cookie(&response);
        let not_soap = told.status(&response);
        let mut reader = XmlReader::new(self.body(response, &told, end), end);
        match begin(&mut reader) {
            Ok(start) if start.is(Space::Soap, "Fault") => {
                let fault = Element::read(start, &mut reader);
                let fault = fault.map_err(|error| told.strange(error))?;
                Err(told.fault(Fault::of_answer(&fault)))
            }
            Ok(start) if status == 200 && is_answer_to(&start, told.call) => {
                Ok(Answer { reader, start, told, cookie })
            }
            Ok(start) => {
                let problem = format!("it is a {:.60}", &*start.local);
                Err(told.strange(XmlError::Unexpected(problem)))
            }
            // What says 500 without SOAP is no vSphere, or not awake yet.
            Err(XmlError::Malformed(_) | XmlError::Unexpected(_)) if status == 500 => Err(not_soap),
            Err(error) => Err(told.strange(error)),
        }
    }

    fn told(&self, call: &'static str, deadline: Duration, called_off: &Cancellation) -> Told {
        Told { server: self.server.clone(), call, deadline, called_off: called_off.clone() }
    }

    fn body(&self, response: Response, told: &Told, end: Instant) -> AnswerBody {
        AnswerBody {
            response,
            piece: Bytes::new(),
            reactor: self.reactor().clone(),
            called_off: told.called_off.clone(),
            end,
        }
    }

    fn sent(&self, request: RequestBuilder, told: &Told) -> Result<Response, VsphereError> {
        // What is called off by now is not begun, however fast it would be.
        if told.called_off.is_cancelled() {
            return Err(VsphereError::CalledOff);
        }
        // Up to the last byte of the answer; its clock is the reactor's.
        let sending = async { request.timeout(told.deadline).send().await };
        let sent = self.reactor().block_on(unless(&told.called_off, sending));
        sent.ok_or(VsphereError::CalledOff)?.map_err(|error| {
            let server = told.server.clone();
            if error.is_connect()
                && let Some(why) = self.verifier.take_refusal()
            {
                return VsphereError::Untrusted { server, why };
            }
            // The connection has a deadline of its own.
            if error.is_timeout() && !error.is_connect() {
                return told.late();
            }
            VsphereError::Unreachable { server, call: told.call, problem: causes(&error) }
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A name that is being looked up holds nobody up.
        if let Some(reactor) = self.reactor.take() {
            reactor.shutdown_background();
        }
    }
}

impl Answer {
    /// What was answered, whole.
    pub(super) fn element(self) -> Result<Element, VsphereError> {
        let Self { mut reader, start, told, .. } = self;
        let read = Element::read(start, &mut reader).and_then(|element| {
            reader.finish()?;
            Ok(element)
        });
        read.map_err(|error| told.strange(error))
    }

    /// What was answered, as it comes.
    pub(super) fn stream<T>(
        self,
        read: impl FnOnce(&mut XmlReader<AnswerBody>) -> Result<T, XmlError>,
    ) -> Result<T, VsphereError> {
        let Self { mut reader, told, .. } = self;
        let read = read(&mut reader).and_then(|read| {
            reader.finish()?;
            Ok(read)
        });
        read.map_err(|error| told.strange(error))
    }
}

impl Told {
    pub(super) fn fault(&self, fault: Fault) -> VsphereError {
        let fault = Box::new(fault);
        VsphereError::Fault { server: self.server.clone(), call: self.call, fault }
    }

    pub(super) fn strange(&self, error: XmlError) -> VsphereError {
        let (server, call) = (self.server.clone(), self.call);
        match error {
            XmlError::Late => self.late(),
            XmlError::Read(_) if self.called_off.is_cancelled() => VsphereError::CalledOff,
            XmlError::Read(_) => {
                let problem = format!("the answer came to no good: {error}");
                VsphereError::Unreachable { server, call, problem }
            }
            error => VsphereError::Strange { server, call, problem: error.to_string() },
        }
    }

    fn late(&self) -> VsphereError {
        let (server, call) = (self.server.clone(), self.call);
        VsphereError::Late { server, call, deadline_s: self.deadline.as_secs() }
    }

    fn status(&self, response: &Response) -> VsphereError {
        let (server, call) = (self.server.clone(), self.call);
        VsphereError::Status { server, call, status: response.status().as_u16() }
    }
}

/// The first element in the body of an envelope.
fn begin(reader: &mut XmlReader<AnswerBody>) -> Result<Start, XmlError> {
    let no_envelope = || XmlError::Unexpected("it is no SOAP envelope".into());
    let envelope = reader.next_start()?.ok_or_else(no_envelope)?;
    if !envelope.is(Space::Soap, "Envelope") {
        return Err(no_envelope());
    }
    loop {
        let part = reader.next_start()?.ok_or_else(no_envelope)?;
        if part.is(Space::Soap, "Body") {
            let empty = || XmlError::Unexpected("its body is empty".into());
            return reader.next_start()?.ok_or_else(empty);
        }
        reader.skip()?;
    }
}

fn is_answer_to(start: &Start, call: &str) -> bool {
    start.space == Space::Vim && start.local.strip_suffix("Response") == Some(call)
}

/// The cookie as it is sent back: its name and value, as they came.
fn session_cookie(response: &Response) -> Option<HeaderValue> {
    response.headers().get_all(SET_COOKIE).iter().find_map(|header| {
        let pair = header.to_str().ok()?.split(';').next()?.trim();
        let (name, value) = pair.split_once('=')?;
        if name != SESSION_COOKIE || value.is_empty() {
            return None;
        }
        let mut cookie = HeaderValue::from_str(pair).ok()?;
        cookie.set_sensitive(true);
        Some(cookie)
    })
}

/// An error with what lies below it, for the top of it says little.
fn causes(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    loop {
        // TLS has more to say of that than whoever runs a server wants to know.
        let system = deepest.downcast_ref::<io::Error>();
        if system.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return "the server closed the connection".to_owned();
        }
        let Some(below) = deepest.source() else { return deepest.to_string() };
        deepest = below;
    }
}
