//! A node: the machine near the VMs, which dials a hub.
//!
//! ```text
//!  NodeFolder  DIR (mode 0700)
//!    ├─ node_key    its private key, made here, that never leaves
//!    ├─ hub_keys    the key of its hub, in the format of known_hosts
//!    └─ node.json   its name, and where the hub is
//! ```

mod folder;

pub use folder::{NodeError, NodeFolder, NodeRecord};
