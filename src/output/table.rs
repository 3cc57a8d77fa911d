//! Rows under heads, for people.

use comfy_table::{ContentArrangement, Table, presets};

use super::escaped::escaped;

/// A table without lines, whose last column is as wide as it needs to be. Each row is one line, whatever
/// its cells hold.
pub(crate) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let shown = |row: Vec<String>| row.into_iter().map(|cell| escaped(&cell).into_owned());
    table.set_header(heads).add_rows(rows.into_iter().map(shown));
    table.trim_fmt()
}
