//! NBD URIs: which server, which export, and how to get there.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use super::escape::{self, Escaped, PATH, QUERY, REGISTERED};
use super::shown::without_passwords;
use super::wire::{DEFAULT_PORT, MAX_STRING_LEN};

/// Longest path of a Unix socket that the kernel takes, in bytes: `sun_path` less its NUL.
const MAX_SOCKET_PATH_LEN: usize = 107;

/// An export on a server, as of `nbd://host:port/export` or `nbd+unix:///export?socket=path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// `nbds`: encrypt, or fail.
    pub tls: bool,
    /// Where the server listens.
    pub address: Address,
    /// Name of the export, at most 4096 bytes; empty for the server's default export.
    pub export: String,
    /// User name for TLS with pre-shared keys.
    pub user: Option<String>,
    /// What the URI says about TLS.
    pub tls_params: TlsParams,
    /// What means nothing here, to be warned of: names of query parameters, a password, a fragment. Not
    /// part of the canonical form.
    pub ignored: Vec<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp {
        /// Name or address; an IPv6 address without its brackets.
        host: String,
        /// 10809 unless the URI says otherwise.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
}

/// Query parameters on TLS; none of them turns TLS on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsParams {
    /// `tls-certificates`: folder of `ca-cert.pem`, `client-cert.pem`, `client-key.pem`.
    pub certificates: Option<PathBuf>,
    /// `tls-hostname`: name that the server's certificate must hold.
    pub hostname: Option<String>,
    /// `tls-verify-peer`: whether the server's certificate is looked at.
    pub verify_peer: Option<bool>,
}

/// What is wrong with a URI, and what to write in its place. No password is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NbdUriError {
    /// No known scheme.
    #[error(
        "{uri:?} is no NBD URI; write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH"
    )]
    Scheme {
        /// The text, without its password.
        uri: String,
    },
    /// A user name, or a password, that is none.
    #[error(
        "what stands before '@' is no user name; write %25 for a percent sign, and %2F for a slash"
    )]
    User,
    /// A percent sign without two hexadecimal digits.
    #[error("the percent sign in {text:?} is no escape; write %25 for a percent sign")]
    Escape {
        /// The part of the URI.
        text: String,
    },
    /// Text that is not UTF-8 once its escapes are undone, or has NUL in it.
    #[error("the {what} is not UTF-8 text without NUL")]
    NotText {
        /// Part of the URI.
        what: &'static str,
    },
    /// An export name that NBD does not allow.
    #[error("the export name is {length} bytes long, and NBD allows {max}", max = MAX_STRING_LEN)]
    ExportTooLong {
        /// In bytes.
        length: usize,
    },
    /// A host that is none.
    #[error("{host:?} is no host; an IPv6 address goes into brackets, as nbd://[::1]:10809/EXPORT")]
    Host {
        /// The text.
        host: String,
    },
    /// A port that is none.
    #[error("{port:?} is no port; write a number from 1 to 65535")]
    Port {
        /// The text.
        port: String,
    },
    /// A Unix URI without its socket.
    #[error("{scheme}: needs the path of the socket; write {scheme}:///EXPORT?socket=PATH")]
    SocketMissing {
        /// The URI's scheme.
        scheme: &'static str,
    },
    /// A TCP URI with a socket.
    #[error("socket= goes with {scheme}+unix:, not with {scheme}:")]
    SocketForTcp {
        /// The URI's scheme.
        scheme: &'static str,
    },
    /// A Unix URI with a host.
    #[error("{scheme}: takes no host; write three slashes: {scheme}:///EXPORT?socket=PATH")]
    HostForUnix {
        /// The URI's scheme.
        scheme: &'static str,
    },
    /// A socket that cannot be connected to.
    #[error("the socket path must be 1 to {max} bytes without NUL", max = MAX_SOCKET_PATH_LEN)]
    SocketPath,
    /// A parameter that is there twice.
    #[error("{name}= is given twice; write it once")]
    Twice {
        /// The parameter.
        name: &'static str,
    },
    /// A truth value that is none.
    #[error("{name}={value:?} is neither true nor false; write 1 or 0")]
    Bool {
        /// The parameter.
        name: &'static str,
        /// The text.
        value: String,
    },
}

const SCHEMES: [(&str, bool, bool); 4] = [
    ("nbd", false, false),
    ("nbds", true, false),
    ("nbd+unix", false, true),
    ("nbds+unix", true, true),
];

impl FromStr for NbdUri {
    type Err = NbdUriError;

    fn from_str(uri: &str) -> Result<Self, NbdUriError> {
        let unknown = || NbdUriError::Scheme { uri: without_passwords(uri) };
        let (scheme, rest) = uri.split_once("://").ok_or_else(unknown)?;
        let known = SCHEMES.into_iter().find(|(name, ..)| name.eq_ignore_ascii_case(scheme));
        let (scheme, tls, unix) = known.ok_or_else(unknown)?;
        // As libnbd has it: it means nothing.
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (rest, None),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => {
                (Some(text(user, "user name").map_err(|_| NbdUriError::User)?), host)
            }
            // A slash in a password: half of it would be taken for a port, and be shown as one.
            None if rest.contains('@')
                && !authority.is_empty()
                && (authority.ends_with(':') || tcp(authority).is_err()) =>
            {
                return Err(NbdUriError::User);
            }
            None => (None, authority),
        };
        // NBD has no passwords. One that was written nevertheless is kept nowhere, so that no log and
        // no catalog can show it.
        let (user, has_password) = match user {
            Some(user) => match user.split_once(':') {
                Some((name, _password)) => (Some(name.to_owned()), true),
                None => (Some(user), false),
            },
            None => (None, false),
        };
        let export = text(path, "export name")?;
        if export.len() > MAX_STRING_LEN {
            return Err(NbdUriError::ExportTooLong { length: export.len() });
        }
        let query = Query::parse(query)?;
        let address = match (unix, query.socket) {
            (true, Some(path)) if host.is_empty() => Address::Unix { path },
            (true, Some(_)) => return Err(NbdUriError::HostForUnix { scheme }),
            (true, None) => return Err(NbdUriError::SocketMissing { scheme }),
            (false, Some(_)) => return Err(NbdUriError::SocketForTcp { scheme }),
            (false, None) => tcp(host)?,
        };
        let mut ignored = query.ignored;
        ignored.extend(has_password.then(|| "the password".to_owned()));
        ignored.extend(fragment.map(|_| "the part after # (%23 is a # in a name)".to_owned()));
        Ok(Self { tls, address, export, user, tls_params: query.tls, ignored })
    }
}

