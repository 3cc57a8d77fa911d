//! Reading what was kept.
//!
//! ```text
//!  Repository::hold ─► HeldPoint ─► KeptExport: a qemu-nbd for each disk, through its chain
//!                                     │
//!        ┌──────────────┬─────────────┼────────────────┐
//!     restore         verify        offer             list (opens nothing)
//!     lanes into      lanes into    until the         the catalog, and which
//!     files, a URI    nothing       caller ends it    files are there
//!        └─────┬────────┘
//!     ChainDigests: the manifests of the chain, laid over each other, against what was read
//! ```
//!
//! Nothing in a repository is changed by it. A point that is read cannot be deleted meanwhile.

mod damaged;
mod digests;
mod error;
mod lanes;
mod list;
mod offer;
mod opened;
mod partial;
mod read_back;
mod restore;
mod scratch;
mod serve;
mod settings;
mod target;
mod verify;
mod vm;

pub(crate) use digests::ChainDigests;
pub use error::ReadError;
pub(crate) use lanes::Reviver;
pub use list::{DamagedFile, ListedDisk, ListedPoint, find_point, find_points, list_points};
pub(crate) use offer::offer_at;
pub use offer::{Offer, OfferAt, OfferRequest, Offered, offer};
pub(crate) use opened::{Opened, OpenedDisk, no_digests};
pub use restore::{RestoreReport, RestoreRequest, RestoredDisk, RestoredInto, restore};
pub(crate) use restore::{notes_folder, restore_opened};
pub(crate) use scratch::Scratch;
pub use settings::{DiskFormat, ReadSettings};
pub use target::{RestoreTarget, WholeDisk};
pub use verify::{
    Against, AgainstOutcome, CatalogFault, Content, Damage, DamageKind, VerifiedDisk,
    VerifiedPoint, VerifyReport, VerifyRequest, verify,
};
pub use vm::{IntoVm, VmRestoreRequest, VmTarget, restore_to_vm};
