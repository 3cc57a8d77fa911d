//! Disks that are served for us: here, or by a hub.

use std::sync::Arc;

use blockferry_control::backup::Watch;
use blockferry_control::client::HubExport;
use blockferry_control::reading::Offer;

use super::telling::{Served, Told};
use crate::exit::{Exit, Refusal};
use crate::output::Console;
use crate::remote;

/// What is served, whoever does it.
pub(super) enum Offering {
    /// By this process.
    Here(Offer),
    /// By a hub. Boxed: it is many times as large as the other.
    Hub(Box<HubExport>, Arc<dyn Watch>),
}

/// Tells on a console what a hub says meanwhile.
pub(super) struct Words(pub(super) Arc<Console>);

impl Watch for Words {
    fn note(&self, text: &str) {
        self.0.note(text);
    }

    fn detail(&self, text: &str) {
        self.0.detail(text);
    }
}

impl Offering {
    /// What there is.
    pub(super) fn told(&self) -> Told {
        match self {
            Self::Here(offer) => Told {
                point: offer.point().id.to_string(),
                vm: offer.point().vm.to_string(),
                exports: offer.disks().iter().map(Served::from).collect(),
            },
            Self::Hub(export, _) => Told {
                point: export.served().point.clone(),
                vm: export.served().vm.clone(),
                exports: export.served().disks.iter().map(Served::from).collect(),
            },
        }
    }

    /// Looks whether all of it still is served.
    ///
    /// # Errors
    /// What became of it.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Here(offer) => match offer.lost() {
                None => Ok(()),
                Some((disk, exited)) => {
                    let said = format!("disk {disk} is served no more, for {exited}");
                    Err(Refusal::of(Exit::Source, said))
                }
            },
            Self::Hub(export, watch) => export.look(watch).map_err(|error| remote::refusal(&error)),
        }
    }

    /// Takes it back.
    ///
    /// # Errors
    /// What did not end as it should, in words.
    pub(super) fn end(self) -> Result<(), String> {
        match self {
            Self::Here(offer) => offer.end().map_err(|error| error.to_string()),
            Self::Hub(export, watch) => export.end(&watch).map_err(|error| error.to_string()),
        }
    }
}
