//! Measuring: what this machine carries with one disk or many, and what a link does.
//!
//! ```text
//!  disks   Servant(nbdkit) ──► lane ──► Export on a fresh image, or a sink     one disk, or many
//!  tunnel  Servant(nbdkit) ──► lane ──► Road ──► a sink, or a real target      1 to N connections
//!                                        ├─ Tunnel      ──► sshd (Session)
//!                                        ├─ ssh -L (Forward) ──► the same
//!                                        └─ plain TCP
//!  measure  runs the lanes, samples bytes, CPU and memory  ──► Run
//! ```
//!
//! All servers are children that end with what holds them, and all files lie in one private
//! `Folder`, which goes with it; one that a kill left is removed by the next measurement in the
//! same place. A measurement that fails, or is called off, keeps what was measured before.

mod ask;
mod disks;
mod error;
mod folder;
mod forward;
mod measure;
mod process;
mod road;
mod run;
mod servant;
mod sshd;
mod tunnel;

pub use disks::{DiskBench, TargetKind, measure_disks};
pub use error::BenchError;
pub use measure::{Observer, Pace};
pub use road::OnTunnelEvent;
pub use run::{LaneFigures, Part, RoundTrips, Run, Sample, Way};
pub use servant::SourceData;
pub use tunnel::{FarSide, OnShort, TunnelBench, measure_tunnel};
