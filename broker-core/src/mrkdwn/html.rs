//! HTML within Markdown: what a tag is to a reader of text. mrkdwn has no HTML; a tag that formats becomes a mark where it
//! has its partner, others vanish, and whatever else looks like a tag (`<T>`, `<!channel>`) was most likely meant as text.

use std::borrow::Cow;

/// What a tag becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// A line break.
    Break,
    /// A line across.
    Rule,
    /// What follows stands on a line of its own.
    Apart,
    /// What follows is the next cell of a row.
    Cell,
    /// What follows is the next item of a list.
    Item,
    /// A list begins, with numbers or without.
    List {
        /// Whether its items have numbers.
        ordered: bool,
    },
    /// A list ends.
    ListEnd,
    /// One half of a pair; without the other half it vanishes.
    Half(Pair, Side),
    /// An image.
    Image,
    /// A tag that means nothing, and stands alone.
    Lone,
    /// Nothing.
    Gone,
    /// It is shown as it is written.
    Shown,
}

/// Tags that mean something only as a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    /// Bold.
    Bold,
    /// Italic.
    Italic,
    /// Struck out.
    Strike,
    /// Code.
    Code,
    /// A heading or a summary: bold, on a line of its own.
    Title,
    /// A link.
    Link,
    /// Text that is shown as it stands, line by line.
    Preformatted,
    /// What means nothing to a reader of text.
    Plain,
    /// What is never shown: scripts and styles.
    Hidden,
}

const PAIRS: usize = Pair::Hidden as usize + 1;

/// Which half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `<b>`.
    Open,
    /// `</b>`.
    Close,
}

/// Elements whose tags vanish, and that mean nothing else.
///
/// In a line, one that stands alone and has no attributes is rather the name of something: `cp <source> <target>`.
const PLAIN: &[&str] = &[
    "abbr", "acronym", "area", "article", "aside", "audio", "base", "bdi", "bdo", "big", "body", "button", "canvas",
    "caption", "cite", "data", "datalist", "dfn", "embed", "fieldset", "font", "footer", "form", "head", "header",
    "hgroup", "html", "iframe", "input", "ins", "label", "legend", "link", "main", "map", "mark", "meta", "nav",
    "nobr", "noscript", "object", "optgroup", "option", "output", "param", "picture", "progress", "q", "rp", "rt",
    "ruby", "search", "section", "select", "small", "source", "span", "sub", "sup", "svg", "table", "tbody",
    "template", "textarea", "tfoot", "thead", "time", "title", "track", "u", "video",
];

/// What becomes of one tag, from `<` to `>`.
pub(super) fn tag(raw: &str) -> Tag {
    if raw.starts_with("<!--") || raw.get(..9).is_some_and(|begin| begin.eq_ignore_ascii_case("<!doctype")) {
        return Tag::Gone;
    }
    let inside = raw.trim_start_matches('<');
    let (side, inside) = inside.strip_prefix('/').map_or((Side::Open, inside), |inside| (Side::Close, inside));
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inside.len());
    // `<a@b>` or `<b:c>` are no tags of HTML.
    if !inside[end..].starts_with(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>') {
        return Tag::Shown;
    }
    let list = |ordered| if side == Side::Open { Tag::List { ordered } } else { Tag::ListEnd };
    let opening = |tag| if side == Side::Open { tag } else { Tag::Gone };
    match inside[..end].to_ascii_lowercase().as_str() {
        "br" => Tag::Break,
        "hr" => Tag::Rule,
        "img" => Tag::Image,
        "b" | "strong" => Tag::Half(Pair::Bold, side),
        "i" | "em" | "var" => Tag::Half(Pair::Italic, side),
        "s" | "del" | "strike" => Tag::Half(Pair::Strike, side),
        "code" | "kbd" | "samp" | "tt" => Tag::Half(Pair::Code, side),
        "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "summary" => Tag::Half(Pair::Title, side),
        "a" => Tag::Half(Pair::Link, side),
        "pre" => Tag::Half(Pair::Preformatted, side),
        "script" | "style" => Tag::Half(Pair::Hidden, side),
        "ul" | "menu" => list(false),
        "ol" => list(true),
        "li" => opening(Tag::Item),
        "td" | "th" => opening(Tag::Cell),
        "address" | "blockquote" | "center" | "dd" | "details" | "div" | "dl" | "dt" | "figcaption" | "figure"
        | "p" | "tr" => Tag::Apart,
        "col" | "colgroup" | "wbr" => Tag::Gone,
        name if PLAIN.contains(&name) => Tag::Half(Pair::Plain, side),
        _ => Tag::Shown,
    }
}

