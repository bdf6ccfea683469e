#![forbid(unsafe_code)]
//! Files that agents post, end to end: what goes out, what does not, and kills between the steps.

use std::time::Duration;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{CHANNEL, State, Trouble, Upload};
use broker_tests::world::{ANSWER, World};
use serde_json::json;

const UPLOAD_URL: &str = "files.getUploadURLExternal";
const COMPLETE: &str = "files.completeUploadExternal";

fn file(arguments: serde_json::Value) -> Step {
    Step::Tool("broker".to_owned(), json!({ "action": "file", "arguments": arguments }))
}

/// Messages of a thread that carry a file.
fn with_files(state: &State, root: &str) -> Vec<(String, Vec<String>)> {
    let all = state.messages_in(CHANNEL, root);
    all.into_iter().filter(|m| !m.files().is_empty()).map(|m| (m.text.clone(), m.files())).collect()
}

fn completed(state: &State) -> Vec<Upload> {
    state.uploads().iter().filter(|upload| upload.completed > 0).cloned().collect()
}

/// What the copies of files left on the disk.
fn copies(world: &World) -> usize {
    std::fs::read_dir(world.data().join("sessions/.outgoing")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_posts_a_file_that_it_made_and_nothing_that_is_not_its_own() {
    let Some(world) = World::start("files-out").await else { return };
    let secret = world.folder.path().join("outside.txt");
    std::fs::write(&secret, "not yours").expect("a file of the operator");
    let script = world.model.script([
        Step::Shell(
            "printf 'a,b\\n1,2\\n' > table.csv; printf x > .env; ln -s /etc/passwd link; ln table.csv twin".to_owned(),
        ),
        file(json!({ "path": secret })),
        file(json!({ "path": "link" })),
        file(json!({ "path": ".env" })),
        Step::Shell("rm twin".to_owned()),
        file(json!({ "path": "table.csv", "title": "The table", "comment": "**Here** it is", "kind": "final",
                     "alt_text": "a table", "snippet_type": "csv" })),
        Step::Text("over".to_owned()),
    ]);
    let root = world.mention(&format!("make a table {script}"));
    let posted = |state: &State| Some(with_files(state, &root)).filter(|posted| !posted.is_empty());
    let posted = world.slack.wait_for("post with a file", ANSWER, posted).await;
    assert_eq!(posted[0].0, "*Here* it is");
    let uploads = world.slack.look(completed);
    let [upload] = uploads.as_slice() else { panic!("{uploads:?}") };
    assert_eq!((upload.name.as_str(), upload.bytes.as_slice()), ("table.csv", &b"a,b\n1,2\n"[..]));
    assert_eq!((upload.alt_text.as_deref(), upload.snippet_type.as_deref()), (Some("a table"), Some("csv")));
    world.exchange("later").await;
    let requests = world.model.requests();
    let outputs: Vec<_> = requests.iter().flat_map(broker_tests::fake_model::ModelRequest::tool_outputs).collect();
    for part in ["only files of your workspace", "looks like a secret", "posted (1 message)"] {
        assert!(outputs.iter().any(|output| output.contains(part)), "{part}: {outputs:?}");
    }
    assert_eq!(world.slack.look(|state| with_files(state, &root)).len(), 1);
    assert_eq!(world.answers_with(&root, "over"), 0, "the file was the final");
    assert_eq!(copies(&world), 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_its_beginning_and_a_file_with_the_whole() {
    let Some(world) = World::start("files-long").await else { return };
    let root = world.mention("write scenario:bigtext:60");
    let posted = |state: &State| Some(with_files(state, &root)).filter(|posted| !posted.is_empty());
    world.slack.wait_for("post with a file", ANSWER, posted).await;
    let (answers, uploads) = world.slack.look(|state| (state.answers(CHANNEL, &root), completed(state)));
    assert_eq!(answers.len(), 10);
    assert!(uploads[0].name.ends_with(".md") && uploads[0].announced >= 60 * 1024, "{uploads:?}");
    world.finish().await;
}

/// The broker is killed while each of the calls of an upload is under way, before and after it had its effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_steps_leaves_one_file() {
    let Some(mut world) = World::start("files-kill-out").await else { return };
    for (n, (method, trouble)) in [
        (UPLOAD_URL, Trouble::Hang),
        (UPLOAD_URL, Trouble::DoneThenHang),
        ("upload", Trouble::Hang),
        ("upload", Trouble::DoneThenHang),
        (COMPLETE, Trouble::Hang),
        (COMPLETE, Trouble::DoneThenHang),
    ]
    .into_iter()
    .enumerate()
    {
        let before = world.slack.look(|state| state.calls(method).len());
        world.slack.trouble(method, trouble.clone(), 1);
        let script = world.model.script([
            Step::Shell(format!("printf 'content {n}' > file-{n}.txt")),
            file(json!({ "path": format!("file-{n}.txt"), "kind": "final" })),
            Step::Text("over".to_owned()),
        ]);
        let root = world.mention(&format!("post it {script}"));
        let called = |state: &State| (state.calls(method).len() > before).then_some(());
        world.slack.wait_for("call that hangs", ANSWER, called).await;
        // What was promised is the copy: the file itself may be gone.
        std::fs::remove_file(world.file_of_agent(&format!("file-{n}.txt")).await).expect("the original goes");
        world.broker.sigkill().await;
        world.broker.start_again().await;
        world.broker.ready().await;
        let posted = |state: &State| Some(with_files(state, &root)).filter(|posted| !posted.is_empty());
        // "Not there" is believed 30 s after the attempt.
        let limit = ANSWER + Duration::from_secs(40);
        let posted = world.slack.wait_for(&format!("file {n} ({method} {trouble:?})"), limit, posted).await;
        let of_file = |upload: &&Upload| posted[0].1.contains(&upload.id);
        let content = world.slack.look(|state| state.uploads().iter().find(of_file).map(|upload| upload.bytes.clone()));
        assert_eq!(content, Some(format!("content {n}").into_bytes()));
    }
    world.exchange("later").await;
    let open = |_: &State| (copies(&world) == 0).then_some(());
    world.slack.wait_for("end of the copies", ANSWER, open).await;
    let names: Vec<_> = world.slack.look(completed).into_iter().map(|upload| (upload.name, upload.completed)).collect();
    assert_eq!(names, (0..6).map(|n| (format!("file-{n}.txt"), 1)).collect::<Vec<_>>());
    world.finish().await;
}
