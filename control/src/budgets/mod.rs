//! How much of a host, a datastore and a vCenter all jobs of this machine take at once.
//!
//! ```text
//!  Claim    what a job needs: disks of a host, disks through a vCenter, snapshots on datastores
//!    │ obstacles      does it fit beside the others, and in its turn: a pure function
//!    ▼
//!  Budgets  a folder of files, one for each claim, locked by its job    RUNTIME/budgets/<job>.json
//!    │ take           waits until it fits, and says what for
//!    ▼
//!  Granted  given back a part at a time, and with its process at the latest
//! ```
//!
//! Jobs are processes of cron and threads of a node, and nobody is above them: so they agree through
//! files. Each holds itself to its own limits, with all that others have taken.

mod claim;
mod folder;
#[cfg(test)]
mod tests;

pub use claim::{Claim, Limits, Pool, Share};
pub use folder::{BudgetError, Budgets, Granted};
