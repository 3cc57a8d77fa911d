//! Sessions: who has logged in, and for how long that holds.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::call::{Call, Outcome};
use super::draw::Draw;
use super::fault::Fault;
use super::shared::{Shared, lock};
use super::trouble::Trouble;
use super::value::{Kind, Value};

#[derive(Debug)]
pub(crate) struct Sessions {
    users: BTreeMap<String, String>,
    draw: Draw,
    open: BTreeMap<String, Session>,
}

#[derive(Clone, Debug)]
struct Session {
    user: String,
    since: SystemTime,
    calls: u64,
}

/// What a call's cookie is worth.
pub(crate) enum Standing {
    Open,
    None,
    /// It was worth something until this call; whether the answer may tell it by status 200.
    Expired {
        quietly: bool,
    },
}

impl Sessions {
    pub(crate) fn new(users: BTreeMap<String, String>, seed: u64) -> Self {
        Self { users, draw: Draw::new(seed), open: BTreeMap::new() }
    }

    pub(crate) fn expire_all(&mut self) {
        self.open.clear();
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    fn open(&mut self, user: &str) -> String {
        let key = self.draw.hex();
        let session = Session { user: user.to_owned(), since: SystemTime::now(), calls: 0 };
        self.open.insert(key.clone(), session);
        key
    }

    fn value(&self, key: &str) -> Value {
        let Some(session) = self.open.get(key) else { return Value::Unset };
        Value::Object(
            "UserSession",
            vec![
                // Not the cookie: who reads the one has not the other.
                ("key", Value::text(format!("52{}", &key[2..]))),
                ("userName", Value::text(&*session.user)),
                ("fullName", Value::text(&*session.user)),
                ("loginTime", Value::time(session.since)),
                ("lastActiveTime", Value::time(SystemTime::now())),
                ("locale", Value::text("en")),
                ("messageLocale", Value::text("en")),
                ("extensionSession", Value::boolean(false)),
                ("ipAddress", Value::text("127.0.0.1")),
                ("userAgent", Value::text("")),
                ("callCount", Value::long(session.calls)),
            ],
        )
    }
}

/// Looks at a call's cookie, and lets its session end if that was ordered.
pub(crate) fn standing(shared: &Shared, cookie: Option<&str>) -> Standing {
    let mut sessions = lock(&shared.sessions);
    let Some(key) = cookie else { return Standing::None };
    let Some(session) = sessions.open.get_mut(key) else { return Standing::None };
    session.calls += 1;
    let mut troubles = lock(&shared.troubles);
    let found = troubles.iter_mut().enumerate().find_map(|(index, trouble)| match trouble {
        Trouble::SessionExpires { after, quietly } => Some((index, after, *quietly)),
        _ => None,
    });
    match found {
        Some((_, after, _)) if *after > 0 => *after -= 1,
        Some((index, _, quietly)) => {
            troubles.remove(index);
            sessions.open.remove(key);
            return Standing::Expired { quietly };
        }
        None => {}
    }
    Standing::Open
}

pub(crate) fn login(call: &Call<'_>) -> Result<Outcome, Fault> {
    let refused = || {
        let message = "Cannot complete login due to an incorrect user name or password.";
        Fault::new("InvalidLogin", message)
    };
    if call.shared.trouble(|trouble| matches!(trouble, Trouble::LoginRefused)).is_some() {
        return Err(refused());
    }
    let (user, password) = (call.text("userName"), call.text("password"));
    let mut sessions = lock(&call.shared.sessions);
    if sessions.users.get(user).is_none_or(|right| right != password) {
        return Err(refused());
    }
    let key = sessions.open(user);
    Ok(Outcome { value: sessions.value(&key), cookie: Some(key) })
}

pub(crate) fn logout(call: &Call<'_>) -> Result<Value, Fault> {
    if let Some(key) = call.cookie {
        lock(&call.shared.sessions).open.remove(key);
    }
    Ok(Value::Unset)
}

pub(crate) fn is_active(call: &Call<'_>) -> Result<Value, Fault> {
    let sessions = lock(&call.shared.sessions);
    let id = call.text("sessionID");
    let active = sessions.open.keys().any(|key| key[2..] == id[2.min(id.len())..]);
    Ok(Value::boolean(active))
}

/// The property `currentSession` of the session manager.
pub(crate) fn describe(shared: &Shared, cookie: Option<&str>) -> Value {
    let sessions = lock(&shared.sessions);
    let current = cookie.map_or(Value::Unset, |key| sessions.value(key));
    Value::Object(Kind::SessionManager.name(), vec![("currentSession", current)])
}
