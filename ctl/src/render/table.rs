//! Tables without lines, so that `awk` can read them too.

use super::clean;
use comfy_table::{Table, presets};

/// Rows under headings; cells that others wrote are made harmless.
pub fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = new();
    table.set_header(heads);
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { clean(&cell) }));
    }
    finish(&table)
}

/// Names and values, one pair a line; empty values are left out.
pub fn pairs<'a>(indent: &str, rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<(&str, String)> = rows.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{indent}{name:width$}  {}\n", clean(value))).collect()
}

/// A size in bytes for people.
pub fn bytes(n: u64) -> String {
    failsafe_core::unit::Unit::Bytes.show(i64::try_from(n).unwrap_or(i64::MAX))
}

fn new() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn finish(table: &Table) -> String {
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    // The preset pads every cell by one on both sides.
    if text.lines().all(|line| line.starts_with(' ')) {
        text = text.lines().map(|line| format!("{}\n", &line[1..])).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_text() {
        let text = table(["NAME", "STATE"], [["a\u{1b}[1m".into(), "running".into()], ["bb".into(), String::new()]]);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn pairs_align() {
        insta::assert_snapshot!(pairs("  ", [("a", "1".into()), ("longer", "2".into()), ("no", String::new())]));
    }
}
