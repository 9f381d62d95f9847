//! Tables that are read as text and as Markdown alike.

use std::fmt::Write as _;

/// Rows under titles; the first columns, which hold words, are aligned to the left, the others to the
/// right.
pub(super) struct Table {
    titles: Vec<String>,
    words: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        Self {
            titles: titles.into_iter().map(Into::into).collect(),
            words: 1,
            rows: Vec::new(),
        }
    }

    /// With so many columns of words.
    pub(super) fn words(self, words: usize) -> Self {
        Self { words, ..self }
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
        let mut text = self.line(&self.titles, &widths);
        text.push('|');
        for (column, width) in widths.iter().enumerate() {
            let dashes = "-".repeat(width + 1);
            let end = if column < self.words { '-' } else { ':' };
            let _ = write!(text, "{dashes}{end}|");
        }
        text.push('\n');
        for row in &self.rows {
            text += &self.line(row, &widths);
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

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut text = "|".to_owned();
        for (column, &width) in widths.iter().enumerate() {
            let cell = cells.get(column).map_or("", String::as_str);
            let _ = if column < self.words {
                write!(text, " {cell:<width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text.push('\n');
        text
    }
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

/// Broken into lines of text; a paragraph ends with an empty line.
pub(super) fn paragraph(words: &str) -> String {
    const LINE_CHARS: usize = 100;
    let mut text = String::new();
    let mut length = 0;
    for word in words.split_ascii_whitespace() {
        let more = word.chars().count() + 1;
        if length > 0 && length + more > LINE_CHARS {
            text.push('\n');
            length = 0;
        } else if length > 0 {
            text.push(' ');
        }
        text.push_str(word);
        length += more;
    }
    text + "\n\n"
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
    fn paragraphs_have_lines_of_a_hundred_characters() {
        let text = paragraph(&"word ".repeat(50));
        assert!(text.ends_with("word\n\n"));
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.len() <= 100));
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
