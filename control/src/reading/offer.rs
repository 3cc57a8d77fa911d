//! Offering the disks of a point to other programs, until they are taken back.

use std::path::PathBuf;

use super::error::ReadError;
use super::lanes::Reviver;
use super::scratch::{Scratch, clean_up};
use super::settings::ReadSettings;
use crate::catalog::{DiskName, Layer, Point, PointId};
use crate::child::each;
use crate::export::{ExportAccess, ExportError, Listener};
use crate::hub::{ExportAddress, KeptExport, KeptSpec};
use crate::repository::{HeldPoint, Repository};

/// Connections that each export is made for: those of nbdcopy, four times.
const CLIENT_CONNECTIONS: u16 = 16;
/// Ports that are tried, from the first one up: as many as a hub hands out.
const PORTS: u16 = 101;

/// Where exports listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferAt {
    /// On ports of 127.0.0.1, from this one up: the next that are free.
    Ports {
        /// The first that is tried.
        first: u16,
    },
    /// On Unix sockets in this folder, which only this user can reach.
    Folder(PathBuf),
}

/// What is offered.
#[derive(Clone, Debug)]
pub struct OfferRequest {
    /// The point.
    pub point: PointId,
    /// Which disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// What may be done to them: they are read, or written for as long as they are offered.
    pub access: ExportAccess,
    /// Where.
    pub at: OfferAt,
}

/// Disks that are served while this lives. The point cannot be deleted meanwhile.
#[derive(Debug)]
pub struct Offer {
    held: HeldPoint,
    exports: Vec<KeptExport>,
    /// Behind the exports, whose sockets are in it.
    _scratch: Option<Scratch>,
}

/// One disk of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Offered {
    /// Its layer, with its name and exact size. What is served is rounded up to 512 bytes.
    pub layer: Layer,
    /// Where it is.
    pub uri: String,
    /// The qemu-nbd that serves it.
    pub pid: u32,
}

/// Serves disks of a point, each under its own name. When this returns, all of them answer.
///
/// # Errors
/// [`ReadError`]. Nothing is served then.
pub fn offer(
    repository: &Repository,
    request: &OfferRequest,
    settings: &ReadSettings,
) -> Result<Offer, ReadError> {
    let held = repository.hold_disks(request.point, &request.disks)?;
    // Others may have left something there, though nothing is needed of it now.
    clean_up(&settings.folder);
    let (listeners, scratch) = listeners(&request.at, held.layers.len())?;
    let own = held.layers.iter().zip(listeners).map(|(held, listener)| {
        let name = held.layer().disk_name.to_string();
        ExportAddress::Own { listener, name }
    });
    let own = own.collect();
    let offer = offer_at(held, own, &request.access, CLIENT_CONNECTIONS, settings)?;
    Ok(Offer { _scratch: scratch, ..offer })
}

/// Serves the disks of a point at these addresses, one for each.
pub(crate) fn offer_at(
    held: HeldPoint,
    addresses: Vec<ExportAddress>,
    access: &ExportAccess,
    connections: u16,
    settings: &ReadSettings,
) -> Result<Offer, ReadError> {
    let settings = settings.at_once(held.layers.len());
    let wanted: Vec<_> = held.layers.iter().zip(addresses).collect();
    let exports = each(&wanted, |(layer, address)| {
        let disk = &layer.layer().disk_name;
        let spec = KeptSpec {
            image: layer.image.clone(),
            address: address.clone(),
            access: access.clone(),
            connections,
        };
        KeptExport::start(spec, &settings.running, &settings.exports)
            .map_err(|error| ReadError::Export { disk: disk.clone(), error: Box::new(error) })
    })?;
    drop(wanted);
    Ok(Offer { held, exports, _scratch: None })
}

/// Listeners, and what has to stay as long as they do.
fn listeners(at: &OfferAt, wanted: usize) -> Result<(Vec<Listener>, Option<Scratch>), ReadError> {
    let failed = |error| ReadError::Listen { error: Box::new(error) };
    let first = match at {
        OfferAt::Folder(folder) => {
            let scratch = Scratch::make(folder)?;
            let unix = |_| Listener::unix(scratch.path()).map_err(failed);
            let listeners = (0..wanted).map(unix).collect::<Result<_, _>>()?;
            return Ok((listeners, Some(scratch)));
        }
        OfferAt::Ports { first } => *first,
    };
    let last = first.saturating_add(PORTS - 1);
    let mut listeners = Vec::with_capacity(wanted);
    for port in first..=last {
        if listeners.len() == wanted {
            break;
        }
        match Listener::tcp(port) {
            Ok(listener) => listeners.push(listener),
            Err(ExportError::PortInUse { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if listeners.len() < wanted {
        return Err(ReadError::NoPorts { wanted, first, last });
    }
    Ok((listeners, None))
}

impl Offer {
    /// The point.
    #[must_use]
    pub fn point(&self) -> &Point {
        &self.held.point
    }

    /// The disks, by their names.
    #[must_use]
    pub fn disks(&self) -> Vec<Offered> {
        let disks = self.held.layers.iter().zip(&self.exports);
        disks
            .map(|(held, served)| Offered {
                layer: held.layer().clone(),
                uri: served.uri().to_string(),
                pid: served.pid(),
            })
            .collect()
    }

    /// The first disk whose export is gone, and what became of it.
    #[must_use]
    pub fn lost(&self) -> Option<(DiskName, String)> {
        let mut disks = self.held.layers.iter().zip(&self.exports);
        disks.find_map(|(held, served)| Some((held.layer().disk_name.clone(), served.exited()?)))
    }

    /// Starts those anew that are gone, at their addresses.
    pub(crate) fn revive(&mut self, reviver: &mut Reviver<'_>) -> Result<(), ReadError> {
        let mut disks = self.held.layers.iter().zip(&mut self.exports);
        disks.try_for_each(|(held, served)| reviver.revive(&held.layer().disk_name, served))
    }

    /// Takes all of them back.
    ///
    /// # Errors
    /// The first export that did not end as it should. All are gone nevertheless.
    pub fn end(self) -> Result<(), ReadError> {
        let mut first = Ok(());
        for (held, served) in self.held.layers.iter().zip(self.exports) {
            let disk = held.layer().disk_name.clone();
            let ended =
                served.end().map_err(|error| ReadError::Export { disk, error: Box::new(error) });
            first = first.and(ended);
        }
        first
    }
}
