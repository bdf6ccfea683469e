//! Words and their styles, and the writer that puts marks around them.

use super::escape::{self, Marks, ZERO_WIDTH_SPACE};

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
        /// The address, finished.
        address: String,
        /// The text that stands for it, as it is read.
        label: String,
    },
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
}

/// The tokens of a line, each at most `limit` characters long.
pub(super) fn tokens(runs: &[Run], limit: usize) -> Vec<Token> {
    let mut maker = Maker { tokens: Vec::new(), marks: count(runs), limit };
    for (index, run) in runs.iter().enumerate() {
        // What stands beside a run of another style is a mark: neither a space nor a letter.
        let before = (index > 0).then_some('|');
        let after = if index + 1 < runs.len() { "|" } else { "" };
        match &run.kind {
            RunKind::Text(text) => maker.text(text, run.style, before, after),
            RunKind::Code(text) => maker.code(text, run.style),
            RunKind::Link { address, label } => maker.link(address, label, run.style),
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

fn count(runs: &[Run]) -> Marks {
    let mut marks = Marks::default();
    for run in runs {
        for mark in Mark::ALL {
            marks.add(mark.sign(), if run.style.has(mark) { 2 } else { 0 });
        }
        match &run.kind {
            RunKind::Text(text) | RunKind::Link { label: text, .. } => text.chars().for_each(|c| marks.add(c, 1)),
            RunKind::Code(_) => marks.add('`', 2),
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

    fn text(&mut self, text: &str, style: Style, mut before: Option<char>, after: &str) {
        let mut rest = text;
        while let Some((prose, url, tail)) = bare_url(rest) {
            self.prose(prose, style, before, "|");
            match escape::address(url).filter(|address| address.chars().count() + 2 <= self.limit) {
                Some(address) => self.push(TokenKind::Link, format!("<{address}>"), style),
                None => self.prose(url, style, Some('|'), "|"),
            }
            (before, rest) = (Some('|'), tail);
        }
        self.prose(rest, style, before, after);
    }

    /// `after` is what follows the text on its line, as far as marks care.
    fn prose(&mut self, text: &str, style: Style, before: Option<char>, after: &str) {
        let mut word = String::new();
        let mut prev = before;
        for (at, c) in text.char_indices() {
            let rest = &text[at + c.len_utf8()..];
            if c == ' ' || c == '\t' {
                self.word(&mut word, style);
                self.space(c, style);
            } else {
                escape::push_prose(&mut word, c, prev, if rest.is_empty() { after } else { rest }, &self.marks);
            }
            prev = Some(c);
        }
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

    fn link(&mut self, address: &str, label: &str, style: Style) {
        let mut shown = String::new();
        let mut prev = None;
        for (at, c) in label.char_indices() {
            escape::push_prose(&mut shown, c, prev, &label[at + c.len_utf8()..], &self.marks);
            prev = Some(c);
        }
        let text = if escape::is_blank(&shown) || escape::address(label).as_deref() == Some(address) {
            format!("<{address}>")
        } else {
            format!("<{address}|{shown}>")
        };
        if text.chars().count() <= self.limit {
            return self.push(TokenKind::Link, text, style);
        }
        // A link is never cut: one that fits into no message is shown as text.
        self.prose(label, style, Some('|'), "|");
        self.space(' ', style);
        let mut address = address.to_owned();
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
