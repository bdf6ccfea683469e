//! Words and their styles, and the writer that puts marks around them.

use super::escape::{self, EDGE, Marks, ZERO_WIDTH_SPACE};
use super::mention::Directory;

/// A mark of mrkdwn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Bold,
    Italic,
    Strike,
}

impl Mark {
    const ALL: [Self; 3] = [Self::Bold, Self::Italic, Self::Strike];

    fn sign(self) -> char {
        match self {
            Self::Bold => '*',
            Self::Italic => '_',
            Self::Strike => '~',
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// The marks that hold for a piece of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    marks: [bool; 3],
}

impl Style {
    /// With the mark as well, when `on`.
    pub(super) fn with(mut self, mark: Mark, on: bool) -> Self {
        self.marks[mark.index()] |= on;
        self
    }

    /// What both have.
    pub(super) fn both(self, other: Self) -> Self {
        Self { marks: std::array::from_fn(|index| self.marks[index] && other.marks[index]) }
    }

    /// Without the marks that could not be told from the text: `***` is no bold star.
    fn beside(mut self, text: &str) -> Self {
        let first = text.trim().chars().next();
        for mark in Mark::ALL.into_iter().filter(|mark| first == Some(mark.sign())) {
            self.marks[mark.index()] &= !text.trim().chars().all(|c| c == mark.sign());
        }
        self
    }

    fn has(self, mark: Mark) -> bool {
        self.marks[mark.index()]
    }
}

/// A piece of a line in one style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Its style.
    pub(super) style: Style,
    /// What it is.
    pub(super) kind: RunKind,
}

/// What a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunKind {
    /// Prose, as it is read.
    Text(String),
    /// A code span, as it is read.
    Code(String),
    /// A link.
    Link {
        /// The address as it is read; [`escape::address`] accepts it.
        dest: String,
        /// The text that stands for it, as it is read.
        label: String,
    },
    /// Somebody who may be mentioned.
    Mention {
        /// Their id.
        id: String,
        /// Their name, for places where nobody can be mentioned.
        name: String,
    },
}

impl RunKind {
    /// Whether there is nothing to see.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) | Self::Code(text) => escape::is_blank(text),
            Self::Link { .. } | Self::Mention { .. } => false,
        }
    }
}

/// Finds the bare web addresses and the mentions in the text of a line.
pub(super) fn refine(runs: Vec<Run>, people: &Directory<'_>) -> Vec<Run> {
    let first = |run: &Run| match &run.kind {
        RunKind::Text(text) => text.chars().next(),
        _ => None,
    };
    let mut out = Vec::with_capacity(runs.len());
    let mut before = None;
    let mut runs = runs.into_iter().peekable();
    while let Some(Run { style, kind }) = runs.next() {
        let text = match kind {
            RunKind::Text(text) => escape::without_controls(text),
            RunKind::Link { dest, label } => {
                before = Some(EDGE);
                out.push(Run { style, kind: RunKind::Link { dest, label: escape::without_controls(label) } });
                continue;
            }
            kind => {
                before = Some(EDGE);
                out.push(Run { style, kind });
                continue;
            }
        };
        let style = style.beside(&text);
        let last = text.chars().next_back();
        if !text.contains('@') && !text.contains("http") {
            before = last;
            out.push(Run { style, kind: RunKind::Text(text) });
            continue;
        }
        let mut rest = text.as_str();
        loop {
            let (prose, dest, label, tail) = match (slack_link(rest), bare_url(rest)) {
                // Its address would be found in it as a bare one.
                (Some(link), bare) if bare.is_none_or(|(prose, ..)| link.prose.len() < prose.len()) => {
                    (link.prose, link.dest, link.label, link.tail)
                }
                (_, Some((prose, url, tail))) => (prose, url, url, tail),
                _ => break,
            };
            people.split(prose, style, before, Some(EDGE), &mut out);
            out.push(Run { style, kind: RunKind::Link { dest: dest.to_owned(), label: label.to_owned() } });
            (before, rest) = (Some(EDGE), tail);
        }
        people.split(rest, style, before, runs.peek().and_then(first), &mut out);
        before = last;
    }
    out
}

