//! One call: what it asks, whether it may, who carries it out, and how the answer is spoiled if
//! that was ordered.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::collector;
use super::describe;
use super::fault::Fault;
use super::listener::{Request, Response};
use super::log;
use super::methods::{METHODS, Method};
use super::session::{self, Standing};
use super::shapes;
use super::shared::{Shared, lock};
use super::trouble::Trouble;
use super::value::{Kind, Reference, Value};
use super::writer::Spelling;
use super::xml::{Element, SOAP, VIM, parse};

/// The versions of the API that this server speaks, the newest first.
const VERSIONS: &[&str] = &[
    "8.0.2.0", "8.0.1.0", "8.0.0.1", "7.0.3.2", "7.0.3.0", "7.0.0.0", "6.9.1", "6.7.3", "6.7",
    "6.5", "6.0", "5.5", "5.1", "5.0", "4.1", "4.0", "2.5u2", "2.5",
];
/// Longer than any test.
const LOOK: Duration = Duration::from_secs(3600);
const COOKIE: &str = "vmware_soap_session";

/// A call with what it needs.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    /// The key of its session.
    pub(crate) cookie: Option<&'a str>,
    pub(crate) this: Reference,
    pub(crate) arguments: &'a Element,
}

/// What a call leads to.
pub(crate) struct Outcome {
    pub(crate) value: Value,
    /// A cookie to be set.
    pub(crate) cookie: Option<String>,
}

impl Call<'_> {
    /// A string; empty where it is missing, which the schema has checked.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.arguments.text_of(name).unwrap_or_default()
    }

    pub(crate) fn boolean(&self, name: &str) -> bool {
        boolean(self.arguments, name).unwrap_or(false)
    }

    /// A reference; its type is one that this server has.
    pub(crate) fn reference(&self, name: &str) -> Result<Option<Reference>, Fault> {
        self.arguments.child(name).map(reference).transpose()
    }
}

/// A boolean field of an element.
pub(crate) fn boolean(element: &Element, name: &str) -> Option<bool> {
    element.text_of(name).map(|text| matches!(text.trim(), "true" | "1"))
}

/// The reference that an element is.
pub(crate) fn reference(element: &Element) -> Result<Reference, Fault> {
    let named = element.kind.as_deref().unwrap_or_default();
    let kind = Kind::named(named)
        .ok_or_else(|| Fault::invalid_request(format!("there are no objects of type {named:?}")))?;
    Ok(Reference::new(kind, element.text.trim()))
}

/// Answers one request of HTTP.
pub(crate) fn answer(shared: &Arc<Shared>, request: &Request) -> Response {
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path) {
        ("GET", "/sdk/vimServiceVersions.xml") => Response::xml(200, versions()),
        ("POST", "/sdk" | "/sdk/") => soap(shared, request),
        _ => Response::text(404, "text/plain", "404 Not Found\n".to_owned()),
    }
}

fn versions() -> String {
    let (newest, prior) = VERSIONS.split_first().expect("there are versions");
    let prior: String = prior.iter().map(|it| format!("<version>{it}</version>")).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<namespaces version=\"1.0\">\
         <namespace><name>urn:vim25</name><version>{newest}</version>\
         <priorVersions>{prior}</priorVersions></namespace>\
         <namespace><name>urn:vim2</name><version>2.0</version></namespace></namespaces>\n"
    )
}

fn soap(shared: &Arc<Shared>, request: &Request) -> Response {
    let asked = Instant::now();
    let parsed = body(request);
    let name = parsed.as_ref().map_or("", |element| element.name.as_str()).to_owned();
    let object = parsed.as_ref().ok().and_then(|element| element.text_of("_this"));
    let object = object.unwrap_or_default().trim().to_owned();
    let outcome = parsed.and_then(|element| carry_out(shared, request, &element));
    let mut response = rendered(shared, &name, &outcome);
    let fault = outcome.err().map(|fault| fault.kind.to_owned());
    let call = log::Call { method: name.clone(), object, asked, own: asked.elapsed(), fault };
    lock(&shared.log).calls.push(call);
    if let Some(trouble) = shared.trouble(|trouble| trouble.is_of_answer(&name)) {
        spoil(&mut response, &trouble);
    }
    if shared.is_closing() {
        // Who waited until the server ended hears of its end alone.
        response.cut = Some(0);
    }
    response
}

/// The element of the call in the body of the envelope.
fn body(request: &Request) -> Result<Element, Fault> {
    let action = request.headers.get("soapaction").map_or("", |text| text.trim_matches('"'));
    let version = action.strip_prefix("urn:vim25/").or((action == VIM).then_some("2.5"));
    if version.is_none_or(|version| !VERSIONS.contains(&version)) {
        let message = format!("Unsupported version URI \"{action}\"");
        return Err(Fault::invalid_request(message));
    }
    let text = str::from_utf8(&request.body);
    let text = text.map_err(|error| Fault::invalid_request(error.to_string()))?;
    let envelope = parse(text).map_err(Fault::invalid_request)?;
    let soap = |element: &Element, name: &str| element.namespace == SOAP && element.name == name;
    let is_envelope = soap(&envelope, "Envelope");
    let mut bodies = envelope.children.into_iter().filter(|child| soap(child, "Body"));
    match (is_envelope, bodies.next()) {
        (true, Some(mut body)) if body.children.len() == 1 && body.children[0].namespace == VIM => {
            Ok(body.children.remove(0))
        }
        _ => Err(Fault::invalid_request("not an envelope with one call of urn:vim25")),
    }
}

