//! What a message has to have in common with the page that the same text means.
//!
//! Every character has to be shown, in order, in the same type, with space between words where the page has it; nothing else
//! may be shown. The exemptions, each with its reason:
//! - **space**: how much of it, and of which kind, outside code. Slack has no margins, so blank lines and indents stand for them;
//! - **characters without room** outside code, and between backticks inside: they keep marks apart;
//! - **a list item's mark**: a bullet of any kind, or the item's own number; a task's box stands for the bullet;
//! - **a rule**: a row of dashes of the drawing kind, since mrkdwn has none;
//! - **an address that Slack makes no link of** stands in parentheses behind the label, or is not shown at all;
//!   a label that is empty is replaced by the address;
//! - **backticks in code** may be another accent: mrkdwn has no way to write them in a span;
//! - **code's own bold and italic**: Slack reads code before marks, and shows it in one type;
//! - **a quote in a quote** may have a `>` before each of its lines, since Slack shows one depth alone;
//! - **blank code** is not shown;
//! - **an address in the text** may be a link to itself, since Slack's clients make one of it anyway;
//! - **what a page hides** (raw tags, comments, scripts) may be shown as it was written, or not, and space beside it is its own:
//!   `Vec<T>` of somebody who forgot the backticks is a tag to CommonMark;
//! - **a block of code** stands outside the quote that holds it: a line with a mark of its own would be shown with it.

use super::html_reader::Piece;
use super::slack_reader::SCHEMES;
use super::{Code, Glyph, takes_no_room, text_of};

const BULLETS: [char; 6] = ['•', '◦', '▪', '‣', '☐', '☑'];
const RULE: char = '─';
const BACKTICKS: [char; 3] = ['`', 'ˋ', '\''];

/// Whether Slack makes a link of an address.
pub fn is_linkable(address: &str) -> bool {
    let lower = address.to_ascii_lowercase();
    SCHEMES.iter().any(|scheme| lower.starts_with(scheme))
}

/// Compares a page with a message.
///
/// # Errors
///
/// The first difference, in words.
pub fn compare(page: &[Piece], message: &[Glyph]) -> Result<(), String> {
    let mut reading = Reading { message, at: 0, gap: true };
    let mut gap = true;
    let mut hidden = false;
    for (at, piece) in page.iter().enumerate() {
        let told = match piece {
            Piece::Glyph { glyph, loose } => {
                if glyph.c.is_whitespace() && (glyph.style.code.is_none() || *loose) {
                    gap = true;
                    continue;
                }
                let told = reading.glyph(glyph, *loose, (!hidden).then_some(gap));
                gap = false;
                told
            }
            Piece::Item(number) => reading.item(*number),
            Piece::Rule => reading.rule(),
            Piece::Hidden(text) => {
                reading.hidden(text);
                Ok(())
            }
            Piece::LinkEnd { address, empty } => {
                reading.address(address, *empty);
                Ok(())
            }
        };
        told.map_err(|what| format!("{what}, at {:?} of the page", shown(&page[at..])))?;
        gap |= matches!(piece, Piece::Item(_) | Piece::Rule);
        hidden = matches!(piece, Piece::Hidden(_)) || (hidden && !matches!(piece, Piece::Glyph { .. }));
    }
    reading.skip_space();
    match reading.peek() {
        None => Ok(()),
        Some(_) => Err(format!("the message goes on with {:?}", reading.rest())),
    }
}

fn shown(page: &[Piece]) -> String {
    let glyphs = page.iter().filter_map(|piece| match piece {
        Piece::Glyph { glyph, .. } => Some(glyph.c),
        _ => None,
    });
    glyphs.take(24).collect()
}

struct Reading<'a> {
    message: &'a [Glyph],
    at: usize,
    /// Space was passed since the last character.
    gap: bool,
}