/// A link as Slack writes it: `<https://x.y|its label>`. Agents have read Slack's messages and write their own so.
struct SlackLink<'a> {
    prose: &'a str,
    dest: &'a str,
    label: &'a str,
    tail: &'a str,
}

/// The first such link. Each character is looked at once: what begins a link ends at the next bracket of either kind.
fn slack_link(text: &str) -> Option<SlackLink<'_>> {
    let mut from = 0;
    while let Some(begin) = text[from..].find("<http").map(|at| from + at) {
        let inner = &text[begin + 1..];
        let end = inner.find(['<', '>'])?;
        from = begin + 1 + end;
        if !inner[end..].starts_with('>') {
            continue;
        }
        let Some((dest, label)) = inner[..end].split_once('|') else { continue };
        if !label.trim().is_empty() && !dest.contains(char::is_whitespace) && escape::address(dest).is_some() {
            return Some(SlackLink { prose: &text[..begin], dest, label: label.trim(), tail: &text[from + 1..] });
        }
    }
    None
}

/// The smallest piece that the splitter moves: finished text, at most as long as fits into any message.
#[derive(Debug, Clone)]
pub(super) struct Token {
    kind: TokenKind,
    text: String,
    chars: usize,
    style: Style,
    /// For each mark it has: the token behind the last one that goes on having it.
    until: [usize; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Word,
    Space,
    Code,
    Link,
}

impl Token {
    /// Whether a line may be broken here.
    pub(super) fn is_space(&self) -> bool {
        self.kind == TokenKind::Space
    }

    /// How long it is, in characters.
    pub(super) fn chars(&self) -> usize {
        self.chars
    }
}

/// The tokens of a line, each at most `limit` characters long.
pub(super) fn tokens(runs: &[Run], limit: usize) -> Vec<Token> {
    let mut maker = Maker { tokens: Vec::new(), marks: count(runs), limit };
    for (index, run) in runs.iter().enumerate() {
        match &run.kind {
            RunKind::Text(text) => maker.prose(text, run.style, sides(runs, index)),
            RunKind::Code(text) => maker.code(text, run.style),
            RunKind::Link { dest, label } => maker.link(dest, label, run.style),
            RunKind::Mention { id, .. } => maker.push(TokenKind::Link, format!("<@{id}>"), run.style),
        }
    }
    let mut tokens = maker.tokens;
    let mut until = [0; 3];
    let mut holds = [false; 3];
    for (index, token) in tokens.iter_mut().enumerate().rev() {
        for mark in Mark::ALL {
            let slot = mark.index();
            if token.style.has(mark) && !holds[slot] {
                until[slot] = index + 1;
            }
            holds[slot] = token.style.has(mark);
        }
        token.until = until;
    }
    tokens
}

/// What stands on both sides of a run's text: beside one of another style a mark, beside code or a link what they begin
/// and end with.
#[derive(Debug, Clone, Copy)]
struct Sides {
    before: Option<char>,
    after: Option<char>,
}

impl Sides {
    /// Those of text that stands alone.
    const NONE: Self = Self { before: None, after: None };

    /// Calls `with` for each character, the one before it, and what follows it.
    fn each(self, text: &str, mut with: impl FnMut(char, Option<char>, &str)) {
        let mut buffer = [0; 4];
        let after = self.after.map_or("", |c| c.encode_utf8(&mut buffer));
        let mut prev = self.before;
        for (at, c) in text.char_indices() {
            let rest = &text[at + c.len_utf8()..];
            with(c, prev, if rest.is_empty() { after } else { rest });
            prev = Some(c);
        }
    }
}

fn sides(runs: &[Run], index: usize) -> Sides {
    let side = |neighbour: Option<&Run>| {
        neighbour.map(|run| if runs.get(index).is_some_and(|own| own.style == run.style) { '|' } else { EDGE })
    };
    Sides { before: side(index.checked_sub(1).and_then(|index| runs.get(index))), after: side(runs.get(index + 1)) }
}

fn count(runs: &[Run]) -> Marks {
    let mut marks = Marks::default();
    for (index, run) in runs.iter().enumerate() {
        for mark in Mark::ALL.into_iter().filter(|mark| run.style.has(*mark)) {
            marks.add_pair(mark.sign());
        }
        let sides = match &run.kind {
            RunKind::Text(_) => sides(runs, index),
            _ => Sides::NONE,
        };
        match &run.kind {
            RunKind::Text(text) | RunKind::Link { label: text, .. } => {
                sides.each(text, |c, prev, rest| marks.add_prose(c, prev, rest.chars().next()));
            }
            RunKind::Code(_) => marks.add_pair('`'),
            RunKind::Mention { .. } => {}
        }
    }
    marks
}

struct Maker {
    tokens: Vec<Token>,
    marks: Marks,
    limit: usize,
}

impl Maker {
    fn push(&mut self, kind: TokenKind, text: String, style: Style) {
        let chars = text.chars().count();
        self.tokens.push(Token { kind, text, chars, style, until: [0; 3] });
    }

