#![forbid(unsafe_code)]
//! Files that agents post, end to end: what goes out, what does not, and kills between the steps.

use std::time::Duration;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{CHANNEL, State, Trouble, Upload};
use broker_tests::http_client;
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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

/// The bytes that these have.
fn copied(world: &World) -> u64 {
    let entries = std::fs::read_dir(world.data().join("sessions/.outgoing")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Waits until something of a copy stands on the disk, and kills the broker; returns how much it was in the end.
async fn kill_while_copying(world: &mut World) -> u64 {
    let begun = poll(ANSWER, async || (copied(world) > 0).then_some(())).await;
    assert!(begun.is_some(), "no copy was begun: {}", world.broker.last_lines(40));
    world.broker.sigkill().await;
    copied(world)
}

/// Starts the broker again; what no post needs is gone a moment later.
async fn start_without_copies(world: &mut World) {
    world.broker.start_again().await;
    world.broker.ready().await;
    let gone = poll(ANSWER, async || (copies(world) == 0).then_some(())).await;
    assert!(gone.is_some(), "{} copies stayed: {}", copies(world), world.broker.last_lines(40));
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
        file(json!({ "path": "twin" })),
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
    for part in ["only files of your workspace", "looks like a secret", "several names", "posted (1 message)"] {
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
        // It is done at Slack while the next broker already wonders.
        (COMPLETE, Trouble::LandsLate(Duration::from_secs(5))),
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
    // What landed late is seen in Slack long before the broker believes it.
    let gone = poll(ANSWER, async || (copies(&world) == 0).then_some(())).await;
    assert!(gone.is_some(), "{} copies stayed: {}", copies(&world), world.broker.last_lines(40));
    let names: Vec<_> = world.slack.look(completed).into_iter().map(|upload| (upload.name, upload.completed)).collect();
    assert_eq!(names, (0..7).map(|n| (format!("file-{n}.txt"), 1)).collect::<Vec<_>>());
    world.finish().await;
}

/// Large enough for its copy to be under way for a while. It has no blocks of its own on the disk.
const SLOW: u64 = 1 << 30;

/// Before the post is committed nothing was promised: the agent is told that its turn was cut and that nothing appeared.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_file_is_copied_posts_nothing_and_leaves_no_copy() {
    let Some(mut world) = World::start("files-kill-copy").await else { return };
    let script = world.model.script([
        Step::Shell(format!("truncate -s {SLOW} large.bin")),
        file(json!({ "path": "large.bin", "comment": "never promised" })),
        Step::Text("it was cut".to_owned()),
    ]);
    let root = world.mention(&format!("post it {script}"));
    let left = kill_while_copying(&mut world).await;
    println!("{left} of {SLOW} bytes were copied");
    // Where a file system shares the blocks of a copy, it was made at once.
    if left < SLOW {
        start_without_copies(&mut world).await;
        world.answer(&root, "it was cut").await;
        let cut = |text: &String| text.contains("None of your posts of that turn appeared");
        let last = world.model.requests().pop().expect("a request");
        assert!(last.user_texts().iter().any(cut), "{:?}", last.user_texts());
        assert_eq!(world.slack.look(|state| (with_files(state, &root).len(), state.uploads().len())), (0, 0));
    }
    world.finish().await;
}

/// A file within a request is received before anything is promised: whoever sent it asks again, under the same key.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_file_is_received_leaves_nothing_and_the_key_posts_it_once() {
    let Some(mut world) = World::start("files-kill-received").await else { return };
    let root = world.exchange("receive").await;
    let printed = world.broker.run(&["token", &format!("{CHANNEL}:{root}")]).await;
    let bearer = format!("Bearer {}", String::from_utf8(printed.stdout).expect("text").trim());
    let content = "A".repeat(4 << 20);
    let body = json!({"channel_id": CHANNEL, "thread_ts": root, "filename": "zeros.bin", "content_base64": content});
    let body = body.to_string();
    let head = format!(
        "POST /slack/post-file HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\nidempotency-key: once\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(world.broker.address()).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("it is read");
    stream.write_all(&body.as_bytes()[..body.len() / 2]).await.expect("it is read");
    assert!(kill_while_copying(&mut world).await < 3 << 20);
    start_without_copies(&mut world).await;
    assert_eq!(world.slack.look(|state| state.uploads().len()), 0);

    let headers =
        [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", "once")];
    for _ in 0..2 {
        let url = format!("http://{}/slack/post-file", world.broker.address());
        let answer = http_client::post(&url, &headers, body.clone().into_bytes(), ANSWER).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    }
    let uploads = world.slack.look(completed);
    assert_eq!(uploads.iter().map(|upload| upload.received).collect::<Vec<_>>(), [Some(3 << 20)]);
    assert_eq!(world.slack.look(|state| with_files(state, &root).len()), 1);
    assert_eq!(copies(&world), 0);
    world.finish().await;
}