/// Which halves have found their other half, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Partners {
    matched: Vec<bool>,
    open: [Vec<usize>; PAIRS],
    next: usize,
}

impl Partners {
    /// Counts a tag, when it is half of a pair.
    pub(super) fn add(&mut self, tag: Tag) {
        let Tag::Half(pair, side) = tag else { return };
        let waiting = &mut self.open[pair as usize];
        let other = (side == Side::Close).then(|| waiting.pop()).flatten();
        if side == Side::Open {
            waiting.push(self.matched.len());
        } else if let Some(other) = other {
            self.matched[other] = true;
        }
        self.matched.push(other.is_some());
    }

    /// A block ends: no tag has its partner in another.
    pub(super) fn end_block(&mut self) {
        self.open.iter_mut().for_each(Vec::clear);
    }

    /// The tag as it is to be taken; asked in the same order once more.
    pub(super) fn take(&mut self, tag: Tag) -> Tag {
        let Tag::Half(pair, _) = tag else { return tag };
        let matched = self.matched.get(self.next).copied().unwrap_or(false);
        self.next += 1;
        match pair {
            _ if matched => tag,
            Pair::Title => Tag::Apart,
            Pair::Hidden => Tag::Shown,
            Pair::Plain => Tag::Lone,
            _ => Tag::Gone,
        }
    }
}

/// A piece of an HTML block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text, its entities not yet resolved.
    Text(&'a str),
    /// A tag as it is written.
    Tag(&'a str),
}

/// The pieces of an HTML block, comments left out.
pub(super) fn pieces(block: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = block;
    let mut from = 0;
    let mut comments_close = true;
    while let Some(at) = rest[from..].find('<').map(|at| from + at) {
        let begin = &rest[at..];
        let comment = (comments_close && begin.starts_with("<!--")).then(|| begin.find("-->").map(|end| end + 3));
        // Looked for once: a text full of openings would otherwise be read again for each.
        comments_close &= comment != Some(None);
        let end = comment.flatten().or_else(|| {
            let end = 1 + begin[1..].find(['<', '>'])?;
            begin[end..].starts_with('>').then_some(end + 1)
        });
        let Some(end) = end else {
            from = at + 1;
            continue;
        };
        if at > 0 {
            out.push(Piece::Text(&rest[..at]));
        }
        if !begin.starts_with("<!--") {
            out.push(Piece::Tag(&begin[..end]));
        }
        (rest, from) = (&begin[end..], 0);
    }
    if !rest.is_empty() {
        out.push(Piece::Text(rest));
    }
    out
}

/// Text with its entities resolved.
pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    html_escape::decode_html_entities(text)
}

/// The value of an attribute of a tag.
pub(super) fn attribute(raw: &str, name: &str) -> Option<String> {
    let mut rest = raw.trim_start_matches('<').trim_end_matches('>').split_once(|c: char| c.is_whitespace())?.1;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        let end = rest.find(|c: char| c.is_whitespace() || c == '=').filter(|end| *end > 0)?;
        let found = rest[..end].eq_ignore_ascii_case(name);
        rest = rest[end..].trim_start();
        let Some(value) = rest.strip_prefix('=') else { continue };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, tail) = match quote {
            Some(quote) => value[1..].split_once(quote)?,
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        if found {
            return Some(decoded(value).trim().to_owned());
        }
        rest = tail;
    }
}
