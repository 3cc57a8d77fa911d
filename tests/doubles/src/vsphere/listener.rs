//! HTTP/1.1 over TLS, with connections that are kept: a thread for each.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Lines of a request and its headers, each.
const LINE_BYTES: u64 = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 100;
/// No request of the API is longer.
const BODY_BYTES: usize = 8 << 20;
/// A chunk of an answer that is sent in chunks.
const CHUNK_BYTES: usize = 4 << 10;

type Wire = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// What a client asks.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What it gets.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// In chunks rather than with a length.
    pub(crate) chunked: bool,
    /// After so many bytes of the body the connection is cut.
    pub(crate) cut: Option<usize>,
    /// Whether the connection stays when the answer is cut, until the client goes.
    pub(crate) stalled: bool,
}

impl Response {
    pub(crate) fn xml(status: u16, body: String) -> Self {
        Self::text(status, "text/xml; charset=utf-8", body)
    }

    pub(crate) fn text(status: u16, kind: &str, body: String) -> Self {
        let headers = vec![("Content-Type", kind.to_owned())];
        Self { status, headers, body: body.into_bytes(), chunked: false, cut: None, stalled: false }
    }
}

/// Answers one request.
pub(crate) type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    open: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    streams: HashMap<u64, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Listener {
    /// On a free port of 127.0.0.1, or on `port`.
    pub(crate) fn start(
        port: u16,
        config: Arc<ServerConfig>,
        answer: Arc<Answer>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let accepting = thread::Builder::new().name("vsphere".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if seen.closing.load(Ordering::SeqCst) {
                    return;
                }
                // A client that is gone again is no fault of the server's.
                let Ok(stream) = stream else { continue };
                greet(&seen, stream, &config, &answer);
            }
        })?;
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        for stream in self.shared.connections().streams.values() {
            // One that its client has closed is cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if that cannot be reached, it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the accepting thread does not panic");
        }
        self.cut();
        let threads = std::mem::take(&mut self.shared.connections().threads);
        for thread in threads {
            // What went wrong in it was printed by its panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    answer: &Arc<Answer>,
) {
    let (config, answer) = (Arc::clone(config), Arc::clone(answer));
    let mut open = shared.connections();
    let number = open.next;
    open.next += 1;
    let Ok(kept) = stream.try_clone() else { return };
    open.streams.insert(number, kept);
    let seen = Arc::clone(shared);
    let thread = thread::spawn(move || {
        // A client that goes, or breaks the rules, ends its own connection and no more.
        let _ = serve(&seen, stream, config, answer.as_ref());
        seen.connections().streams.remove(&number);
    });
    open.threads.retain(|thread| !thread.is_finished());
    open.threads.push(thread);
}

fn serve(
    shared: &Shared,
    stream: TcpStream,
    config: Arc<ServerConfig>,
    answer: &Answer,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut wire = BufReader::new(StreamOwned::new(session, stream));
    while let Some(request) = read_request(&mut wire)? {
        let response = answer(&request);
        let keep = response.cut.is_none()
            && !shared.closing.load(Ordering::SeqCst)
            && request.headers.get("connection").is_none_or(|word| word != "close");
        write_response(&mut wire, &response, keep)?;
        if !keep {
            break;
        }
    }
    let wire = wire.get_mut();
    wire.conn.send_close_notify();
    wire.flush()
}

fn read_request(wire: &mut Wire) -> io::Result<Option<Request>> {
    let Some(first) = read_line(wire)? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(invalid()) };
    let mut headers = HashMap::new();
    loop {
        let line = read_line(wire)?.ok_or_else(invalid)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(invalid)?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        if headers.len() > HEADERS {
            return Err(invalid());
        }
    }
    let length = headers.get("content-length").map_or(Ok(0), |text| text.parse::<usize>());
    let length = length.map_err(|_| invalid())?;
    if length > BODY_BYTES || headers.contains_key("transfer-encoding") {
        return Err(invalid());
    }
    let mut body = vec![0; length];
    wire.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, body }))
}

fn read_line(wire: &mut Wire) -> io::Result<Option<String>> {
    let mut line = String::new();
    if wire.take(LINE_BYTES).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(invalid()),
    }
}

fn write_response(wire: &mut Wire, response: &Response, keep: bool) -> io::Result<()> {
    let reason = if response.status < 400 { "OK" } else { "Error" };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if response.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else {
        head.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    if !keep && response.cut.is_none() {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let sent = response.cut.unwrap_or(response.body.len()).min(response.body.len());
    let mut all = head.into_bytes();
    if response.chunked {
        for chunk in response.body[..sent].chunks(CHUNK_BYTES) {
            all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            all.extend_from_slice(chunk);
            all.extend_from_slice(b"\r\n");
        }
        if response.cut.is_none() {
            all.extend_from_slice(b"0\r\n\r\n");
        }
    } else {
        all.extend_from_slice(&response.body[..sent]);
    }
    let stream = wire.get_mut();
    stream.write_all(&all)?;
    stream.flush()?;
    if response.stalled {
        io::copy(&mut stream.sock, &mut io::sink())?;
    }
    if response.cut.is_some() {
        // Without the goodbye of TLS, as a network does it.
        stream.sock.shutdown(Shutdown::Both)?;
    }
    Ok(())
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
