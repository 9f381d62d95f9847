//! Tables that are read as text and as Markdown alike.

use std::fmt::Write as _;

/// Rows under titles; the first column is aligned to the left, the others to the right.
pub(super) struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        Self {
            titles: titles.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing at its end are empty.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert!(
            cells.len() <= self.titles.len(),
            "a row has a cell per title"
        );
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.titles.len())
            .map(|column| self.width(column))
            .collect();
        let mut text = line(&self.titles, &widths);
        text.push('|');
        for (column, width) in widths.iter().enumerate() {
            let dashes = "-".repeat(width + 1);
            let _ = match column {
                0 => write!(text, "{dashes}-|"),
                _ => write!(text, "{dashes}:|"),
            };
        }
        text.push('\n');
        for row in &self.rows {
            text += &line(row, &widths);
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let all = cells.chain([&self.titles[column]]);
        all.map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(1)
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = "|".to_owned();
    for (column, &width) in widths.iter().enumerate() {
        let cell = cells.get(column).map_or("", String::as_str);
        let _ = match column {
            0 => write!(text, " {cell:<width$} |"),
            _ => write!(text, " {cell:>width$} |"),
        };
    }
    text.push('\n');
    text
}

/// Three significant digits, or whole numbers with their thousands apart.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match value.abs() {
        size if size >= 100.0 => thousands(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.005 => format!("{value:.2}"),
        _ => "0".to_owned(),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len() - index;
        if index > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole number.
pub(super) fn whole(value: usize) -> String {
    thousands(value as f64)
}

/// A number, or a dash.
pub(super) fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A ratio, with two decimals whatever its size.
pub(super) fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_are_markdown() {
        let mut table = Table::new(["path", "req/s"]);
        table.row(vec!["direct, TCP".to_owned(), "19,000".to_owned()]);
        table.row(vec!["socat".to_owned()]);
        assert_eq!(
            table.render(),
            "| path        |  req/s |\n\
             |-------------|-------:|\n\
             | direct, TCP | 19,000 |\n\
             | socat       |        |\n"
        );
    }

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.125, "0.12"),
            (7.5, "7.50"),
            (61.04, "61.0"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-1_234.0, "-1,234"),
            (-123_456.0, "-123,456"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
