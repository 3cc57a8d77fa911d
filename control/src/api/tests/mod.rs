//! The API over real sockets.

mod answers;
mod load;
mod ports;
mod processes;
mod reading;
mod timing;
mod tokens;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use blockferry_doubles::{HttpAnswer, HttpClient, PortBlock};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::hub::{Hub, HubSettings, Tokens};

const ALLOCATE: &str = "/api/v1/nbd/ports/allocate";

/// A hub that is served, with a token.
struct Place {
    folder: TempDir,
    hub: Arc<Hub>,
    address: SocketAddr,
    token: String,
    ports: RangeInclusive<u16>,
    log: Arc<Mutex<Vec<String>>>,
    stopper: Stopper,
    serving: Option<JoinHandle<()>>,
    _block: PortBlock,
}

impl Place {
    fn new() -> Self {
        Self::with_ports(8)
    }

    fn with_ports(count: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let block = PortBlock::take();
        let ports = block.first(count);
        let settings = HubSettings { ports: ports.clone(), ..HubSettings::on(folder.path()) };
        let hub = Arc::new(Hub::open(&settings).unwrap().0);
        let token = Tokens::of(folder.path()).add().unwrap().secret;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let log_to = Log::to(move |line| lines.lock().unwrap().push(line.to_owned()));
        let api = ApiSettings { log: log_to, log_requests: true, local_sources: false };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, Arc::clone(&hub), None, None, None, api).unwrap();
        let (address, stopper) = (server.address().unwrap(), server.stopper());
        let serving = Some(thread::spawn(move || server.run().unwrap()));
        Self { folder, hub, address, token, ports, log, stopper, serving, _block: block }
    }

    /// Somebody without a token.
    fn stranger(&self) -> HttpClient {
        HttpClient::connect(self.address).unwrap()
    }

    fn client(&self) -> HttpClient {
        self.stranger().with_token(&self.token)
    }

    fn get(&self, path: &str) -> HttpAnswer {
        self.client().ask("GET", path, None).unwrap()
    }

    fn delete(&self, path: &str) -> HttpAnswer {
        self.client().ask("DELETE", path, None).unwrap()
    }

    fn allocate(&self, job: &str, vm: &str, disk: &str) -> HttpAnswer {
        let body = json!({ "job_id": job, "vm": vm, "disk": disk }).to_string();
        self.client().ask("POST", ALLOCATE, Some(&body)).unwrap()
    }

    /// A port, leased.
    fn port(&self, job: &str, vm: &str, disk: &str) -> u16 {
        let answer = self.allocate(job, vm, disk);
        assert_eq!(answer.status, 200, "{}", answer.body);
        u16::try_from(value(&answer)["port"].as_u64().unwrap()).unwrap()
    }

    fn first(&self) -> u16 {
        *self.ports.start()
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap();
        }
    }
}

fn value(answer: &HttpAnswer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

/// Checks that it is an error as all are, and gives its code.
fn code(answer: &HttpAnswer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let value = value(answer);
    let error = value["error"].as_object().unwrap();
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    assert!(!text("message").is_empty() && !text("hint").is_empty(), "{}", answer.body);
    assert_eq!((error.len(), value.as_object().unwrap().len()), (3, 1), "{}", answer.body);
    text("code")
}

fn refused(answer: &HttpAnswer, status: u16, expected: &str) {
    assert_eq!((answer.status, code(answer).as_str()), (status, expected), "{}", answer.body);
}
