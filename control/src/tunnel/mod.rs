//! SSH connections through which lanes reach exports at a far end, and the far end what this side
//! offers.
//!
//! ```text
//!  lane ── socket pair ── channel ┐
//!  lane ── socket pair ── channel ┼ Connection (a thread, a cipher) ── TCP ── sshd, or a hub
//!  lane ── socket pair ── channel ┘      │
//!             ▲                          └ lost: made anew while somebody waits for it
//!     Tunnel::dialer(far end)  ──► dataplane::Dial
//! ```
//!
//! A lane gets one end of a socket pair at once, as a [`Dial`](blockferry_dataplane::Dial) must
//! give it; the other end waits for its channel. What becomes of a channel shows on the socket
//! alone: it closes when the far end closes, when the connection is lost, and when the far end
//! refuses. The lane connects again then, as after any loss, and does again what was not safe. Why a
//! channel was refused or a connection lost is told to whoever started the tunnel.
//!
//! One SSH connection keeps one processor busy at most, whatever its number of channels, and OpenSSH
//! lets about 2 MiB a round trip through a channel: so there are several connections, and new
//! channels go to the one that has the fewest.
//!
//! A tunnel that serves ([`Tunnel::serve`]) is kept up whether lanes dial or not, and what the far
//! end opens is given to its [`TunnelService`].

mod address;
mod ask;
mod backoff;
mod channel;
mod connection;
mod dialer;
pub mod endpoint;
mod enroll;
mod enrollment;
mod error;
mod far;
mod figures;
mod host_pattern;
mod identity;
mod key;
mod lane_socket;
mod link;
mod local_ports;
mod own_key;
mod service;
mod session;
mod settings;
mod stream;
mod trust;

#[cfg(test)]
mod tests;

pub use address::TunnelAddress;
pub use dialer::{Tunnel, TunnelDialer};
pub use enroll::{EnrollError, enroll};
pub use enrollment::EnrollmentCode;
pub use error::{TunnelError, TunnelEvent};
pub use far::FarEnd;
pub use figures::ConnectionFigures;
pub use identity::check as check_identity;
pub use key::SshKey;
pub use local_ports::{LocalPortError, LocalPortSettings, LocalPorts};
pub use own_key::{OwnKey, OwnKeyError};
pub use service::TunnelService;
pub use settings::TunnelSettings;
