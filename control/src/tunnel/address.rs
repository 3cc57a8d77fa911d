//! Where an SSH server is, and as whom to go there.

use std::fmt;
use std::str::FromStr;

/// Port of SSH where none is named.
const DEFAULT_PORT: u16 = 22;

/// The address of an SSH server, as `ssh://[USER@]HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelAddress {
    /// The user at the far end, where one is named.
    pub user: Option<String>,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 22 unless it says otherwise.
    pub port: u16,
}

impl TunnelAddress {
    /// The host as it stands in a file of known hosts.
    #[must_use]
    pub fn known_hosts_name(&self) -> String {
        match self.port {
            DEFAULT_PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }
}

impl FromStr for TunnelAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "write it as ssh://[USER@]HOST[:PORT]";
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        if !scheme.eq_ignore_ascii_case("ssh") {
            return Err(SHAPE.into());
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(format!("it has a user, a host and a port, and nothing else; {SHAPE}"));
        }
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("passwords are not taken, and least of all on a command line, where \
                        everybody reads them: leave it out and name a key by --identity"
                .into());
        }
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if user.is_some_and(|user| !plain(user)) {
            return Err(format!("its user is no name; {SHAPE}"));
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) =
                    bracketed.split_once(']').ok_or("the bracket of its host is not closed")?;
                match rest.strip_prefix(':') {
                    None if !rest.is_empty() => return Err(SHAPE.into()),
                    port => (host, port),
                }
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        if !plain(host) || host.contains(['[', ']']) {
            return Err(format!("it has no host; {SHAPE}"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or(
                    "its port is no number from 1 to 65535; an IPv6 address goes into brackets",
                )?,
        };
        Ok(Self { user: user.map(str::to_owned), host: host.to_owned(), port })
    }
}

impl fmt::Display for TunnelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match self.port {
            DEFAULT_PORT => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}