    fn space(&mut self, c: char, style: Style) {
        match self.tokens.last_mut() {
            Some(last) if last.is_space() => {
                last.text.push(c);
                last.chars += 1;
                last.style = last.style.both(style);
            }
            _ => self.push(TokenKind::Space, c.to_string(), style),
        }
    }

    /// A word, in as many tokens as its length needs.
    fn word(&mut self, word: &mut String, style: Style) {
        let mut rest = word.as_str();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(escape::cut(rest, self.limit));
            self.push(TokenKind::Word, head.to_owned(), style);
            rest = tail;
        }
        word.clear();
    }

    fn prose(&mut self, text: &str, style: Style, sides: Sides) {
        let mut word = String::new();
        let marks = self.marks;
        sides.each(text, |c, prev, rest| {
            if c == ' ' || c.is_whitespace() && c.is_control() {
                self.word(&mut word, style);
                self.space(if c == '\t' { c } else { ' ' }, style);
            } else {
                escape::push_prose(&mut word, c, prev, rest, &marks);
            }
        });
        self.word(&mut word, style);
    }

    fn code(&mut self, text: &str, style: Style) {
        let text = escape::code_span(text);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(escape::cut(rest, self.limit - 2));
            self.push(TokenKind::Code, format!("`{head}`"), style);
            rest = tail;
        }
    }

    fn link(&mut self, dest: &str, label: &str, style: Style) {
        let Some(mut address) = escape::address(dest) else { return self.prose(label, style, Sides::NONE) };
        let bare = escape::is_blank(label) || escape::address(label).as_deref() == Some(&address);
        let text = if bare {
            format!("<{address}>")
        } else {
            let mut shown = String::new();
            Sides::NONE.each(label, |c, prev, rest| escape::push_prose(&mut shown, c, prev, rest, &self.marks));
            format!("<{address}|{shown}>")
        };
        if text.chars().count() <= self.limit {
            return self.push(TokenKind::Link, text, style);
        }
        // A link is never cut: one that fits into no message is shown as text.
        if !bare {
            self.prose(label, style, Sides { before: Some('|'), after: Some(' ') });
            self.space(' ', style);
        }
        self.word(&mut address, style);
    }
}

/// Splits text at its first bare web address: what stands before it, the address, what stands behind it. Slack makes
/// links of those by itself, but a disarmed mark inside would break them, and they end elsewhere than we think.
fn bare_url(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("http") {
        let start = from + found;
        let candidate = &text[start..];
        let scheme = ["http://", "https://"].into_iter().find(|scheme| candidate.starts_with(scheme));
        let fresh = !text[..start].ends_with(char::is_alphanumeric);
        if let (Some(scheme), true) = (scheme, fresh) {
            let end = url_end(candidate);
            if end > scheme.len() {
                return Some((&text[..start], &candidate[..end], &candidate[end..]));
            }
        }
        from = start + "http".len();
    }
    None
}

