//! Secrets in files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::exit::Refusal;

/// Bytes of a token or a code at most, with the ends of lines around it.
pub(super) const MAX_BYTES: u64 = 1024;
/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

/// The text of a file that nobody else can read, or of a pipe. `option` names it.
///
/// # Errors
/// Wrong usage.
pub(super) fn read(option: &str, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let wrong = |what: String| Refusal::usage(format!("{option} {shown}: {what}"));
    let mut text = String::new();
    // Of what is open: the path may be that of another file by now.
    let facts = File::open(path).and_then(|file| {
        let facts = file.metadata()?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        Ok(facts)
    });
    let facts = facts.map_err(|error| wrong(error.to_string()))?;
    if !facts.file_type().is_fifo() && facts.permissions().mode() & OTHERS != 0 {
        return Err(wrong(format!(
            "others can read it; chmod 600 {shown}, or have a new one made"
        )));
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}
