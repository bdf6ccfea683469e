//! mrkdwn as Slack shows it.
//!
//! From <https://docs.slack.dev/messaging/formatting-message-text>: `*bold*`, `_italic_`, `~strike~`, `` `code` ``, a
//! block between two lines of three backticks, `>` at the start of a line for a quote, `<address|label>` for a link,
//! `<@…>`, `<#…>` and `<!…>` for what reaches people; `&`, `<` and `>` are written as `&amp;`, `&lt;` and `&gt;` in text.
//!
//! What the page leaves open is read as the clients do, and at its most dangerous where that is not sure:
//! - a mark opens where no letter or digit stands before it and something visible behind it, and closes the other way
//!   round, on the same line; a character without room is no letter, and is not visible either;
//! - `&gt;` at the start of a line is a quote too, since Slack's own events spell quotes so; there is one depth of them, and
//!   what stands behind the first mark is text;
//! - a backtick beside a character without room is a backtick, for the same reason;
//! - code is read before links and links before marks; a label is text without marks.

use std::rc::Rc;

use super::{Code, Glyph, Style, takes_no_room};

const FENCE: &str = "```";
/// The schemes that Slack makes a link of.
pub const SCHEMES: [&str; 5] = ["http://", "https://", "mailto:", "tel:", "ftp://"];

/// Why a text is not safe to send, or not what somebody can have meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// `<!here>` and its like.
    #[error("a control sequence: <{0}>")]
    Control(String),
    /// A `<` that is neither a link nor an entity.
    #[error("an unescaped < before {0:?}")]
    Less(String),
    /// A link to something that is no address.
    #[error("a link to no address: <{0}>")]
    NoAddress(String),
    /// Code that holds what is escaped everywhere else: a backtick of the text was read as its beginning.
    #[error("markup inside code: {0:?}")]
    InCode(String),
    /// A `>` that is neither a quote mark nor an entity.
    #[error("an unescaped > before {0:?}")]
    Greater(String),
    /// An `&` that is no entity.
    #[error("an unescaped & before {0:?}")]
    Ampersand(String),
    /// Three backticks without a partner.
    #[error("a fence that is left open: {0:?}")]
    OpenFence(String),
}

#[derive(Debug, Clone)]
enum Token {
    Char(char),
    /// Written as a mark could be: not in code, a label or an entity.
    Mark(char),
    Glyphs(Vec<Glyph>),
}

impl Token {
    /// What a mark needs on its outer side: the end of the line or no letter.
    fn is_boundary(token: Option<&Self>) -> bool {
        !matches!(token, Some(Self::Char(c)) if c.is_alphanumeric())
    }

    /// What a mark needs on its inner side.
    fn is_visible(token: Option<&Self>) -> bool {
        match token {
            Some(Self::Char(c)) => !c.is_whitespace() && !takes_no_room(*c),
            Some(_) => true,
            None => false,
        }
    }
}

/// Reads a message.
///
/// # Errors
///
/// What makes it unsafe, the first such thing.
pub fn read(mrkdwn: &str) -> Result<Vec<Glyph>, Unsafe> {
    let mut glyphs = Vec::new();
    let mut rest = mrkdwn;
    while let Some(start) = rest.find(FENCE) {
        read_lines(&rest[..start], &mut glyphs)?;
        let inside = &rest[start + FENCE.len()..];
        let end = inside.find(FENCE).ok_or_else(|| Unsafe::OpenFence(head(&rest[start..])))?;
        let block = inside[..end].strip_prefix('\n').unwrap_or(&inside[..end]);
        let style = Style { code: Some(Code::Block), ..Style::default() };
        decode(block.strip_suffix('\n').unwrap_or(block), &style, &mut glyphs)?;
        glyphs.push(Glyph { c: '\n', style: Style::default() });
        rest = &inside[end + FENCE.len()..];
    }
    read_lines(rest, &mut glyphs)?;
    Ok(glyphs)
}

fn head(text: &str) -> String {
    text.chars().take(24).collect()
}

fn read_lines(text: &str, glyphs: &mut Vec<Glyph>) -> Result<(), Unsafe> {
    for line in text.split('\n') {
        let mut style = Style::default();
        let mut rest = line;
        if let Some(inner) = rest.strip_prefix('>').or_else(|| rest.strip_prefix("&gt;")) {
            style.quotes = 1;
            rest = inner;
        }
        let tokens = tokens(rest, &style)?;
        shown(&tokens, &style, glyphs);
        glyphs.push(Glyph { c: '\n', style: Style::default() });
    }
    Ok(())
}

