//! The examples of CommonMark, from the npm package of the specification.

use std::fs;
use std::path::{Path, PathBuf};

use crate::npm::Package;

const PACKAGE: Package = Package {
    name: "commonmark-spec",
    version: "0.31.2",
    find: text,
    hint: "install Node with npm, name the specification's spec.txt in COMMONMARK_SPEC_FOR_TESTS, or leave these tests \
           out with BROKER_TEST_NO_SPEC=1",
};

/// One example.
#[derive(Debug, Clone)]
pub struct Example {
    /// Its number in the specification, from 1.
    pub number: usize,
    /// The heading that it stands below.
    pub section: String,
    /// Markdown.
    pub markdown: String,
    /// What it means.
    pub html: String,
}

/// Every example; `None` when these tests are to be left out.
///
/// # Panics
///
/// When the specification is not there and cannot be installed.
pub async fn examples() -> Option<Vec<Example>> {
    let path = match std::env::var_os("COMMONMARK_SPEC_FOR_TESTS") {
        Some(named) => PathBuf::from(named),
        None if std::env::var_os("BROKER_TEST_NO_SPEC").is_some_and(|value| value == "1") => return None,
        None => PACKAGE.installed().await,
    };
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
    Some(parse(&text))
}

fn text(folder: &Path) -> Option<PathBuf> {
    Some(folder.join("node_modules/commonmark-spec/spec.txt")).filter(|path| path.is_file())
}

/// Examples stand between rows of 32 backticks, Markdown first, then a line with a dot, then HTML; tabs are written `→`.
fn parse(spec: &str) -> Vec<Example> {
    let fence = "`".repeat(32);
    let opening = format!("{fence} example");
    let mut section = String::new();
    let mut examples: Vec<Example> = Vec::new();
    let mut lines = spec.lines();
    while let Some(line) = lines.next() {
        if line == opening {
            let mut part = |end: &str| -> String {
                let lines = lines.by_ref().take_while(|line| *line != end);
                lines.map(|line| line.replace('→', "\t") + "\n").collect()
            };
            let (markdown, html) = (part("."), part(&fence));
            examples.push(Example { number: examples.len() + 1, section: section.clone(), markdown, html });
        } else if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut section);
        }
    }
    examples
}
