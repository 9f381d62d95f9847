//! RESULTS.md: what was measured, in tables and words, all of it from [`Results`].

mod cells;

use super::results::Results;

/// For the terminal: the tables.
pub(super) fn summary(results: &Results) -> String {
    let tables = cells::tables(results, &results.cells);
    let defaults = cells::tables(results, &results.defaults);
    format!("{tables}{defaults}")
}

/// The whole report.
pub(super) fn render(results: &Results) -> String {
    summary(results)
}