fn tokens(line: &str, style: &Style) -> Result<Vec<Token>, Unsafe> {
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let behind = &rest[c.len_utf8()..];
        rest = match c {
            '`' => match code_end(behind) {
                Some(end) => {
                    let mut code = Vec::new();
                    let span = Style { code: Some(Code::Span), ..style.clone() };
                    decode(&behind[..end], &span, &mut code).map_err(|_| Unsafe::InCode(head(behind)))?;
                    tokens.push(Token::Glyphs(code));
                    &behind[end + 1..]
                }
                None => {
                    tokens.push(Token::Char(c));
                    behind
                }
            },
            '<' => {
                let end = behind.find('>').ok_or_else(|| Unsafe::Less(head(behind)))?;
                tokens.push(Token::Glyphs(link(&behind[..end], style)?));
                &behind[end + 1..]
            }
            '*' | '_' | '~' => {
                tokens.push(Token::Mark(c));
                behind
            }
            _ => {
                let (c, behind) = character(rest)?;
                tokens.push(Token::Char(c));
                behind
            }
        };
    }
    Ok(tokens)
}

/// Where the code behind a backtick ends.
fn code_end(behind: &str) -> Option<usize> {
    let opens = behind.chars().next().is_some_and(|first| !takes_no_room(first));
    let mut ends = behind.match_indices('`').filter(|(at, _)| *at > 0 && !behind[..*at].ends_with(takes_no_room));
    ends.next().map(|(at, _)| at).filter(|_| opens)
}

fn link(inside: &str, style: &Style) -> Result<Vec<Glyph>, Unsafe> {
    if inside.starts_with(['!', '@', '#']) {
        return Err(Unsafe::Control(inside.to_owned()));
    }
    let (address, label) = inside.split_once('|').unwrap_or((inside, inside));
    let lower = address.to_ascii_lowercase();
    if !SCHEMES.iter().any(|scheme| lower.starts_with(scheme)) {
        return Err(Unsafe::NoAddress(inside.to_owned()));
    }
    let mut plain = Vec::new();
    decode(address, style, &mut plain)?;
    let address: String = plain.iter().map(|glyph| glyph.c).collect();
    let mut glyphs = Vec::new();
    decode(label, &Style { link: Some(Rc::from(address)), ..style.clone() }, &mut glyphs)?;
    Ok(glyphs)
}

fn decode(text: &str, style: &Style, glyphs: &mut Vec<Glyph>) -> Result<(), Unsafe> {
    let mut rest = text;
    while !rest.is_empty() {
        let (c, behind) = character(rest)?;
        glyphs.push(Glyph { c, style: style.clone() });
        rest = behind;
    }
    Ok(())
}

/// The first character of a text, entities decoded, and what is behind it.
fn character(text: &str) -> Result<(char, &str), Unsafe> {
    for (entity, c) in [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>')] {
        if let Some(behind) = text.strip_prefix(entity) {
            return Ok((c, behind));
        }
    }
    let mut chars = text.chars();
    let c = chars.next().unwrap_or_default();
    match c {
        '&' => Err(Unsafe::Ampersand(head(chars.as_str()))),
        '<' => Err(Unsafe::Less(head(chars.as_str()))),
        '>' => Err(Unsafe::Greater(head(chars.as_str()))),
        _ => Ok((c, chars.as_str())),
    }
}

/// Pairs the marks of a line. A kind of mark does not open within itself, so the depth is three at most.
fn shown(tokens: &[Token], style: &Style, glyphs: &mut Vec<Glyph>) {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Char(c) => glyphs.push(Glyph { c: *c, style: style.clone() }),
            Token::Glyphs(inner) => glyphs.extend(inner.iter().map(|glyph| {
                let Style { bold, italic, strike, .. } = *style;
                Glyph { c: glyph.c, style: Style { bold, italic, strike, ..glyph.style.clone() } }
            })),
            Token::Mark(mark) => {
                if let Some(end) = closer(tokens, at, *mark, style) {
                    let mut inner = style.clone();
                    *flag(&mut inner, *mark) = true;
                    shown(&tokens[at + 1..end], &inner, glyphs);
                    at = end;
                } else {
                    glyphs.push(Glyph { c: *mark, style: style.clone() });
                }
            }
        }
        at += 1;
    }
}

fn flag(style: &mut Style, mark: char) -> &mut bool {
    match mark {
        '*' => &mut style.bold,
        '_' => &mut style.italic,
        _ => &mut style.strike,
    }
}

fn closer(tokens: &[Token], start: usize, mark: char, style: &Style) -> Option<usize> {
    let is_mark = |at: usize| matches!(tokens.get(at), Some(Token::Mark(c)) if *c == mark);
    let opens = !*flag(&mut style.clone(), mark)
        && Token::is_boundary(start.checked_sub(1).and_then(|before| tokens.get(before)))
        && Token::is_visible(tokens.get(start + 1))
        && !is_mark(start + 1);
    if !opens {
        return None;
    }
    (start + 2..tokens.len()).find(|&at| {
        is_mark(at)
            && !is_mark(at - 1)
            && Token::is_visible(tokens.get(at - 1))
            && Token::is_boundary(tokens.get(at + 1))
    })
}
