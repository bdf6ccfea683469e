#![forbid(unsafe_code)]
//! One maker of TLS, ring: with two in a tree rustls panics when it has to choose, and OpenSSL would be a system library.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crates that must not be in what is shipped. `openssl-probe` may: it only knows where systems keep their certificates.
const BANNED: &[&str] =
    &["aws-lc-fips-sys", "aws-lc-rs", "aws-lc-sys", "boring", "boring-sys", "native-tls", "openssl", "openssl-sys"];

#[test]
fn what_is_shipped_has_one_maker_of_tls() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .expect("cargo metadata");
    let resolve = metadata.resolve.as_ref().expect("a resolved tree");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();

    // Breadth first from the members over normal and build dependencies, remembering who wanted whom.
    let mut wanted_by = BTreeMap::new();
    let mut waiting: VecDeque<_> = metadata.workspace_members.iter().collect();
    let mut seen: BTreeSet<_> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop_front() {
        for dependency in &nodes[id].deps {
            let shipped = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if shipped && seen.insert(&dependency.pkg) {
                wanted_by.insert(&dependency.pkg, id);
                waiting.push_back(&dependency.pkg);
            }
        }
    }
    assert!(seen.iter().any(|id| names[id] == "ring"), "the tree is not the one that this test thinks it is");
    for id in &seen {
        if BANNED.contains(&names[id]) {
            let mut chain = vec![names[id]];
            let mut at = *id;
            while let Some(by) = wanted_by.get(at) {
                chain.push(names[by]);
                at = by;
            }
            panic!("{} is in the tree: {}; turn the feature off that wants it", names[id], chain.join(" <- "));
        }
    }
}
