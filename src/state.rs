//! Where hubs and nodes keep what they know.

use std::path::{Path, PathBuf};

/// What the folder of a hub is called.
pub(crate) const HUB_FOLDER: &str = "blockferry";
/// What the folder of a node is called.
pub(crate) const NODE_FOLDER: &str = "blockferry-node";

/// The folder that was named; else, for root, one in /var/lib, and for others in
/// $XDG_STATE_HOME or ~/.local/state. `None` where there is no home.
pub(crate) fn folder(named: Option<&Path>, name: &str) -> Option<PathBuf> {
    if let Some(folder) = named {
        return Some(folder.to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Some(Path::new("/var/lib").join(name));
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    base.map(|base| base.join(name))
}
