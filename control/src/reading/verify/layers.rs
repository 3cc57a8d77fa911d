//! The layers of a chain, one by one: files, tables, parents, manifests.

use std::fs;

use super::Run;
use super::report::DamageKind;
use crate::catalog::Layer;
use crate::image::{CheckVerdict, Image};
use crate::reading::error::ReadError;
use crate::repository::{HeldLayer, RepositoryError};

impl Run<'_> {
    /// Checks the layers of a chain that were not met before. Returns whether the uppermost one can
    /// be opened.
    pub(super) fn chain(&mut self, held: &HeldLayer) -> Result<bool, ReadError> {
        let mut below: Option<&Layer> = None;
        let mut opens = true;
        for layer in held.chain.iter().rev() {
            if self.cancellation.is_cancelled() {
                return Err(ReadError::Cancelled);
            }
            opens = match self.ledger.opens(layer) {
                Some(known) => known,
                None => {
                    let found = self.image(layer, below, opens)?;
                    self.manifest(layer)?;
                    self.ledger.note_opens(layer, found);
                    found
                }
            };
            below = Some(layer);
        }
        Ok(opens)
    }

    /// Checks an image. One that stands on another that cannot be opened is only looked for: qemu
    /// opens all below it too.
    fn image(
        &mut self,
        layer: &Layer,
        below: Option<&Layer>,
        below_opens: bool,
    ) -> Result<bool, ReadError> {
        let facts = &layer.facts;
        let path = facts.path.under(self.repository.root());
        if !path.is_file() {
            self.damage(layer, DamageKind::ImageMissing)?;
            return Ok(false);
        }
        if let Some(why) = self.repository.wrong_length(layer) {
            self.damage(layer, DamageKind::ImageUnfit(why))?;
        }
        if !below_opens {
            return Ok(false);
        }
        let checked = Image::at(&path, self.settings.image_tool.clone())
            .and_then(|image| Ok((image.info()?, image.check()?)));
        let (info, report) = match checked {
            Ok(checked) => checked,
            Err(error) if error.is_of_image() => {
                self.damage(layer, DamageKind::ImageUnfit(error.to_string()))?;
                return Ok(false);
            }
            // It says nothing about the image.
            Err(error) => {
                return Err(ReadError::Image {
                    disk: layer.disk_name.clone(),
                    error: Box::new(error),
                });
            }
        };
        match report.verdict {
            CheckVerdict::Clean | CheckVerdict::Leaks { .. } => {}
            CheckVerdict::Corrupt { corruptions: faults, .. }
            | CheckVerdict::Incomplete { errors: faults } => {
                self.damage(layer, DamageKind::ImageCorrupt { faults })?;
            }
        }
        if !info.is_of(facts.size_bytes) {
            let (has, size) = (info.virtual_bytes, facts.size_bytes);
            let why = format!("it has {has} bytes, and the disk {size}");
            self.damage(layer, DamageKind::ImageUnfit(why))?;
        }
        let parent = below.map(|below| below.facts.path.under(self.repository.root()));
        let same = match (&parent, &info.full_backing_file) {
            (None, None) => true,
            (Some(parent), Some(named)) => {
                fs::canonicalize(parent).ok() == fs::canonicalize(named).ok()
            }
            _ => false,
        };
        if !same {
            let named = info.backing_file.map(|file| file.display().to_string());
            let named = named.unwrap_or_else(|| "nothing".into());
            let parent = parent.map(|parent| parent.display().to_string());
            let parent = parent.unwrap_or_else(|| "nothing".into());
            let why = format!("it stands on {named}, and should on {parent}");
            self.damage(layer, DamageKind::ImageUnfit(why))?;
        }
        Ok(true)
    }

    fn manifest(&mut self, layer: &Layer) -> Result<(), ReadError> {
        match self.repository.manifest(layer) {
            Ok(_as_published) => Ok(()),
            Err(RepositoryError::NoDigests { layer, why, .. }) => self.lacks_digests(&layer, why),
            Err(error) => Err(error.into()),
        }
    }

    /// The digests of a layer are of no use.
    pub(super) fn lacks_digests(&mut self, layer: &Layer, why: String) -> Result<(), ReadError> {
        let manifest = layer.facts.manifest.as_ref();
        let path = manifest.map_or(&layer.facts.path, |manifest| &manifest.path).clone();
        Ok(self.ledger.note(layer, path, DamageKind::NoDigests(why))?)
    }

    /// Something is wrong with the image of a layer.
    pub(super) fn damage(&mut self, layer: &Layer, kind: DamageKind) -> Result<(), ReadError> {
        Ok(self.ledger.note(layer, layer.facts.path.clone(), kind)?)
    }
}
