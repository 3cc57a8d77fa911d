//! The thread of a session: carries bytes between the far end and the socket until either ends.
//!
//! ```text
//!  socket ─recv─► arriving ─► rustls ─► to_near ──send─► far end
//!  socket ◄─send──────────── rustls ◄─ from_near ◄─recv─ far end
//! ```
//!
//! Every queue is bounded, and its source is not read while it is full, so that both directions
//! have backpressure and neither holds the other up. The thread sleeps in one place, in a poll for
//! exactly what it can use.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use rustls::ClientConnection;

use super::buffer::Buffer;
use super::reason::{Stage, Terms};

/// Bytes of each of the four queues: TLS from the socket, plain to the near end, plain from it,
/// and (kept by rustls) TLS to the socket. A session holds four times this. Less costs CPU: with
/// 32 KiB a third more, with 256 KiB hardly less (`benches/runs/tls-session.txt`). Delivering each record from
/// where rustls decrypted it saves a copy, but costs more in wake-ups of the near end.
const QUEUE_BYTES: usize = 128 << 10;

/// How long a session whose near end has gone may take to hand what is left to the socket, and to
/// see the server close. At the regular end of a connection that is a few bytes for which there is
/// room at once, and a server that closes on our goodbye; only one that is stuck makes it wait.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A session; its own thread runs it.
pub(super) struct Session {
    tls: ClientConnection,
    terms: Terms,
    socket: OwnedFd,
    far: OwnedFd,
    arriving: Buffer,
    to_near: Buffer,
    from_near: Buffer,
    /// The last send found no room; only poll clears it.
    socket_full: bool,
    near_full: bool,
    /// Nothing can be sent any more. The reason is still to be received, or the end of the stream.
    socket_broken: bool,
    /// The server has sent data, so it has accepted us.
    answered: bool,
    /// The server's direction is over, well or not. It takes effect when what came before is
    /// delivered.
    server_ended: Option<Result<(), String>>,
    /// The near end was closed or shut down; when the session gives up flushing.
    near_gone: Option<Instant>,
    /// All that the near end wrote before it went has been read.
    near_read: bool,
    goodbye_said: bool,
    /// Our direction of the socket is shut down, behind the goodbye.
    socket_ended: bool,
}

/// What poll is asked for; empty flags leave a descriptor out, or its hang-up would wake us
/// over and over.
struct Interest {
    socket: PollFlags,
    far: PollFlags,
}

impl Session {
    pub(super) fn new(
        mut tls: ClientConnection,
        terms: Terms,
        socket: OwnedFd,
        far: OwnedFd,
    ) -> Self {
        tls.set_buffer_limit(Some(QUEUE_BYTES));
        Self {
            tls,
            terms,
            socket,
            far,
            arriving: Buffer::new(QUEUE_BYTES),
            to_near: Buffer::new(QUEUE_BYTES),
            from_near: Buffer::new(QUEUE_BYTES),
            socket_full: false,
            near_full: false,
            socket_broken: false,
            answered: false,
            server_ended: None,
            near_gone: None,
            near_read: false,
            goodbye_said: false,
            socket_ended: false,
        }
    }

    /// Runs until the session is over, and keeps why it failed before the near end can know.
    pub(super) fn run(mut self, failure: &OnceLock<String>) {
        let result = self.carry();
        if let Err(reason) = result {
            // An alert for the server, if rustls has one. The session is over in any case.
            self.transmit();
            failure.set(reason).expect("only the session's thread sets it, once");
        } else if !self.goodbye_said && !self.tls.is_handshaking() {
            self.tls.send_close_notify();
            self.transmit();
        }
        // ENOTCONN: the server was faster.
        let _already_ended = shutdown(&self.socket, Shutdown::Both);
    }

    fn carry(&mut self) -> Result<(), String> {
        loop {
            self.carry_to_near();
            self.carry_to_server();
            if let Some(result) = self.outcome() {
                return result;
            }
            self.wait().map_err(|e| format!("cannot wait for the connection: {e}"))?;
        }
    }

