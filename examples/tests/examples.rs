#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "tests")]
//! The examples do what they say.

#[path = "../embed/release_desk.rs"]
mod release_desk;

use std::sync::Arc;
use std::time::Duration;

use broker_core::testing::agent_suite::{self, AgentBench, AgentTexts};
use release_desk::ReleaseDesk;
use tokio::process::Command;

/// A build on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(600);

/// What an example prints.
async fn output_of(example: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--locked", "--package", "broker-examples", "--example", example]).kill_on_drop(true);
    let run = tokio::time::timeout(LIMIT, cargo.output()).await.expect("an end in time").expect("cargo");
    assert!(run.status.success(), "{example}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("text")
}

#[tokio::test]
async fn in_memory_prints_the_answer() {
    let output = output_of("in_memory").await;
    assert!(output.contains("what is the time?"), "{output}");
}

#[tokio::test]
async fn embed_prints_the_thread() {
    let output = output_of("embed").await;
    let expected = "CI is *green*: 1.4 goes out.\n1.4 is _out_, see <https://example.com/1.4|the notes>.\nAnnounced.\n";
    assert_eq!(output, expected);
}

#[tokio::test]
async fn the_release_desk_is_an_agent_runtime() {
    let folder = tempfile::tempdir().expect("a folder");
    let texts = AgentTexts {
        finish: "hello".to_owned(),
        hold: "ship it".to_owned(),
        fail: "roll back".to_owned(),
        tool: "announce".to_owned(),
    };
    agent_suite::all(&mut AgentBench::new(Arc::new(ReleaseDesk::new()), texts, folder.path())).await;
}