impl<'a> Reading<'a> {
    fn peek(&self) -> Option<&'a Glyph> {
        self.message.get(self.at)
    }

    fn rest(&self) -> String {
        text_of(&self.message[self.at..self.message.len().min(self.at + 24)])
    }

    fn skip_space(&mut self) {
        while let Some(glyph) = self.peek()
            && glyph.style.code.is_none()
            && (glyph.c.is_whitespace() || takes_no_room(glyph.c))
        {
            self.gap |= glyph.c.is_whitespace();
            self.at += 1;
        }
    }

    fn glyph(&mut self, wanted: &Glyph, loose: bool, gap: Option<bool>) -> Result<(), String> {
        if takes_no_room(wanted.c) && wanted.style.code.is_none() {
            return Ok(());
        }
        self.skip_space();
        self.skip_quote_marks(wanted);
        if wanted.style.code.is_some() || loose {
            self.skip_spacer(wanted.c, loose);
        }
        let Some(found) = self.peek() else { return Err("the message ends".to_owned()) };
        let accent = wanted.c == '`' && found.style.code.is_some() && BACKTICKS.contains(&found.c);
        if found.c != wanted.c && !accent {
            return Err(format!("the message has {:?}", self.rest()));
        }
        let gap = gap.filter(|_| !loose && wanted.style.code.is_none());
        if let Some(gap) = gap.filter(|gap| *gap != self.gap) {
            return Err(format!("space {} before {:?}", if gap { "is missing" } else { "was added" }, self.rest()));
        }
        let bare = self.is_bare_link();
        same_type(wanted, found, loose, bare).map_err(|what| format!("{what} in {:?}", self.rest()))?;
        self.gap = false;
        self.at += 1;
        Ok(())
    }

    fn skip_quote_marks(&mut self, wanted: &Glyph) {
        for _ in 1..wanted.style.quotes {
            if wanted.c != '>' && self.peek().is_some_and(|found| found.c == '>' && found.style.quotes == 1) {
                self.at += 1;
                self.skip_space();
            }
        }
    }

    /// Passes what takes no room between the backticks of code, and the space of code whose type is loose.
    fn skip_spacer(&mut self, wanted: char, loose: bool) {
        while let Some(found) = self.peek()
            && found.c != wanted
            && ((takes_no_room(found.c) && self.is_beside_a_backtick()) || (loose && found.c.is_whitespace()))
        {
            self.at += 1;
        }
    }

    fn is_beside_a_backtick(&self) -> bool {
        let beside = [self.at.checked_sub(1), Some(self.at + 1)];
        beside.into_iter().flatten().any(|at| self.message.get(at).is_some_and(|glyph| glyph.c == '`'))
    }

    fn item(&mut self, number: Option<u64>) -> Result<(), String> {
        self.skip_space();
        while self.peek().is_some_and(|found| found.c == '>' && found.style.quotes == 1) {
            self.at += 1;
            self.skip_space();
        }
        let mark = number.map_or_else(String::new, |number| format!("{number}."));
        let is_bullet = number.is_none() && self.peek().is_some_and(|glyph| BULLETS.contains(&glyph.c));
        let len = if is_bullet { 1 } else { mark.len() };
        let found: String = text_of(&self.message[self.at..self.message.len().min(self.at + len)]);
        if !is_bullet && (mark.is_empty() || found != mark) {
            return Err(format!("a list item's mark is missing before {:?}", self.rest()));
        }
        self.at += len;
        self.gap = true;
        Ok(())
    }

    fn rule(&mut self) -> Result<(), String> {
        self.skip_space();
        let len = self.message[self.at..].iter().take_while(|glyph| glyph.c == RULE).count();
        if len == 0 {
            return Err(format!("a rule is missing before {:?}", self.rest()));
        }
        self.at += len;
        self.gap = true;
        Ok(())
    }

    fn address(&mut self, address: &str, empty: bool) {
        if is_linkable(address) && !empty {
            return;
        }
        let start = self.at;
        self.skip_space();
        let from = self.at;
        let linked = self.message[from..]
            .iter()
            .take_while(|glyph| glyph.style.link.as_deref().is_some_and(|to| same_address(to, address)));
        let mut len = if empty { linked.count() } else { 0 };
        for (before, behind) in [("(", ")"), ("", "")] {
            if len == 0 && (empty || !before.is_empty()) {
                len = self.length_of(from, before, address, behind);
            }
        }
        self.at = if len == 0 { start } else { from + len };
        self.gap &= len == 0;
    }

    /// Passes what a page hides when the message shows it as it was written.
    fn hidden(&mut self, text: &str) {
        self.skip_space();
        let mut at = self.at;
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            let behind = &self.message[at..];
            let space = behind.iter().take_while(|glyph| glyph.c.is_whitespace() || takes_no_room(glyph.c)).count();
            if behind.get(space).is_none_or(|glyph| glyph.c != c || glyph.style.code.is_some()) {
                return;
            }
            at += space + 1;
        }
        self.at = at;
        self.gap = true;
    }

    /// Whether the link that is read is labelled with its own address.
    fn is_bare_link(&self) -> bool {
        let Some(link) = self.peek().and_then(|glyph| glyph.style.link.clone()) else { return false };
        let is_part = |glyph: &&Glyph| glyph.style.link.as_ref() == Some(&link);
        let before = self.message[..self.at].iter().rev().take_while(is_part).count();
        let behind = self.message[self.at..].iter().take_while(is_part).count();
        let label = text_of(&self.message[self.at - before..self.at + behind]);
        same_address(&label, &link)
    }

    /// How many characters of the message are the address between `before` and `behind`; 0 when they are not.
    fn length_of(&self, from: usize, before: &str, address: &str, behind: &str) -> usize {
        let wanted = unescaped(&format!("{before}{address}{behind}"));
        let mut text = String::new();
        for (len, glyph) in self.message[from..].iter().enumerate() {
            if !takes_no_room(glyph.c) {
                text.push(glyph.c);
            }
            if unescaped(&text) == wanted {
                return len + 1;
            }
            if text.len() > 3 * wanted.len() + 64 {
                break;
            }
        }
        0
    }
}

fn same_type(wanted: &Glyph, found: &Glyph, loose: bool, bare: bool) -> Result<(), String> {
    let (want, have) = (&wanted.style, &found.style);
    let told = |what: &str, want: bool| Err(format!("{what} {}", if want { "is lost" } else { "was added" }));
    if !loose && want.code != have.code {
        return told("code", want.code.is_some());
    }
    if want.quotes.min(1) != have.quotes && have.code != Some(Code::Block) {
        return told("a quote", want.quotes > have.quotes);
    }
    if loose || want.code.is_some() {
        return Ok(());
    }
    for (what, want, have) in
        [("bold", want.bold, have.bold), ("italic", want.italic, have.italic), ("strike", want.strike, have.strike)]
    {
        if want != have {
            return told(what, want);
        }
    }
    match (want.link.as_deref().filter(|to| is_linkable(to)), have.link.as_deref()) {
        (Some(to), Some(got)) if same_address(to, got) => Ok(()),
        (None, None) => Ok(()),
        (None, Some(_)) if bare => Ok(()),
        (want, have) => Err(format!("a link to {want:?} is one to {have:?}")),
    }
}

/// Whether two spellings lead to the same place: the page's is percent-encoded, a message's need not be.
fn same_address(a: &str, b: &str) -> bool {
    unescaped(a) == unescaped(b)
}

fn unescaped(address: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = address.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = rest
            .get(1..3)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, _) = match (first, hex) {
            (b'%', Some(byte)) => (&rest[3..], bytes.push(byte)),
            _ => (behind, bytes.push(*first)),
        };
    }
    bytes
}
