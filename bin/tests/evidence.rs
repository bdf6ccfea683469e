//! What the documents claim is shown by tests that exist.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a test stops where an expectation fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// What may stand where there is no test.
const ADMISSIONS: [&str; 2] = ["Not measured.", "Not yet guarded."];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The last cell of each row of the tables whose last column has this heading.
fn cells(document: &str, heading: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in document.lines() {
        let Some(row) = line.trim().strip_prefix('|') else {
            within = false;
            continue;
        };
        let row: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let last = *row.last().expect("a cell");
        if last == heading {
            within = true;
        } else if within && !last.starts_with("---") {
            rows.push((row[..row.len() - 1].join(" "), last.to_owned()));
        }
    }
    rows
}

/// What is wrong with a cell of evidence: it has to name tests as `path/of/file.rs::name`, or to admit that there is none.
fn complaint(evidence: &str) -> Option<String> {
    if ADMISSIONS.contains(&evidence) {
        return None;
    }
    let named: Vec<_> = evidence.split('`').skip(1).step_by(2).collect();
    if named.is_empty() {
        return Some("no evidence; name a test, or write `Not measured.`".to_owned());
    }
    named.into_iter().find_map(|name| match name.split_once("::") {
        None => Some(format!("`{name}` is not path::test")),
        Some((file, test)) => match fs::read_to_string(root().join(file)) {
            Err(_) => Some(format!("{file} does not exist")),
            Ok(source) if is_test(&source, test) => None,
            Ok(_) => Some(format!("{file} has no test `{test}`")),
        },
    })
}

/// Whether a source has a function of this name with a test attribute among the lines right above it, or within `proptest!`.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let declares = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    lines.iter().enumerate().any(|(at, line)| {
        declares(line)
            && lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with(['#', '/', ')']))
                .any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
    })
}

fn check(file: &str, heading: &str, least: usize) {
    let document = fs::read_to_string(root().join(file)).expect("read");
    let rows = cells(&document, heading);
    assert!(rows.len() >= least, "{file} has {} rows", rows.len());
    let complaints: Vec<_> =
        rows.iter().filter_map(|(claim, evidence)| Some(format!("{claim}: {}", complaint(evidence)?))).collect();
    assert!(complaints.is_empty(), "{file}:\n{}", complaints.join("\n"));
}

#[test]
fn every_guarantee_has_its_evidence() {
    check("docs/delivery.md", "evidence", 15);
}

#[test]
fn every_invariant_has_its_guard() {
    check("ARCHITECTURE.md", "guarded by", 13);
}

#[test]
fn a_claim_without_evidence_is_noticed() {
    let table = "| guarantee | evidence |\n| --- | --- |\n| a | |\n| b | trust me |\n| c | Not measured. |\n\
                 | d | `bin/tests/evidence.rs::every_guarantee_has_its_evidence` |\n\
                 | e | `bin/tests/evidence.rs::root` |\n| f | `bin/tests/none.rs::x` |\n";
    let wrong: Vec<_> = cells(table, "evidence")
        .into_iter()
        .filter(|(_, cell)| complaint(cell).is_some())
        .map(|(claim, _)| claim)
        .collect();
    assert_eq!(wrong, ["a", "b", "e", "f"]);
}

#[test]
fn the_manual_names_files_that_exist() {
    for file in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/delivery.md"] {
        let folder = root().join(file).parent().expect("a folder").to_owned();
        let text = fs::read_to_string(root().join(file)).expect("read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let is_local = !path.is_empty() && !path.contains("://");
            assert!(!is_local || folder.join(path).exists(), "{file} points to {link}");
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operation.md")).expect("the page");
    for metric in broker_core::telemetry::ALL {
        assert!(text.contains(&format!("| `{}` |", metric.name)), "{} is not in docs/operation.md", metric.name);
        assert!(text.contains(metric.help), "docs/operation.md says something else of {}", metric.name);
    }
}
