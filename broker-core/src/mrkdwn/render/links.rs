//! The links and images that are read.

use super::super::escape;
use super::super::inline::{Run, RunKind, Style};
use super::Reader;

/// A link or an image that is open. What is nested in it only adds to its label.
#[derive(Debug)]
pub(super) struct Capture {
    dest: String,
    label: String,
    depth: usize,
    style: Option<Style>,
    /// Whether the text becomes nothing but the label. That of a link which Slack cannot make stays text like any other,
    /// with its styles.
    plain: bool,
}

impl Reader<'_> {
    /// A link begins, or an image: the text of that has no styles.
    pub(super) fn start_link(&mut self, dest: String, image: bool) {
        if let Some(capture) = &mut self.capture {
            capture.depth += 1;
            return;
        }
        let plain = image || escape::address(&dest).is_some();
        self.capture = Some(Capture { dest, label: String::new(), depth: 1, style: None, plain });
    }

    /// Adds to the label of the link that is open; says whether that is all that becomes of the text.
    pub(super) fn captures(&mut self, text: &str, style: Style) -> bool {
        let Some(capture) = &mut self.capture else { return false };
        capture.label.push_str(text);
        if !text.trim().is_empty() {
            capture.style = Some(capture.style.map_or(style, |known| known.both(style)));
        }
        capture.plain
    }

    pub(super) fn end_link(&mut self) {
        if let Some(capture) = &mut self.capture
            && capture.depth > 1
        {
            capture.depth -= 1;
            return;
        }
        let Some(Capture { dest, label, style, plain, .. }) = self.capture.take() else { return };
        let style = style.unwrap_or_else(|| self.style());
        let trimmed = label.trim();
        // Of `<https://x.y|label>` the label alone is shown.
        let slack = trimmed.strip_prefix(dest.as_str()).and_then(|rest| rest.strip_prefix('|')).map(str::trim);
        let trimmed = match slack {
            Some("") => dest.as_str(),
            label => label.unwrap_or(trimmed),
        };
        if escape::address(&dest).is_some() {
            let space = |spaced: bool| if spaced { " " } else { "" };
            self.push_text(space(label.starts_with(char::is_whitespace)), style);
            self.in_url = false;
            let shown = trimmed.to_owned();
            self.runs.push(Run { style, kind: RunKind::Link { dest, label: shown } });
            self.push_text(space(label.len() > 1 && label.ends_with(char::is_whitespace)), style);
            return;
        }
        self.push_text(if plain { &label } else { "" }, style);
        let same = trimmed == dest || dest.strip_prefix("mailto:") == Some(trimmed);
        // A place within the document leads nowhere here.
        if !same && !dest.is_empty() && !dest.starts_with('#') {
            let space = if label.ends_with(char::is_whitespace) { "" } else { " " };
            self.push_text(&format!("{space}({dest})"), style);
        }
    }
}
