//! What each Markdown event becomes: a flat list of lines and fences.

use std::ops::Range;

use pulldown_cmark::{BlockQuoteKind, Event, LinkType, Options, Parser, Tag, TagEnd};

use super::block::{Body, Gap, Item, Lead};
use super::escape;
use super::html::{self, Partners};
use super::inline::{self, Mark, Run, RunKind, Style};
use super::mention::Directory;
use super::table::Table;
use links::Capture;

mod links;
mod tables;
mod tags;

/// Stands behind a sign that the author marked as text.
const LITERAL: &str = "\u{2060}";
/// What a thematic break becomes.
const RULE: &str = "──────────";

/// The bullets of a list within no, one and two others, as Slack draws them; then again from the first.
const BULLETS: [&str; 3] = ["• ", "◦ ", "▪ "];

const OPTIONS: Options = Options::ENABLE_TABLES
    .union(Options::ENABLE_STRIKETHROUGH)
    .union(Options::ENABLE_TASKLISTS)
    .union(Options::ENABLE_FOOTNOTES)
    .union(Options::ENABLE_GFM);

/// Reads Markdown that may mention these people.
pub(super) fn read(markdown: &str, people: &Directory<'_>) -> Vec<Item> {
    let mut reader = Reader::new(people, partners(markdown));
    for (event, range) in Parser::new_ext(markdown, OPTIONS).into_offset_iter() {
        if reader.marker.is_none() && reader.runs.is_empty() && begins_block(&event) {
            reader.gap &= blank_before(markdown, range.start);
        }
        reader.event(event, markdown, &range);
    }
    reader.end_line();
    reader.items
}

/// Which HTML tags of the lines have partners. A tag has to be known as one half of a pair before what follows it is read.
fn partners(markdown: &str) -> Partners {
    let mut partners = Partners::default();
    if !markdown.contains("</") {
        return partners;
    }
    for event in Parser::new_ext(markdown, OPTIONS) {
        match event {
            Event::InlineHtml(raw) => partners.add(html::tag(&raw)),
            Event::Start(Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. } | Tag::Image { .. })
            | Event::End(TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Link | TagEnd::Image) => {}
            Event::Start(_) | Event::End(_) => partners.end_block(),
            _ => {}
        }
    }
    partners
}

/// How far the blank line before a block is looked for, in bytes: the quotes and the indentation of a line.
const BLANK_WITHIN: usize = 64;

fn begins_block(event: &Event<'_>) -> bool {
    let block = |tag: &Tag<'_>| {
        matches!(
            tag,
            Tag::Paragraph | Tag::BlockQuote(_) | Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::List(_) | Tag::Table(_)
        )
    };
    matches!(event, Event::Rule) || matches!(event, Event::Start(tag) if block(tag))
}

/// Whether the author left a blank line before the block that begins at `start`.
fn blank_before(markdown: &str, start: usize) -> bool {
    let mut lines = 0;
    for byte in markdown.as_bytes()[..start].iter().rev().take(BLANK_WITHIN) {
        match byte {
            b'\n' => lines += 1,
            b' ' | b'\t' | b'\r' | b'>' => {}
            _ => return false,
        }
        if lines == 2 {
            return true;
        }
    }
    true
}

/// Whether the author wrote the `@` of this text, or the `<` before one, in a way that says that it is text: `\\@`, `&#64;`.
fn is_literal_at(text: &str, markdown: &str, range: &Range<usize>) -> bool {
    let source = markdown.as_bytes();
    let written_out = source.get(range.start) == Some(&b'&')
        || range.start.checked_sub(1).and_then(|before| source.get(before)) == Some(&b'\\');
    let at = text.starts_with('@') || text.starts_with("<@") || text == "<" && source.get(range.end) == Some(&b'@');
    written_out && at
}

/// Whether a bare web address is still going on at the end of the text.
fn ends_in_url(text: &str, before: bool) -> bool {
    let (begins_anew, tail) = match text.rfind(char::is_whitespace) {
        Some(at) => (true, &text[at..]),
        None => (false, text),
    };
    before && !begins_anew || tail.contains("http://") || tail.contains("https://")
}

/// A list that is open.
#[derive(Debug)]
struct List {
    /// The next number of an ordered one.
    number: Option<u64>,
    /// Whether it has had an item.
    begun: bool,
    /// How wide the bullet of its present item is, in characters.
    hang: usize,
}

