//! What the target holds already, by a manifest of it.
//!
//! ```text
//!   block read ──digest──▶ as the base says? ──yes──▶ left alone: skipped
//!                                └──no, or nothing──▶ written
//! ```
//!
//! The base decides by its digests, and nobody looks at the target: so only digests that hold
//! against intent will do. A block is left alone only if all of it was read, or is zero by block
//! status; of those that this lane or an earlier run of it may have written to otherwise, which
//! are where a seal lies or has lain, the base tells nothing any more.
//!
//! What is left alone was never written, so a target that is lost loses nothing of it. The journal
//! calls it safe with the next FLUSH.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use crate::digest::{DIGEST_BLOCK, DigestAlgorithm};
use crate::endpoint::Endpoint;
use crate::fault::{Cause, Fault, Side};
use crate::manifest::{Lookup, ManifestError};
use crate::plan::Segment;

use super::choose::beside;
use super::file::open_failed;
use super::open::Refusal;
use super::task::Task;

/// Bytes of a block, as offsets are counted.
const BLOCK: u64 = DIGEST_BLOCK as u64;

impl Task {
    /// Refuses a base that cannot be that of this copy, before anything is touched.
    pub(super) fn check_base(&self) -> Result<(), Refusal> {
        let Some(base) = &self.settings.base else {
            return Ok(());
        };
        let path = base.path().display();
        let (wanted, size) = (DigestAlgorithm::Blake3, self.size.unwrap_or(0));
        let what = if self.settings.digest != Some(wanted) {
            format!(
                "with a base, digests decide what is not written, and only those of {wanted} may: choose --digest {wanted}"
            )
        } else if base.algorithm() != wanted {
            format!(
                "the base manifest {path} has digests of {}, and only those of {wanted} may decide what is not written",
                base.algorithm()
            )
        } else if self.settings.target_is_zero {
            "a target that holds a base is not zero: take either of them".to_owned()
        } else if self.size.is_some() && base.disk_size() != size {
            format!(
                "the base manifest {path} is of a disk of {} bytes, and the source has {size}",
                base.disk_size()
            )
        } else {
            return self.check_base_file(size);
        };
        Err(Refusal::Fault(Fault::Request(what)))
    }

    /// A file that is not there yet, or is too short, holds no base.
    fn check_base_file(&self, size: u64) -> Result<(), Refusal> {
        let Endpoint::File(path) = &self.target else {
            return Ok(());
        };
        let data = fs::metadata(path).map_err(|e| Refusal::Side(Side::Target, open_failed(e)))?;
        if data.is_file() && data.len() < size {
            let what = format!(
                "it has {} bytes, and is to hold a base of {size} bytes already",
                data.len()
            );
            return Err(Refusal::Side(Side::Target, Cause::Unfit(what)));
        }
        Ok(())
    }

    /// Begins to compare with the base.
    pub(super) fn open_base(&mut self) {
        self.inspector.base = self.settings.base.as_ref().map(|base| Lookup::new(Arc::clone(base)));
    }

    /// What a journal is bound to of the base: its content, and the alignment that decides where
    /// seals lie.
    pub(super) fn base_identity(&self, alignment: u64) -> Result<Option<String>, Refusal> {
        let Some(base) = &self.settings.base else {
            return Ok(None);
        };
        let id = base
            .content_id()
            .map_err(|e| beside("cannot read the base manifest", e.is_wrong_request(), &e))?;
        Ok(Some(format!("manifest {id} in units of {alignment}")))
    }

    /// The first part of zeros that are all held by the target, by the base, or of which none is;
    /// what follows it comes next. True where they are held.
    pub(super) fn cut_by_base(&mut self, piece: Segment, now: Instant) -> (Segment, bool) {
        let Some(base) = &mut self.inspector.base else {
            return (piece, false);
        };
        let (piece, after, doubtful) = self.seal.cut(piece);
        let mut cut = piece;
        let mut held = false;
        if !doubtful {
            match base.zeros_from(piece.start / BLOCK, piece.end().div_ceil(BLOCK)) {
                Ok((end, zeros)) => {
                    cut.length = piece.end().min(end * BLOCK) - piece.start;
                    held = zeros;
                }
                Err(error) => self.fail(unreadable(&error), now),
            }
        }
        self.work.put_back_rest(after);
        self.work.put_back_rest(Segment {
            start: cut.end(),
            length: piece.end() - cut.end(),
            ..piece
        });
        (cut, held)
    }
}

/// The fault of a lane whose base cannot be read on.
pub(super) fn unreadable(error: &ManifestError) -> Fault {
    if error.is_wrong_request() {
        return Fault::Request(error.to_string());
    }
    Fault::Local {
        what: "cannot read the base manifest".into(),
        error: std::io::Error::other(error.to_string()),
    }
}
