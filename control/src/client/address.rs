//! Where a hub is.

use std::fmt;
use std::str::FromStr;

use blockferry_dataplane::nbd::without_passwords;

/// Port of a hub where none is named.
const DEFAULT_PORT: u16 = 10_080;

/// The address of a hub's API, as `http://HOST[:PORT][/PATH]`; the path is that of a proxy before
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    /// Name or address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// Empty, or with a slash before it and none behind.
    path: String,
}

impl HubAddress {
    /// What to connect to.
    pub(super) fn target(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// As it stands in the header Host.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// What stands before the path of a call.
    pub(super) fn prefix(&self) -> &str {
        &self.path
    }
}

impl FromStr for HubAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("write it as http://HOST:PORT")?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(
                "the hub speaks HTTP without TLS, and so does this command: reach it over \
                        loopback, an SSH tunnel, or a local proxy that speaks TLS, as \
                        http://127.0.0.1:PORT"
                    .into(),
            );
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("{scheme}: is not spoken here; write it as http://HOST:PORT"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Also where a slash in a password ends what seems to be the host.
        if authority.contains('@') || without_passwords(text) != text {
            return Err("a hub takes no user and no password; it takes a token".into());
        }
        if rest.contains(['?', '#']) || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it has a host, a port and a path, and nothing else".into());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) =
                    bracketed.split_once(']').ok_or("the bracket of its host is not closed")?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err("it has no host".into());
        }
        let port =
            match port {
                None => DEFAULT_PORT,
                Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                    format!("{port:?} is no port; write a number from 1 to 65535")
                })?,
            };
        let path = path.trim_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { host: host.to_owned(), port, path })
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}
