//! Real servers on Unix sockets, and a small blocking client that drives the codec over them.
//! Each wait has a deadline; servers are killed and folders removed when their owner is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::{
    ClientWishes, Command, CommandFlags, Extent, Handshake, HandshakeError, HandshakeStatus,
    MAX_REQUEST_LEN, NbdError, Reply, ReplyReader, Request, Session, Tls,
};

/// No server takes this long for anything here.
const DEADLINE: Duration = Duration::from_secs(10);

/// A folder of its own, removed with what is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bf-nbd-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A raw image of `length` bytes with nothing in it.
    pub(crate) fn raw_image(&self, length: u64) -> PathBuf {
        let path = self.path("disk.raw");
        fs::File::create(&path).unwrap().set_len(length).unwrap();
        path
    }

    pub(crate) fn qemu_img(&self, arguments: &[&str]) {
        let done = Process::new("qemu-img").args(arguments).current_dir(&self.0).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// nbdkit with the arguments that name filters, plugin and parameters.
    pub(crate) fn nbdkit(folder: &Folder, arguments: &[&str]) -> Self {
        let socket = folder.path("nbdkit.sock");
        // One thread: nbdkit before 1.34 may abort when a client hangs up with requests in flight.
        let mut process = Process::new("nbdkit");
        process.args(["-f", "--threads=1", "-U"]).arg(&socket).args(arguments);
        Self::start(process, socket)
    }

    /// qemu-nbd with the arguments that name options and image.
    pub(crate) fn qemu_nbd(folder: &Folder, arguments: &[&str], image: &Path) -> Self {
        let socket = folder.path("qemu-nbd.sock");
        let mut process = Process::new("qemu-nbd");
        process.args(["-t", "--shared=8", "-k"]).arg(&socket).args(arguments).arg(image);
        Self::start(process, socket)
    }

    fn start(mut process: Process, socket: PathBuf) -> Self {
        let child =
            process.stdin(Stdio::null()).spawn().expect("nbdkit and qemu-nbd are installed");
        let server = Self { child, socket };
        let start = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            assert!(start.elapsed() < DEADLINE, "the server does not listen");
            sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub(crate) fn open(&self, wishes: ClientWishes) -> Result<Client, HandshakeError> {
        let mut stream = self.connect();
        match shake_hands(&mut stream, Handshake::open(wishes))? {
            HandshakeStatus::Ready(session) => Ok(Client::new(stream, session)),
            other => panic!("{other:?}"),
        }
    }

    /// Asks the server to end, and waits until it has: an image is complete only then.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").arg(&pid).status().unwrap().success());
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < DEADLINE, "the server does not end");
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Carries a handshake to its end.
pub(crate) fn shake_hands(
    stream: &mut UnixStream,
    mut handshake: Handshake,
) -> Result<HandshakeStatus, HandshakeError> {
    let mut output = Vec::new();
    let mut input = [0; 256];
    let mut length = 0;
    loop {
        let advance = handshake.advance(&input[..length], &mut output)?;
        assert_eq!(advance.consumed, length, "no server speaks before it is asked");
        stream.write_all(&output).unwrap();
        output.clear();
        match advance.status {
            HandshakeStatus::NeedInput => {}
            end => return Ok(end),
        }
        length = stream.read(&mut input).unwrap_or_else(|error| {
            panic!("{} did not come: {error}", handshake.waiting_for());
        });
        if length == 0 {
            return Err(handshake.disconnected());
        }
    }
}

/// Wishes for all that the codec can do.
pub(crate) fn wishes(export: &str) -> ClientWishes {
    ClientWishes {
        export: export.to_owned(),
        tls: Tls::Never,
        extended_headers: true,
        structured_replies: true,
        contexts: vec!["base:allocation".to_owned()],
    }
}

/// What came in reply to one request.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Data where they were sent, zeroes where holes were, 0xee where nothing was.
    pub(crate) content: Vec<u8>,
    pub(crate) data_chunks: usize,
    pub(crate) holes: usize,
    pub(crate) extents: BTreeMap<u32, Vec<Extent>>,
    pub(crate) error: Option<NbdError>,
    pub(crate) message: String,
}

/// A connection with one request in flight.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) session: Session,
    pub(crate) reader: ReplyReader,
    cookie: u64,
}

impl Client {
    fn new(stream: UnixStream, session: Session) -> Self {
        let reader = ReplyReader::new(session.mode);
        Self { stream, session, reader, cookie: 0x1000 }
    }

    /// Sends a request, and its payload if it is a write; returns its cookie.
    pub(crate) fn send(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> u64 {
        self.cookie += 1;
        let request = Request { command, flags, cookie: self.cookie, offset, length };
        let mut head = [0; MAX_REQUEST_LEN];
        let head_len = request.encode(self.session.mode, &mut head);
        self.stream.write_all(&head[..head_len]).unwrap();
        self.stream.write_all(payload).unwrap();
        self.cookie
    }

    pub(crate) fn request(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u64,
    ) -> Outcome {
        let sent = self.send(command, flags, offset, length, &[]);
        let read_len = if command == Command::Read { usize::try_from(length).unwrap() } else { 0 };
        self.outcome(sent, offset, read_len)
    }

    pub(crate) fn write(&mut self, flags: CommandFlags, offset: u64, payload: &[u8]) -> Outcome {
        let length = u64::try_from(payload.len()).unwrap();
        let sent = self.send(Command::Write, flags, offset, length, payload);
        self.outcome(sent, offset, 0)
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Outcome {
        self.request(Command::Read, CommandFlags::NONE, offset, length)
    }

    /// Receives until the request is over.
    fn outcome(&mut self, sent: u64, start: u64, read_len: usize) -> Outcome {
        let mut outcome = Outcome { content: vec![0xee; read_len], ..Outcome::default() };
        let Self { stream, reader, .. } = self;
        loop {
            let place = |offset: u64, length: u32| {
                let from = usize::try_from(offset - start).unwrap();
                from..from + usize::try_from(length).unwrap()
            };
            let Some(reply) = reader.next().unwrap() else {
                let count = stream.read(reader.free()).unwrap();
                assert!(count > 0, "the server closed the connection");
                reader.filled(count);
                continue;
            };
            let (cookie, done) = match reply {
                Reply::Data { cookie, offset, length, done } => {
                    stream.read_exact(&mut outcome.content[place(offset, length)]).unwrap();
                    reader.payload_taken();
                    outcome.data_chunks += 1;
                    (cookie, done)
                }
                Reply::Hole { cookie, offset, length, done } => {
                    outcome.content[place(offset, length)].fill(0);
                    outcome.holes += 1;
                    (cookie, done)
                }
                Reply::Status { cookie, context, extents, done } => {
                    outcome.extents.insert(context, extents.collect());
                    (cookie, done)
                }
                Reply::Error { cookie, error, message, done, .. } => {
                    outcome.error = Some(error);
                    outcome.message = message.to_owned();
                    (cookie, done)
                }
                Reply::Done { cookie } => (cookie, true),
                Reply::Simple { cookie, error } => {
                    if error.is_none() {
                        stream.read_exact(&mut outcome.content).unwrap();
                        reader.payload_taken();
                    }
                    outcome.error = error;
                    (cookie, true)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(cookie, sent);
            if done {
                return outcome;
            }
        }
    }

    /// Takes leave, and checks that the server closes.
    pub(crate) fn disconnect(mut self) {
        self.send(Command::Disconnect, CommandFlags::NONE, 0, 0, &[]);
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }
}
