//! What may help against a fault.

use std::io;

use blockferry_dataplane::nbd::{HandshakeError, NbdError};
use blockferry_dataplane::{Cause, Fault};

/// A line of advice, where the fault itself does not say what to do.
pub(crate) fn hint(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::Side { cause, .. } => of_cause(cause),
        _ => None,
    }
}

fn of_cause(cause: &Cause) -> Option<&'static str> {
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
        Cause::Refused { error: NbdError::NoSpc, .. } => Some(
            "the storage behind the target is full; with --resume the copy can go on from there",
        ),
        Cause::GaveUp { last, .. } => of_cause(last),
        _ => None,
    }
}
