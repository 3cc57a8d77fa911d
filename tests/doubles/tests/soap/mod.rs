//! A client of SOAP that sends what it is told to, and looks at answers as text.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use blockferry_doubles::Vsphere;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
pub(crate) struct Soap {
    wire: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    cookie: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// What is in the first element of this name, attributes or not.
    pub(crate) fn inside(&self, name: &str) -> Option<&str> {
        inside(&self.body, name).map(|(found, _)| found)
    }

    /// What is in all elements of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let mut rest = self.body.as_str();
        let mut all = Vec::new();
        while let Some((found, behind)) = inside(rest, name) {
            all.push(found);
            rest = behind;
        }
        all
    }

    /// The type of the fault that it is.
    pub(crate) fn fault(&self) -> Option<&str> {
        let detail = self.inside("detail")?;
        let name = detail.trim_start_matches('<').split([' ', '>']).next()?;
        name.strip_suffix("Fault")
    }
}

fn inside<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let opening = format!("<{name}");
    let mut from = 0;
    loop {
        let at = from + text[from..].find(&opening)? + opening.len();
        if text[at..].starts_with(['>', ' ']) {
            let start = at + text[at..].find('>')? + 1;
            let closing = format!("</{name}>");
            let end = start + text[start..].find(&closing)?;
            return Some((&text[start..end], &text[end + closing.len()..]));
        }
        from = at;
    }
}

impl Soap {
    pub(crate) fn connect(vsphere: &Vsphere) -> Self {
        Self::connect_to(vsphere.address(), vsphere.certificate_pem())
    }

    pub(crate) fn connect_to(address: SocketAddr, pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        Self { wire: BufReader::new(StreamOwned::new(session, stream)), cookie: None }
    }

    /// Connects and logs in as `backup` with `secret`.
    pub(crate) fn login(vsphere: &Vsphere) -> Self {
        let mut soap = Self::connect(vsphere);
        let manager = soap.session_manager();
        let answer = soap.call(
            "Login",
            ("SessionManager", &manager),
            "<userName>backup</userName><password>secret</password>",
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        soap
    }

    fn session_manager(&mut self) -> String {
        let answer =
            self.call("RetrieveServiceContent", ("ServiceInstance", "ServiceInstance"), "");
        answer.inside("sessionManager").unwrap().to_owned()
    }

    pub(crate) fn call(&mut self, method: &str, this: (&str, &str), inside: &str) -> Answer {
        self.try_call(method, this, inside).unwrap()
    }

    /// One call; an error where the connection ends before the answer does.
    pub(crate) fn try_call(
        &mut self,
        method: &str,
        (kind, id): (&str, &str),
        inside: &str,
    ) -> io::Result<Answer> {
        let body = format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><s:Body>\
             <{method} xmlns=\"urn:vim25\"><_this type=\"{kind}\">{id}</_this>{inside}</{method}>\
             </s:Body></s:Envelope>"
        );
        let cookie = self.cookie.as_ref().map(|it| format!("Cookie: {it}\r\n")).unwrap_or_default();
        let head = format!(
            "POST /sdk HTTP/1.1\r\nHost: vsphere\r\nSOAPAction: \"urn:vim25/8.0.2.0\"\r\n{cookie}\
             Content-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let wire = self.wire.get_mut();
        wire.write_all(head.as_bytes())?;
        wire.write_all(body.as_bytes())?;
        wire.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "transfer-encoding" => chunked = true,
                "set-cookie" => {
                    self.cookie = Some(value.split(';').next().unwrap().to_owned());
                }
                _ => {}
            }
        }
        let mut body = Vec::new();
        while chunked {
            let line = self.line()?;
            let mut chunk = vec![0; usize::from_str_radix(&line, 16).unwrap()];
            self.wire.read_exact(&mut chunk)?;
            self.line()?;
            chunked = !chunk.is_empty();
            body.extend(chunk);
        }
        if body.is_empty() {
            body = vec![0; length];
            self.wire.read_exact(&mut body)?;
        }
        Ok(Answer { status, body: String::from_utf8(body).unwrap() })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.wire.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// One property of one object, as the text of its value.
    pub(crate) fn property(&mut self, of: (&str, &str), path: &str) -> Answer {
        let (kind, id) = of;
        let spec = format!(
            "<specSet><propSet><type>{kind}</type><pathSet>{path}</pathSet></propSet>\
             <objectSet><obj type=\"{kind}\">{id}</obj></objectSet></specSet><options/>"
        );
        self.call("RetrievePropertiesEx", ("PropertyCollector", "propertyCollector"), &spec)
    }

