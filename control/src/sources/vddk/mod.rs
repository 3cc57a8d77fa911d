//! Disks of VMware's VMs, by nbdkit's vddk plugin: one process serves one disk.
//!
//! ```text
//!  Settings ──► command ──┐         Folder (0700): nbdkit's socket, and whose it is
//!  Disk ──────────────────┤           │
//!  Credentials ── pipe ───┴─start──► Running ── uri, endpoint: for one connection at a time
//!                           │          ├─ exit_reason, last_words: what became of it
//!        a handshake to OPT_GO         └─ stop or drop: SIGTERM, wait, SIGKILL; no folder is left
//! ```
//!
//! nbdkit starts whatever the password, the thumbprint or the file is like, and only a connection
//! fails then, with "No such file or directory" for every cause. So a disk is ready when a handshake
//! has been answered, which opens it at the server; and what went wrong is taken from what nbdkit
//! writes to stderr.
//!
//! **The way of the password.** Neither arguments nor environment, which other users or their
//! children can read. Of the two ways that are left, a file of mode 0600 and an inherited
//! descriptor, this is the second, with a pipe: nothing is on a disk, where a kill would leave it,
//! and it is gone when it was read. The plugin runs nbdkit a second time, with another
//! `LD_LIBRARY_PATH`, when the pipe has been emptied; since nbdkit 1.22 it hands the password on to
//! its successor itself, in a file without a name that it makes in `/tmp`, in place of whatever
//! `password=` there was (`plugins/vddk/reexec.c`). So a file of ours would not save that copy
//! either. The pipe is filled only when the process can leave no core file.
//!
//! **Why not socket activation**, by which exports are started: nbdkit takes `LISTEN_FDS` out of
//! its environment when it has read it, so the second nbdkit listens on a TCP port of all addresses
//! instead.

mod cause;
mod command;
mod error;
mod folder;
mod plugin;
mod running;
mod settings;
mod start;
mod version;

#[cfg(test)]
mod tests;

pub use cause::Refusal;
pub use error::SourceError;
pub use running::Running;
pub use settings::REQUEST_BYTES;
pub use settings::{Access, Compression, Credentials, Disk, ExtraParameter, Password, Settings};
pub use start::VddkSource;
pub use version::NbdkitVersion;
