//! Reads single variables, and collects what is wrong with them: an operator is told everything at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::variables::{Variable, Without};

/// The most characters of a wrong value that are shown.
const SHOWN: usize = 60;

/// What is wrong with a variable, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{name} {wrong}; {right}")]
pub(crate) struct Problem {
    name: &'static str,
    wrong: Wrong,
    right: String,
}

impl Problem {
    /// Whether it is that this variable is not set.
    pub(crate) fn is_missing(&self, variable: &Variable) -> bool {
        self.name == variable.name && matches!(self.wrong, Wrong::Missing)
    }
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("is not set")]
    Missing,
    #[error("is not UTF-8 text")]
    NotText,
    #[error("is `{0}`")]
    Value(String),
    #[error("is something else (it is a secret and not shown)")]
    Secret,
}

/// The variables of the process, by name.
pub(crate) type Variables = BTreeMap<String, OsString>;

/// A value or, once a problem was noted, a stand-in that nobody will use.
pub(crate) struct Reader<'a> {
    variables: &'a Variables,
    folder: &'a Path,
    /// What was wrong so far.
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Reads `variables`; relative paths start from `folder`.
    pub(crate) fn new(variables: &'a Variables, folder: &'a Path) -> Self {
        Self { variables, folder, problems: Vec::new() }
    }

    /// Notes that a value is not right.
    pub(crate) fn wrong(&mut self, variable: &Variable, value: &str, right: impl Into<String>) {
        let wrong = if variable.secret { Wrong::Secret } else { Wrong::Value(shown(value)) };
        self.problems.push(Problem { name: variable.name, wrong, right: right.into() });
    }

    /// The value as it stands, trimmed, or the table's default; an empty one counts as none.
    fn text(&mut self, variable: &Variable) -> Option<String> {
        let default = match variable.default {
            Without::Value(text) => Some(text.to_owned()),
            Without::Required | Without::Words(_) => None,
        };
        match self.variables.get(variable.name).map(|value| value.to_str().map(str::trim)) {
            None | Some(Some("")) => default,
            Some(Some(value)) => Some(value.to_owned()),
            Some(None) => {
                let right = "write it in UTF-8".to_owned();
                self.problems.push(Problem { name: variable.name, wrong: Wrong::NotText, right });
                None
            }
        }
    }

    /// Whatever `parse` makes of the value; it says what would be right when that is nothing.
    pub(crate) fn parsed<T>(
        &mut self,
        variable: &Variable,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(variable)?;
        parse(&text).map_err(|right| self.wrong(variable, &text, right)).ok()
    }

    /// A text that any value is right for.
    pub(crate) fn any(&mut self, variable: &Variable) -> String {
        self.text(variable).unwrap_or_default()
    }

    /// A secret that may be missing.
    pub(crate) fn secret(&mut self, variable: &Variable) -> Option<SecretString> {
        self.text(variable).map(SecretString::from)
    }

    /// A token that has to be there and begin with `prefix`.
    pub(crate) fn token(&mut self, variable: &Variable, prefix: &str, right: &str) -> SecretString {
        let before = self.problems.len();
        let text = self.text(variable);
        match &text {
            None if self.problems.len() == before => {
                self.problems.push(Problem { name: variable.name, wrong: Wrong::Missing, right: right.to_owned() });
            }
            Some(text) if !is_token(text, prefix) => self.wrong(variable, text, right),
            None | Some(_) => {}
        }
        SecretString::from(text.unwrap_or_default())
    }

    /// A number within a range.
    pub(crate) fn number<N>(&mut self, variable: &Variable, range: RangeInclusive<N>, unit: &str) -> N
    where
        N: FromStr + PartialOrd + std::fmt::Display + Default,
    {
        let right = format!("it has to be a number from {} to {}{unit}", range.start(), range.end());
        let number = self.parsed(variable, |text| text.parse().ok().filter(|n| range.contains(n)).ok_or(right));
        number.unwrap_or_default()
    }

    /// A number of milliseconds.
    pub(crate) fn millis(&mut self, variable: &Variable, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(variable, range, ", in milliseconds"))
    }

    /// A number of minutes, hours or days, such as `30m`, `24h` or `14d`.
    pub(crate) fn span(&mut self, variable: &Variable, range: RangeInclusive<Duration>) -> Duration {
        let (least, most) = (range.start().as_secs() / 60, range.end().as_secs() / DAY);
        let right = format!("it has to be minutes, hours or days, as 30m, 24h or 14d, from {least}m to {most}d");
        let span = self.parsed(variable, |text| span(text).filter(|span| range.contains(span)).ok_or(right));
        span.unwrap_or_default()
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&mut self, variable: &Variable, words: &[(&str, T)]) -> Option<T> {
        self.parsed(variable, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("it has to be one of {}", words.join(", "))
            })
        })
    }

    /// The items of a list with commas between them, each made by `parse`.
    pub(crate) fn list<T>(&mut self, variable: &Variable, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let text = self.text(variable).unwrap_or_default();
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match parse(item) {
                Ok(item) => items.push(item),
                Err(right) => self.wrong(variable, item, right),
            }
        }
        items
    }

    /// Slack ids that begin with one of `initials`.
    pub(crate) fn ids(&mut self, variable: &Variable, initials: &str, what: &str) -> BTreeSet<String> {
        let ids = self.list(variable, |item| {
            let known = item.starts_with(|initial| initials.contains(initial));
            let plain = item.len() > 1 && item.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
            if known && plain { Ok(item.to_owned()) } else { Err(format!("it has to be {what}, not a name")) }
        });
        ids.into_iter().collect()
    }

    /// A path, made absolute; nothing when it is not set and the table has no default.
    pub(crate) fn path(&mut self, variable: &Variable) -> Option<PathBuf> {
        let folder = self.folder;
        self.parsed(variable, |text| {
            if text.starts_with('~') {
                return Err("`~` is not resolved here, so write the whole path".to_owned());
            }
            Ok(normal(&folder.join(text)))
        })
    }
}

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 60 * 60,
        "d" => DAY,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// Whether a text is a token with this prefix, as far as that can be seen.
fn is_token(text: &str, prefix: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    plain && text.len() > prefix.len() && text.starts_with(prefix)
}

/// A value as it may be shown: on one line, and not too long.
fn shown(value: &str) -> String {
    let mut text: String = value.escape_debug().take(SHOWN).collect();
    if value.escape_debug().count() > SHOWN {
        text.push('…');
    }
    text
}

/// The path without `.` and `..`, by its text alone: folders that are not there yet have no other name.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}
