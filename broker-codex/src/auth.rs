//! The account that Codex works with: bringing an `auth.json` over, and reading what account there is.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// An `auth.json` is about 4 kB.
const MAX_BYTES: u64 = 1024 * 1024;

/// What became of an `auth.json` that was to be brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brought {
    /// It was copied.
    Copied,
    /// Ours is as new or newer: Codex refreshes the tokens in it.
    Kept,
}

/// Why an `auth.json` was not brought over, and what mends it. Never says what stands in one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("{path} cannot be read ({source}); check CODEX_AUTH_JSON_PATH and the file's owner")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} is a link; name the file itself in CODEX_AUTH_JSON_PATH")]
    Link(PathBuf),
    #[error("{0} is not an auth.json of Codex; sign in with `codex login` and name the file that this writes")]
    Shape(PathBuf),
    #[error("{ours} belongs to another account than CODEX_AUTH_JSON_PATH and is kept; remove it to change the account")]
    OtherAccount { ours: PathBuf },
    #[error("{path} cannot be written ({source}); check the disk and who owns CODEX_HOME")]
    Write { path: PathBuf, source: std::io::Error },
}

#[derive(Deserialize)]
struct AuthFile {
    auth_mode: Option<String>,
    #[serde(rename = "OPENAI_API_KEY")]
    api_key: Option<String>,
    tokens: Option<Tokens>,
    /// RFC 3339 in UTC, so that the text sorts by time.
    last_refresh: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    account_id: Option<String>,
}

impl AuthFile {
    /// The kind of account and, of a ChatGPT account, which.
    fn account(&self) -> (String, Option<&str>) {
        let kind = match (&self.auth_mode, &self.tokens) {
            (Some(mode), _) => mode.to_lowercase(),
            (None, Some(_)) => "chatgpt".to_owned(),
            (None, None) => "apikey".to_owned(),
        };
        let account = self.tokens.as_ref().and_then(|tokens| tokens.account_id.as_deref());
        (kind, account)
    }

    fn has_anything(&self) -> bool {
        self.tokens.is_some() || self.api_key.is_some()
    }
}

struct Candidate {
    bytes: Vec<u8>,
    parsed: AuthFile,
    modified: Option<std::time::SystemTime>,
    /// Device and number: the same for the same file under another name.
    identity: (u64, u64),
}

/// Copies `source` to `auth.json` in `codex_home` when there is none, or an older one of the same account. Blocks on
/// the disk.
///
/// The file is shared with nobody from then on: Codex renews the tokens in its copy, and a provider that allows a
/// refresh token to be used once only signs the other copy out.
pub(crate) fn bring_over(source: &Path, codex_home: &Path) -> Result<Brought, AuthError> {
    let ours = codex_home.join("auth.json");
    let theirs = read(source)?;
    let mine = match ours.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        // A file of ours that cannot be read or understood is as good as none.
        _ => match read(&ours) {
            Err(AuthError::Link(path)) => return Err(AuthError::Link(path)),
            mine => mine.ok(),
        },
    };
    if let Some(mine) = mine {
        if mine.identity == theirs.identity {
            return Ok(Brought::Kept);
        }
        if mine.parsed.account() != theirs.parsed.account() {
            return Err(AuthError::OtherAccount { ours });
        }
        if !is_newer(&theirs, &mine) {
            return Ok(Brought::Kept);
        }
    }
    write(&ours, &theirs.bytes).map_err(|source| AuthError::Write { path: ours, source })?;
    Ok(Brought::Copied)
}

fn is_newer(theirs: &Candidate, mine: &Candidate) -> bool {
    match (&theirs.parsed.last_refresh, &mine.parsed.last_refresh) {
        (Some(theirs), Some(mine)) => theirs > mine,
        _ => theirs.modified > mine.modified && theirs.bytes != mine.bytes,
    }
}

fn read(path: &Path) -> Result<Candidate, AuthError> {
    use std::os::unix::fs::MetadataExt;

    let unreadable = |source| AuthError::Read { path: path.to_path_buf(), source };
    if path.symlink_metadata().map_err(unreadable)?.is_symlink() {
        return Err(AuthError::Link(path.to_path_buf()));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let parsed: AuthFile = serde_json::from_slice(&bytes).map_err(|_| AuthError::Shape(path.to_path_buf()))?;
    if !parsed.has_anything() {
        return Err(AuthError::Shape(path.to_path_buf()));
    }
    Ok(Candidate { bytes, parsed, modified: metadata.modified().ok(), identity: (metadata.dev(), metadata.ino()) })
}

/// Writes a file that only the broker's user can read, so that it is there as a whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The account that the app-server works with (`account/read`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// Not asked yet, or the answer could not be had; why, when it is known.
    Unknown(Option<String>),
    /// The model's provider asks for none.
    NotNeeded,
    /// Signed in; the kind (`apiKey`, `chatgpt`) and the plan, when it has one.
    SignedIn { kind: String, plan: Option<String> },
    /// Nobody is signed in, and the provider asks for somebody.
    Missing,
}

