//! A judge of mrkdwn that shares nothing with the renderer: it reads a message as Slack does and compares what a person
//! sees there with what the HTML of the same text shows.
//!
//! - [`slack_reader`]: mrkdwn as Slack shows it, from Slack's documentation alone.
//! - [`html_reader`]: the HTML of a CommonMark example.
//! - [`compare`]: what both have to have in common, and each exemption with its reason.
//! - [`spec`]: the examples of CommonMark.
//! - [`generator`]: texts from a seed.

pub mod compare;
pub mod generator;
pub mod html_reader;
pub mod slack_reader;
pub mod spec;

use std::rc::Rc;

/// How code is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Within a line.
    Span,
    /// A block of its own.
    Block,
}

/// How one character is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Style {
    /// In bold type.
    pub bold: bool,
    /// In italic type.
    pub italic: bool,
    /// Struck out.
    pub strike: bool,
    /// As code.
    pub code: Option<Code>,
    /// How many quotes it stands in; Slack shows one at most.
    pub quotes: usize,
    /// Where a click on it leads.
    pub link: Option<Rc<str>>,
}

/// One character that is shown, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glyph {
    /// The character.
    pub c: char,
    /// Its style.
    pub style: Style,
}

/// Characters that take no room: a renderer sets them between a mark and a letter. Slack shows nothing for them.
pub fn takes_no_room(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// The text of glyphs, for complaints.
pub fn text_of(glyphs: &[Glyph]) -> String {
    glyphs.iter().map(|glyph| glyph.c).collect()
}