    /// Whether it is over, and how. A near end that goes is followed by the end of our direction
    /// only: were the socket closed before the server has read all, whatever it still says (tickets
    /// after a handshake, its own goodbye) would be answered with a reset, and that would undo what
    /// is on its way.
    fn outcome(&mut self) -> Option<Result<(), String>> {
        if let Some(give_up) = self.near_gone {
            let over = self.tls.is_handshaking()
                || self.server_ended.is_some()
                || self.socket_broken
                || Instant::now() >= give_up;
            return over.then_some(Ok(()));
        }
        if self.server_ended.is_some() && self.to_near.is_empty() {
            return self.server_ended.take();
        }
        None
    }

    /// Decrypts and delivers until there is nothing left, or no room in the far end.
    fn carry_to_near(&mut self) {
        loop {
            let all = self.decrypt();
            self.deliver();
            if all || !self.to_near.is_empty() {
                return;
            }
        }
    }

    /// Encrypts and sends until there is nothing left, or no room in the socket.
    fn carry_to_server(&mut self) {
        loop {
            self.encrypt();
            self.transmit();
            if self.from_near.is_empty() || self.tls.wants_write() || !self.encrypts() {
                return;
            }
        }
    }

    /// From `arriving` through rustls into `to_near`; whether all of it found room.
    fn decrypt(&mut self) -> bool {
        loop {
            if !self.take_plaintext() {
                return false;
            }
            if self.arriving.is_empty() || self.server_ended.is_some() {
                return true;
            }
            let mut input = self.arriving.filled();
            let result =
                self.tls.read_tls(&mut input).map_err(|e| e.to_string()).and_then(|count| {
                    self.arriving.consume(count);
                    self.tls.process_new_packets().map_err(|e| self.terms.explain(&e))
                });
            match result {
                Ok(state) if state.peer_has_closed() => self.server_ended = Some(Ok(())),
                Ok(_) => {}
                Err(reason) => self.server_ended = Some(Err(reason)),
            }
        }
    }

    /// Whether all that rustls has decrypted found room.
    fn take_plaintext(&mut self) -> bool {
        if self.near_gone.is_some() {
            self.to_near.clear();
        }
        loop {
            let room = self.to_near.room();
            if room.is_empty() {
                return false;
            }
            // The end of the stream and the lack of data are both told otherwise.
            match self.tls.reader().read(room) {
                Ok(0) | Err(_) => return true,
                Ok(count) => {
                    self.answered = true;
                    self.to_near.filled_more(count);
                }
            }
        }
    }

    fn deliver(&mut self) {
        while !self.to_near.is_empty() && !self.near_full && self.near_gone.is_none() {
            match retry(|| send(&self.far, self.to_near.filled(), SendFlags::NOSIGNAL)) {
                Ok(count) => self.to_near.consume(count),
                Err(Errno::AGAIN) => self.near_full = true,
                Err(_) => self.hang_up(),
            }
        }
    }

    /// Whether the session takes data from the near end.
    fn encrypts(&self) -> bool {
        !self.tls.is_handshaking() && self.server_ended.is_none() && !self.socket_broken
    }

    fn encrypt(&mut self) {
        if !self.encrypts() {
            return;
        }
        if !self.from_near.is_empty() {
            // rustls takes what its queue has room for, and only fails when it is misused.
            let taken = self.tls.writer().write(self.from_near.filled()).unwrap_or(0);
            self.from_near.consume(taken);
        }
        if self.near_read && self.from_near.is_empty() && !self.goodbye_said {
            self.tls.send_close_notify();
            self.goodbye_said = true;
        }
    }

