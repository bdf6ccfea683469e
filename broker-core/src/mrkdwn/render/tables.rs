//! The cells, rows and tables that are read.

use super::super::inline::{Run, RunKind, Style};
use super::super::table::{Shape, Table};
use super::{List, Reader};

impl Reader<'_> {
    pub(super) fn end_cell(&mut self, end: usize) {
        self.in_cell = false;
        self.cell_end = end;
        let cell = self.take_line();
        if let Some(table) = &mut self.table {
            table.cell(cell);
        }
    }

    /// `rest` is what the row has behind its last cell. Cells that no column is there for are left out by the parser; what
    /// they hold is kept as one cell more.
    pub(super) fn end_row(&mut self, rest: &str) {
        let rest = rest.trim().trim_matches('|').trim();
        if let Some(table) = self.table.as_mut().filter(|_| !rest.is_empty()) {
            table.cell(vec![Run { style: Style::default(), kind: RunKind::Text(rest.to_owned()) }]);
        }
    }

    pub(super) fn end_table(&mut self) {
        match self.table.take().map(Table::shape) {
            None => {}
            Some(Shape::Text(lines)) => self.fence(lines.iter().map(String::as_str)),
            Some(Shape::List(names, items)) => {
                self.push_line(names);
                self.keep();
                self.lists.push(List { number: None, begun: false, hang: 0 });
                for lines in items {
                    self.start_item();
                    lines.into_iter().for_each(|line| self.push_line(line));
                }
                self.lists.pop();
                self.gap = true;
            }
        }
    }
}