fn url_end(text: &str) -> usize {
    let stops = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '<' | '>' | '"' | '`' | '|' | '\u{2000}'..='\u{206F}' | '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FFEF}')
    };
    let mut url = &text[..text.find(stops).unwrap_or(text.len())];
    let mut unmatched = url.matches(')').count().saturating_sub(url.matches('(').count());
    // What ends a sentence, or a pair that was opened before the address, is not part of it.
    while let Some(last) = url.chars().next_back() {
        match last {
            '.' | ',' | ':' | ';' | '!' | '?' | '\'' | '*' | '_' | '~' | ']' | '}' => {}
            ')' if unmatched > 0 => unmatched -= 1,
            _ => break,
        }
        url = &url[..url.len() - last.len_utf8()];
    }
    url.len()
}

/// What the text written last was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nothing yet, or a mark that has just opened.
    Open,
    /// Text or a space.
    Text,
    /// A mark or a code span that has just closed.
    Closed,
}

/// Writes tokens as mrkdwn: marks never touch a space on their inner side nor a letter on their outer side.
pub(super) struct Writer {
    out: String,
    chars: usize,
    open: Vec<Mark>,
    spaces: String,
    /// The style of those spaces.
    space_style: Style,
    last: Last,
    at_line_start: bool,
}

impl Writer {
    /// A writer; `at_line_start` says that what it writes will stand at the start of a line.
    pub(super) fn new(at_line_start: bool) -> Self {
        Self {
            out: String::new(),
            chars: 0,
            open: Vec::new(),
            spaces: String::new(),
            space_style: Style::default(),
            last: Last::Open,
            at_line_start,
        }
    }

    /// How long the text would be if it ended here, in characters.
    pub(super) fn closed_chars(&self) -> usize {
        self.chars + self.open.len()
    }

    /// The text, every mark closed.
    pub(super) fn finish(mut self) -> String {
        self.close(0);
        self.out
    }

    /// Appends a token.
    pub(super) fn push(&mut self, token: &Token) {
        if token.is_space() {
            if !self.out.is_empty() {
                self.spaces.push_str(&token.text);
                self.space_style = token.style;
            }
            return;
        }
        let style = if self.spaces.is_empty() { token.style } else { token.style.both(self.space_style) };
        let kept = self.open.iter().take_while(|mark| style.has(**mark)).count();
        self.close(kept);
        if !self.spaces.is_empty() {
            self.chars += self.spaces.len();
            self.out.push_str(&self.spaces);
            self.spaces.clear();
            self.last = Last::Text;
        }
        let opening = self.opening(token);
        let formats = !opening.is_empty() || token.kind == TokenKind::Code;
        let apart = match self.last {
            Last::Open => false,
            Last::Text => formats && !self.out.ends_with(is_edge),
            Last::Closed => formats || !token.text.starts_with(is_edge),
        };
        // A `>` at the start of a line would make a quote, escaped or not.
        let quotes = self.at_line_start && self.out.is_empty() && token.text.starts_with("&gt;");
        if apart || quotes {
            self.write(ZERO_WIDTH_SPACE);
        }
        for mark in opening {
            self.write(mark.sign());
            self.open.push(mark);
        }
        self.out.push_str(&token.text);
        self.chars += token.chars;
        self.last = if token.kind == TokenKind::Code { Last::Closed } else { Last::Text };
    }

    /// The marks that open before the token: those that stay longest outermost.
    fn opening(&self, token: &Token) -> Vec<Mark> {
        let mut opening: Vec<Mark> =
            Mark::ALL.into_iter().filter(|mark| token.style.has(*mark) && !self.open.contains(mark)).collect();
        opening.sort_by_key(|mark| std::cmp::Reverse(token.until[mark.index()]));
        opening
    }

    fn close(&mut self, kept: usize) {
        while self.open.len() > kept {
            if let Some(mark) = self.open.pop() {
                self.write(mark.sign());
                self.last = Last::Closed;
            }
        }
    }

    fn write(&mut self, c: char) {
        self.out.push(c);
        self.chars += 1;
    }
}

/// Beside which a mark is seen: a space or plain punctuation.
fn is_edge(c: char) -> bool {
    c.is_whitespace() || c == ZERO_WIDTH_SPACE || c.is_ascii_punctuation() && !matches!(c, '*' | '_' | '~' | '`')
}
