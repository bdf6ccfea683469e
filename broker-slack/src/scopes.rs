//! What the broker needs to be allowed to do: one table, which the app's manifest repeats.

use std::collections::BTreeSet;

use broker_core::health::PartHealth;

/// What is lost without a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The broker is no use without it.
    Required(&'static str),
    /// The broker works, without what is named.
    Optional(&'static str),
}

/// A bot scope that the manifest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Slack's name of it.
    pub name: &'static str,
    /// What it is for.
    pub need: Need,
}

const fn required(name: &'static str, why: &'static str) -> Scope {
    Scope { name, need: Need::Required(why) }
}

const fn optional(name: &'static str, lost: &'static str) -> Scope {
    Scope { name, need: Need::Optional(lost) }
}

/// Every bot scope of the app (<https://docs.slack.dev/reference/scopes>). `connections:write` is not among them: it
/// belongs to the app-level token, and the socket itself shows whether it is there.
pub const SCOPES: &[Scope] = &[
    required("app_mentions:read", "mentions open sessions"),
    required("channels:history", "replies and history in public channels"),
    required("chat:write", "answers"),
    required("im:history", "direct messages"),
    required("users:read", "only full members may instruct, and only users.info tells who is one"),
    optional("channels:read", "the names of public channels, and finding what was missed in them"),
    optional("files:read", "reading the files that people attach"),
    optional("files:write", "sending files"),
    optional("groups:history", "replies and history in private channels"),
    optional("groups:read", "the names of private channels, and finding what was missed in them"),
    optional("im:read", "finding direct messages that were missed"),
    optional("mpim:history", "replies and history in group messages"),
    optional("mpim:read", "finding group messages that were missed"),
    optional("reactions:write", "a reaction while the agent works, where a status cannot be shown"),
    optional("users:read.email", "people's mail addresses"),
];

/// What an operator does about a missing scope.
const MEND: &str = "reinstall the app from slack-app-manifest.yaml";

/// What the token may do, as the header `x-oauth-scopes` of `auth.test` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted(Option<BTreeSet<String>>);

impl Granted {
    /// Reads the header; absent where Slack, or something in between, left it out.
    pub(crate) fn read(header: Option<&str>) -> Self {
        Self(header.map(|names| {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        }))
    }

    /// Whether a scope is granted, as far as that is known.
    pub(crate) fn has(&self, scope: &str) -> bool {
        self.0.as_ref().is_none_or(|granted| granted.contains(scope))
    }

    /// Compares with the table.
    pub(crate) fn health(&self) -> PartHealth {
        if self.0.is_none() {
            return PartHealth::well().remark("slack did not say which scopes the bot token has");
        }
        let mut missing = Vec::new();
        let mut lost = Vec::new();
        for scope in SCOPES.iter().filter(|scope| !self.has(scope.name)) {
            match scope.need {
                Need::Required(why) => missing.push(format!("{} ({why})", scope.name)),
                Need::Optional(what) => lost.push(format!("{} ({what})", scope.name)),
            }
        }
        let names = |list: &[String]| list.join(", ");
        if !missing.is_empty() {
            let all = names(&missing);
            return PartHealth::ill(format!("the bot token lacks {all}: {MEND}"))
                .with("missing", missing)
                .with("lost", lost);
        }
        if lost.is_empty() {
            return PartHealth::well();
        }
        let all = names(&lost);
        PartHealth::well().remark(format!("not available without a scope: {all}; {MEND}")).with("lost", lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::EVENT_TYPES;

    const MANIFEST: &str = include_str!("../../slack-app-manifest.yaml");

    /// The items of the list under `key`, of YAML as simple as the manifest's.
    fn list(key: &str) -> Vec<&'static str> {
        let mut lines = MANIFEST.lines().skip_while(|line| line.trim() != format!("{key}:"));
        lines.next().unwrap_or_else(|| panic!("the manifest has no {key}"));
        lines.map_while(|line| line.trim().strip_prefix("- ")).collect()
    }

    #[test]
    fn the_manifest_asks_for_exactly_the_table() {
        assert_eq!(list("bot"), SCOPES.iter().map(|scope| scope.name).collect::<Vec<_>>());
    }

    #[test]
    fn the_manifest_subscribes_to_what_is_parsed_and_has_the_scopes_for_it() {
        let events = list("bot_events");
        assert_eq!(events, ["app_mention", "message.channels", "message.groups", "message.im", "message.mpim"]);
        for event in events {
            let (kind, history) = match event.split_once('.') {
                Some((kind, conversation)) => (kind, format!("{conversation}:history")),
                None => (event, "app_mentions:read".to_owned()),
            };
            assert!(EVENT_TYPES.contains(&kind), "{event} is not parsed");
            assert!(SCOPES.iter().any(|scope| scope.name == history), "{event} needs {history}");
        }
    }

    #[test]
    fn the_manifest_switches_on_what_the_broker_needs() {
        for line in [
            "socket_mode_enabled: true",
            "messages_tab_enabled: true",
            "messages_tab_read_only_enabled: false",
            "is_enabled: true",
        ] {
            assert!(MANIFEST.lines().any(|it| it.trim() == line), "{line}");
        }
    }

    #[test]
    fn health_tells_what_is_missing() {
        let all = SCOPES.iter().map(|scope| scope.name).collect::<Vec<_>>().join(",");
        assert_eq!(Granted::read(Some(&all)).health(), PartHealth::well());
        let without = |name: &str| Granted::read(Some(&all.replace(name, "x"))).health();
        let ill = without("users:read,");
        assert!(!ill.ok && ill.reason.as_deref().is_some_and(|it| it.contains("users:read (") && it.contains(MEND)));
        let poorer = without("files:read");
        assert!(poorer.ok && poorer.reason.as_deref().is_some_and(|it| it.contains("reading the files")));
        assert!(Granted::read(None).health().ok);
        assert!(!Granted::read(Some("")).health().ok);
    }
}
