//! Text from elsewhere, as it may reach a terminal.

/// How far the end of a control sequence is looked for, in characters.
const LONGEST_SEQUENCE: usize = 256;

/// The text without anything that a terminal would obey: escape sequences, control characters other than line breaks and
/// tabs, and the marks that turn the direction of writing (<https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing>).
///
/// What an agent writes may come from a web page or a log: with OSC 52 such a text would fill the clipboard, with `\r` it
/// would show one command and hide another.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => rest = after_escape(rest),
            // The same sequences in one character.
            '\u{9b}' => rest = after_csi(rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => rest = after_string(rest),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => out.push(c),
        }
    }
    out
}

/// The same on one line.
pub(super) fn one_line(text: &str, chars: usize) -> String {
    let plain = plain(text);
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= chars {
        return line;
    }
    line.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

type Chars<'a> = std::str::Chars<'a>;

fn after_escape(rest: Chars<'_>) -> Chars<'_> {
    let mut next = rest.clone();
    match next.next() {
        Some('[') => after_csi(next),
        Some(']' | 'P' | 'X' | '^' | '_') => after_string(next),
        // Two characters, of which the second is no control character itself.
        Some(c) if !c.is_control() => next,
        _ => rest,
    }
}

/// Behind a control sequence: parameters, then one final character.
fn after_csi(rest: Chars<'_>) -> Chars<'_> {
    let mut next = rest.clone();
    for _ in 0..LONGEST_SEQUENCE {
        match next.next() {
            Some('\u{40}'..='\u{7e}') => return next,
            Some('\u{20}'..='\u{3f}') => {}
            _ => break,
        }
    }
    // It is none: only what introduced it goes.
    rest
}

/// Behind a string that a terminal would take (a title, the clipboard), up to its end or the end of the line.
fn after_string(rest: Chars<'_>) -> Chars<'_> {
    let mut next = rest.clone();
    for _ in 0..LONGEST_SEQUENCE * 256 {
        let here = next.clone();
        match next.next() {
            Some('\u{7}' | '\u{9c}') => return next,
            Some('\u{1b}') => return if next.clone().next() == Some('\\') { after_escape(next) } else { here },
            Some('\n') => return here,
            Some(_) => {}
            None => return next,
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, expected) in [
            ("plain\ttext\nand a line", "plain\ttext\nand a line"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]52;c;ZXZpbA==\u{7}clipboard", "clipboard"),
            ("\u{1b}]0;title\u{1b}\\after", "after"),
            ("\u{9b}2Jcleared", "cleared"),
            ("\u{9d}0;title\u{9c}after", "after"),
            ("safe\rrm -rf", "saferm -rf"),
            ("a\u{8}\u{7f}\u{0}b", "ab"),
            ("\u{1b}]52;never ends\nthe next line", "\nthe next line"),
            ("\u{1b}[never ends", "ever ends"),
            ("\u{1b}\u{1b}[1mx", "x"),
            ("user\u{202e}gpj.exe\u{2066}", "usergpj.exe"),
            ("👩‍💻 中文 é", "👩‍💻 中文 é"),
            ("\u{1b}c\u{1b}", ""),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(one_line("a\n  b\u{1b}[2J\tc", 20), "a b c");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }
}
