//! Which line goes into which message.
//!
//! A block that fits into a message is never broken. A longer one is broken between lines, a longer line between words, a
//! longer word between characters; it begins in the message at hand when at least half of that is free. A heading never ends
//! a message: what follows it is broken rather than moved, or the heading is moved along.

use super::block::{Body, Gap, Item, Lead};
use super::escape;
use super::inline::{Token, Writer, tokens};

const FENCE: &str = "```";
/// What opening and closing a fence adds, in characters.
const OPEN: usize = 4;
const CLOSE: usize = 4;
/// What a word may have around it, in characters: three pairs of marks and two zero-width spaces.
const MARKS: usize = 8;
/// Headings in a row that are kept together with what follows them.
const MAX_HEADINGS: usize = 4;

/// Packs items into messages of at most `width` characters; `width` is at least [`super::MIN_WIDTH`].
pub(super) fn pack(items: &[Item], width: usize) -> Vec<String> {
    let mut packer = Packer { width, parts: Vec::new(), part: String::new(), chars: 0, after_heading: false };
    let mut headings = 0;
    let together = |item: &Item, next: &Item| {
        headings = if item.keep { headings + 1 } else { 0 };
        next.gap == Gap::None || item.keep && headings <= MAX_HEADINGS
    };
    for block in items.chunk_by(together) {
        packer.block(block);
    }
    packer.flush();
    packer.parts
}

/// An item written as if it stood in one message.
struct Written<'a> {
    item: &'a Item,
    text: String,
    chars: usize,
    /// The length of its first word, in characters.
    first_word: usize,
}

struct Packer {
    width: usize,
    parts: Vec<String>,
    part: String,
    chars: usize,
    /// Whether the last item of the part is a heading.
    after_heading: bool,
}

impl Packer {
    /// The longest piece that is never cut. A lead, three pairs of marks and two zero-width spaces fit beside it.
    fn limit(&self) -> usize {
        (self.width / 2).max(self.width.saturating_sub(96))
    }

    /// The longest lead.
    fn lead_limit(&self) -> usize {
        self.width / 4
    }

    fn block(&mut self, block: &[Item]) {
        let written: Vec<Written<'_>> = block.iter().map(|item| self.write(item)).collect();
        let gaps = block.iter().skip(1).map(|item| item.gap.text().len()).sum::<usize>();
        let chars = written.iter().map(|item| item.chars).sum::<usize>() + gaps;
        let gap = block.first().map_or(Gap::None, |item| item.gap);
        if chars > self.width {
            self.make_room();
            for index in 0..written.len() {
                self.item(&written[index..]);
            }
            return;
        }
        if !self.fits(gap, chars) {
            self.flush();
        }
        for item in &written {
            self.append(item.item.gap, &item.text, item.chars);
        }
        self.after_heading = false;
    }

    /// Places the first of these, knowing what follows it.
    fn item(&mut self, rest: &[Written<'_>]) {
        let Some(written) = rest.first() else { return };
        let gap = written.item.gap;
        let after_heading = std::mem::replace(&mut self.after_heading, written.item.keep);
        let room = if written.item.keep { self.least(rest) } else { written.chars };
        if self.fits(gap, room) && self.fits(gap, written.chars) {
            return self.append(gap, &written.text, written.chars);
        }
        if written.chars <= self.width && !(after_heading && !written.item.keep && self.has_room_for(written)) {
            self.flush();
            return self.append(gap, &written.text, written.chars);
        }
        if !after_heading {
            self.make_room();
        }
        match &written.item.body {
            Body::Line { lead, runs } => self.long_line(gap, lead, &tokens(runs, self.limit())),
            Body::Fence(lines) => self.long_fence(gap, lines),
        }
    }

    /// How much room a heading needs, the first line of what follows it included, as far as a message has room for both.
    fn least(&self, rest: &[Written<'_>]) -> usize {
        let headings = rest.iter().take(MAX_HEADINGS).take_while(|item| item.item.keep).count();
        let heads: usize = rest[..headings].iter().map(|item| item.chars + item.item.gap.text().len()).sum();
        let first = rest.get(headings).map_or(0, |item| self.begin(item) + item.item.gap.text().len());
        if heads + first > self.width { rest[0].chars } else { heads + first }
    }

    /// How much of an item has to stand beside its heading: a short one whole, of a longer one a quarter of a message, or
    /// more where its first word is longer.
    fn begin(&self, written: &Written<'_>) -> usize {
        let least = match &written.item.body {
            Body::Line { lead, .. } => {
                let lead = lead.first(self.lead_limit()).chars().count();
                lead + written.first_word + MARKS
            }
            Body::Fence(lines) => OPEN + CLOSE + lines.first().map_or(0, |line| line.chars().count()),
        };
        written.chars.min(least.max(self.width / 4))
    }

    fn has_room_for(&self, written: &Written<'_>) -> bool {
        self.fits(written.item.gap, self.begin(written))
    }

    fn write<'a>(&self, item: &'a Item) -> Written<'a> {
        let (text, first_word) = match &item.body {
            Body::Line { lead, runs } => {
                let lead = lead.first(self.lead_limit());
                let tokens = tokens(runs, self.limit());
                let first_word = tokens.iter().find(|token| !token.is_space()).map_or(0, Token::chars);
                let text = lead.clone() + &write_tokens(&tokens, lead.is_empty());
                (text.trim_end_matches(' ').to_owned(), first_word)
            }
            Body::Fence(lines) => (format!("{FENCE}\n{}\n{FENCE}", lines.join("\n")), 0),
        };
        let chars = text.chars().count();
        Written { item, text, chars, first_word }
    }

