//! The HTML of a CommonMark example, as a reader of the page sees it.

use std::rc::Rc;

use super::{Code, Glyph, Style};

/// What has to be found in the message, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A character.
    Glyph {
        /// The character and its style.
        glyph: Glyph,
        /// Its type (bold, italic, struck, code) is not for the message to keep: see [`read`].
        loose: bool,
    },
    /// The mark of a list item: its number in an ordered list.
    Item(Option<u64>),
    /// A rule across the page.
    Rule,
    /// A tag that the author wrote, or something else that a page does not show.
    Hidden(String),
    /// The end of a link or an image.
    LinkEnd {
        /// Where it leads.
        address: Rc<str>,
        /// Nothing is shown for it but what the message makes of the address.
        empty: bool,
    },
}

const BLOCKS: [&str; 24] = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "li",
    "ul",
    "ol",
    "pre",
    "blockquote",
    "div",
    "table",
    "tr",
    "td",
    "th",
    "hr",
    "br",
    "article",
    "section",
    "thead",
    "tbody",
    "dl",
];
const VOID: [&str; 4] = ["hr", "br", "img", "input"];

struct Open {
    tag: String,
    /// The style outside.
    before: Style,
    loose_before: bool,
    /// The first piece inside.
    start: usize,
}

struct Page<'a> {
    markdown: &'a str,
    pieces: Vec<Piece>,
    style: Style,
    loose: bool,
    open: Vec<Open>,
    /// The next number of each list that is open.
    lists: Vec<Option<u64>>,
}

/// Reads the HTML that `markdown` means.
///
/// Type is loose where it cannot be told what the message has to keep:
/// - inside tags that the author wrote as raw HTML, since a renderer may strip them or give them their partner in mrkdwn;
/// - in a link's label whose type changes on the way, since Slack reads no marks inside a label.
pub fn read(markdown: &str, html: &str) -> Vec<Piece> {
    let lower = markdown.to_lowercase();
    let mut page = Page {
        markdown: &lower,
        pieces: Vec::new(),
        style: Style::default(),
        loose: false,
        open: Vec::new(),
        lists: Vec::new(),
    };
    let mut rest = html;
    while !rest.is_empty() {
        rest = page.next(rest);
    }
    page.pieces
}

