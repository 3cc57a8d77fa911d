//! What tells one manifest's content from that of any other.

use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use super::write::io_error;
use super::{Manifest, ManifestError};
use crate::zero::is_zero;

/// Pages of nothing but zeros are left out, so that a delta's manifest, which is a hole for the
/// most part, takes as long as what is in it.
const PAGE_BYTES: u64 = 64 * 1024;

impl Manifest {
    /// What tells the content of the file from that of any other: 32 hexadecimal digits. All of it
    /// is read, but for its holes. Whether zeros are a hole makes no difference: a copy of the
    /// file may have others.
    ///
    /// # Errors
    /// A failed read.
    pub fn content_id(&self) -> Result<String, ManifestError> {
        let failed = |source| io_error("read", &self.path, source);
        let length = self.file.metadata().map_err(failed)?.len();
        let (mut pages, mut whole) = (blake3::Hasher::new(), blake3::Hasher::new());
        whole.update(&length.to_le_bytes());
        let mut page = Vec::new();
        let mut at = 0;
        while at < length {
            at = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.max(at) / PAGE_BYTES * PAGE_BYTES,
                Err(rustix::io::Errno::NXIO) => break,
                // A file system that does not tell.
                Err(_) => at,
            };
            let bytes = (length - at).min(PAGE_BYTES);
            page.resize(usize::try_from(bytes).expect("a page fits into memory"), 0);
            self.file.read_exact_at(&mut page, at).map_err(failed)?;
            if !is_zero(&page) {
                // Which pages there are, and their content apart: pages are as long as a tree of
                // the hash wants them.
                whole.update(&at.to_le_bytes());
                pages.update(&page);
            }
            at += bytes;
        }
        whole.update(pages.finalize().as_bytes());
        let mut digits = whole.finalize().to_hex();
        digits.truncate(32);
        Ok(digits.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;
    use crate::digest::DigestAlgorithm;
    use crate::manifest::ManifestWriter;

    /// Many pages of entries.
    const BLOCKS: u64 = 20_000;

    fn manifest(path: &Path, recorded: &[u64]) -> Manifest {
        let algorithm = DigestAlgorithm::Blake3;
        let mut writer = ManifestWriter::create(path, algorithm, BLOCKS * 65_536).unwrap();
        for index in recorded {
            writer.record(*index, &algorithm.digest_block(&index.to_le_bytes())).unwrap();
        }
        writer.finish().unwrap();
        Manifest::open(path).unwrap()
    }

    #[test]
    fn a_copy_has_the_same_id_whatever_its_holes_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let id = manifest(&path, &[3, 9_000]).content_id().unwrap();
        assert_eq!(id.len(), 32);
        let copy = folder.path().join("copy");
        // Written in full: without a hole.
        fs::write(&copy, fs::read(&path).unwrap()).unwrap();
        assert_eq!(Manifest::open(&copy).unwrap().content_id().unwrap(), id);
        // Made of the same records in another order.
        let again = manifest(&folder.path().join("again"), &[9_000, 3]);
        assert_eq!(again.content_id().unwrap(), id);
    }

    #[test]
    fn a_single_bit_anywhere_makes_another_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let made = manifest(&path, &[3, 9_000]);
        let id = made.content_id().unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        // In an entry, in a hole, and in the last byte.
        for at in [4096 + 3 * 33 + 7, 4096 + 15_000 * 33, length - 1] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_ne!(made.content_id().unwrap(), id, "{at}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(made.content_id().unwrap(), id);
    }

    #[test]
    fn the_same_entries_in_other_places_are_another_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let made = manifest(&path, &[]);
        let file = File::options().write(true).open(&path).unwrap();
        let mut ids = Vec::new();
        // Whole pages, so that nothing but their place tells them apart.
        for page in [2_u64, 5] {
            file.write_all_at(&[1; 64 * 1024], page * PAGE_BYTES).unwrap();
            ids.push(made.content_id().unwrap());
            file.write_all_at(&[0; 64 * 1024], page * PAGE_BYTES).unwrap();
        }
        assert_ne!(ids[0], ids[1]);
    }
}
