//! The fixed newstyle handshake.

use std::io;
use std::time::Duration;

use super::builder::Replies;
use super::fault::{Fault, Occasion};
use super::session::{FOREVER, Session};
use super::wire::{self, Fields, Parse, info, opt, rep};

/// The longest option that is taken; names have at most 4096 bytes.
const OPTION_BYTES: u32 = 64 << 10;
/// The id of base:allocation.
pub(super) const CONTEXT_ID: u32 = 1;
/// The only context.
const CONTEXT: &str = "base:allocation";

/// What comes after an option.
enum Next {
    Option,
    Transmission,
    Closed,
}

impl Session<'_> {
    /// Greets and answers options; true when transmission begins.
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        self.greet()?;
        let client = self.take_u32()?;
        if client & !u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) != 0 {
            self.violation(&format!("unknown client flags {client:#x}"));
            return Ok(false);
        }
        self.no_zeroes = client & u32::from(wire::NO_ZEROES) != 0;
        loop {
            if self.take_u64()? != wire::OPTION {
                self.violation("an option without its magic");
                return Ok(false);
            }
            let option = self.take_u32()?;
            let length = self.take_u32()?;
            if length > OPTION_BYTES {
                self.violation(&format!("an option of {length} bytes"));
                return Ok(false);
            }
            let data = self.take(u64::from(length))?;
            match self.option(option, &data)? {
                Next::Option => {}
                Next::Transmission => return Ok(true),
                Next::Closed => return Ok(false),
            }
        }
    }

    fn greet(&mut self) -> io::Result<()> {
        let fault = self.fault(&[Occasion::Greeting]);
        let magic = match fault {
            Some(Fault::WrongGreetingMagic) => !wire::GREETING,
            _ => wire::GREETING,
        };
        let greeting = Fields::default()
            .u64(magic)
            .u64(wire::OPTION)
            .u16(wire::FIXED_NEWSTYLE | wire::NO_ZEROES)
            .0;
        match fault {
            Some(Fault::NoGreeting) => self.park(FOREVER),
            Some(Fault::CloseBeforeGreeting) => Err(self.break_off()),
            Some(Fault::SlowGreeting(wait)) => greeting.iter().try_for_each(|&byte| {
                self.park(wait)?;
                self.send(&[byte])
            }),
            _ => self.send(&greeting),
        }
    }

    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let occasions: &[Occasion] = match option {
            opt::GO | opt::INFO => &[Occasion::Go, Occasion::Option],
            opt::STARTTLS => &[Occasion::StartTls, Occasion::Option],
            _ => &[Occasion::Option],
        };
        let fault = self.fault(occasions);
        let plain = |kind, data: &[u8]| option_reply(option, kind, data);
        match fault {
            Some(Fault::WrongOptionMagic) => {
                let mut reply = plain(rep::ACK, &[]);
                reply[0] ^= 0xff;
                return self.send(&reply).map(|()| Next::Option);
            }
            Some(Fault::WrongOptionEcho) => {
                let reply = option_reply(option ^ 0x40, rep::ACK, &[]);
                return self.send(&reply).map(|()| Next::Option);
            }
            Some(Fault::EndlessOptionReplies) => {
                // A type of information that nobody knows; to be ignored, but not for ever.
                let reply = plain(rep::INFO, &[0x7f, 0xff]);
                loop {
                    self.send(&reply)?;
                }
            }
            Some(Fault::OversizeOptionLength) => {
                let mut reply = plain(rep::INFO, &[]);
                reply[16..20].fill(0xff);
                self.send(&reply)?;
                self.park(FOREVER)?;
            }
            Some(Fault::OptionError(kind)) => {
                return self.send(&plain(kind, b"refused by a test")).map(|()| Next::Option);
            }
            Some(Fault::StallAtOption) => self.park(FOREVER)?,
            Some(Fault::CloseAtOption) => return Err(self.break_off()),
            Some(Fault::TlsRefused) => {
                return self.send(&plain(rep::ERR_POLICY, &[])).map(|()| Next::Option);
            }
            Some(Fault::TlsRequired) => {
                let kind = match option {
                    opt::STARTTLS => rep::ERR_UNSUP,
                    _ => rep::ERR_TLS_REQD,
                };
                return self.send(&plain(kind, &[])).map(|()| Next::Option);
            }
            _ => {}
        }
        if self.shared.config.unsupported.contains(&option) {
            return self.send(&plain(rep::ERR_UNSUP, &[])).map(|()| Next::Option);
        }
        let oversize = fault == Some(Fault::OversizeExportSize);
        match option {
            opt::EXPORT_NAME => return self.export_name(data),
            opt::GO | opt::INFO => return self.go(option, data, oversize),
            opt::ABORT => {
                self.send(&plain(rep::ACK, &[]))?;
                return Ok(Next::Closed);
            }
            opt::LIST => {
                let name = self.shared.config.export.clone().unwrap_or_default();
                let server =
                    Fields::default().u32(length_of(name.as_bytes())).bytes(name.as_bytes());
                self.send(&plain(rep::SERVER, &server.0))?;
                self.send(&plain(rep::ACK, &[]))?;
            }
            opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS => self.agree(option, data)?,
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.contexts(option, data)?,
            _ => self.send(&plain(rep::ERR_UNSUP, &[]))?,
        }
        Ok(Next::Option)
    }

    fn agree(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let asked = match option {
            opt::STRUCTURED_REPLY => Replies::Structured,
            _ => Replies::Extended,
        };
        let kind = if asked > self.shared.config.replies {
            rep::ERR_UNSUP
        } else if !data.is_empty() || asked <= self.replies {
            self.violation("reply headers agreed on twice, or with data");
            rep::ERR_INVALID
        } else {
            self.replies = asked;
            rep::ACK
        };
        self.send(&option_reply(option, kind, &[]))
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let parse = || {
            let mut parse = Parse(data);
            let export = parse.string()?;
            let count = parse.u32()?;
            let queries: Option<Vec<String>> = (0..count).map(|_| parse.string()).collect();
            Some((export, queries?)).filter(|_| parse.0.is_empty())
        };
        let invalid = option_reply(option, rep::ERR_INVALID, &[]);
        let Some((export, queries)) = parse() else {
            self.violation("malformed meta contexts");
            return self.send(&invalid);
        };
        if self.replies == Replies::Simple {
            self.violation("meta contexts without structured replies");
            return self.send(&invalid);
        }
        if !self.serves(&export) {
            return self.send(&option_reply(option, rep::ERR_UNKNOWN, &[]));
        }
        let listing = option == opt::LIST_META_CONTEXT;
        let matches = |query: &String| query == CONTEXT || (listing && query == "base:");
        let found = queries.iter().any(matches) || (listing && queries.is_empty());
        if found {
            let context = Fields::default().u32(CONTEXT_ID).bytes(CONTEXT.as_bytes());
            self.send(&option_reply(option, rep::META_CONTEXT, &context.0))?;
        }
        if !listing {
            self.context_of = found.then_some(export);
        }
        self.send(&option_reply(option, rep::ACK, &[]))
    }

    fn go(&mut self, option: u32, data: &[u8], oversize: bool) -> io::Result<Next> {
        let parse = || {
            let mut parse = Parse(data);
            let export = parse.string()?;
            let count = parse.u16()?;
            let wanted: Option<Vec<u16>> = (0..count).map(|_| parse.u16()).collect();
            Some((export, wanted?)).filter(|_| parse.0.is_empty())
        };
        let Some((export, wanted)) = parse() else {
            self.violation("malformed GO or INFO");
            self.send(&option_reply(option, rep::ERR_INVALID, &[]))?;
            return Ok(Next::Option);
        };
        if !self.serves(&export) {
            self.send(&option_reply(option, rep::ERR_UNKNOWN, &[]))?;
            return Ok(Next::Option);
        }
        let (minimum, preferred, maximum) = self.shared.config.block;
        if minimum > 1 && !wanted.contains(&info::BLOCK_SIZE) {
            self.send(&option_reply(option, rep::ERR_BLOCK_SIZE_REQD, &[]))?;
            return Ok(Next::Option);
        }
        let size = if oversize { u64::MAX } else { self.size() };
        let export_info =
            Fields::default().u16(info::EXPORT).u64(size).u16(self.shared.config.flags);
        self.send(&option_reply(option, rep::INFO, &export_info.0))?;
        if wanted.contains(&info::BLOCK_SIZE) {
            let block =
                Fields::default().u16(info::BLOCK_SIZE).u32(minimum).u32(preferred).u32(maximum);
            self.send(&option_reply(option, rep::INFO, &block.0))?;
        }
        self.send(&option_reply(option, rep::ACK, &[]))?;
        if option == opt::INFO {
            return Ok(Next::Option);
        }
        if self.context_of.as_ref().is_some_and(|name| *name != export) {
            self.violation("meta contexts of another export than GO");
            self.context_of = None;
        }
        Ok(Next::Transmission)
    }

    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let name = String::from_utf8_lossy(data);
        if !self.serves(&name) {
            return Ok(Next::Closed);
        }
        let flags = self.shared.config.flags;
        let mut reply = Fields::default().u64(self.size()).u16(flags).0;
        if !self.no_zeroes {
            reply.extend([0; 124]);
        }
        self.send(&reply)?;
        Ok(Next::Transmission)
    }

    fn serves(&self, export: &str) -> bool {
        self.shared.config.export.as_ref().is_none_or(|name| name == export)
    }

    fn size(&self) -> u64 {
        self.shared.world().image.size
    }

    fn park(&self, time: Duration) -> io::Result<()> {
        self.shared.park(self.id, time)
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let header = Fields::default().u64(wire::OPTION_REPLY).u32(option).u32(kind);
    header.u32(length_of(data)).bytes(data).0
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("an option reply is short")
}