impl Page<'_> {
    fn next<'h>(&mut self, rest: &'h str) -> &'h str {
        if let Some(end) = hidden(rest) {
            self.pieces.push(Piece::Hidden(rest[..end].to_owned()));
            return &rest[end..];
        }
        if let Some(behind) = rest.strip_prefix('<')
            && behind.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && let Some(end) = tag_end(behind)
        {
            self.tag(&behind[..end]);
            return &behind[end + 1..];
        }
        for (entity, c) in [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"')] {
            if let Some(behind) = rest.strip_prefix(entity) {
                self.show(c);
                return behind;
            }
        }
        let mut chars = rest.chars();
        self.show(chars.next().unwrap_or_default());
        chars.as_str()
    }

    fn show(&mut self, c: char) {
        let glyph = Glyph { c, style: self.style.clone() };
        self.pieces.push(Piece::Glyph { glyph, loose: self.loose });
    }

    fn break_line(&mut self) {
        let glyph = Glyph { c: '\n', style: Style::default() };
        self.pieces.push(Piece::Glyph { glyph, loose: true });
    }

    fn tag(&mut self, inside: &str) {
        let lower = inside.to_lowercase();
        let name = lower
            .trim_start_matches('/')
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .next()
            .unwrap_or_default();
        if self.is_raw(name) {
            self.pieces.push(Piece::Hidden(format!("<{inside}>")));
        }
        if inside.starts_with('/') {
            self.close(name);
        } else if VOID.contains(&name) {
            self.void(name, inside);
        } else if !lower.ends_with('/') {
            self.open(name, inside);
        }
        if BLOCKS.contains(&name) {
            self.break_line();
        }
        if name == "li" && !inside.starts_with('/') {
            let number = self.lists.last_mut().and_then(Option::as_mut).map(|next| {
                *next += 1;
                *next - 1
            });
            self.pieces.push(Piece::Item(number));
            self.break_line();
        }
    }

    fn open(&mut self, name: &str, inside: &str) {
        let (before, loose_before) = (self.style.clone(), self.loose);
        self.open.push(Open { tag: name.to_owned(), before, loose_before, start: self.pieces.len() });
        self.loose |= self.is_raw(name);
        match name {
            "strong" | "b" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.style.bold = true,
            "em" | "i" => self.style.italic = true,
            "del" => self.style.strike = true,
            "code" => self.style.code = self.style.code.or(Some(Code::Span)),
            // A fence stands outside of quotes: Slack's fences hold no lines with marks of their own.
            "pre" => self.style = Style { code: Some(Code::Block), quotes: 0, ..Style::default() },
            "blockquote" => self.style.quotes += 1,
            "a" => self.style.link = attribute(inside, "href").map(Rc::from),
            "ul" => self.lists.push(None),
            "ol" => self.lists.push(attribute(inside, "start").map_or(Some(1), |start| start.parse().ok())),
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        let Some(at) = self.open.iter().rposition(|open| open.tag == name) else { return };
        let Some(open) = self.open.drain(at..).next() else { return };
        match name {
            "a" => self.end_link(open.start),
            "ul" | "ol" => drop(self.lists.pop()),
            "pre" => self.strip_last_line_end(),
            "code" => self.loosen_blank(open.start),
            _ => {}
        }
        self.style = open.before;
        self.loose = open.loose_before;
    }

    fn void(&mut self, name: &str, inside: &str) {
        match name {
            "hr" => self.pieces.push(Piece::Rule),
            "img" => {
                let start = self.pieces.len();
                let before = self.style.link.clone();
                let source = attribute(inside, "src").map(Rc::from);
                self.style.link = before.clone().or(source);
                attribute(inside, "alt").unwrap_or_default().chars().for_each(|c| self.show(c));
                if before.is_none() {
                    self.end_link(start);
                }
                self.style.link = before;
            }
            _ => {}
        }
    }

    fn end_link(&mut self, start: usize) {
        let Some(address) = self.style.link.clone() else { return };
        let mut types = Vec::new();
        for piece in &self.pieces[start..] {
            if let Piece::Glyph { glyph: Glyph { style, .. }, .. } = piece {
                types.push((style.bold, style.italic, style.strike, style.code));
            }
        }
        let mixed = types.windows(2).any(|pair| pair[0] != pair[1]) || types.iter().any(|kind| kind.3.is_some());
        let linkable = super::compare::is_linkable(&address);
        for piece in &mut self.pieces[start..] {
            if let Piece::Glyph { loose, .. } = piece {
                *loose |= mixed && linkable;
            }
        }
        self.pieces.push(Piece::LinkEnd { address, empty: types.is_empty() });
    }

    fn strip_last_line_end(&mut self) {
        if matches!(self.pieces.last(), Some(Piece::Glyph { glyph: Glyph { c: '\n', .. }, loose: false })) {
            self.pieces.pop();
        }
    }

    /// Code that is blank is not for the message to show: there is nothing to see in it.
    fn loosen_blank(&mut self, start: usize) {
        let is_blank = |piece: &Piece| matches!(piece, Piece::Glyph { glyph, .. } if glyph.c.is_whitespace());
        if self.pieces[start..].iter().all(is_blank) {
            for piece in &mut self.pieces[start..] {
                if let Piece::Glyph { loose, .. } = piece {
                    *loose = true;
                }
            }
        }
    }

    fn is_raw(&self, name: &str) -> bool {
        [format!("<{name}"), format!("</{name}")].iter().any(|tag| {
            self.markdown.match_indices(tag).any(|(at, _)| {
                let behind = self.markdown[at + tag.len()..].chars().next();
                behind.is_none_or(|c| !c.is_ascii_alphanumeric() && !"-:+.@".contains(c))
            })
        })
    }
}

/// Where something ends that a page does not show: a comment, an instruction, a declaration, a script, a sheet of styles.
fn hidden(text: &str) -> Option<usize> {
    const HIDDEN: [(&str, &str); 8] = [
        // These two are whole comments: <https://spec.commonmark.org/0.31.2/#html-comment>.
        ("<!-->", ""),
        ("<!--->", ""),
        ("<!--", "-->"),
        ("<?", "?>"),
        ("<![CDATA[", "]]>"),
        ("<!", ">"),
        ("<script", "</script>"),
        ("<style", "</style>"),
    ];
    let (start, end) = HIDDEN.into_iter().find(|(start, _)| text.starts_with(start))?;
    text[start.len()..].find(end).map(|at| start.len() + at + end.len())
}

/// Where a tag ends: the first `>` outside of quotation marks.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        None
    })
}

/// The value of an attribute in the form that CommonMark's own HTML has.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, behind) = tag.split_once(&format!("{name}=\""))?;
    let (value, _) = behind.split_once('"')?;
    Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}