    fn transmit(&mut self) {
        while self.tls.wants_write() && !self.socket_full && !self.socket_broken {
            match self.tls.write_tls(&mut Sender(self.socket.as_fd())) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket_full = true,
                Err(_) => self.socket_broken = true,
            }
        }
        if self.goodbye_said && !self.tls.wants_write() && !self.socket_ended {
            self.socket_ended = true;
            // ENOTCONN: the server was faster.
            let _already_ended = shutdown(&self.socket, Shutdown::Write);
        }
    }

    fn receive(&mut self) {
        let result = retry(|| recv(&self.socket, self.arriving.room(), RecvFlags::empty()));
        let error = match result {
            Ok((count @ 1.., _)) => return self.arriving.filled_more(count),
            Err(Errno::AGAIN) => return,
            Ok((0, _)) => None,
            Err(e) => Some(e.into()),
        };
        let stage = match self.tls.is_handshaking() {
            true => Stage::Handshake,
            false if self.answered => Stage::Answered,
            false => Stage::Unanswered,
        };
        self.server_ended = Some(Err(self.terms.cut(stage, error.as_ref())));
    }

    fn collect(&mut self) {
        match retry(|| recv(&self.far, self.from_near.room(), RecvFlags::empty())) {
            Ok((count @ 1.., _)) => self.from_near.filled_more(count),
            Err(Errno::AGAIN) => {}
            // ECONNRESET: the near end was closed before all that was delivered was read.
            Ok((0, _)) | Err(_) => {
                self.hang_up();
                self.near_read = true;
            }
        }
    }

    fn hang_up(&mut self) {
        self.near_gone.get_or_insert_with(|| Instant::now() + LINGER);
        self.to_near.clear();
    }

    fn interest(&self) -> Interest {
        let mut interest = Interest { socket: PollFlags::empty(), far: PollFlags::empty() };
        if self.arriving.is_empty() && self.server_ended.is_none() {
            interest.socket |= PollFlags::IN;
        }
        if self.tls.wants_write() && !self.socket_broken {
            interest.socket |= PollFlags::OUT;
        }
        if self.near_gone.is_none() {
            interest.far |= PollFlags::RDHUP;
        }
        if self.encrypts() && self.from_near.is_empty() && !self.near_read {
            interest.far |= PollFlags::IN;
        }
        if !self.to_near.is_empty() {
            interest.far |= PollFlags::OUT;
        }
        interest
    }

    /// Sleeps until something can be done, and receives it.
    fn wait(&mut self) -> io::Result<()> {
        let interest = self.interest();
        let [socket, far] = sleep(
            [(self.socket.as_fd(), interest.socket), (self.far.as_fd(), interest.far)],
            self.near_gone.map(|give_up| give_up.saturating_duration_since(Instant::now())),
        )?;
        // An error or a hang-up shows itself in whatever is tried next.
        let ended = PollFlags::HUP | PollFlags::ERR;
        self.socket_full &= !socket.intersects(PollFlags::OUT | ended);
        self.near_full &= !far.intersects(PollFlags::OUT | ended);
        if interest.socket.contains(PollFlags::IN) && socket.intersects(PollFlags::IN | ended) {
            self.receive();
        }
        if interest.far.contains(PollFlags::IN) && far.intersects(PollFlags::IN | ended) {
            self.collect();
        }
        if far.intersects(PollFlags::RDHUP | ended) {
            self.hang_up();
        }
        Ok(())
    }
}

/// Polls those descriptors from which something is wanted; returns what they are ready for.
fn sleep(
    wanted: [(BorrowedFd<'_>, PollFlags); 2],
    longest: Option<Duration>,
) -> io::Result<[PollFlags; 2]> {
    let [(socket, socket_flags), (far, far_flags)] = wanted;
    let mut polled =
        [PollFd::from_borrowed_fd(socket, socket_flags), PollFd::from_borrowed_fd(far, far_flags)];
    let from = usize::from(socket_flags.is_empty());
    let to = polled.len() - usize::from(far_flags.is_empty());
    // LINGER fits by far.
    let longest = longest.map(|time| Timespec::try_from(time).expect("a short time fits"));
    match poll(&mut polled[from.min(to)..to], longest.as_ref()) {
        // What was left out has no events.
        Ok(_) => Ok(polled.map(|fd| fd.revents())),
        Err(Errno::INTR) => Ok([PollFlags::empty(); 2]),
        Err(e) => Err(e.into()),
    }
}

/// The socket as rustls wants to write to it, without a SIGPIPE for the host program.
struct Sender<'a>(BorrowedFd<'a>);

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL;
        Ok(retry(|| sendmsg(self.0, pieces, &mut SendAncillaryBuffer::default(), flags))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(&mut call)
}