    /// Starts a task; returns its id.
    pub(crate) fn task(&mut self, method: &str, this: (&str, &str), inside: &str) -> String {
        let answer = self.call(method, this, inside);
        answer.inside("returnval").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    }

    /// Waits for a task's end; returns its info.
    pub(crate) fn wait(&mut self, vsphere: &Vsphere, task: &str) -> Answer {
        let ended = |vsphere: &Vsphere| {
            vsphere.tasks().iter().any(|run| run.id == task && run.ended.is_some())
        };
        assert!(vsphere.wait_until(PATIENCE, ended), "{task} does not end");
        self.property(("Task", task), "info")
    }

    /// Makes a snapshot; returns its id.
    pub(crate) fn snapshot(&mut self, vsphere: &Vsphere, machine: &str) -> String {
        let inside = "<name>n</name><memory>false</memory><quiesce>false</quiesce>";
        let task = self.task("CreateSnapshot_Task", ("VirtualMachine", machine), inside);
        let info = self.wait(vsphere, &task);
        info.inside("result").unwrap_or_else(|| panic!("{info:?}")).to_owned()
    }

    pub(crate) fn remove(&mut self, vsphere: &Vsphere, snapshot: &str) {
        let this = ("VirtualMachineSnapshot", snapshot);
        let inside = "<removeChildren>false</removeChildren>";
        let task = self.task("RemoveSnapshot_Task", this, inside);
        let info = self.wait(vsphere, &task);
        assert_eq!(info.inside("state"), Some("success"), "{info:?}");
    }

    /// One page of changed areas.
    pub(crate) fn page(
        &mut self,
        machine: &str,
        snapshot: &str,
        key: i32,
        start: u64,
        change_id: &str,
    ) -> Answer {
        let inside = format!(
            "<snapshot type=\"VirtualMachineSnapshot\">{snapshot}</snapshot>\
             <deviceKey>{key}</deviceKey><startOffset>{start}</startOffset>\
             <changeId>{change_id}</changeId>"
        );
        self.call("QueryChangedDiskAreas", ("VirtualMachine", machine), &inside)
    }

    /// All changed areas, or the fault that the first page is.
    pub(crate) fn areas(
        &mut self,
        machine: &str,
        snapshot: &str,
        key: i32,
        capacity: u64,
        change_id: &str,
    ) -> Result<Vec<(u64, u64)>, String> {
        let (mut start, mut areas) = (0, Vec::new());
        while start < capacity {
            let page = self.page(machine, snapshot, key, start, change_id);
            if let Some(fault) = page.fault() {
                return Err(fault.to_owned());
            }
            let (length, listed) = areas_of(&page);
            areas.extend(listed);
            start += length;
        }
        Ok(areas)
    }

    /// The change ids of the disks of a snapshot, by key.
    pub(crate) fn change_ids(&mut self, snapshot: &str) -> Vec<(i32, Option<String>)> {
        let answer = self.property(("VirtualMachineSnapshot", snapshot), "config.hardware.device");
        let devices = answer.all("VirtualDevice");
        let disks = devices.iter().filter(|device| device.contains("<capacityInBytes>"));
        disks
            .map(|disk| {
                let key = inside(disk, "key").unwrap().0.parse().unwrap();
                (key, inside(disk, "changeId").map(|(id, _)| id.to_owned()))
            })
            .collect()
    }
}

/// How much a page covers, and its areas.
pub(crate) fn areas_of(page: &Answer) -> (u64, Vec<(u64, u64)>) {
    let number = |text: &str, name: &str| inside(text, name).unwrap().0.parse::<u64>().unwrap();
    let info = page.inside("returnval").unwrap();
    // The length of the page comes before the areas.
    let length = number(info, "length");
    let areas = page.all("changedArea");
    let areas = areas.iter().map(|area| (number(area, "start"), number(area, "length")));
    (length, areas.collect())
}
