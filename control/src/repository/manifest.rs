//! The digests of a layer: those that were published with it, and no others.

use blockferry_dataplane::manifest::Manifest;

use super::Repository;
use super::error::RepositoryError;
use crate::catalog::{Layer, Points};

impl Repository {
    /// Opens the manifest of a layer, and sees that it is the one that was published with it. Of
    /// a layer that an older program published nobody knows more than the size of its disk.
    ///
    /// # Errors
    /// [`RepositoryError::NoDigests`], with all points that stand on the layer.
    pub fn manifest(&self, layer: &Layer) -> Result<Manifest, RepositoryError> {
        self.published_manifest(layer).map_err(|why| self.no_digests(layer, why))
    }

    fn published_manifest(&self, layer: &Layer) -> Result<Manifest, String> {
        let facts = layer.facts.manifest.as_ref().ok_or("none were kept")?;
        let manifest = Manifest::open(&facts.path.under(self.root()));
        let manifest = manifest.map_err(|error| error.to_string())?;
        if let Some(published) = &facts.id {
            let found = manifest.content_id().map_err(|error| error.to_string())?;
            if found != published.as_str() {
                return Err(format!("{} is not what was published with the layer", facts.path));
            }
        }
        let (has, size) = (manifest.disk_size(), layer.facts.size_bytes);
        if has != size {
            return Err(format!("they are of a disk of {has} bytes, not {size}"));
        }
        if manifest.algorithm() != facts.algorithm {
            let (has, wanted) = (manifest.algorithm(), facts.algorithm);
            return Err(format!("they are {has}, and those of the layer {wanted}"));
        }
        Ok(manifest)
    }

    /// The error of a layer whose digests are of no use, with all that it touches.
    pub(crate) fn no_digests(&self, layer: &Layer, why: String) -> RepositoryError {
        match self.catalog().points_on(layer.facts.id) {
            Ok(touched) => {
                RepositoryError::NoDigests { layer: Box::new(layer.clone()), why, touched }
            }
            Err(error) => error.into(),
        }
    }
}