#[derive(Debug)]
struct Reader<'a> {
    people: &'a Directory<'a>,
    items: Vec<Item>,
    /// The line that is being read.
    runs: Vec<Run>,
    /// How many spans of each mark are open; a heading is one of bold.
    bold: usize,
    italic: usize,
    strike: usize,
    /// The spans that are open. Those that began within a bare web address (`https://x.y/_z_`) are no spans: their
    /// delimiter is kept here, to be written as text.
    spans: Vec<Option<String>>,
    /// Whether the line so far ends in a bare web address.
    in_url: bool,
    lists: Vec<List>,
    /// The bullet that the next line begins with.
    marker: Option<String>,
    quotes: usize,
    /// The number of the outermost quote that is or was open last, to tell two quotes apart.
    quote: usize,
    /// The outermost quote of the line before.
    last_quote: Option<usize>,
    /// Whether a blank line stands before the next line.
    gap: bool,
    capture: Option<Capture>,
    code: Option<String>,
    html: Option<String>,
    /// Which tags of HTML within lines have their other half.
    partners: Partners,
    /// How many elements of code are open, and for each link of HTML whether it leads anywhere.
    html_code: usize,
    anchors: Vec<bool>,
    /// How many of `lists` are those of an HTML block.
    html_lists: usize,
    table: Option<Table>,
    /// Whether the line that is being read is a cell of it.
    in_cell: bool,
    /// Where the last cell ended, in the source.
    cell_end: usize,
}

impl<'p> Reader<'p> {
    fn new(people: &'p Directory<'p>, partners: Partners) -> Self {
        Self {
            people,
            items: Vec::new(),
            runs: Vec::new(),
            bold: 0,
            italic: 0,
            strike: 0,
            spans: Vec::new(),
            in_url: false,
            lists: Vec::new(),
            marker: None,
            quotes: 0,
            quote: 0,
            last_quote: None,
            gap: false,
            capture: None,
            code: None,
            html: None,
            partners,
            html_code: 0,
            anchors: Vec::new(),
            html_lists: 0,
            table: None,
            in_cell: false,
            cell_end: 0,
        }
    }

