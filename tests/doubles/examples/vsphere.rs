//! A vCenter with VMs, until SIGTERM: `vsphere --state DIR --vm web:root=64M,data=32M --guest 5`.
//! Prints where it listens and what its certificate is, as one line of JSON.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use blockferry_doubles::vddk::plugin;
use blockferry_doubles::vsphere::{Guest, NewMachine, VirtualMachine, Vsphere};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const USAGE: &str = "\
usage: vsphere --state DIR [--vm NAME:DISK=SIZE|FILE[,DISK=...]]... [options]
  --state DIR        disks, vddk.json (give it to VDDK's plugin as libdir=DIR) and ca.pem
  --vm NAME:...      a VM that runs, with disks; sizes with K, M, G or T, or else the path of a file
                     that has what is on the disk at first
  --off NAME         this VM is powered off
  --tracked          changed block tracking is effective from the start
  --user USER:PASS   who may log in (backup:secret)
  --guest MS         a guest in each running VM writes a counter to all of its disks, with this pause
  --keep-copies DIR  copies of removed snapshots go here: VM-SNAPSHOT-KEY.raw
  --esxi             one host rather than a vCenter
  --drawn SEED       prefixes and the order of attributes are drawn
  --port PORT        of 127.0.0.1";

#[derive(Default)]
struct Words {
    state: PathBuf,
    machines: Vec<NewMachine>,
    names: Vec<String>,
    /// What is on the disks of each VM at first.
    content: Vec<Vec<Option<PathBuf>>>,
    off: Vec<String>,
    tracked: bool,
    users: Vec<(String, String)>,
    guest: Option<Duration>,
    kept: Option<PathBuf>,
    esxi: bool,
    drawn: Option<u64>,
    port: u16,
}

fn main() -> ExitCode {
    let Some(words) = parsed(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match serve(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(words: &Words) -> io::Result<()> {
    // From here on a signal waits for the loop below.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let vsphere = order(words).start(&words.state)?;
    let mut guests = Vec::new();
    let mut machines = serde_json::Map::new();
    for (name, content) in words.names.iter().zip(&words.content) {
        let machine = vsphere.machine_named(name).ok_or(io::ErrorKind::NotFound)?;
        fill(&machine, content)?;
        machines.insert(name.clone(), machine.id().into());
        if let Some(pace) = words.guest.filter(|_| !words.off.contains(name)) {
            guests.push(Guest::start(&machine, pace)?);
        }
    }
    let line = serde_json::json!({
        "url": vsphere.url(),
        "thumbprint": vsphere.thumbprint(),
        "thumbprint_sha256": vsphere.thumbprint_sha256(),
        "certificate": vsphere.state().join("ca.pem"),
        "plugin": plugin(),
        "vms": machines,
    });
    println!("{line}");
    io::stdout().flush()?;
    signals.forever().next();
    for guest in guests {
        guest.stop()?;
    }
    Ok(())
}

fn order(words: &Words) -> blockferry_doubles::vsphere::VsphereBuilder {
    let mut builder = Vsphere::builder().port(words.port);
    if words.esxi {
        builder = builder.esxi();
    }
    if let Some(seed) = words.drawn {
        builder = builder.seed(seed).drawn_spelling();
    }
    if let Some(folder) = &words.kept {
        builder = builder.keep_copies(folder);
    }
    for (user, password) in &words.users {
        builder = builder.user(user, password);
    }
    if words.users.is_empty() {
        builder = builder.user("backup", "secret");
    }
    for (machine, name) in words.machines.iter().zip(&words.names) {
        let mut machine = machine.clone();
        if words.off.contains(name) {
            machine = machine.powered_off();
        }
        if words.tracked {
            machine = machine.tracked();
        }
        builder = builder.machine(machine);
    }
    builder
}

fn parsed(mut args: impl Iterator<Item = String>) -> Option<Words> {
    let mut words = Words::default();
    while let Some(word) = args.next() {
        match word.as_str() {
            "--esxi" => words.esxi = true,
            "--tracked" => words.tracked = true,
            "--state" => words.state = args.next()?.into(),
            "--off" => words.off.push(args.next()?),
            "--keep-copies" => words.kept = Some(args.next()?.into()),
            "--drawn" => words.drawn = Some(args.next()?.parse().ok()?),
            "--port" => words.port = args.next()?.parse().ok()?,
            "--guest" => {
                words.guest = Some(Duration::from_millis(args.next()?.parse().ok()?));
            }
            "--user" => {
                let both = args.next()?;
                let (user, password) = both.split_once(':')?;
                words.users.push((user.to_owned(), password.to_owned()));
            }
            "--vm" => {
                let both = args.next()?;
                let (name, disks) = both.split_once(':')?;
                words.names.push(name.to_owned());
                let (machine, content) = machine(name, disks)?;
                words.machines.push(machine);
                words.content.push(content);
            }
            _ => return None,
        }
    }
    (!words.state.as_os_str().is_empty()).then_some(words)
}

fn machine(name: &str, disks: &str) -> Option<(NewMachine, Vec<Option<PathBuf>>)> {
    let mut machine = NewMachine::new(name);
    let mut content = Vec::new();
    for disk in disks.split(',') {
        let what = disk.split_once('=')?.1;
        let file = size(what).is_none().then(|| PathBuf::from(what));
        let size = match &file {
            Some(file) => file.metadata().ok()?.len(),
            None => size(what)?,
        };
        machine = machine.disk(size);
        content.push(file);
    }
    Some((machine, content))
}

/// Writes to the disks of a VM what they have at first.
fn fill(machine: &VirtualMachine, content: &[Option<PathBuf>]) -> io::Result<()> {
    let mut block = vec![0; 1 << 20];
    for (key, file) in machine.disks()?.into_keys().zip(content) {
        let Some(file) = file else { continue };
        let mut file = File::open(file)?;
        let mut offset = 0;
        loop {
            let length = file.read(&mut block)?;
            if length == 0 {
                break;
            }
            // Holes stay holes.
            if block[..length].iter().any(|byte| *byte != 0) {
                machine.write(key, offset, &block[..length])?;
            }
            offset += length as u64;
        }
    }
    Ok(())
}

fn size(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return text.parse().ok(),
    };
    Some(text[..text.len() - 1].parse::<u64>().ok()? << shift)
}
