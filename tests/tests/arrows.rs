#![forbid(unsafe_code)]
//! The arrows between the crates are those of ARCHITECTURE.md: `bin -> {slack, codex, store, http} -> core`, and no other.

use cargo_metadata::{DependencyKind, MetadataCommand};

/// From which crate to which an arrow may go, in what is shipped.
const ARROWS: &[(&str, &str)] = &[
    ("slack-codex-broker", "broker-core"),
    ("slack-codex-broker", "broker-slack"),
    ("slack-codex-broker", "broker-codex"),
    ("slack-codex-broker", "broker-store"),
    ("slack-codex-broker", "broker-http"),
    ("broker-slack", "broker-core"),
    ("broker-codex", "broker-core"),
    ("broker-store", "broker-core"),
    ("broker-http", "broker-core"),
];
/// Crates that are not shipped, and may look at everything.
const FREE: &[&str] = &["broker-examples", "broker-sim", "broker-tests"];

#[test]
fn every_arrow_between_the_crates_is_on_the_list() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let members: Vec<_> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in metadata.packages.iter().filter(|package| !FREE.contains(&package.name.as_str())) {
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            // A crate's tests may turn on features of the crate itself.
            let own = to == package.name.as_str() && dependency.kind == DependencyKind::Development;
            let arrow = (package.name.as_str(), to);
            if members.contains(&to) && !own && !ARROWS.contains(&arrow) {
                wrong.push(format!("{} -> {to} ({:?})", package.name, dependency.kind));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that are not on the list: {wrong:?}. Core knows nobody and adapters do not know each other; put what both \
         need into broker-core, or change ARCHITECTURE.md and this list together"
    );
    for (from, to) in ARROWS {
        assert!(members.contains(from) && members.contains(to), "{from} -> {to} is on the list and no longer there");
    }
}
