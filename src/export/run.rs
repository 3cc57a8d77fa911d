//! Serves disks until a signal comes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use blockferry_control::export::ExportAccess;
use blockferry_control::reading::{Offer, OfferAt, OfferRequest, ReadError, ReadSettings, offer};

use super::options::ExportOptions;
use super::telling::{Json, uris};
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, json, line};
use crate::reading::refusal;

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
    let offer = match offered(options) {
        Ok(offer) => offer,
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
    tell(options, &offer)?;
    loop {
        match signals.recv_timeout(TICK) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((disk, exited)) = offer.lost() {
            let said = format!("disk {disk} is served no more, for {exited}");
            return Err(Refusal::of(Exit::Source, said));
        }
    }
    // All that was asked for is done; how a server took its end is worth a line.
    if let Err(error) = offer.end() {
        console.note(&error.to_string());
    }
    Ok(Exit::Done)
}

fn offered(options: &ExportOptions) -> anyhow::Result<Offer> {
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
    offer(&repository, &request, &ReadSettings::default())
        .map_err(|error: ReadError| refusal(&error))
}

/// `TMPDIR` if it is set: whoever sets it wants it.
fn folder_for_writes() -> PathBuf {
    let set = std::env::var_os("TMPDIR").map(PathBuf::from);
    let large = Path::new(LARGE_TEMPORARY_FILES);
    set.unwrap_or_else(|| if large.is_dir() { large.into() } else { std::env::temp_dir() })
}

/// Whoever waits for the exports reads this.
fn tell(options: &ExportOptions, offer: &Offer) -> anyhow::Result<()> {
    let disks = offer.disks();
    if options.json {
        return json::print(&Json::of(offer.point(), &disks));
    }
    let mut output = io::stdout().lock();
    output
        .write_all(uris(&disks).as_bytes())
        .and_then(|()| output.flush())
        .context("writing to standard output")
}
