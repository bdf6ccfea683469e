//! Where text becomes mrkdwn: entities, addresses, disarmed marks, and the places where finished text may be cut.

use unicode_segmentation::GraphemeCursor;

/// Stands beside a mark: a literal one that must not format, or a real one that would otherwise touch a letter.
pub(super) const ZERO_WIDTH_SPACE: char = '\u{200B}';
/// Stands behind the `@` of a word that would ping.
const WORD_JOINER: char = '\u{2060}';
/// Joins two emoji into one.
const ZERO_WIDTH_JOINER: char = '\u{200D}';
/// Stands for a backtick inside a code span: Slack has no way to write one there.
const MODIFIER_GRAVE: char = '\u{02CB}';

/// The schemes of addresses that become links. Everything else is shown as text: Slack would show `<./file>` as it is,
/// and `<!here>` or `<@U1>` are no addresses but control sequences.
pub(super) const SCHEMES: [&str; 6] = ["http", "https", "mailto", "tel", "ftp", "slack"];
/// The words that ping a whole channel where a client or a setting reads names out of plain text.
pub(super) const PINGS: [&str; 4] = ["channel", "here", "everyone", "group"];
/// The longest name of an emoji, in bytes: <https://slack.com/help/articles/206870177-Add-custom-emoji-and-aliases>
/// allows 100 characters.
const MAX_EMOJI: usize = 100;
/// How far a cut moves back to keep what belongs together, in characters.
const CUT_BACK: usize = 32;

/// Whether the character is invisible and takes no room.
pub(super) fn is_zero_width(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}')
}

/// Whether there is nothing to see in the text.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_zero_width(c))
}

/// The text without control characters that are no spaces: they vanish, and would hide what stands beside what.
pub(super) fn without_controls(text: String) -> String {
    let odd = |c: char| c.is_control() && !c.is_whitespace();
    if text.contains(odd) { text.replace(odd, "") } else { text }
}

/// Appends one character of text. Control characters vanish: Slack refuses or mangles them.
pub(super) fn push_char(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\t' => out.push('\t'),
        c if c.is_control() && c.is_whitespace() => out.push(' '),
        c if c.is_control() => {}
        c => out.push(c),
    }
}

/// The inside of a code span.
pub(super) fn code_span(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '`' => out.push(MODIFIER_GRAVE),
            '\t' | '\n' => out.push(' '),
            c => push_char(&mut out, c),
        }
    }
    out
}

/// One line inside a fence. Three backticks would close it, so the third stands behind a zero-width space.
pub(super) fn fenced(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut ticks = 0;
    // What vanishes does not keep two backticks apart.
    for c in line.chars().filter(|c| *c == '\t' || !c.is_control()) {
        if c == '`' {
            if ticks == 2 {
                out.push(ZERO_WIDTH_SPACE);
                ticks = 0;
            }
            ticks += 1;
        } else {
            ticks = 0;
        }
        push_char(&mut out, c);
    }
    out
}

/// The address as it stands between `<` and `>`, when its scheme is one that becomes a link.
pub(super) fn address(raw: &str) -> Option<String> {
    let raw = raw.trim();
    let (scheme, rest) = raw.split_once(':')?;
    if rest.is_empty() || !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    // All but these two name a host, and one that does not is no link to anywhere.
    let hostless = ["mailto", "tel"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let host = rest
        .strip_prefix("//")
        .is_some_and(|host| host.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '[' | '.' | '-' | '%')));
    if !hostless && !host {
        return None;
    }
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("%3C"),
            '>' => out.push_str("%3E"),
            '|' => out.push_str("%7C"),
            '`' => out.push_str("%60"),
            ' ' => out.push_str("%20"),
            c if c.is_control() || c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    Some(out)
}

/// What stands beside text whose neighbour is a mark of its own line: neither a space nor a letter, and no zero-width
/// space comes between, since a mark with a space on its inner side is none.
pub(super) const EDGE: char = '\0';

/// Which signs could be read as a pair on a line, real marks included. One that has no partner is left as it is, so that
/// `~/.config`, `2 * 3` or `*.rs *.toml` stay clean and can be copied.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    counts: [Count; 4],
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    signs: u32,
    opens: u32,
    closes: u32,
}

impl Marks {
    const SIGNS: [char; 4] = ['*', '_', '~', '`'];

    /// Counts a pair of real marks.
    pub(super) fn add_pair(&mut self, sign: char) {
        self.add(sign, true, false);
        self.add(sign, false, true);
    }

    /// Counts a character of prose, when it is a sign that could open or close.
    pub(super) fn add_prose(&mut self, c: char, prev: Option<char>, next: Option<char>) {
        if Self::SIGNS.contains(&c) {
            self.add(c, opens(prev, next), opens(next, prev));
        }
    }

    fn add(&mut self, sign: char, opens: bool, closes: bool) {
        if let Some(index) = Self::SIGNS.iter().position(|known| *known == sign) {
            let count = &mut self.counts[index];
            count.signs = count.signs.saturating_add(1);
            count.opens = count.opens.saturating_add(opens.into());
            count.closes = count.closes.saturating_add(closes.into());
        }
    }

    /// Whether the sign has to be disarmed here. A backtick has no rules that could be relied on: any two make code.
    fn threatens(&self, sign: char, prev: Option<char>, next: Option<char>) -> bool {
        let Some(index) = Self::SIGNS.iter().position(|known| *known == sign) else { return false };
        let Count { signs, opens: opening, closes: closing } = self.counts[index];
        if sign == '`' {
            return signs > 1;
        }
        signs > 1 && opening > 0 && closing > 0 && (opens(prev, next) || opens(next, prev))
    }
}

