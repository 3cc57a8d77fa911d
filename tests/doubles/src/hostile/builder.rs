//! What a hostile server is like before it starts.

use std::io;

use super::fault::{Fault, Faults, Occasion, Trigger};
use super::image::Image;
use super::server::HostileServer;
use super::wire::export;
use crate::server::Transport;

/// The most that a server agrees to when a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replies {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers too.
    Extended,
}

/// Builds a [`HostileServer`]. Unless told otherwise it behaves: a writable disk of 1 MiB full
/// of zeros under any export name, structured replies, base:allocation, all commands.
#[derive(Debug)]
pub struct Hostile {
    pub(super) config: Config,
    pub(super) image: Image,
    pub(super) faults: Faults,
    transport: Transport,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) size_on_reconnect: Option<u64>,
    pub(super) export: Option<String>,
    pub(super) replies: Replies,
    pub(super) flags: u16,
    /// Minimum, preferred and maximum size of a request.
    pub(super) block: (u32, u32, u32),
    pub(super) unsupported: Vec<u32>,
    pub(super) at_once: usize,
    pub(super) lose_unflushed: bool,
    pub(super) interleave: Option<u64>,
}

impl Hostile {
    /// A server that behaves.
    pub fn builder() -> Self {
        let config = Config {
            size_on_reconnect: None,
            export: None,
            replies: Replies::Structured,
            flags: export::HAS_FLAGS
                | export::SEND_FLUSH
                | export::SEND_FUA
                | export::SEND_TRIM
                | export::SEND_WRITE_ZEROES
                | export::SEND_DF
                | export::CAN_MULTI_CONN
                | export::SEND_CACHE
                | export::SEND_FAST_ZERO,
            block: (1, 4096, 32 << 20),
            unsupported: Vec::new(),
            at_once: usize::MAX,
            lose_unflushed: false,
            interleave: None,
        };
        Self {
            config,
            image: Image::new(1 << 20),
            faults: Faults::default(),
            transport: Transport::default(),
        }
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub fn size(mut self, size: u64) -> Self {
        self.image.size = size;
        self
    }

    /// The whole disk; its size too. Pages of 4096 zeros become holes.
    #[must_use]
    pub fn content(self, bytes: &[u8]) -> Self {
        self.size(bytes.len() as u64).content_at(0, bytes)
    }

    /// Content at an offset. Pages of 4096 zeros become holes.
    #[must_use]
    pub fn content_at(mut self, offset: u64, bytes: &[u8]) -> Self {
        for (index, page) in bytes.chunks(4096).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                self.image.write(offset + index as u64 * 4096, page, true);
            }
        }
        self
    }

    /// Serves this export name only, instead of any.
    #[must_use]
    pub fn export(mut self, name: &str) -> Self {
        self.config.export = Some(name.to_owned());
        self
    }

    /// What it agrees to at most.
    #[must_use]
    pub fn replies(mut self, replies: Replies) -> Self {
        self.config.replies = replies;
        self
    }

    /// Does this when the fault's own occasion is due for it: a fault of reads counts reads, one
    /// of the greeting counts connections, one that fits any request counts requests.
    #[must_use]
    pub fn fault(self, fault: Fault, trigger: Trigger) -> Self {
        let occasion = fault.occasion();
        self.fault_on(occasion, fault, trigger)
    }

    /// As [`Hostile::fault`], counting another occasion, such as `Error` at a flush.
    #[must_use]
    pub fn fault_on(mut self, occasion: Occasion, fault: Fault, trigger: Trigger) -> Self {
        self.faults.rules.push((occasion, fault, trigger));
        self
    }

    /// The block size constraints: a violation is recorded and answered with EINVAL.
    #[must_use]
    pub fn block_size(mut self, minimum: u32, preferred: u32, maximum: u32) -> Self {
        self.config.block = (minimum, preferred, maximum);
        self
    }

    /// Answers these options (see [`super::wire::opt`]) with ERR_UNSUP.
    #[must_use]
    pub fn unsupported(mut self, options: &[u32]) -> Self {
        self.config.unsupported.extend(options);
        self
    }

    /// Advertises that it cannot be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.config.flags |= export::READ_ONLY;
        self.without(export::SEND_TRIM | export::SEND_WRITE_ZEROES | export::SEND_FAST_ZERO)
    }

    /// Takes transmission flags away (see [`super::wire::export`]), such as CAN_MULTI_CONN,
    /// SEND_WRITE_ZEROES or SEND_FLUSH. Commands that were not advertised are refused.
    #[must_use]
    pub fn without(mut self, flags: u16) -> Self {
        self.config.flags &= !flags;
        self
    }

    /// Does not advertise MULTI_CONN.
    #[must_use]
    pub fn no_multi_conn(self) -> Self {
        self.without(export::CAN_MULTI_CONN)
    }

    /// Does not advertise WRITE_ZEROES.
    #[must_use]
    pub fn no_write_zeroes(self) -> Self {
        self.without(export::SEND_WRITE_ZEROES | export::SEND_FAST_ZERO)
    }

    /// Does not advertise FLUSH.
    #[must_use]
    pub fn no_flush(self) -> Self {
        self.without(export::SEND_FLUSH)
    }

    /// From the second connection on, the disk has this size.
    #[must_use]
    pub fn size_on_reconnect(mut self, size: u64) -> Self {
        self.config.size_on_reconnect = Some(size);
        self
    }

    /// Greets at most this many clients at once; further ones connect and wait in silence until
    /// one leaves, as with `qemu-nbd --shared`.
    #[must_use]
    pub fn at_once(mut self, clients: usize) -> Self {
        self.config.at_once = clients;
        self
    }

    /// When a fault breaks a connection, it is as if the server had been killed: every
    /// connection closes, and acknowledged writes that were not flushed are lost.
    #[must_use]
    pub fn lose_unflushed(mut self) -> Self {
        self.config.lose_unflushed = true;
        self
    }

    /// Legal, and the worst of it: collects the requests that are there, and answers them in
    /// pieces that are mixed at random, those of different requests too.
    #[must_use]
    pub fn interleaved(mut self, seed: u64) -> Self {
        self.config.interleave = Some(seed);
        self
    }

    /// Listens on a free port of 127.0.0.1.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.transport = Transport::Tcp;
        self
    }

    /// Listens on a Unix socket, which is the default.
    #[must_use]
    pub fn unix(mut self) -> Self {
        self.transport = Transport::Unix;
        self
    }

    /// Starts it.
    pub fn start(self) -> io::Result<HostileServer> {
        let (address, dir) = self.transport.prepare()?;
        HostileServer::start(self, address.listen()?, dir)
    }
}
