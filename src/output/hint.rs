//! What may help against a fault.

use std::io;

use blockferry_dataplane::nbd::{HandshakeError, NbdError};
use blockferry_dataplane::{Cause, Fault, Side};

/// A line of advice, where the fault itself does not say what to do.
pub(crate) fn hint(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::Side { side, cause, .. } => of_cause(*side, cause),
        Fault::Local { error, .. } => of_machine(error),
        _ => None,
    }
}

/// The same for what kept a command from its work.
pub(crate) fn hint_of_error(error: &anyhow::Error) -> Option<&'static str> {
    let cause: &io::Error = error.chain().find_map(|cause| cause.downcast_ref())?;
    // Also a stream that takes nothing is said to block.
    let of_threads = error.to_string().contains("thread");
    (of_threads || cause.kind() != io::ErrorKind::WouldBlock).then(|| of_machine(cause)).flatten()
}

/// What to raise where the system has no more of something for us.
fn of_machine(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::OutOfMemory => Some(
            "there is a limit on memory: raise ulimit -v, or that of the container, or take less \
             by --memory and --threads",
        ),
        // So a thread is refused, also one whose stack finds no room.
        io::ErrorKind::WouldBlock => Some(
            "there is a limit on threads or memory: raise ulimit -u and ulimit -v, or those of the \
             container, or take fewer by --threads",
        ),
        _ => None,
    }
}

fn of_cause(side: Side, cause: &Cause) -> Option<&'static str> {
    match cause {
        Cause::Connect(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Some("is the server running, and are its address and port right?")
            }
            io::ErrorKind::NotFound => {
                Some("is the server running, and is the path of its socket right?")
            }
            io::ErrorKind::PermissionDenied => Some("may this user connect to that socket?"),
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => {
                Some("can that host be reached from here, or is a firewall between?")
            }
            _ => None,
        },
        Cause::Handshake(HandshakeError::UnknownExport { .. }) => {
            Some("nbdinfo --list URI shows the names of a server's exports")
        }
        Cause::Tls(_) => Some(
            "tls-certificates=DIR in the URI names the folder of ca-cert.pem, \
             tls-hostname=NAME the name in the server's certificate",
        ),
        Cause::Refused { error: NbdError::NoSpc, .. } if side == Side::Target => Some(
            "the storage behind the target is full; with --resume the copy can go on from there",
        ),
        Cause::GaveUp { last: cause, .. } | Cause::Unrepeatable { cause } => of_cause(side, cause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_target_without_space_is_said_to_be_full() {
        let full = |side| Fault::Side {
            side,
            endpoint: "nbd://host".into(),
            cause: Cause::Refused {
                request: "a request".into(),
                error: NbdError::NoSpc,
                message: String::new(),
            },
        };
        assert_eq!(hint(&full(Side::Source)), None);
        assert!(hint(&full(Side::Target)).is_some_and(|text| text.contains("full")));
    }
}
