//! The damage that was found, by layer.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_dataplane::plan::AreaSet;

use super::report::{Damage, DamageKind};
use crate::catalog::{CatalogError, Layer, LayerId, PointId, Points, RelativePath};
use crate::repository::Repository;

/// What is known of layers. The same layer is met in many points.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    repository: &'a Repository,
    /// Layers that were checked, and whether they can be opened with all below them.
    opens: BTreeMap<LayerId, bool>,
    damage: Vec<Damage>,
    content: BTreeMap<LayerId, (Layer, AreaSet)>,
    /// Layers that were marked as damaged, and that were read through to the end.
    read: BTreeSet<LayerId>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self {
            repository,
            opens: BTreeMap::new(),
            damage: Vec::new(),
            content: BTreeMap::new(),
            read: BTreeSet::new(),
        }
    }

    /// Whether a layer can be opened, if it was checked before.
    pub(super) fn opens(&self, layer: &Layer) -> Option<bool> {
        self.opens.get(&layer.facts.id).copied()
    }

    pub(super) fn note_opens(&mut self, layer: &Layer, opens: bool) {
        self.opens.insert(layer.facts.id, opens);
    }

    /// Something is wrong with a file of a layer.
    pub(super) fn note(
        &mut self,
        layer: &Layer,
        path: RelativePath,
        kind: DamageKind,
    ) -> Result<(), CatalogError> {
        let known = |damage: &Damage| {
            damage.layer.facts.id == layer.facts.id && damage.kind.word() == kind.word()
        };
        if !self.damage.iter().any(known) {
            let touched = self.touched(layer)?;
            self.damage.push(Damage { layer: layer.clone(), path, kind, touched });
        }
        Ok(())
    }

    /// Whether an image of a chain is known to be damaged, so that it need not be read.
    pub(super) fn has_damaged_image(&self, chain: &[Layer]) -> bool {
        let image = |kind: &DamageKind| {
            matches!(
                kind,
                DamageKind::ImageUnfit(_)
                    | DamageKind::ImageCorrupt { .. }
                    | DamageKind::Unreadable(_)
            )
        };
        let of_chain =
            |damage: &Damage| chain.iter().any(|layer| layer.facts.id == damage.layer.facts.id);
        self.damage.iter().any(|damage| image(&damage.kind) && of_chain(damage))
    }

    /// Blocks of a layer are not what they should be.
    pub(super) fn note_content(&mut self, layer: &Layer, ranges: &AreaSet) {
        let id = layer.facts.id;
        let (_, all) = self.content.entry(id).or_insert_with(|| (layer.clone(), AreaSet::new()));
        *all = all.union(ranges);
    }

    /// All that a layer's point shows of it was read, and held against its digests.
    pub(super) fn note_read(&mut self, layer: &Layer) {
        if layer.damage.is_some() {
            self.read.insert(layer.facts.id);
        }
    }

    /// The damage; and the layers that were marked as damaged and are right now.
    pub(super) fn into_findings(self) -> Result<(Vec<Damage>, Vec<LayerId>), CatalogError> {
        let mut right = self.read.clone();
        let damage = self.into_damage()?;
        for found in &damage {
            right.remove(&found.layer.facts.id);
        }
        Ok((damage, right.into_iter().collect()))
    }

    /// All points that a layer touches: its own in any case, also where the catalog is so damaged
    /// that it does not find the layer by its id.
    fn touched(&self, layer: &Layer) -> Result<Vec<PointId>, CatalogError> {
        let mut touched = match self.repository.catalog().points_on(layer.facts.id) {
            Err(CatalogError::NoSuchLayer(_)) => Vec::new(),
            touched => touched?,
        };
        if !touched.contains(&layer.point) {
            touched.insert(0, layer.point);
        }
        Ok(touched)
    }

    fn into_damage(self) -> Result<Vec<Damage>, CatalogError> {
        let mut damage = self.damage.clone();
        for (layer, ranges) in self.content.values().cloned() {
            let touched = self.touched(&layer)?;
            let path = layer.facts.path.clone();
            damage.push(Damage { layer, path, kind: DamageKind::Content(ranges), touched });
        }
        damage.sort_by_key(|damage| damage.layer.facts.id);
        Ok(damage)
    }
}
