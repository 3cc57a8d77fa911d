//! A session: a server that speaks a version we know, and lets us in.
//!
//! ```text
//!  versions ─▶ service content ─▶ Login ─▶ calls … ─▶ Logout
//!                                   ▲        │
//!                                   └────────┘ NotAuthenticated, once for each operation
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reqwest::header::HeaderValue;

use super::error::VsphereError;
use super::patience::{Patience, Waits};
use super::settings::VsphereServer;
use super::version::choose;
use super::wire::{Answer, Wire};
use super::xml::{Body, Element, Moref, XmlError};
use crate::backup::Cancellation;

/// The oldest version that has all we ask; a server that is newer speaks it too, and so answers as
/// all others do.
const VERSIONS_PATH: &str = "/sdk/vimServiceVersions.xml";
/// Attempts at what can be asked again.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; doubled before each one after.
const PAUSE: Duration = Duration::from_millis(250);
/// For the goodbye.
const LOGOUT_DEADLINE: Duration = Duration::from_secs(5);

/// What a server is made of.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) root: Moref,
    pub(super) property_collector: Moref,
    pub(super) view_manager: Moref,
    pub(super) search_index: Moref,
    session_manager: Moref,
    /// What it is the same server by; ESXi hosts have none.
    pub(super) instance_uuid: Option<String>,
    /// What it calls itself: `VMware vCenter Server 8.0.2 build-…`.
    pub(super) full_name: String,
}

/// A session on a server. It ends when its last clone is dropped.
#[derive(Clone)]
pub(super) struct Session {
    core: Arc<Core>,
    /// Ends the calls that are made by this clone.
    called_off: Cancellation,
    /// Who hears what this clone waits for.
    waits: Waits,
}

/// What all clones of a session share.
struct Core {
    server: VsphereServer,
    wire: Wire,
    action: HeaderValue,
    content: Content,
    login: Mutex<Login>,
}

#[derive(Debug, Default)]
struct Login {
    cookie: Option<HeaderValue>,
    /// Counts the logins, so that of several who find the session over only one renews it.
    turn: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server", &self.core.wire.server()).finish_non_exhaustive()
    }
}

impl Session {
    /// Logs in. The session outlives what may call off the login.
    pub(super) fn begin(
        server: &VsphereServer,
        called_off: &Cancellation,
    ) -> Result<Self, VsphereError> {
        let wire = Wire::to(server)?;
        let (action, content) = retried(|| {
            let deadline = server.deadlines.answer;
            let versions = wire.fetch(VERSIONS_PATH, "its versions", deadline, called_off)?;
            let action = choose(&versions, wire.server())?;
            let content = content(&wire, &action, deadline, called_off)?;
            Ok((action, content))
        })?;
        let core = Core { server: server.clone(), wire, action, content, login: Mutex::default() };
        let session =
            Self { core: Arc::new(core), called_off: called_off.clone(), waits: Waits::default() };
        retried(|| session.log_in(&mut session.login()))?;
        Ok(session.to_the_end())
    }

    /// The same session, whose calls end when this is called off.
    pub(super) fn unless(&self, called_off: &Cancellation) -> Self {
        Self { called_off: called_off.clone(), ..self.clone() }
    }

    /// The same session, whose waits are told so.
    pub(super) fn telling(&self, waits: Waits) -> Self {
        Self { waits, ..self.clone() }
    }

    /// For attempts at one thing, for so long.
    pub(super) fn patience(&self, limit: Duration) -> Patience {
        Patience::new(self.waits.clone(), limit)
    }

    /// The same session, whose calls are waited for whatever is called off.
    pub(super) fn to_the_end(&self) -> Self {
        self.unless(&Cancellation::default())
    }

    /// What the server is made of.
    pub(super) fn content(&self) -> &Content {
        &self.core.content
    }

    /// How it is reached.
    pub(super) fn server(&self) -> &VsphereServer {
        &self.core.server
    }

    /// The way to it.
    pub(super) fn wire(&self) -> &Wire {
        &self.core.wire
    }

    /// One call, in the session that there is.
    pub(super) fn call(&self, body: &Body, deadline: Duration) -> Result<Answer, VsphereError> {
        let cookie = self.login().cookie.clone();
        let Core { wire, action, .. } = &*self.core;
        wire.call(body, action, cookie.as_ref(), deadline, &self.called_off)
    }

