//! What of a TCP socket the standard library and rustix cannot set.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// tcp(7), from Linux 6.15 on; not in libc yet.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Has the kernel send again at least this often what nobody acknowledges, a second at the shortest.
/// By itself it doubles the wait up to two minutes, and so goes on long after a link is back. How
/// long it tries at all is another setting (`TCP_USER_TIMEOUT`), which has to be set too: without
/// it, this also makes the kernel give up sooner.
///
/// # Errors
/// Linux before 6.15 knows nothing of it.
pub fn resend_within(socket: impl AsFd, most: Duration) -> io::Result<()> {
    let most_ms = libc::c_int::try_from(most.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, and the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            std::ptr::from_ref(&most_ms).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_is_set_where_the_kernel_knows_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        match resend_within(&socket, Duration::from_secs(1)) {
            Ok(()) => {
                // It knows its bounds, so it is the option that is meant.
                let wrong = resend_within(&socket, Duration::from_millis(1)).unwrap_err();
                assert_eq!(wrong.raw_os_error(), Some(libc::EINVAL));
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
    }
}