impl Account {
    /// Reads the answer of `account/read`.
    pub(crate) fn of(answer: &Value) -> Self {
        let kind = answer["account"]["type"].as_str();
        match (kind, answer["requiresOpenaiAuth"].as_bool()) {
            (Some(kind), _) => {
                let plan = answer["account"]["planType"].as_str().map(str::to_owned);
                Self::SignedIn { kind: kind.to_owned(), plan }
            }
            (None, Some(true)) => Self::Missing,
            (None, _) => Self::NotNeeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    struct Place {
        _folder: tempfile::TempDir,
        source: PathBuf,
        home: PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().join("home");
        std::fs::create_dir(&home).expect("folder");
        Place { source: folder.path().join("auth.json"), home, _folder: folder }
    }

    fn chatgpt(account: &str, refreshed: &str) -> String {
        json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "last_refresh": refreshed,
               "tokens": {"account_id": account, "access_token": "secret", "refresh_token": "r", "id_token": "i"}})
        .to_string()
    }

    #[test]
    fn a_missing_one_is_copied_for_nobody_else_to_read() {
        let place = place();
        std::fs::write(&place.source, chatgpt("a", "2026-01-01T00:00:00Z")).expect("file");
        assert_eq!(bring_over(&place.source, &place.home).expect("copied"), Brought::Copied);
        let ours = place.home.join("auth.json");
        assert_eq!(std::fs::read(&ours).expect("file"), std::fs::read(&place.source).expect("file"));
        assert_eq!(std::fs::metadata(&ours).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(bring_over(&place.source, &place.home).expect("same age"), Brought::Kept);
    }

    #[test]
    fn only_a_newer_one_of_the_same_account_replaces_ours() {
        let place = place();
        let ours = place.home.join("auth.json");
        std::fs::write(&ours, chatgpt("a", "2026-02-01T00:00:00Z")).expect("file");
        std::fs::write(&place.source, chatgpt("a", "2026-01-01T00:00:00Z")).expect("file");
        assert_eq!(bring_over(&place.source, &place.home).expect("older"), Brought::Kept);
        std::fs::write(&place.source, chatgpt("a", "2026-03-01T00:00:00Z")).expect("file");
        assert_eq!(bring_over(&place.source, &place.home).expect("newer"), Brought::Copied);
        std::fs::write(&place.source, chatgpt("b", "2026-04-01T00:00:00Z")).expect("file");
        assert!(matches!(bring_over(&place.source, &place.home), Err(AuthError::OtherAccount { .. })));
        let key = json!({"OPENAI_API_KEY": "sk-1", "last_refresh": "2026-05-01T00:00:00Z"}).to_string();
        std::fs::write(&place.source, key).expect("file");
        assert!(matches!(bring_over(&place.source, &place.home), Err(AuthError::OtherAccount { .. })));
        assert!(std::fs::read_to_string(&ours).expect("file").contains("2026-03-01"));
    }

    #[test]
    fn links_the_same_file_and_other_files_are_not_copied() {
        let place = place();
        let ours = place.home.join("auth.json");
        std::fs::write(&place.source, chatgpt("a", "2026-01-01T00:00:00Z")).expect("file");
        std::os::unix::fs::symlink(&place.source, &ours).expect("link");
        assert!(matches!(bring_over(&place.source, &place.home), Err(AuthError::Link(_))));
        assert!(matches!(bring_over(&ours, &place.home), Err(AuthError::Link(_))));
        std::fs::remove_file(&ours).expect("unlinked");
        std::fs::hard_link(&place.source, &ours).expect("link");
        assert_eq!(bring_over(&place.source, &place.home).expect("the same"), Brought::Kept);
        std::fs::remove_file(&ours).expect("unlinked");
        for text in ["", "hello", "[]", "{}", "{\"tokens\":3}"] {
            std::fs::write(&place.source, text).expect("file");
            let error = bring_over(&place.source, &place.home).expect_err("no auth.json");
            assert!(matches!(error, AuthError::Shape(_)), "{text}");
        }
        assert!(matches!(bring_over(Path::new("/nowhere/auth.json"), &place.home), Err(AuthError::Read { .. })));
        assert!(!ours.exists());
    }

    #[test]
    fn an_unreadable_one_of_ours_is_replaced() {
        let place = place();
        std::fs::write(place.home.join("auth.json"), "broken").expect("file");
        std::fs::write(&place.source, chatgpt("a", "2026-01-01T00:00:00Z")).expect("file");
        assert_eq!(bring_over(&place.source, &place.home).expect("copied"), Brought::Copied);
    }

    #[test]
    fn accounts_are_told_apart() {
        let answer = json!({"account": null, "requiresOpenaiAuth": true});
        assert_eq!(Account::of(&answer), Account::Missing);
        let answer = json!({"account": null, "requiresOpenaiAuth": false});
        assert_eq!(Account::of(&answer), Account::NotNeeded);
        let answer = json!({"account": {"type": "apiKey"}, "requiresOpenaiAuth": true});
        assert_eq!(Account::of(&answer), Account::SignedIn { kind: "apiKey".to_owned(), plan: None });
        let answer = json!({"account": {"type": "chatgpt", "email": "a@example.org", "planType": "plus"}});
        let plan = Some("plus".to_owned());
        assert_eq!(Account::of(&answer), Account::SignedIn { kind: "chatgpt".to_owned(), plan });
    }
}
