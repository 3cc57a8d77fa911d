//! Rows under heads, for people.

use comfy_table::{ContentArrangement, Table, presets};

/// A table without lines, whose last column is as wide as it needs to be.
pub(crate) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads).add_rows(rows);
    table.trim_fmt()
}
