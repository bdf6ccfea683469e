//! Which variables of the broker's environment reach Codex, and which the agent's commands.
//!
//! Codex gets a list of harmless ones and what the operator names; nothing else, and never a secret of the broker
//! (invariant 10). The agent's commands get less: Codex passes its "core" variables on, and we set the rest per thread.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// Every process of ours carries this variable with the data root as its value, the agent's commands included, so that
/// a later broker finds what this one left behind.
pub(crate) const MARK: &str = "SCB_RUNTIME";

/// Names that may never be passed on, in pattern form.
const FORBIDDEN: [&str; 3] = ["SLACK_*", "BROKER_*", "OPENAI_API_KEY"];

/// What Codex gets without being named: how to find programs, speak the language, know the time and reach the network.
const USUAL: [&str; 13] = [
    "PATH",
    "LANG",
    "LC_*",
    "TZ",
    "SSL_CERT_*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// Variables that the broker sets itself; passing others on under these names would undo what it decides.
const OURS: [&str; 4] = ["CODEX_HOME", "HOME", "TMPDIR", MARK];

/// The name of a variable, or `PREFIX_*` for all that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPattern {
    stem: String,
    prefix: bool,
}

/// A text that is no [`EnvPattern`], or one that could pass a secret of the broker on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvPatternError {
    /// Not a name and not a prefix.
    #[error("`{0}` is neither the name of a variable nor a prefix like MY_*")]
    Malformed(String),
    /// It could match what must never be passed on.
    #[error("`{given}` could pass {forbidden} on, which an agent must never see; name the variables one by one")]
    Forbidden {
        /// The text.
        given: String,
        /// What it could match.
        forbidden: &'static str,
    },
}

impl EnvPattern {
    /// Whether a variable of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.stem) } else { name == self.stem }
    }

    fn read(text: &str) -> Option<Self> {
        let (stem, prefix) = text.strip_suffix('*').map_or((text, false), |stem| (stem, true));
        let mut chars = stem.chars();
        let first = chars.next()?;
        let good = (first.is_ascii_alphabetic() || first == '_')
            && chars.all(|char| char.is_ascii_alphanumeric() || char == '_');
        good.then(|| Self { stem: stem.to_owned(), prefix })
    }

    /// Whether one name could match both patterns. Case is ignored: nobody means `slack_bot_token` either.
    fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.stem.to_ascii_uppercase(), other.stem.to_ascii_uppercase());
        match (self.prefix, other.prefix) {
            (false, false) => mine == theirs,
            (true, false) => theirs.starts_with(&mine),
            (false, true) => mine.starts_with(&theirs),
            (true, true) => mine.starts_with(&theirs) || theirs.starts_with(&mine),
        }
    }
}

impl FromStr for EnvPattern {
    type Err = EnvPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = Self::read(text).ok_or_else(|| EnvPatternError::Malformed(text.to_owned()))?;
        let clash = FORBIDDEN.into_iter().find(|name| Self::read(name).is_some_and(|name| pattern.overlaps(&name)));
        match clash {
            Some(forbidden) => Err(EnvPatternError::Forbidden { given: text.to_owned(), forbidden }),
            None => Ok(pattern),
        }
    }
}

fn forbidden(name: &str) -> bool {
    let exact = EnvPattern { stem: name.to_owned(), prefix: false };
    FORBIDDEN.into_iter().any(|pattern| EnvPattern::read(pattern).is_some_and(|pattern| pattern.overlaps(&exact)))
}

/// The variables of `env` that the patterns name, without those that are never passed on or are ours to set.
pub(crate) fn named(env: &BTreeMap<String, String>, patterns: &[EnvPattern]) -> BTreeMap<String, String> {
    env.iter()
        .filter(|(name, _)| !forbidden(name) && !OURS.contains(&name.as_str()))
        .filter(|(name, _)| patterns.iter().any(|pattern| pattern.matches(name)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Where Codex lives, for its environment.
pub(crate) struct Places<'a> {
    pub(crate) data_root: &'a Path,
    pub(crate) codex_home: &'a Path,
    pub(crate) home: &'a Path,
    pub(crate) tmp: &'a Path,
}

/// The whole environment of the app-server.
pub(crate) fn of_codex(
    env: &BTreeMap<String, String>,
    patterns: &[EnvPattern],
    places: &Places<'_>,
) -> BTreeMap<String, String> {
    let usual: Vec<EnvPattern> = USUAL.into_iter().filter_map(EnvPattern::read).collect();
    let mut all = named(env, &usual);
    all.extend(named(env, patterns));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    all.insert("CODEX_HOME".to_owned(), text(places.codex_home));
    all.insert("HOME".to_owned(), text(places.home));
    // Codex refuses to make its helper programs when CODEX_HOME lies below TMPDIR, so the system's /tmp will not do.
    all.insert("TMPDIR".to_owned(), text(places.tmp));
    all.insert(MARK.to_owned(), text(places.data_root));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_and_prefixes_are_read() {
        let pattern: EnvPattern = "NPM_*".parse().expect("a prefix");
        assert!(pattern.matches("NPM_TOKEN") && !pattern.matches("NPMX"));
        let pattern: EnvPattern = "GH_TOKEN".parse().expect("a name");
        assert!(pattern.matches("GH_TOKEN") && !pattern.matches("GH_TOKEN_2"));
        for wrong in ["", "*", "A B", "1A", "A*B", "A=b", "Ä"] {
            assert!(matches!(wrong.parse::<EnvPattern>(), Err(EnvPatternError::Malformed(_))), "{wrong}");
        }
    }

    #[test]
    fn nothing_that_could_match_a_secret_of_the_broker_is_accepted() {
        let refused = [
            "SLACK_*",
            "SLACK_BOT_TOKEN",
            "S*",
            "SLACK_B*",
            "slack_bot_token",
            "BROKER_X",
            "BRO*",
            "OPENAI_API_KEY",
            "OPENAI_*",
            "O*",
        ];
        for text in refused {
            assert!(matches!(text.parse::<EnvPattern>(), Err(EnvPatternError::Forbidden { .. })), "{text}");
        }
        for text in ["OPENAI_API_KEY_FILE", "SLACKER", "BROKERAGE", "OPENAI_ORG*", "GH_TOKEN"] {
            assert!(text.parse::<EnvPattern>().is_ok(), "{text}");
        }
    }

    #[test]
    fn codex_gets_the_usual_the_named_and_ours() {
        let broker = env(&[
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("SLACK_BOT_TOKEN", "xoxb"),
            ("OPENAI_API_KEY", "sk"),
            ("HOME", "/home/op"),
            ("GH_TOKEN", "gh"),
            ("AWS_SECRET", "a"),
            ("https_proxy", "http://p"),
        ]);
        let patterns = ["GH_TOKEN".parse().expect("a name"), "HOME".parse().expect("a name")];
        let root = Path::new("/data");
        let places = Places {
            data_root: root,
            codex_home: &root.join("codex-home"),
            home: &root.join("runtime-home/home"),
            tmp: &root.join("runtime-home/tmp"),
        };
        let expected = env(&[
            ("CODEX_HOME", "/data/codex-home"),
            ("GH_TOKEN", "gh"),
            ("HOME", "/data/runtime-home/home"),
            ("LC_ALL", "C"),
            ("PATH", "/bin"),
            ("SCB_RUNTIME", "/data"),
            ("TMPDIR", "/data/runtime-home/tmp"),
            ("https_proxy", "http://p"),
        ]);
        assert_eq!(of_codex(&broker, &patterns, &places), expected);
    }
}
