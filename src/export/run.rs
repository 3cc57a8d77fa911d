//! Serves disks until a signal comes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use blockferry_control::backup::Watch;
use blockferry_control::client::Exporting;
use blockferry_control::export::ExportAccess;
use blockferry_control::reading::{OfferAt, OfferRequest, ReadError, offer};

use super::offering::{Offering, Words};
use super::options::ExportOptions;
use super::telling::{Json, Told, uris};
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{Console, json, line};
use crate::reading::{refusal, usual_settings};
use crate::remote;

/// How often exports are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Where systems keep temporary files that may be large; the other one often is memory.
const LARGE_TEMPORARY_FILES: &str = "/var/tmp";

/// `blockferry export`.
///
/// # Errors
/// Why it could not be served, or not on.
pub(crate) fn command(options: &ExportOptions) -> anyhow::Result<Exit> {
    let (called_off, signals) = mpsc::channel();
    let console = Arc::new(Console::new(None, options.verbose));
    let says = "taking the exports back";
    interrupt::listen_and_say(Arc::clone(&console), says, move || called_off.send(()).is_ok())?;
    let mut offering = match offered(options, &console) {
        Ok(offering) => offering,
        Err(error) => {
            if options.json {
                let (exit, words) = (Exit::of_error(&error), format!("{error:#}"));
                let told = json::print(&Json::of_failure(exit, words, options.point.as_str()));
                if let Err(untold) = told {
                    line(&format!("{untold:#}"));
                }
            }
            return Err(error);
        }
    };
    tell(options, &offering.told())?;
    loop {
        match signals.recv_timeout(TICK) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        offering.look()?;
    }
    // All that was asked for is done; how a server took its end is worth a line.
    if let Err(words) = offering.end() {
        console.note(&words);
    }
    Ok(Exit::Done)
}

fn offered(options: &ExportOptions, console: &Arc<Console>) -> anyhow::Result<Offering> {
    if let Some(hub) = options.repository.remote.client()? {
        let asked = Exporting {
            point: options.point,
            repository: options.repository.name()?,
            disks: options.disk.clone(),
            writable: options.writable,
            connections: None,
            node: options.node.clone(),
        };
        let watch: Arc<dyn Watch> = Arc::new(Words(Arc::clone(console)));
        let export = hub.export(&asked, &watch).map_err(|error| remote::refusal(&error))?;
        return Ok(Offering::Hub(Box::new(export), watch));
    }
    let request = OfferRequest {
        point: options.point,
        disks: options.disk.clone(),
        access: match options.writable {
            true => ExportAccess::ThrowAway { folder: folder_for_writes() },
            false => ExportAccess::ReadOnly,
        },
        at: match &options.socket_dir {
            Some(folder) => OfferAt::Folder(folder.clone()),
            None => OfferAt::Ports { first: options.port },
        },
    };
    let repository = options.repository.open()?;
    offer(&repository, &request, &usual_settings()?)
        .map(Offering::Here)
        .map_err(|error: ReadError| refusal(&error))
}

/// `TMPDIR` if it is set: whoever sets it wants it.
fn folder_for_writes() -> PathBuf {
    let set = std::env::var_os("TMPDIR").map(PathBuf::from);
    let large = Path::new(LARGE_TEMPORARY_FILES);
    set.unwrap_or_else(|| if large.is_dir() { large.into() } else { std::env::temp_dir() })
}

/// Whoever waits for the exports reads this.
fn tell(options: &ExportOptions, told: &Told) -> anyhow::Result<()> {
    if options.json {
        return json::print(&Json::of(told));
    }
    let mut output = io::stdout().lock();
    output
        .write_all(uris(told).as_bytes())
        .and_then(|()| output.flush())
        .context("writing to standard output")
}