    fn long_line(&mut self, gap: Gap, lead: &Lead, tokens: &[Token]) {
        let mut rest = without_leading_spaces(tokens);
        let mut lead_text = lead.first(self.lead_limit());
        let mut gap = gap;
        while !rest.is_empty() {
            let lead_chars = lead_text.chars().count();
            let budget = self.width.saturating_sub(self.chars + self.gap_chars(gap) + lead_chars);
            let at_line_start = lead_text.is_empty();
            let taken = fill(rest, at_line_start, budget);
            if taken == 0 && !self.part.is_empty() {
                self.flush();
                continue;
            }
            // A token always fits into an empty message; taking one at least keeps a mistake there from hanging.
            let (now, later) = rest.split_at(taken.max(1));
            let text = lead_text + &write_tokens(now, at_line_start);
            let chars = text.chars().count();
            self.append(gap, &text, chars);
            rest = without_leading_spaces(later);
            if !rest.is_empty() {
                self.flush();
            }
            lead_text = lead.rest(self.lead_limit());
            gap = Gap::None;
        }
    }

    fn long_fence(&mut self, gap: Gap, lines: &[String]) {
        let mut open = false;
        for line in lines {
            let mut rest = line.as_str();
            loop {
                let (piece, tail) = rest.split_at(escape::cut(rest, self.width - OPEN - CLOSE));
                self.fence_line(gap, piece, &mut open);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
        }
        self.close_fence(open);
    }

    /// Puts one line into the fence that is open, or opens one for it.
    fn fence_line(&mut self, gap: Gap, line: &str, open: &mut bool) {
        let chars = line.chars().count();
        let more = if *open { 1 } else { self.gap_chars(gap) + OPEN };
        if self.chars + more + chars + CLOSE > self.width && !self.part.is_empty() {
            self.close_fence(*open);
            self.flush();
            *open = false;
        }
        if *open {
            self.append(Gap::None, line, chars);
        } else {
            self.append(gap, &format!("{FENCE}\n{line}"), OPEN + chars);
            *open = true;
        }
    }

    fn close_fence(&mut self, open: bool) {
        if open {
            self.append(Gap::None, FENCE, CLOSE - 1);
        }
    }

    fn gap_chars(&self, gap: Gap) -> usize {
        if self.part.is_empty() { 0 } else { gap.text().len() }
    }

    fn fits(&self, gap: Gap, chars: usize) -> bool {
        self.chars + self.gap_chars(gap) + chars <= self.width
    }

    /// Begins a new message where less than half of this one is free.
    fn make_room(&mut self) {
        if self.chars > self.width / 2 {
            self.flush();
        }
    }

    fn append(&mut self, gap: Gap, text: &str, chars: usize) {
        let gap_chars = self.gap_chars(gap);
        if gap_chars > 0 {
            self.part.push_str(gap.text());
        }
        self.part.push_str(text);
        self.chars += gap_chars + chars;
    }

    fn flush(&mut self) {
        let part = std::mem::take(&mut self.part);
        self.chars = 0;
        if !escape::is_blank(&part) {
            self.parts.push(part);
        }
    }
}

/// What is left to write: a space at the beginning of a line is not, and would be taken for a word that fits.
fn without_leading_spaces(tokens: &[Token]) -> &[Token] {
    &tokens[tokens.iter().take_while(|token| token.is_space()).count()..]
}

/// How many tokens fit into `budget` characters, broken between words where there is more than one.
fn fill(tokens: &[Token], at_line_start: bool, budget: usize) -> usize {
    let mut writer = Writer::new(at_line_start);
    let mut fit = 0;
    for (index, token) in tokens.iter().enumerate() {
        writer.push(token);
        if writer.closed_chars() > budget {
            return if fit > 0 { fit } else { index };
        }
        if tokens.get(index + 1).is_some_and(Token::is_space) {
            fit = index + 1;
        }
    }
    tokens.len()
}

fn write_tokens(tokens: &[Token], at_line_start: bool) -> String {
    let mut writer = Writer::new(at_line_start);
    for token in tokens {
        writer.push(token);
    }
    writer.finish()
}
