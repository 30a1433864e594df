//! The figures as a table in Markdown.

use std::collections::BTreeMap;

use crate::{measure::Figures, rows::Row};

/// The columns, in order.
pub const COLUMNS: [&str; 8] = [
    "floor",
    "vmcore",
    "x86_64",
    "page_table_multiarch",
    "page-table-generic",
    "aarch64-paging",
    "libkernel",
    "patina_paging",
];

/// The table's head, with the line below it.
pub fn head(pages: u64) -> String {
    let first = format!("ns per page, {pages} {}", if pages == 1 { "page" } else { "pages" });
    let mut head = format!("| {first:<TITLE_WIDTH$}");
    let mut rule = format!("|{:-<width$}", "", width = TITLE_WIDTH + 2);
    for column in COLUMNS {
        head += &format!(" | {column:>width$}", width = width(column));
        rule += &format!("|{:->width$}:", "", width = width(column) + 1);
    }
    format!("{head} | ratio | goal |\n{rule}|------:|-----:|")
}

/// One row's line: nanoseconds per page, and how many times the floor `vmcore` took; of a check, what part of the whole operation.
pub fn line(row: Row, figures: &BTreeMap<Row, Figures>) -> String {
    let mut line = format!("| {:<TITLE_WIDTH$}", row.title());
    for column in COLUMNS {
        let shown = figures.get(&row).and_then(|row| row.get(column)).map_or("–".into(), |figure| {
            format!("{:.3}{}", figure.nanoseconds, if figure.keeps_tables { "*" } else { "" })
        });
        line += &format!(" | {shown:>width$}", width = width(column));
    }
    let shown = |number: Option<f64>| number.map_or("–".into(), |number| format!("{number:.2}"));
    line + &format!(" | {:>5} | {:>4} |", shown(ratio(row, figures)), shown(row.goal()))
}

/// What is compared with the goal.
fn ratio(row: Row, figures: &BTreeMap<Row, Figures>) -> Option<f64> {
    let of = |row, who| Some(figures.get(&row)?.get(who)?.nanoseconds);
    let whole = match row.half_of() {
        [] => of(row, "floor"),
        halves => halves.iter().filter_map(|whole| of(*whole, "vmcore")).min_by(f64::total_cmp),
    };
    Some(of(row, "vmcore")? / whole?)
}

const TITLE_WIDTH: usize = 44;

fn width(column: &str) -> usize {
    column.len().max(7)
}
