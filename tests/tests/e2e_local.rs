#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! The chat in the terminal with the real Codex and the fake model: no Slack anywhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use broker_tests::broker_process::{TestFolder, program};
use broker_tests::codex_binary;
use broker_tests::fake_model::FakeModel;
use broker_tests::world::{ANSWER, codex_config};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a chat with this input to its end; its output.
async fn chat(folder: &Path, codex: &Path, input: &str) -> String {
    let mut child = Command::new(program().await)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.join("home"))
        .env("DATA_ROOT", folder.join("data"))
        .env("CODEX_BIN", codex)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the broker starts");
    let mut stdin = child.stdin.take().expect("its stdin");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let ended = tokio::time::timeout(ANSWER * 2, child.wait_with_output()).await;
    let output = ended.expect("it ends with its input").expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{}\n{err}\n{out}", output.status);
    out
}

fn folders(name: &str, model: &FakeModel) -> (TestFolder, PathBuf) {
    let folder = TestFolder::new(name);
    let home = folder.path().join("data/codex-home");
    for path in [&home, &folder.path().join("home")] {
        std::fs::create_dir_all(path).expect("a folder of the test");
    }
    std::fs::write(home.join("config.toml"), codex_config(&model.base_url())).expect("the configuration of Codex");
    (folder, home)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lines_are_answered_by_codex_and_the_next_run_goes_on() {
    let Some(codex) = codex_binary::path().await else { return eprintln!("skipped: BROKER_TEST_NO_CODEX=1") };
    let model = FakeModel::start().await;
    let (folder, home) = folders("local", &model);
    std::fs::write(home.join("auth.json"), r#"{"OPENAI_API_KEY":"sk-fake"}"#).expect("a login");
    let input = "hello scenario:text:Good morning.\nwhat can you do? scenario:shell:pwd\n";
    let out = chat(folder.path(), &codex, input).await;
    assert!(out.starts_with("The agent is Codex.\n"), "{out}");
    let places: Vec<_> =
        ["you\n  hello", "agent · final\n  Good morning.", "you\n  what can you do?", "agent · final\n"]
            .iter()
            .scan(0, |from, part| {
                let at = out[*from..].find(part).map(|at| *from + at)?;
                *from = at + part.len();
                Some(at)
            })
            .collect();
    assert_eq!(places.len(), 4, "{out}");

    let out = chat(folder.path(), &codex, "and more scenario:text:Good evening.\n").await;
    assert!(out.contains("agent · final\n  Good evening."), "{out}");
    let requests = model.requests();
    let last = requests.last().expect("the model was asked");
    assert!(last.says("hello") && last.says("and more"), "the conversation goes on: {:?}", last.user_texts());
    assert!(requests.iter().all(|request| request.thread == requests[0].thread), "in one Codex thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_the_demo_agent_goes_on_with_codex_and_says_so() {
    let Some(codex) = codex_binary::path().await else { return eprintln!("skipped: BROKER_TEST_NO_CODEX=1") };
    let model = FakeModel::start().await;
    let (folder, home) = folders("local-demo", &model);
    let out = chat(folder.path(), &codex, "hello\n").await;
    assert!(out.contains("Codex has no login here") && out.contains("I am a scripted demo agent"), "{out}");
    std::fs::write(home.join("auth.json"), r#"{"OPENAI_API_KEY":"sk-fake"}"#).expect("a login");
    let out = chat(folder.path(), &codex, "and now? scenario:text:Now it is Codex.\n").await;
    assert!(out.contains("agent · notice\n") && out.contains("agent · final\n  Now it is Codex."), "{out}");
    assert_eq!(model.requests().len(), 1);
}
