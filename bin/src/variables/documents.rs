//! Holds `.env.example` and the README's table to [`TABLE`]. `BROKER_BLESS=1 cargo test -p slack-codex-broker documents`
//! writes them anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Config;

const BEGIN: &str = "<!-- variables: made from bin/src/variables.rs -->\n";
const END: &str = "<!-- end of variables -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Compares a file with what it should be, or writes it when that is asked for.
fn hold(file: &str, expected: impl FnOnce(&str) -> String) {
    let path = root().join(file);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = expected(&found);
    if found != expected && std::env::var_os("BROKER_BLESS").is_some() {
        std::fs::write(&path, expected).expect("written");
    } else {
        assert!(found == expected, "{file} differs from the table; BROKER_BLESS=1 cargo test writes it anew");
    }
}

fn example() -> String {
    let mut text = String::from(
        "# Copy this file to .env and fill in the two tokens; everything else may stay as it is.\n\
         # A value with spaces, quotes, # or $ stands in single quotes. Made from bin/src/variables.rs.\n",
    );
    for variable in TABLE {
        text.push('\n');
        for line in wrap(variable.what, 100) {
            let _ = writeln!(text, "# {line}");
        }
        let name = variable.name;
        let _ = match variable.default {
            Without::Required => writeln!(text, "{name}="),
            Without::Value(value) => writeln!(text, "# {name}={value}"),
            Without::Words(words) => writeln!(text, "# Without it: {words}.\n# {name}="),
        };
    }
    text
}

fn table() -> String {
    let mut text = String::from("| Variable | Default | What it does |\n| --- | --- | --- |\n");
    for variable in TABLE {
        let default = match variable.default {
            Without::Value(value) => format!("`{value}`"),
            Without::Required => "**required**".to_owned(),
            Without::Words(words) => words.to_owned(),
        };
        let secret = if variable.secret { " Secret." } else { "" };
        let what = variable.what.replace('|', "\\|").replace('*', "\\*");
        let _ = writeln!(text, "| `{}` | {default} | {what}{secret} |", variable.name);
    }
    text
}

#[test]
fn documents_agree_on_the_example() {
    hold(".env.example", |_| example());
}

#[test]
fn documents_agree_on_the_readme() {
    hold("README.md", |found| {
        let (before, rest) = found.split_once(BEGIN).expect("the README has a place for the variables");
        let (_, after) = rest.split_once(END).expect("the place ends");
        format!("{before}{BEGIN}{}{END}{after}", table())
    });
}

#[test]
fn the_example_is_a_configuration_once_the_tokens_are_in() {
    let folder = tempfile::tempdir().expect("a folder");
    // Every default, written out, is taken for right.
    let text = example().replace("# SLACK", "SLACK").replace("# CODEX", "CODEX").replace("# PORT", "PORT");
    let text = text.replace("_TOKEN=\n", "_TOKEN=x-token\n").replace("APP_TOKEN=x", "APP_TOKEN=xapp");
    let text = text.replace("BOT_TOKEN=x-", "BOT_TOKEN=xoxb-");
    std::fs::write(folder.path().join(".env"), text).expect("written");
    let config = Config::read([].into(), folder.path(), true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.port, config.history_limit), (3000, 50));
}

#[test]
fn names_are_unique_and_secrets_have_no_default() {
    for (at, variable) in TABLE.iter().enumerate() {
        assert!(TABLE[at + 1..].iter().all(|other| other.name != variable.name), "{}", variable.name);
        assert!(!variable.secret || !matches!(variable.default, Without::Value(_)), "{}", variable.name);
    }
}