fn is_space(side: Option<char>) -> bool {
    side.is_none_or(|c| c.is_whitespace() || c == ZERO_WIDTH_SPACE)
}

/// Whether a sign between the two could open; with the two exchanged, whether it could close.
fn opens(outside: Option<char>, inside: Option<char>) -> bool {
    !outside.is_some_and(char::is_alphanumeric) && !is_space(inside)
}

/// Appends a character of prose: escaped, a mark disarmed where Slack could take it for markup.
///
/// A mark opens before something that is not a space and closes behind something that is not one; a zero-width space on
/// such a side takes that away. Between two letters there is no mark for Slack.
pub(super) fn push_prose(out: &mut String, c: char, prev: Option<char>, rest: &str, marks: &Marks) {
    if c == '@' && pings(prev, rest) {
        out.push(c);
        out.push(WORD_JOINER);
        return;
    }
    if c == ':' && is_no_emoji(out, prev, rest) {
        out.push(c);
        out.push(ZERO_WIDTH_SPACE);
        return;
    }
    let next = rest.chars().next();
    if !marks.threatens(c, prev, next) {
        return push_char(out, c);
    }
    // Code may begin with a space: beside a backtick the zero-width space stands before that too.
    let code = c == '`';
    let apart =
        |side: Option<char>| side != Some(EDGE) && (!is_space(side) || code && side.is_some_and(char::is_whitespace));
    if apart(prev) && !out.ends_with(ZERO_WIDTH_SPACE) {
        out.push(ZERO_WIDTH_SPACE);
    }
    out.push(c);
    if apart(next) {
        out.push(ZERO_WIDTH_SPACE);
    }
}

/// Whether what follows a colon would become an emoji though it is part of something longer: `std::key::Key`, `ab:cd:ef`.
/// One that stands alone, such as `:warning:`, is meant. Names of one or two digits are none, so times stay clean.
fn is_no_emoji(before: &str, prev: Option<char>, rest: &str) -> bool {
    let Some(end) = rest.find(|c| !in_emoji(c)).filter(|end| (1..=MAX_EMOJI).contains(end)) else { return false };
    let Some(behind) = rest[end..].strip_prefix(':') else { return false };
    if end < 3 && rest[..end].bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let longer = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
    longer(prev) || longer(behind.chars().next()) || prev == Some(':') && !ends_in_emoji(before)
}

fn in_emoji(c: char) -> bool {
    c.is_alphanumeric() && !c.is_uppercase() || matches!(c, '_' | '-' | '+' | '\'')
}

/// Whether the text ends in an emoji, as that before a skin tone does.
fn ends_in_emoji(text: &str) -> bool {
    let Some(text) = text.strip_suffix(':') else { return false };
    let name = text.char_indices().rev().take(MAX_EMOJI).take_while(|(_, c)| *c != ':');
    let name = name.last().map_or(text.len(), |(at, _)| at);
    let outside = text[..name.min(text.len())].strip_suffix(':').map(|before| before.chars().next_back());
    name < text.len()
        && text[name..].chars().all(in_emoji)
        && outside.is_some_and(|c| !c.is_some_and(char::is_alphanumeric))
}

fn pings(prev: Option<char>, rest: &str) -> bool {
    if prev.is_some_and(char::is_alphanumeric) {
        return false;
    }
    PINGS.iter().any(|word| {
        rest.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word))
            && !rest[word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// The byte at which finished text is cut so that at most `chars` characters stand before it: never inside an entity, and
/// where that can be helped neither within what is seen as one character (a letter with its accents, a flag, a joined
/// emoji) nor beside a sign, which would have no letter to protect it any more. At least one entity or character stands
/// before the cut.
pub(super) fn cut(text: &str, chars: usize) -> usize {
    let Some((end, _)) = text.char_indices().nth(chars.max(1)) else { return text.len() };
    let last = entity_start(text, end).filter(|start| *start > 0).unwrap_or(end);
    let least = text[..end].char_indices().rev().nth(CUT_BACK).map_or(0, |(at, _)| at);
    let mut cursor = GraphemeCursor::new(last, text.len(), true);
    let mut at =
        if cursor.is_boundary(text, 0) == Ok(true) { Some(last) } else { cursor.prev_boundary(text, 0).ok().flatten() };
    while let Some(here) = at.filter(|here| *here > least) {
        if entity_start(text, here).is_none() && separable(&text[..here], &text[here..]) {
            return here;
        }
        at = cursor.prev_boundary(text, 0).ok().flatten();
    }
    // The first entity may be longer than what is asked for.
    entity_start(text, last).map_or(last, |_| text.find(';').map_or(text.len(), |end| end + 1))
}

/// Where the entity begins that the place is inside of.
fn entity_start(text: &str, place: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let from = place.saturating_sub("&amp".len());
    let begin = from + bytes[from..place].iter().rposition(|byte| *byte == b'&')?;
    (!bytes[begin..place].contains(&b';')).then_some(begin)
}

fn separable(before: &str, after: &str) -> bool {
    let sign = |c: char| Marks::SIGNS.contains(&c);
    let joins = |c: char| sign(c) || is_zero_width(c);
    let holds = |c: char| sign(c) || matches!(c, ZERO_WIDTH_JOINER | WORD_JOINER | '@' | ':');
    !before.ends_with(holds) && !after.starts_with(joins)
}