    /// One call whose answer is short.
    pub(super) fn ask(&self, body: &Body) -> Result<Element, VsphereError> {
        self.call(body, self.server().deadlines.answer)?.element()
    }

    /// An operation in a session that is renewed if it turns out to be over. What a server refused
    /// for that it has not done; all of the operation is done again, for views and pages of a session
    /// end with it.
    pub(super) fn renewed<T>(
        &self,
        operation: impl Fn() -> Result<T, VsphereError>,
    ) -> Result<T, VsphereError> {
        let turn = self.login().turn;
        match operation() {
            Err(error) if error.is_logged_out() => {
                let mut login = self.login();
                if login.turn == turn {
                    self.log_in(&mut login)?;
                }
                drop(login);
                operation()
            }
            done => done,
        }
    }

    /// The same for what only looks, and so can be done again when the server was out of reach.
    pub(super) fn looked<T>(
        &self,
        operation: impl Fn() -> Result<T, VsphereError>,
    ) -> Result<T, VsphereError> {
        retried(|| self.renewed(&operation))
    }

    /// An error about an answer that is not what it should be.
    pub(super) fn strange(&self, call: &'static str, error: &XmlError) -> VsphereError {
        let server = self.wire().server().to_owned();
        VsphereError::Strange { server, call, problem: error.to_string() }
    }

    fn login(&self) -> MutexGuard<'_, Login> {
        self.core.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_in(&self, login: &mut Login) -> Result<(), VsphereError> {
        // The old one is over, or about to be.
        login.cookie = None;
        let Core { server, wire, action, content, .. } = &*self.core;
        let password = server.password.read()?;
        let body = Body::call("Login", &content.session_manager)
            .value("userName", &server.user)
            .value("password", password.reveal());
        let deadline = server.deadlines.answer;
        let mut answer = wire.call(&body, action, None, deadline, &self.called_off)?;
        let cookie = answer.cookie.take();
        answer.element()?;
        let none = || XmlError::Unexpected("it sets no cookie for the session".into());
        login.cookie =
            Some(cookie.ok_or_else(none).map_err(|error| self.strange("Login", &error))?);
        login.turn += 1;
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let login = self.login.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(cookie) = &login.cookie {
            let body = Body::call("Logout", &self.content.session_manager);
            let never = Cancellation::default();
            // Servers keep some hundred sessions; one that hears nothing of it ends this one later.
            let _goodbye =
                self.wire.call(&body, &self.action, Some(cookie), LOGOUT_DEADLINE, &never);
        }
    }
}

fn content(
    wire: &Wire,
    action: &HeaderValue,
    deadline: Duration,
    called_off: &Cancellation,
) -> Result<Content, VsphereError> {
    const CALL: &str = "RetrieveServiceContent";
    let body = Body::call(CALL, &Moref::new("ServiceInstance", "ServiceInstance"));
    let answer = wire.call(&body, action, None, deadline, called_off)?.element()?;
    let read = || {
        let content = answer.need("returnval")?;
        let moref = |name| Moref::of(content.need(name)?);
        let about = content.need("about")?;
        let uuid = about.value("instanceUuid").filter(|uuid| !uuid.is_empty());
        Ok(Content {
            root: moref("rootFolder")?,
            property_collector: moref("propertyCollector")?,
            view_manager: moref("viewManager")?,
            search_index: moref("searchIndex")?,
            session_manager: moref("sessionManager")?,
            instance_uuid: uuid.map(str::to_ascii_lowercase),
            full_name: about.value("fullName").unwrap_or("vSphere").to_owned(),
        })
    };
    let server = wire.server().to_owned();
    read().map_err(|error: XmlError| VsphereError::Strange {
        server,
        call: CALL,
        problem: error.to_string(),
    })
}

/// What only looks, again where the server is out of reach for a moment.
fn retried<T>(operation: impl Fn() -> Result<T, VsphereError>) -> Result<T, VsphereError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match operation() {
            // Not what took all of its time: it is for whoever asks whether there is as much again.
            Err(error) if error.is_passing() && !matches!(error, VsphereError::Late { .. }) => {
                thread::sleep(pause);
            }
            done => return done,
        }
        pause *= 2;
    }
    operation()
}
