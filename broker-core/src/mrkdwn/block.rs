//! The lines and fences that a text is made of, between reading and splitting.

use super::inline::Run;

/// Levels of nesting whose indentation is shown. Deeper ones stand at the last of these.
const MAX_LEVELS: usize = 8;
/// Spaces per level of a list.
const INDENT: usize = 4;
/// Levels of quotes that are shown.
const MAX_QUOTES: usize = 3;

/// What stands between an item and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// They are lines of one block.
    None,
    /// A blank line.
    Blank,
    /// A blank line of the quote that both stand in.
    Quoted,
}

impl Gap {
    /// What is written between the two, when they stand in one message.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::None => "\n",
            Self::Blank => "\n\n",
            Self::Quoted => "\n>\n",
        }
    }
}

/// What a line begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lead {
    /// How many quotes it stands in.
    pub(super) quotes: usize,
    /// How many lists it stands in.
    pub(super) lists: usize,
    /// The bullet or number, with the space behind it.
    pub(super) marker: Option<String>,
    /// How wide the bullet of its list item is, in characters.
    pub(super) hang: usize,
}

impl Lead {
    /// What the line itself begins with, in at most `most` characters where that can be.
    pub(super) fn first(&self, most: usize) -> String {
        match &self.marker {
            Some(marker) => self.build(marker, most),
            None => self.rest(most),
        }
    }

    /// What the line goes on with in the next message.
    pub(super) fn rest(&self, most: usize) -> String {
        self.build(&" ".repeat(self.hang.min(most)), most)
    }

    fn build(&self, end: &str, most: usize) -> String {
        let indent = INDENT * self.lists.saturating_sub(1).min(MAX_LEVELS - 1);
        let mut out = String::new();
        if self.quotes > 0 {
            out.push_str("> ");
        }
        // Slack knows one level of quotes; the further ones are text.
        let inner = self.quotes.min(MAX_QUOTES).saturating_sub(1);
        let end_chars = end.chars().count();
        if out.len() + inner * "&gt; ".len() + indent + end_chars <= most {
            out.push_str(&"&gt; ".repeat(inner));
            out.push_str(&" ".repeat(indent));
        } else if out.len() + end_chars > most {
            return out;
        }
        out.push_str(end);
        out
    }
}

/// A line, or a fence with its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// What stands before it.
    pub(super) gap: Gap,
    /// Whether it stays with the beginning of what follows: a heading.
    pub(super) keep: bool,
    /// What it holds.
    pub(super) body: Body,
}

/// What an item holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// One line of text.
    Line {
        /// What it begins with.
        lead: Lead,
        /// Its text.
        runs: Vec<Run>,
    },
    /// The finished lines of a code block or a table.
    ///
    /// A fence stands at the left edge even within a list or a quote: what stood before its lines would be part of the
    /// code, for the reader and for whoever copies it.
    Fence(Vec<String>),
}
