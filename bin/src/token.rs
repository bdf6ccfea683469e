//! `broker token`: the token that opens a session in the local API.

use std::io::Write;
use std::path::Path;

use broker_core::store::SessionRecord;
use broker_store::{KeyError, find_sessions, read_install_key};

use crate::config::Config;
use crate::exit::{Exit, Failure};

/// Which session.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choices {
    /// The session's key: the channel's id, a colon and the ts of the thread's first message, as in
    /// C012AB3CD:1700000000.000100; with `<installation>/` before it where the same thread is seen by several.
    #[arg(value_name = "KEY", value_parser = key)]
    key: Key,
}

/// A session's key as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    installation: Option<String>,
    conversation: String,
    root: String,
}

fn key(text: &str) -> Result<Key, String> {
    let (installation, rest) = match text.split_once('/') {
        Some((installation, rest)) => (Some(installation.to_owned()), rest),
        None => (None, text),
    };
    match rest.split_once(':') {
        Some((conversation, root)) if !conversation.is_empty() && !root.is_empty() => {
            Ok(Key { installation, conversation: conversation.to_owned(), root: root.to_owned() })
        }
        _ => Err("it has to look like C012AB3CD:1700000000.000100".to_owned()),
    }
}

/// Writes the token and a line feed. A broker may run meanwhile or not.
pub(crate) fn run(choices: &Choices) -> Result<(), Failure> {
    let config = Config::of_process_without_slack().map_err(|error| Failure::new(Exit::Usage, error))?;
    let data_root = &config.folders.data_root;
    let session = session(data_root, &choices.key)?;
    let key = read_install_key(data_root).map_err(|error| {
        let exit = if matches!(error, KeyError::Missing { .. }) { Exit::Usage } else { Exit::CannotCreate };
        Failure::new(exit, error)
    })?;
    let token = key.token(&session.key, &session.id, session.token_generation);
    // A reader that hung up early has what it wanted.
    let _ = writeln!(std::io::stdout(), "{}", token.expose());
    Ok(())
}

fn session(data_root: &Path, key: &Key) -> Result<SessionRecord, Failure> {
    let found = find_sessions(data_root, &key.conversation, &key.root);
    let mut found = found.map_err(|error| Failure::new(Exit::Io, error))?;
    if let Some(installation) = &key.installation {
        found.retain(|session| session.key.installation.as_str() == installation);
    }
    let (Some(session), more) = (found.pop(), found) else {
        let text = format!("there is no session {}:{} in {}", key.conversation, key.root, data_root.display());
        return Err(Failure::new(Exit::Usage, text));
    };
    if more.is_empty() {
        return Ok(session);
    }
    let keys: Vec<_> = more.iter().chain([&session]).map(|session| session.key.to_string()).collect();
    Err(Failure::new(Exit::Usage, format!("several installations see this thread; say which: {}", keys.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_people_write_them() {
        let parts = |text| key(text).map(|key| (key.installation.unwrap_or_default(), key.conversation, key.root));
        let of = |one: &str, two: &str, three: &str| Ok((one.to_owned(), two.to_owned(), three.to_owned()));
        assert_eq!(parts("C1:1.2"), of("", "C1", "1.2"));
        assert_eq!(parts("T1/C1:1.2"), of("T1", "C1", "1.2"));
        for wrong in ["", "C1", "C1:", ":1.2", "T1/C1"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
