//! Which `@` is a mention of whom.
//!
//! Only people who were named beforehand can be mentioned, by `<@U123>` or by one of their names. Whatever else looks like a
//! mention stays text, and is escaped as such.

use std::collections::HashMap;

use unicode_segmentation::GraphemeCursor;

use super::escape::{EDGE, PINGS};
use super::inline::{Run, RunKind, Style};
use crate::chat::Mentionable;

/// People beyond these are not looked for.
const MAX_PEOPLE: usize = 200;
/// A longer name is not looked for, in characters.
const MAX_NAME: usize = 80;

/// Who can be mentioned, by id and by name.
#[derive(Debug, Default)]
pub(super) struct Directory<'a> {
    people: HashMap<&'a str, &'a Mentionable>,
    /// Whose a folded name is; nobody's, when two people share it.
    names: HashMap<String, Option<&'a str>>,
    /// The longest of the names, in characters.
    longest: usize,
}

impl<'a> Directory<'a> {
    /// A directory of these people.
    pub(super) fn new(people: &'a [Mentionable]) -> Self {
        let mut directory = Self::default();
        for person in people.iter().take(MAX_PEOPLE).filter(|person| is_id(person.id.as_str())) {
            let id = person.id.as_str();
            directory.people.entry(id).or_insert(person);
            for name in person.names.iter().filter_map(|name| folded(name)) {
                directory.longest = directory.longest.max(name.chars().count());
                directory
                    .names
                    .entry(name)
                    .and_modify(|known| *known = known.filter(|known| *known == id))
                    .or_insert(Some(id));
            }
        }
        directory
    }

    /// Appends text of one style, the mentions in it found. `before` and `after` are its neighbours on the line.
    pub(super) fn split(
        &self,
        text: &str,
        style: Style,
        before: Option<char>,
        after: Option<char>,
        out: &mut Vec<Run>,
    ) {
        let push = |out: &mut Vec<Run>, piece: &str| {
            if !piece.is_empty() {
                out.push(Run { style, kind: RunKind::Text(piece.to_owned()) });
            }
        };
        let mut from = 0;
        let mut look = 0;
        while let Some(at) = text[look..].find('@').map(|at| look + at).filter(|_| !self.people.is_empty()) {
            look = at + 1;
            let rest = &text[look..];
            let bracketed = at > from && text[..at].ends_with('<');
            let found = if bracketed {
                self.by_id(rest).map(|(end, id)| (at - 1, end, id))
            } else if may_begin(text[..at].chars().next_back().or(before)) {
                self.by_name(rest, after).map(|(end, id)| (at, end, id))
            } else {
                None
            };
            let Some((begin, end, id)) = found else { continue };
            push(out, &text[from..begin]);
            out.push(Run { style, kind: self.mention(id) });
            look += end;
            from = look;
        }
        push(out, &text[from..]);
    }

    fn mention(&self, id: &str) -> RunKind {
        let name = self.people.get(id).and_then(|person| person.names.first());
        RunKind::Mention { id: id.to_owned(), name: name.map_or(id, String::as_str).trim().to_owned() }
    }

    /// Reads `U123>` or `U123|name>`.
    fn by_id(&self, rest: &str) -> Option<(usize, &'a str)> {
        let close = rest.find(['<', '>', '@']).filter(|close| rest[*close..].starts_with('>'))?;
        let id = rest[..close].split('|').next()?;
        self.people.get_key_value(id).map(|(id, _)| (close + 1, *id))
    }

    /// The longest name that the text begins with. No name holds an `@`, so each character is looked at once.
    fn by_name(&self, rest: &str, after: Option<char>) -> Option<(usize, &'a str)> {
        let mut name = String::new();
        let mut best = None;
        for (chars, (at, c)) in rest.char_indices().chain([(rest.len(), '@')]).enumerate() {
            if may_end(&rest[at..], after)
                && let Some(id) = self.names.get(&name)
                && GraphemeCursor::new(at, rest.len(), true).is_boundary(rest, 0) == Ok(true)
            {
                best = Some((at, *id));
            }
            if c == '@' || chars >= self.longest {
                break;
            }
            fold(c, &mut name);
        }
        best.and_then(|(end, id)| Some((end, id?)))
    }
}

/// Whether the id can be written between `<@` and `>`.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The name as it is compared, when it can be looked for.
fn folded(name: &str) -> Option<String> {
    let name = name.trim();
    let odd = name.is_empty()
        || name.chars().count() > MAX_NAME
        || name.contains(|c: char| matches!(c, '@' | '<' | '>') || c.is_control())
        || PINGS.iter().any(|ping| ping.eq_ignore_ascii_case(name));
    let mut out = String::with_capacity(name.len());
    name.chars().for_each(|c| fold(c, &mut out));
    (!odd).then_some(out)
}

/// Appends the character without its case; spaces of any kind and number are one.
fn fold(c: char, out: &mut String) {
    if !c.is_whitespace() {
        out.extend(c.to_lowercase());
    } else if !out.ends_with(' ') {
        out.push(' ');
    }
}

/// Whether a mention may stand behind it: not within a word, a path, or the address of a mail.
fn may_begin(before: Option<char>) -> bool {
    before.is_none_or(|c| {
        c == EDGE || !c.is_alphanumeric() && !matches!(c, '_' | '.' | '/' | '\\' | '+' | '-' | '%' | '=' | '#' | '@')
    })
}

/// Whether a name may end before it: not within a word, a path, a package (`@types/node`) or the address of a mail.
fn may_end(rest: &str, after: Option<char>) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut next = rest.chars().chain(after);
    match next.next() {
        Some('-' | '.' | '/' | '@' | ':' | '+' | '=' | '&' | '\\') => !next.next().is_some_and(in_word),
        c => !c.is_some_and(in_word),
    }
}
