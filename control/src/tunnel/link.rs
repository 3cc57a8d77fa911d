//! The TCP connection below an SSH connection.

use std::io;
use std::time::Duration;

use blockferry_dataplane::tcp::resend_within;
use rustix::net::sockopt;
use tokio::net::TcpStream;

/// What was lost on a link that was away is sent again this soon after it is back.
const LONGEST_RESEND: Duration = Duration::from_secs(1);
/// A key is used for an hour at most.
pub(super) const REKEY_TIME: Duration = Duration::from_secs(3600);

/// How long a reader of what a node offers may take nothing: while it does, nothing else comes in on
/// the connection, which would be taken for dead after twice this and more.
pub(super) fn patience(keepalive: Duration, limit: usize) -> Duration {
    keepalive.saturating_mul(u32::try_from(limit).unwrap_or(u32::MAX)) / 2
}

/// Sets up a socket of a tunnel, at either end. A link that takes nothing any more is seen by the
/// kernel, in the time that the keepalives would take: while a packet cannot be sent, nobody here
/// counts them.
pub(super) fn tune(socket: &TcpStream, keepalive: Duration, limit: usize) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if socket.peer_addr()?.ip().to_canonical().is_loopback() {
        // Only speed is lost where the system refuses.
        let _as_allowed = tune_local(socket);
    }
    let unanswered = u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(1);
    let silence = keepalive.saturating_mul(unanswered);
    let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, silence_ms)?;
    // Kernels that do not know it come back later from a cut that was shorter than the keepalives.
    let _as_known = resend_within(socket, LONGEST_RESEND);
    Ok(())
}

/// Sets up a connection within the machine, as the data plane does with its own: there is no
/// congestion to avoid, and a system that paces by timers pays for them.
pub(super) fn tune_local(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    Ok(sockopt::set_tcp_congestion(socket, "reno")?)
}