    fn event(&mut self, event: Event<'_>, markdown: &str, range: &Range<usize>) {
        match event {
            Event::Start(tag @ (Tag::Emphasis | Tag::Strong | Tag::Strikethrough)) => {
                self.start_span(&tag, &markdown[range.clone()]);
            }
            Event::Start(tag) => self.start(tag),
            Event::End(TagEnd::TableCell) => self.end_cell(range.end),
            Event::End(TagEnd::TableRow) => self.end_row(&markdown[self.cell_end.min(range.end)..range.end]),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => {
                let literal = self.code.is_none() && self.html.is_none() && is_literal_at(&text, markdown, range);
                let sign = text.len().min(1) * usize::from(literal);
                self.text(&text[..sign]);
                self.text(if literal { LITERAL } else { "" });
                self.text(&text[sign..]);
            }
            Event::Code(text) => self.code_span(&text),
            Event::SoftBreak | Event::HardBreak => self.line_break(),
            Event::Rule => {
                self.begin_block();
                self.text(RULE);
                self.end_block();
            }
            Event::TaskListMarker(done) => self.task(done),
            Event::FootnoteReference(label) => self.text(&format!("[{label}]")),
            Event::Html(text) => match &mut self.html {
                Some(block) => block.push_str(&text),
                None => self.text(&text),
            },
            Event::InlineHtml(text) => {
                let tag = self.partners.take(html::tag(&text));
                self.tag(tag, &text);
            }
            // Not switched on; shown as text should that change.
            Event::InlineMath(text) | Event::DisplayMath(text) => self.text(&text),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { .. } => {
                self.begin_block();
                self.bold += 1;
            }
            Tag::BlockQuote(kind) => self.start_quote(kind),
            Tag::CodeBlock(_) => {
                self.begin_fence();
                self.code = Some(String::new());
            }
            Tag::HtmlBlock => {
                self.end_line();
                self.html = Some(String::new());
            }
            Tag::List(number) => self.start_list(number),
            Tag::Item => self.start_item(),
            Tag::FootnoteDefinition(label) => {
                self.begin_block();
                self.text(&format!("[{label}] "));
            }
            Tag::Table(alignments) => {
                self.begin_fence();
                self.table = Some(Table::new(alignments));
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.row();
                }
            }
            Tag::TableCell => self.in_cell = true,
            Tag::Link { link_type, dest_url, .. } => {
                let dest = match (link_type, dest_url.split_once('|')) {
                    (LinkType::Email, _) => format!("mailto:{dest_url}"),
                    // A link as Slack writes it. What stands between the brackets is its text as well: see `end_link`.
                    (LinkType::Autolink, Some((dest, _))) => dest.to_owned(),
                    _ => dest_url.into_string(),
                };
                self.start_link(dest, false);
            }
            Tag::Image { dest_url, .. } => self.start_link(dest_url.into_string(), true),
            Tag::Paragraph
            | Tag::Emphasis
            | Tag::Strong
            | Tag::Strikethrough
            | Tag::DefinitionList
            | Tag::DefinitionListTitle
            | Tag::DefinitionListDefinition
            | Tag::Superscript
            | Tag::Subscript
            | Tag::MetadataBlock(_) => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph => self.end_block(),
            TagEnd::Heading(_) => {
                let before = self.items.len();
                self.end_block();
                if self.items.len() > before {
                    self.keep();
                }
                // The text of a tight item is no block: nothing would take the blank line back.
                self.gap = self.lists.is_empty();
                self.bold = self.bold.saturating_sub(1);
            }
            TagEnd::BlockQuote(_) => {
                self.end_block();
                self.quotes = self.quotes.saturating_sub(1);
            }
            TagEnd::CodeBlock => {
                let code = self.code.take().unwrap_or_default();
                self.fence(code.strip_suffix('\n').unwrap_or(&code).split('\n'));
            }
            TagEnd::HtmlBlock => self.end_html(),
            TagEnd::List(_) => {
                self.end_block();
                self.lists.pop();
            }
            TagEnd::Item => self.end_line_and_marker(),
            TagEnd::FootnoteDefinition => self.end_block(),
            TagEnd::Table => self.end_table(),
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => self.end_span(tag),
            TagEnd::Link | TagEnd::Image => self.end_link(),
            _ => {}
        }
    }

    fn start_span(&mut self, tag: &Tag<'_>, source: &str) {
        if self.in_url {
            let chars = match tag {
                Tag::Emphasis => 1,
                Tag::Strong => 2,
                _ => source.bytes().take_while(|byte| *byte == b'~').count(),
            };
            let delimiter: String = source.chars().take(chars).collect();
            self.text(&delimiter);
            self.spans.push(Some(delimiter));
            return;
        }
        match tag {
            Tag::Emphasis => self.italic += 1,
            Tag::Strong => self.bold += 1,
            _ => self.strike += 1,
        }
        self.spans.push(None);
    }

    fn end_span(&mut self, tag: TagEnd) {
        if let Some(Some(delimiter)) = self.spans.pop() {
            return self.text(&delimiter);
        }
        let count = match tag {
            TagEnd::Emphasis => &mut self.italic,
            TagEnd::Strong => &mut self.bold,
            _ => &mut self.strike,
        };
        *count = count.saturating_sub(1);
    }

    fn start_quote(&mut self, kind: Option<BlockQuoteKind>) {
        self.end_line();
        if self.quotes == 0 {
            self.quote += 1;
        }
        self.quotes += 1;
        let title = match kind {
            None => return,
            Some(BlockQuoteKind::Note) => "Note",
            Some(BlockQuoteKind::Tip) => "Tip",
            Some(BlockQuoteKind::Important) => "Important",
            Some(BlockQuoteKind::Warning) => "Warning",
            Some(BlockQuoteKind::Caution) => "Caution",
        };
        self.bold += 1;
        self.text(title);
        self.bold -= 1;
        self.end_line();
    }

    fn start_list(&mut self, number: Option<u64>) {
        self.end_line_and_marker();
        if !self.lists.is_empty() {
            self.gap = false;
        }
        self.lists.push(List { number, begun: false, hang: 0 });
    }

    fn start_item(&mut self) {
        self.end_line();
        let level = self.lists.len().saturating_sub(1);
        let Some(list) = self.lists.last_mut() else { return };
        if list.begun {
            self.gap = false;
        }
        list.begun = true;
        let marker = match &mut list.number {
            Some(number) => {
                let marker = format!("{number}. ");
                *number = number.saturating_add(1);
                marker
            }
            None => BULLETS[level % BULLETS.len()].to_owned(),
        };
        list.hang = marker.chars().count();
        self.marker = Some(marker);
    }

    fn task(&mut self, done: bool) {
        let sign = if done { "☑ " } else { "☐ " };
        let ordered = self.lists.last().is_some_and(|list| list.number.is_some());
        match &mut self.marker {
            Some(marker) if ordered => marker.push_str(sign),
            marker => *marker = Some(sign.to_owned()),
        }
        if let (Some(marker), Some(list)) = (&self.marker, self.lists.last_mut()) {
            list.hang = marker.chars().count();
        }
    }

    fn style(&self) -> Style {
        Style::default()
            .with(Mark::Bold, self.bold > 0)
            .with(Mark::Italic, self.italic > 0)
            .with(Mark::Strike, self.strike > 0)
    }

    fn text(&mut self, text: &str) {
        match (&mut self.code, &mut self.html) {
            (Some(code), _) => code.push_str(text),
            (None, Some(html)) => html.push_str(text),
            (None, None) => self.push_text(text, self.style()),
        }
    }

    fn push_text(&mut self, text: &str, style: Style) {
        if self.captures(text, style) {
            return;
        }
        if self.html_code > 0 {
            self.push_code(text);
        } else if let Some(Run { style: known, kind: RunKind::Text(last) }) = self.runs.last_mut()
            && *known == style
        {
            last.push_str(text);
            self.in_url = ends_in_url(text, self.in_url);
        } else if !text.is_empty() {
            self.in_url = ends_in_url(text, false);
            self.runs.push(Run { style, kind: RunKind::Text(text.to_owned()) });
        }
    }

    fn code_span(&mut self, text: &str) {
        if !self.captures(text, self.style()) {
            self.push_code(text);
        }
    }

    fn push_code(&mut self, text: &str) {
        self.in_url = false;
        self.runs.push(Run { style: self.style(), kind: RunKind::Code(text.to_owned()) });
    }

    /// Whether the text at hand can have no lines: the label of a link, or the cell of a table.
    fn is_inside(&self) -> bool {
        self.capture.is_some() || self.in_cell
    }

    /// Whether there is something on the line so far.
    fn has_text(&self) -> bool {
        !self.runs.is_empty()
    }

    fn line_break(&mut self) {
        if self.is_inside() {
            self.push_text(" ", self.style());
        } else {
            self.end_line();
        }
    }

    /// What is on the line so far, with its addresses and mentions.
    fn take_line(&mut self) -> Vec<Run> {
        self.in_url = false;
        inline::refine(std::mem::take(&mut self.runs), self.people)
    }

    /// Ends the line, when there is something on it.
    fn end_line(&mut self) {
        let runs = self.take_line();
        if !runs.iter().all(|run| run.kind.is_blank()) {
            self.push_line(runs);
        }
    }

    /// Ends the line; a bullet that is still to be written is written even when nothing stands behind it.
    fn end_line_and_marker(&mut self) {
        self.end_line();
        if self.marker.is_some() {
            self.push_line(Vec::new());
        }
    }

    /// What follows stands at the left edge, below the bullet that is still to be written.
    fn begin_fence(&mut self) {
        self.end_line();
        if self.marker.is_some() {
            self.push_line(Vec::new());
            self.keep();
        }
    }

    /// The last line stays with what follows it.
    fn keep(&mut self) {
        if let Some(item) = self.items.last_mut() {
            item.keep = true;
        }
    }

    fn push_line(&mut self, runs: Vec<Run>) {
        let hang = self.lists.last().map_or(0, |list| list.hang);
        let lead = Lead { quotes: self.quotes, lists: self.lists.len(), marker: self.marker.take(), hang };
        let quote = (self.quotes > 0).then_some(self.quote);
        self.push_item(Body::Line { lead, runs }, quote);
    }

    fn push_item(&mut self, body: Body, quote: Option<usize>) {
        // Slack would read the end of the one and the beginning of the other as a fence of their own.
        let between = |item: &Item| matches!((&item.body, &body), (Body::Fence(_), Body::Fence(_)));
        self.gap |= self.items.last().is_some_and(between);
        let gap = match (self.gap, quote) {
            (false, _) => Gap::None,
            (true, Some(quote)) if self.last_quote == Some(quote) => Gap::Quoted,
            (true, _) => Gap::Blank,
        };
        self.gap = false;
        self.last_quote = quote;
        self.items.push(Item { gap, keep: false, body });
    }

    /// A block begins that stands apart from what is before it, unless it is the first of its list item.
    fn begin_block(&mut self) {
        self.end_line();
        self.gap |= self.marker.is_none();
    }

    fn end_block(&mut self) {
        self.end_line();
        self.gap = true;
    }

    fn fence<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        let lines: Vec<String> = lines.map(|line| escape::fenced(line.strip_suffix('\r').unwrap_or(line))).collect();
        if !lines.iter().all(|line| escape::is_blank(line)) {
            self.push_item(Body::Fence(lines), None);
        }
        self.gap = true;
    }
}