/// Undoes the escapes of a part that must be text.
fn text(part: &str, what: &'static str) -> Result<String, NbdUriError> {
    match String::from_utf8(escape::undo(part)?) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(NbdUriError::NotText { what }),
    }
}

fn tcp(authority: &str) -> Result<Address, NbdUriError> {
    let no_host = || NbdUriError::Host { host: authority.to_owned() };
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']').ok_or_else(no_host)?;
        let host = text(host, "host")?;
        let (address, _zone) = host.split_once('%').unwrap_or((&host, ""));
        address.parse::<Ipv6Addr>().map_err(|_| no_host())?;
        match port.strip_prefix(':') {
            Some(port) => (host, port),
            None if port.is_empty() => (host, ""),
            None => return Err(no_host()),
        }
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if port.contains(':') {
            return Err(no_host());
        }
        let host = text(host, "host")?;
        // An escaped colon: no name has one, and an address of IPv6 stands in brackets.
        if host.contains(':') {
            return Err(no_host());
        }
        (host, port)
    };
    let bad_port = || NbdUriError::Port { port: port.to_owned() };
    let port = match port {
        "" => DEFAULT_PORT,
        digits if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().ok().filter(|&port| port != 0).ok_or_else(bad_port)?
        }
        _ => return Err(bad_port()),
    };
    // As libnbd has it: a URI without a host means this machine.
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(Address::Tcp { host, port })
}

#[derive(Default)]
struct Query {
    socket: Option<PathBuf>,
    tls: TlsParams,
    ignored: Vec<String>,
}

impl Query {
    fn parse(query: &str) -> Result<Self, NbdUriError> {
        let mut parsed = Self::default();
        for parameter in query.split(['&', ';']).filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match text(name, "name of a query parameter")?.as_str() {
                "socket" => set(&mut parsed.socket, "socket", socket(value)?)?,
                "tls-certificates" => {
                    let path = OsString::from_vec(escape::undo(value)?).into();
                    set(&mut parsed.tls.certificates, "tls-certificates", path)?;
                }
                "tls-hostname" => {
                    let hostname = text(value, "value of tls-hostname")?;
                    set(&mut parsed.tls.hostname, "tls-hostname", hostname)?;
                }
                "tls-verify-peer" => {
                    let verify = truth("tls-verify-peer", value)?;
                    set(&mut parsed.tls.verify_peer, "tls-verify-peer", verify)?;
                }
                other => parsed.ignored.push(other.to_owned()),
            }
        }
        Ok(parsed)
    }
}

fn set<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), NbdUriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(NbdUriError::Twice { name }),
    }
}

fn socket(value: &str) -> Result<PathBuf, NbdUriError> {
    let path = escape::undo(value)?;
    if path.is_empty() || path.len() > MAX_SOCKET_PATH_LEN || path.contains(&0) {
        return Err(NbdUriError::SocketPath);
    }
    Ok(OsString::from_vec(path).into())
}

fn truth(name: &'static str, value: &str) -> Result<bool, NbdUriError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(NbdUriError::Bool { name, value: value.to_owned() }),
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        f.write_str(match self.address {
            Address::Tcp { .. } => "://",
            Address::Unix { .. } => "+unix://",
        })?;
        if let Some(user) = &self.user {
            write!(f, "{}@", Escaped(user.as_bytes(), REGISTERED))?;
        }
        let mut query: Vec<(&str, &[u8])> = Vec::new();
        match &self.address {
            Address::Tcp { host, port } => {
                let escaped = Escaped(host.as_bytes(), REGISTERED);
                match host.split_once('%') {
                    _ if !host.contains(':') => write!(f, "{escaped}")?,
                    None => write!(f, "[{host}]")?,
                    Some((host, zone)) => {
                        write!(f, "[{host}%25{}]", Escaped(zone.as_bytes(), REGISTERED))?;
                    }
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
            }
            Address::Unix { path } => query.push(("socket", path.as_os_str().as_bytes())),
        }
        if !self.export.is_empty() || matches!(self.address, Address::Unix { .. }) {
            write!(f, "/{}", Escaped(self.export.as_bytes(), PATH))?;
        }
        let TlsParams { certificates, hostname, verify_peer } = &self.tls_params;
        if let Some(path) = certificates {
            query.push(("tls-certificates", path.as_os_str().as_bytes()));
        }
        if let Some(hostname) = hostname {
            query.push(("tls-hostname", hostname.as_bytes()));
        }
        if let Some(verify) = verify_peer {
            query.push(("tls-verify-peer", if *verify { b"1" } else { b"0" }));
        }
        for (position, (name, value)) in query.into_iter().enumerate() {
            let separator = if position == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={}", Escaped(value, QUERY))?;
        }
        Ok(())
    }
}