fn carry_out(shared: &Arc<Shared>, request: &Request, element: &Element) -> Result<Outcome, Fault> {
    let method = METHODS.iter().find(|method| method.name == element.name);
    let unknown = || Fault::invalid_request(format!("Unable to resolve method {}", element.name));
    let method = method.ok_or_else(unknown)?;
    let this = check(method, element)?;
    let cookie = request.headers.get("cookie").and_then(|cookies| cookie(cookies));
    let call = Call { shared, cookie, this, arguments: element };
    match session::standing(shared, cookie) {
        _ if method.is_open => {}
        Standing::Open => {}
        Standing::Expired { quietly: true } if method.name == "RetrievePropertiesEx" => {
            let value = collector::retrieve_unauthenticated(&call)?;
            return Ok(Outcome { value, cookie: None });
        }
        Standing::None | Standing::Expired { .. } => {
            return Err(Fault::not_authenticated(call.this));
        }
    }
    if !shared.world().exists(&call.this) {
        return Err(Fault::not_found(&call.this));
    }
    match shared.trouble(|trouble| trouble.is_of_call(method.name)) {
        Some(Trouble::CallFails { failure, .. }) => return Err(failure.fault()),
        Some(Trouble::CallSlow { by, .. }) => sleep(shared, by),
        Some(Trouble::CallHeld { method }) => hold(shared, method),
        _ => {}
    }
    match method.name {
        "Login" => session::login(&call),
        _ => Ok(Outcome { value: (method.run)(&call)?, cookie: None }),
    }
}

/// Checks a call against the schema; returns the object that it goes to.
fn check(method: &Method, element: &Element) -> Result<Reference, Fault> {
    let mut fields = vec!["_this:reference"];
    fields.extend(method.parameters);
    shapes::check(element, &fields)?;
    let this = reference(element.child("_this").expect("it was checked"))?;
    if !this.kind.is(method.of) {
        let (name, kind) = (method.name, this.kind.name());
        return Err(Fault::invalid_request(format!("{kind} has no method {name}")));
    }
    Ok(this)
}

/// Waits as ordered, and no longer than the server lives.
fn sleep(shared: &Shared, by: Duration) {
    let started = Instant::now();
    while started.elapsed() < by && !shared.is_closing() {
        let seen = shared.world().revision;
        shared.wait_for_change(seen, by.saturating_sub(started.elapsed()));
    }
}

/// Waits until the test lets a call of this method go, or the server ends.
fn hold(shared: &Shared, method: &'static str) {
    shared.note(|world| *world.held.entry(method).or_default() += 1);
    loop {
        let seen = shared.world().revision;
        if shared.is_closing() || shared.take_release(method) {
            break;
        }
        shared.wait_for_change(seen, LOOK);
    }
    shared.note(|world| *world.held.entry(method).or_default() -= 1);
}

fn cookie(cookies: &str) -> Option<&str> {
    let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim_matches('"'))
}

fn rendered(shared: &Shared, method: &str, outcome: &Result<Outcome, Fault>) -> Response {
    let (spelling, chunked) = match &mut *lock(&shared.spelling) {
        Some(draw) => (Spelling::drawn(draw), draw.below(2) == 0),
        None => (Spelling::usual(), false),
    };
    let mut response = match outcome {
        Ok(outcome) => Response::xml(200, spelling.answer(method, &outcome.value)),
        Err(fault) => Response::xml(500, spelling.fault(fault)),
    };
    response.chunked = chunked;
    if let Ok(Outcome { cookie: Some(key), .. }) = outcome {
        let cookie = format!("{COOKIE}=\"{key}\"; Path=/; HttpOnly; Secure;");
        response.headers.push(("Set-Cookie", cookie));
    }
    response
}

fn spoil(response: &mut Response, trouble: &Trouble) {
    match trouble {
        Trouble::Cut { bytes, .. } => response.cut = Some(*bytes),
        Trouble::Stalled { bytes, .. } => {
            response.cut = Some(*bytes);
            response.stalled = true;
        }
        Trouble::Truncated { bytes, .. } => response.body.truncate(*bytes),
        Trouble::Huge { bytes, .. } => {
            let at = response.body.windows(2).rposition(|pair| pair == b"</").unwrap_or(0);
            let filling = vec![b' '; *bytes];
            response.body.splice(at..at, filling);
        }
        Trouble::EntityBomb { .. } => response.body = bomb(&response.body),
        _ => {}
    }
}

/// The answer with a document type in which each entity is ten of the one before.
fn bomb(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let (head, rest) = text.split_once('\n').unwrap_or(("", &text));
    let mut bomb = format!("{head}\n<!DOCTYPE bomb [<!ENTITY e0 \"boom\">");
    for step in 1..10 {
        let inner = format!("&e{};", step - 1).repeat(10);
        bomb.push_str(&format!("<!ENTITY e{step} \"{inner}\">"));
    }
    bomb.push_str("]>");
    // Among the text of the first value, or of the fault.
    let element = rest.find("returnval").or_else(|| rest.find("faultstring")).unwrap_or(0);
    let at = rest[element..].find('>').map_or(rest.len(), |end| element + end + 1);
    bomb.push_str(&format!("{}&e9;{}", &rest[..at], &rest[at..]));
    bomb.into_bytes()
}

pub(crate) fn service_content(call: &Call<'_>) -> Result<Value, Fault> {
    Ok(describe::service_content(&call.shared.world()))
}

pub(crate) fn current_time(_: &Call<'_>) -> Result<Value, Fault> {
    Ok(Value::time(SystemTime::now()))
}
