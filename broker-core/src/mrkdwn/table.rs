//! Tables: mrkdwn has none. A narrow one becomes aligned text in a fence; a wide one a list, in which each row is an item
//! and each of its cells a line with the column's name.

use pulldown_cmark::Alignment;
use unicode_width::UnicodeWidthStr;

use super::escape;
use super::inline::{Mark, Run, RunKind, Style};

/// The widest table that is aligned, in columns of fixed-width text (East Asian characters and emoji take two). A desktop
/// client shows about 80 to 100 of them before it breaks lines, and a broken line ends the alignment.
const MAX_ALIGNED: usize = 76;
/// The longest name of a column that is repeated whole in each row of a list, in characters; a longer one is cut there. It
/// stands whole above the list.
const MAX_LABEL: usize = 40;
/// The most cells that a list is made of. A table that is both wide and longer than this is data rather than something to
/// read: its rows are shown as they are, and no label is repeated a hundred thousand times.
const MAX_LIST_CELLS: usize = 5_000;

/// A table while it is read.
#[derive(Debug, Clone)]
pub(super) struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<Cell>>,
    /// Empty cells that count only when one that is not empty follows: the parser fills up short rows, and a wide table
    /// of short rows would be many times its source.
    empty: usize,
}

/// A cell.
#[derive(Debug, Clone, Default)]
struct Cell {
    runs: Vec<Run>,
    /// What is seen of it without styles and links.
    plain: String,
    width: usize,
}

/// What a table is shown as.
#[derive(Debug)]
pub(super) enum Shape {
    /// Lines of fixed-width text, not yet escaped.
    Text(Vec<String>),
    /// A line with the names of the columns, and for each row the lines of its item.
    List(Vec<Run>, Vec<Vec<Vec<Run>>>),
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
    pub(super) fn cell(&mut self, runs: Vec<Run>) {
        if runs.iter().all(|run| run.kind.is_blank()) {
            self.empty += 1;
        } else if let Some(row) = self.rows.last_mut() {
            row.extend(std::iter::repeat_n(Cell::default(), self.empty));
            let plain = plain(&runs);
            row.push(Cell { width: plain.width(), plain, runs });
            self.empty = 0;
        }
    }

    /// What the table is shown as.
    pub(super) fn shape(self) -> Shape {
        let widths = self.widths();
        if widths.iter().map(|width| width + 3).sum::<usize>().saturating_sub(3) <= MAX_ALIGNED {
            return Shape::Text(self.aligned(&widths));
        }
        if self.rows.iter().map(Vec::len).sum::<usize>() > MAX_LIST_CELLS {
            let rows =
                self.rows.iter().map(|row| row.iter().map(|cell| cell.plain.as_str()).collect::<Vec<_>>().join(" | "));
            return Shape::Text(rows.collect());
        }
        self.list()
    }

    /// The width of each column.
    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![1; self.rows.iter().map(Vec::len).max().unwrap_or(0)];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width);
            }
        }
        widths
    }

    fn aligned(&self, widths: &[usize]) -> Vec<String> {
        let mut lines: Vec<String> = Vec::with_capacity(self.rows.len() + 1);
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(self.line(row, widths));
            if index == 0 {
                lines.push(widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("-+-"));
            }
        }
        lines
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        let last = row.len().saturating_sub(1);
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column > 0 {
                line.push_str(" | ");
            }
            let missing = width.saturating_sub(cell.width);
            let left = match self.alignments.get(column) {
                Some(Alignment::Right) => missing,
                Some(Alignment::Center) => missing / 2,
                _ => 0,
            };
            line.push_str(&" ".repeat(left));
            line.push_str(&cell.plain);
            if column < last {
                line.push_str(&" ".repeat(missing - left));
            }
        }
        line
    }

    fn list(self) -> Shape {
        let mut rows = self.rows.into_iter();
        let header = rows.next().unwrap_or_default();
        let labels: Vec<Vec<Run>> = header.iter().map(label).collect();
        let mut names: Vec<Run> = Vec::new();
        for cell in header.into_iter().filter(|cell| !cell.plain.is_empty()) {
            if !names.is_empty() {
                names.push(text(" | ", Style::default().with(Mark::Bold, true)));
            }
            names.extend(bold(cell.runs));
        }
        let items = rows.map(|row| item(row, &labels)).filter(|item| !item.is_empty()).collect();
        Shape::List(names, items)
    }
}

/// The lines of one row: its first cell bold, then each further cell behind the name of its column.
fn item(row: Vec<Cell>, labels: &[Vec<Run>]) -> Vec<Vec<Run>> {
    let mut lines = Vec::with_capacity(row.len());
    for (column, cell) in row.into_iter().enumerate().filter(|(_, cell)| !cell.plain.is_empty()) {
        if column == 0 {
            lines.push(bold(cell.runs));
        } else {
            let mut line = labels.get(column).cloned().unwrap_or_default();
            line.extend(cell.runs);
            lines.push(line);
        }
    }
    lines
}

/// The name of a column as it stands before each of its cells.
fn label(cell: &Cell) -> Vec<Run> {
    if cell.plain.is_empty() {
        return Vec::new();
    }
    let end = text(": ", Style::default());
    if cell.plain.chars().count() <= MAX_LABEL {
        return cell.runs.iter().cloned().chain([end]).collect();
    }
    let short = &cell.plain[..escape::cut(&cell.plain, MAX_LABEL - 1)];
    vec![text(&format!("{}…", short.trim_end()), Style::default()), end]
}

fn text(text: &str, style: Style) -> Run {
    Run { style, kind: RunKind::Text(text.to_owned()) }
}

fn bold(mut runs: Vec<Run>) -> Vec<Run> {
    runs.iter_mut().for_each(|run| run.style = run.style.with(Mark::Bold, true));
    runs
}

/// The text of a cell, for fixed-width text.
fn plain(runs: &[Run]) -> String {
    let mut out = String::new();
    for run in runs {
        match &run.kind {
            RunKind::Text(text) | RunKind::Code(text) => out.push_str(text),
            RunKind::Mention { name, .. } => {
                out.push('@');
                out.push_str(name);
            }
            RunKind::Link { dest, label } if label.trim() == dest || escape::is_blank(label) => out.push_str(dest),
            RunKind::Link { dest, label } if dest.strip_prefix("mailto:") == Some(label.trim()) => out.push_str(label),
            RunKind::Link { dest, label } => {
                out.push_str(label);
                out.push_str(&format!(" ({dest})"));
            }
        }
    }
    let seen = |c: char| if c.is_whitespace() { Some(' ') } else { (!c.is_control()).then_some(c) };
    out.trim().chars().filter_map(seen).collect()
}
