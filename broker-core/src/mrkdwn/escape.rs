//! Where text becomes mrkdwn: entities, addresses, disarmed marks, and the places where finished text may be cut.

/// Stands beside a mark: a literal one that must not format, or a real one that would otherwise touch a letter.
pub(super) const ZERO_WIDTH_SPACE: char = '\u{200B}';
/// Stands behind the `@` of a word that would ping.
const WORD_JOINER: char = '\u{2060}';
/// Stands for a backtick inside a code span: Slack has no way to write one there.
const MODIFIER_GRAVE: char = '\u{02CB}';

/// The schemes of addresses that become links. Everything else is shown as text: Slack would show `<./file>` as it is,
/// and `<!here>` or `<@U1>` are no addresses but control sequences.
pub(super) const SCHEMES: [&str; 6] = ["http", "https", "mailto", "tel", "ftp", "slack"];
/// The words that ping a whole channel where a client or a setting reads names out of plain text.
const PINGS: [&str; 4] = ["channel", "here", "everyone", "group"];
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

/// Appends one character of text. Control characters vanish: Slack refuses or mangles them.
pub(super) fn push_char(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\t' => out.push('\t'),
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
    for c in line.chars() {
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

/// Which marks stand more than once on a line, real ones included. One that stands alone has no partner and is left as
/// it is, so that `~/.config` or `2 * 3` stay clean.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    counts: [u32; 4],
}

impl Marks {
    const SIGNS: [char; 4] = ['*', '_', '~', '`'];

    /// Counts a sign, `times` times.
    pub(super) fn add(&mut self, sign: char, times: u32) {
        if let Some(index) = Self::SIGNS.iter().position(|known| *known == sign) {
            self.counts[index] = self.counts[index].saturating_add(times);
        }
    }

    fn paired(&self, sign: char) -> bool {
        Self::SIGNS.iter().position(|known| *known == sign).is_some_and(|index| self.counts[index] > 1)
    }
}

/// Appends a character of prose: escaped, a mark disarmed where Slack could take it for markup.
///
/// A mark opens before something that is not a space and closes behind something that is not one; a zero-width space on
/// such a side takes that away. `_` between two letters is no mark for Slack.
pub(super) fn push_prose(out: &mut String, c: char, prev: Option<char>, rest: &str, marks: &Marks) {
    if c == '@' && pings(prev, rest) {
        out.push(c);
        out.push(WORD_JOINER);
        return;
    }
    if !marks.paired(c) {
        return push_char(out, c);
    }
    let next = rest.chars().next();
    let open = |side: Option<char>| side.is_none_or(char::is_whitespace);
    let word = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
    let harmless = c != '`' && open(prev) && open(next) || c == '_' && word(prev) && word(next);
    if harmless {
        return push_char(out, c);
    }
    if !open(prev) && !out.ends_with(ZERO_WIDTH_SPACE) {
        out.push(ZERO_WIDTH_SPACE);
    }
    out.push(c);
    if !open(next) {
        out.push(ZERO_WIDTH_SPACE);
    }
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

/// The byte at which finished text is cut so that at most `chars` characters stand before it: never inside an entity, not
/// before something that joins the character before it (an accent, a skin tone, the rest of a joined emoji) where that
/// can be helped. At least one unit stands before the cut.
pub(super) fn cut(text: &str, chars: usize) -> usize {
    let mut good = 0;
    let mut good_count = 0;
    let mut last = 0;
    let mut count = 0;
    let mut prev = None;
    let mut at = 0;
    while at < text.len() {
        if at > 0 {
            last = at;
            if separable(prev, text[at..].chars().next()) {
                (good, good_count) = (at, count);
            }
        }
        let (bytes, unit_chars) = unit(&text[at..]);
        if at > 0 && count + unit_chars > chars {
            return if count - good_count <= CUT_BACK && good > 0 { good } else { last };
        }
        prev = text[at..at + bytes].chars().next_back();
        at += bytes;
        count += unit_chars;
    }
    text.len()
}

/// The length of the entity or character that the text begins with, in bytes and in characters.
fn unit(text: &str) -> (usize, usize) {
    for entity in ["&amp;", "&lt;", "&gt;"] {
        if text.starts_with(entity) {
            return (entity.len(), entity.len());
        }
    }
    (text.chars().next().map_or(0, char::len_utf8), 1)
}

fn separable(prev: Option<char>, next: Option<char>) -> bool {
    let joins = |c: char| {
        matches!(c, '\u{0300}'..='\u{036F}' | '\u{1AB0}'..='\u{1AFF}' | '\u{20D0}'..='\u{20FF}' | '\u{FE00}'..='\u{FE0F}'
            | '\u{1F3FB}'..='\u{1F3FF}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{E0020}'..='\u{E007F}')
    };
    let holds = |c: char| matches!(c, '\u{200D}' | '\u{2060}' | '@');
    !next.is_some_and(joins) && !prev.is_some_and(holds)
}
