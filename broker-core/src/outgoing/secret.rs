//! Which files look like secrets: by their names, and as private keys by what they hold. A fence against accidents: whoever
//! means to post a secret under another name can.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::{Refusal, refuse};

/// How much of a file is searched for a private key, in bytes: a chain of certificates may stand before it.
const SEARCHED: u64 = 64 * 1024;

/// Folders in which everything is a secret.
const FOLDERS: [&str; 7] = [".ssh", ".aws", ".gnupg", ".codex", ".kube", ".docker", "gcloud"];
/// These hold addresses with tokens in them, and tokens.
const PATHS: [&str; 2] = [".git/config", "gh/hosts.yml"];
/// How names of copies end.
const COPIES: [&str; 7] = ["~", ".bak", ".backup", ".old", ".orig", ".save", ".swp"];
const NAMES: [&str; 20] = [
    "auth.json",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    "credentials",
    "credentials.json",
    ".credentials.json",
    "id_rsa",
    "id_dsa",
    "kubeconfig",
    ".dockercfg",
    ".envrc",
    ".my.cnf",
    ".vault-token",
    ".htpasswd",
    "credentials.toml",
    "application_default_credentials.json",
];
const BEGINNINGS: [&str; 4] = ["id_ed25519", "id_ecdsa", "id_rsa", "ssh_host_"];
const ENDINGS: [&str; 11] =
    [".pem", ".key", ".p8", ".p12", ".pfx", ".keystore", ".kdbx", ".jks", ".ppk", ".kubeconfig", ".tfstate"];
/// Examples and templates of secrets are none, nor are public keys.
const HARMLESS: [&str; 5] = [".example", ".sample", ".template", ".dist", ".pub"];

/// Refuses a path within a root whose name says that a secret is behind it.
pub(super) fn no_secret_name(path: &Path) -> Result<(), Refusal> {
    let whole = path.file_name().map(lower).unwrap_or_default();
    let mut folders = path.parent().into_iter().flat_map(Path::components);
    let in_folder = folders.any(|part| FOLDERS.contains(&lower(part.as_os_str()).as_str()));
    if in_folder || PATHS.iter().any(|secret| path.ends_with(secret)) || meant(&whole).iter().any(|name| looks(name)) {
        return secret(&whole);
    }
    Ok(())
}

/// Refuses a private key under whatever name. `None` is an error of reading.
pub(super) fn no_secret_content(file: &mut File) -> Result<(), Option<Refusal>> {
    let mut head = Vec::new();
    file.take(SEARCHED).read_to_end(&mut head).map_err(|_| None)?;
    file.seek(SeekFrom::Start(0)).map_err(|_| None)?;
    let text = String::from_utf8_lossy(&head);
    let key = text.lines().any(|line| line.trim_start().starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"));
    if key { secret("a private key").map_err(Some) } else { Ok(()) }
}

fn lower(name: &OsStr) -> String {
    name.to_string_lossy().to_lowercase()
}

/// The names that a name may stand for: a copy of a file is as secret as the file, and so is one that somebody sent.
fn meant(whole: &str) -> Vec<String> {
    let sent = of_message(whole);
    let hidden = sent.and_then(|name| name.strip_prefix('_')).map(|name| format!(".{name}"));
    let names = [Some(whole.to_owned()), sent.map(str::to_owned), hidden];
    names.into_iter().flatten().map(|name| original(&name)).collect()
}

/// The name of a file of a message, which is kept as `<id>-<name>`, with `_` for a dot in front.
fn of_message(name: &str) -> Option<&str> {
    let (id, name) = name.split_once('-')?;
    let is_id = id.len() > 1 && id.starts_with('f') && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then_some(name)
}

/// The name of what a copy is of, or a copy of a copy: `.env.bak`, `auth.json.1`, `auth (1).json`, vim's `.auth.json.swp`.
fn original(name: &str) -> String {
    let mut name = name.to_owned();
    loop {
        let swapped = name.strip_suffix(".swp").and_then(|rest| rest.strip_prefix('.'));
        let copy = COPIES.iter().find_map(|ending| name.strip_suffix(ending));
        let numbered = name.rsplit_once('.').filter(|(_, number)| is_number(number)).map(|(of, _)| of);
        match swapped.filter(|rest| looks(rest)).or(copy).or(numbered) {
            Some(of) => name = of.to_owned(),
            None => break,
        }
    }
    let (stem, ending) = name.split_once('.').unwrap_or((&name, ""));
    match stem.strip_suffix(')').and_then(|stem| stem.rsplit_once(" (")) {
        Some((of, number)) if is_number(number) && !ending.is_empty() => format!("{of}.{ending}"),
        Some((of, number)) if is_number(number) => of.to_owned(),
        _ => name,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn looks(name: &str) -> bool {
    let more = name.strip_prefix(".env");
    // `.environment` is none.
    let env = more.is_some_and(|more| !more.starts_with(char::is_alphanumeric)) || name.ends_with(".env");
    let looks = env
        || NAMES.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDINGS.iter().any(|ending| name.ends_with(ending));
    looks && !HARMLESS.iter().any(|ending| name.ends_with(ending))
}

fn secret<T>(what: &str) -> Result<T, Refusal> {
    refuse("secret", format!("the file looks like a secret ({what}) and is not posted; never post secrets into Slack"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_and_of_their_copies() {
        for name in [
            ".env",
            ".env.production",
            ".env-prod",
            ".env_local",
            ".env copy",
            ".env.bak",
            ".env.swp",
            "prod.env",
            ".envrc",
            "server.pem",
            "SERVER.PEM",
            "server.pem.old.bak",
            "server.p8",
            "tls.key",
            "release.jks",
            "terraform.tfstate.backup",
            "auth.json",
            "auth.json.1",
            "auth (1).json",
            ".auth.json.swp",
            "id_rsa",
            "id_rsa (2)",
            "id_rsa~",
            "id_ed25519",
            ".netrc",
            "kubeconfig",
            "prod.kubeconfig",
            ".ssh/config",
            ".docker/config.json",
            ".git/config",
            "gh/hosts.yml",
            "F012AB3CD-_env",
            "F1-auth.json",
            "F1-auth.json.bak",
            "F1-_netrc",
        ] {
            let refused = no_secret_name(Path::new(name));
            assert!(refused.is_err_and(|refusal| refusal.code == "secret"), "{name}");
        }
        for name in [
            ".env.example",
            ".environment",
            "environment.txt",
            "F1-_environment",
            "F1-report.pdf",
            "first-env",
            "id_ed25519.pub",
            "keynote.txt",
            "notes.bak",
            "report (1).json",
            "hosts.yml",
            "~",
            ".swp",
            "1",
            "(1)",
            "",
        ] {
            assert!(no_secret_name(Path::new(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn private_keys_under_whatever_name() {
        let chain = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", "MIIC\n".repeat(2_000));
        for (content, is_key) in [
            ("  key: |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n    abc\n".to_owned(), true),
            (format!("{chain}-----BEGIN PRIVATE KEY-----\n"), true),
            (chain, false),
            ("how to make a PRIVATE KEY".to_owned(), false),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            assert_eq!(no_secret_content(&mut file).is_err(), is_key, "{}", &content[..25]);
            assert_eq!(file.stream_position().unwrap(), 0, "it is copied from its beginning");
        }
    }
}
