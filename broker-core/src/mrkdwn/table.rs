//! Tables: mrkdwn has none, so they become aligned text in a fence.

use pulldown_cmark::Alignment;

/// The widest column that others are aligned behind, in characters. A longer cell is kept whole and moves the rest of its
/// row: were the column as wide as it, every row would be filled up to that.
const MAX_COLUMN: usize = 40;
/// Columns that are aligned; further ones just follow.
const MAX_ALIGNED: usize = 64;

/// A table while it is read.
#[derive(Debug, Clone)]
pub(super) struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<String>>,
    /// Empty cells that count only when one that is not empty follows: the parser fills up short rows, and a wide table
    /// of short rows would be many times its source.
    empty: usize,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(alignments: Vec<Alignment>) -> Self {
        Self { alignments, rows: Vec::new(), empty: 0 }
    }

    /// A row begins; the first is the header.
    pub(super) fn row(&mut self) {
        self.rows.push(Vec::new());
        self.empty = 0;
    }

    /// The next cell of the row.
    pub(super) fn cell(&mut self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            self.empty += 1;
        } else if let Some(row) = self.rows.last_mut() {
            row.extend(std::iter::repeat_n(String::new(), self.empty));
            row.push(text.to_owned());
            self.empty = 0;
        }
    }

    /// The lines of the table, not yet escaped.
    pub(super) fn lines(&self) -> Vec<String> {
        let widths = self.widths();
        let mut lines: Vec<String> = Vec::with_capacity(self.rows.len() + 1);
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(self.line(row, &widths));
            if index == 0 {
                lines.push(widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("-+-"));
            }
        }
        lines
    }

    /// The width of each column that is aligned.
    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0).min(MAX_ALIGNED);
        let mut widths = vec![1; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count().min(MAX_COLUMN));
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        let last = row.len().saturating_sub(1);
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line.push_str(" | ");
            }
            let width = widths.get(column).copied().unwrap_or(0);
            let missing = width.saturating_sub(cell.chars().count());
            let left = match self.alignments.get(column) {
                Some(Alignment::Right) => missing,
                Some(Alignment::Center) => missing / 2,
                _ => 0,
            };
            line.push_str(&" ".repeat(left));
            line.push_str(cell);
            if column < last {
                line.push_str(&" ".repeat(missing - left));
            }
        }
        line
    }
}
