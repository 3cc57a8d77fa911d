//! Where a link leads.

use std::net::ToSocketAddrs;

use crate::endpoint::NbdEndpoint;
use crate::engine::Address;
use crate::fault::Cause;
use crate::nbd::{self, ClientWishes, ReplyLimits, Tls};

/// The export that a link leads to, and what is wished of it.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) endpoint: NbdEndpoint,
    pub(super) wishes: ClientWishes,
    pub(super) limits: ReplyLimits,
    /// Empty where a dialer makes the connections.
    pub(super) addresses: Vec<Address>,
}

impl Destination {
    /// Finds the addresses of an endpoint. Replies carry `data_len` bytes of data at most.
    pub(super) fn new(
        endpoint: NbdEndpoint,
        contexts: Vec<String>,
        data_len: u32,
    ) -> Result<Self, Cause> {
        let addresses =
            if endpoint.dialer.is_some() { Vec::new() } else { resolve(&endpoint.uri.address)? };
        let wishes = ClientWishes {
            export: endpoint.uri.export.clone(),
            tls: if endpoint.uri.tls { Tls::Require } else { Tls::Never },
            extended_headers: true,
            structured_replies: true,
            contexts,
        };
        let limits = ReplyLimits { data_len, ..ReplyLimits::default() };
        Ok(Self { endpoint, wishes, limits, addresses })
    }
}

fn resolve(address: &nbd::Address) -> Result<Vec<Address>, Cause> {
    match address {
        nbd::Address::Unix { path } => Ok(vec![Address::Unix(path.clone())]),
        nbd::Address::Tcp { host, port } => {
            let found = (host.as_str(), *port).to_socket_addrs().map_err(Cause::Connect)?;
            let all: Vec<_> = found.map(Address::Tcp).collect();
            if all.is_empty() {
                return Err(Cause::Unfit(format!("the name {host} has no address")));
            }
            Ok(all)
        }
    }
}
