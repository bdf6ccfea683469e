//! What HTML does to the text that is read.

use super::super::html::{self, Pair, Partners, Piece, Side, Tag};
use super::{List, RULE, Reader};

impl Reader<'_> {
    /// A tag within a line, or within an HTML block.
    pub(super) fn tag(&mut self, tag: Tag, raw: &str) {
        match tag {
            Tag::Gone => {}
            // Within a line this was meant as text: nothing of a line is kept from the reader.
            Tag::Shown | Tag::Half(Pair::Hidden, _) => self.html_lines(raw),
            Tag::Lone if raw.contains(char::is_whitespace) => {}
            Tag::Lone => self.push_text(raw, self.style()),
            Tag::Half(pair, side) => self.half(pair, side, raw),
            Tag::Break => self.line_break(),
            Tag::Cell if self.has_text() => self.push_text(" | ", self.style()),
            Tag::Cell => {}
            Tag::Item if self.is_inside() => self.push_text(" • ", self.style()),
            Tag::Item => self.html_item(),
            Tag::Image => {
                self.start_link(html::attribute(raw, "src").unwrap_or_default(), true);
                self.push_text(&html::attribute(raw, "alt").unwrap_or_default(), self.style());
                self.end_link();
            }
            Tag::Rule if !self.is_inside() => {
                self.begin_block();
                self.push_text(RULE, self.style());
                self.end_block();
            }
            Tag::Rule | Tag::Apart | Tag::List { .. } | Tag::ListEnd => self.apart(),
        }
    }

    fn half(&mut self, pair: Pair, side: Side, raw: &str) {
        let count = match pair {
            Pair::Bold | Pair::Title => &mut self.bold,
            Pair::Italic => &mut self.italic,
            Pair::Strike => &mut self.strike,
            Pair::Code => &mut self.html_code,
            Pair::Link => return self.anchor(side, raw),
            Pair::Preformatted | Pair::Plain | Pair::Hidden => return,
        };
        *count = if side == Side::Open { *count + 1 } else { count.saturating_sub(1) };
        if pair == Pair::Title {
            self.apart();
        }
    }

    fn anchor(&mut self, side: Side, raw: &str) {
        if side == Side::Close {
            if self.anchors.pop() == Some(true) {
                self.end_link();
            }
            return;
        }
        let dest = html::attribute(raw, "href");
        self.anchors.push(dest.is_some());
        if let Some(dest) = dest {
            self.start_link(dest, false);
        }
    }

    /// What follows stands on a line of its own, where there are lines.
    fn apart(&mut self) {
        if self.is_inside() {
            self.push_text(" ", self.style());
        } else {
            self.end_line();
        }
    }

    fn html_item(&mut self) {
        self.end_line_and_marker();
        if self.html_lists > 0 {
            self.start_item();
        } else {
            self.marker = Some("• ".to_owned());
        }
    }

    /// An HTML block is over: its tags do what they do in a line, and lists, preformatted text and what is never shown have
    /// their meaning.
    pub(super) fn end_html(&mut self) {
        let block = self.html.take().unwrap_or_default();
        let pieces = html::pieces(&block);
        let mut partners = Partners::default();
        for piece in &pieces {
            if let Piece::Tag(raw) = piece {
                partners.add(html::tag(raw));
            }
        }
        let counts = (self.bold, self.italic, self.strike, self.html_code);
        let mut walk = Walk::default();
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.html_text(&html::decoded(text), &mut walk),
                Piece::Tag(raw) => self.html_tag(partners.take(html::tag(raw)), raw, &mut walk),
            }
        }
        // Halves that stood in preformatted text were passed over: whatever is open on their account ends here.
        if let Some(code) = walk.preformatted.take() {
            self.fence(code.trim_matches('\n').split('\n'));
        }
        while !self.anchors.is_empty() {
            self.anchor(Side::Close, "");
        }
        (self.bold, self.italic, self.strike, self.html_code) = counts;
        self.end_line_and_marker();
        for _ in 0..std::mem::take(&mut self.html_lists) {
            self.lists.pop();
        }
        self.gap = true;
    }

    fn html_text(&mut self, text: &str, walk: &mut Walk) {
        if walk.hidden > 0 {
            return;
        }
        if let Some(code) = &mut walk.preformatted {
            return code.push_str(text);
        }
        self.html_lines(text);
    }

    /// Text that may hold line breaks.
    fn html_lines(&mut self, text: &str) {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.line_break();
            }
            let line = if self.has_text() || self.is_inside() { line } else { line.trim_start() };
            self.push_text(line, self.style());
        }
    }

    fn html_tag(&mut self, tag: Tag, raw: &str, walk: &mut Walk) {
        match tag {
            Tag::Half(Pair::Hidden, Side::Open) => walk.hidden += 1,
            Tag::Half(Pair::Hidden, Side::Close) => walk.hidden = walk.hidden.saturating_sub(1),
            _ if walk.hidden > 0 => {}
            Tag::Lone => {}
            Tag::Half(Pair::Preformatted, Side::Open) => {
                self.begin_fence();
                walk.preformatted.get_or_insert_default();
            }
            Tag::Half(Pair::Preformatted, Side::Close) => {
                let code = walk.preformatted.take().unwrap_or_default();
                self.fence(code.trim_matches('\n').split('\n'));
            }
            Tag::Shown if walk.preformatted.is_some() => self.html_text(raw, walk),
            // The halves were paired within the whole block; what stands in preformatted text formats nothing.
            _ if walk.preformatted.is_some() => {}
            Tag::List { ordered } => {
                self.end_line_and_marker();
                self.lists.push(List { number: ordered.then_some(1), begun: false, hang: 0 });
                self.html_lists += 1;
            }
            Tag::ListEnd => {
                self.end_line_and_marker();
                if self.html_lists > 0 {
                    self.html_lists -= 1;
                    self.lists.pop();
                }
            }
            tag => self.tag(tag, raw),
        }
    }
}

/// Where the walk through an HTML block stands.
#[derive(Debug, Default)]
struct Walk {
    hidden: usize,
    preformatted: Option<String>,
}
