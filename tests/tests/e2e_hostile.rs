#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! The local API before hostile clients: a whole broker, spoken to in raw bytes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_tests::broker_process::Broker;
use broker_tests::fake_slack::CHANNEL;
use broker_tests::http_client;
use broker_tests::world::{ANSWER, World};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The broker gives up on nobody for longer than this.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends bytes and reads what comes until the broker closes.
async fn raw(broker: &Broker, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(broker.address()).await.expect("a connection");
    // It may hang up before everything is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A session of the broker's: its thread, its token, its workspace.
struct Session {
    root: String,
    token: String,
    workspace: PathBuf,
}

async fn session(world: &World, word: &str) -> Session {
    let root = world.exchange(word).await;
    let printed = world.broker.run(&["token", &format!("{CHANNEL}:{root}")]).await;
    let token = String::from_utf8(printed.stdout).expect("text").trim().to_owned();
    let sessions = std::fs::read_dir(world.data().join("sessions")).expect("sessions");
    let folders = sessions.map(|entry| entry.expect("an entry").path());
    let folder = folders.into_iter().find(|path| path.to_string_lossy().contains(&root)).expect("its folder");
    Session { root, token, workspace: folder.join("workspace") }
}

async fn post_file(world: &World, session: &Session, more: Value) -> (u16, Value) {
    let mut body = json!({"channel_id": CHANNEL, "thread_ts": session.root});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let url = format!("http://{}/slack/post-file", world.broker.address());
    let bearer = format!("Bearer {}", session.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = http_client::post(&url, &headers, body.to_string().into_bytes(), LIMIT).await.expect("an answer");
    (answer.status.as_u16(), answer.json())
}

fn mknod(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_gets_what_is_not_its_own() {
    let Some(world) = World::start("hostile").await else { return };
    let (ours, theirs) = (session(&world, "ours").await, session(&world, "theirs").await);
    std::fs::write(theirs.workspace.join("private.txt"), "of another thread").expect("a file");
    let at = |name: &str| ours.workspace.join(name);
    std::fs::write(at("good.txt"), "good").expect("a file");
    std::fs::write(at("twice.txt"), "two names").expect("a file");
    std::fs::hard_link(at("twice.txt"), at("second-name.txt")).expect("a link");
    symlink("/etc/passwd", at("link")).expect("a link");
    symlink(&theirs.workspace, at("folder")).expect("a link");
    symlink("/dev/zero", at("zero")).expect("a link");
    symlink(world.data().join("state/install.key"), at("key.txt")).expect("a link");
    symlink(at("loop"), at("loop")).expect("a link");
    mknod(&at("fifo"));
    let before = world.slack.look(|state| (state.own_messages(), state.uploads().len()));
    let outside = theirs.workspace.join("private.txt");
    let long = "x".repeat(300);
    for path in [
        "/etc/passwd",
        "../../../state/broker.sqlite",
        "../../../state/install.key",
        "../../../../../../../../../../etc/shadow",
        "/proc/self/environ",
        "/dev/zero",
        "link",
        "folder/private.txt",
        "zero",
        "key.txt",
        "twice.txt",
        "second-name.txt",
        outside.to_str().expect("text"),
        "file:///etc/passwd",
        "fifo",
        "loop",
        "loop/x",
        "../../nobody/workspace/x",
        "/etc/nothing-is-here",
        "x\0y",
        "good.txt/x",
        long.as_str(),
        ".",
        "/",
    ] {
        let (status, answer) = post_file(&world, &ours, json!({"file_path": path})).await;
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(!answer.to_string().contains("root:"), "{path}: {answer}");
    }
    // The same requests by whoever may not, and in ways that none may.
    let body = json!({"channel_id": CHANNEL, "thread_ts": ours.root, "text": "hello"}).to_string();
    let (token, other) =
        (format!("authorization: Bearer {}", ours.token), format!("authorization: Bearer {}", theirs.token));
    let json_type = "content-type: application/json";
    let broken = format!("authorization: Bearer {}0", &ours.token[..ours.token.len() - 1]);
    for (what, host, lines, code) in [
        ("another session's token", "localhost", vec![&*other, json_type], "forbidden"),
        ("no token", "localhost", vec![json_type], "token_missing"),
        ("nearly the token", "localhost", vec![&*broken, json_type], "forbidden"),
        ("a rebound name", "evil.example", vec![&*token, json_type], "host_not_allowed"),
        ("a name that looks like ours", "localhost.evil.example", vec![&*token, json_type], "host_not_allowed"),
        ("a web page", "localhost", vec![&*token, json_type, "origin: https://evil.example"], "origin_not_allowed"),
        ("a page without an address", "localhost", vec![&*token, json_type, "origin: null"], "origin_not_allowed"),
        (
            "a form",
            "localhost",
            vec![&*token, "content-type: application/x-www-form-urlencoded"],
            "unsupported_content_type",
        ),
        ("text", "localhost", vec![&*token, "content-type: text/plain"], "unsupported_content_type"),
        ("no type", "localhost", vec![&*token], "unsupported_content_type"),
    ] {
        for path in ["post-message", "post-file", "post-state", "react"] {
            let head = format!(
                "POST /slack/{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{}\r\ncontent-length: {}\r\n\r\n{body}",
                lines.join("\r\n"),
                body.len()
            );
            let answer = raw(&world.broker, head.as_bytes()).await;
            assert!(answer.contains(&format!("\"error\":\"{code}\"")), "{what}, {path}: {answer}");
            assert!(!answer.contains("bst_"), "{what}, {path}: {answer}");
        }
    }
    let after = world.slack.look(|state| (state.own_messages(), state.uploads().len()));
    assert_eq!(after, before, "nothing was posted");
    let (status, answer) = post_file(&world, &ours, json!({"file_path": "good.txt"})).await;
    assert_eq!(status, 200, "{answer}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_hostile_clients_moves_the_broker() {
    let Some(world) = World::start("hostile-many").await else { return };
    let ours = session(&world, "ours").await;
    let (pid, before) = (world.broker.pid(), world.broker.resident_kib());
    let token = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", ours.token);
    // 100 MB of JSON, with its length said and without.
    let large = vec![b' '; 100 * 1024 * 1024];
    let url = format!("http://{}/slack/post-message", world.broker.address());
    let bearer = format!("Bearer {}", ours.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    // The answer may be overtaken by the end of the connection.
    if let Ok(answer) = http_client::post(&url, &headers, large.clone(), LIMIT).await {
        assert_eq!(answer.status.as_u16(), 413);
    }
    let chunked =
        format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{token}transfer-encoding: chunked\r\n\r\n");
    let mut chunks = chunked.into_bytes();
    chunks.extend_from_slice(format!("{:x}\r\n", large.len()).as_bytes());
    chunks.extend_from_slice(&large);
    let answer = raw(&world.broker, &chunks).await;
    assert!(answer.is_empty() || answer.contains("body_too_large"), "{answer}");
    drop((large, chunks));

    // A thousand that stop in their heads, and a hundred that stop in their bodies, half of them without a token.
    let mut held = Vec::new();
    for n in 0..1100 {
        let Ok(Ok(mut stream)) = timeout(LIMIT, TcpStream::connect(world.broker.address())).await else { continue };
        let start = match n % 22 {
            0 => {
                format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{token}content-length: 100\r\n\r\n{{")
            }
            1 => {
                "POST /slack/post-file HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n".to_owned()
                    + "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            }
            2..12 => "POST /slack/post-message HTTP/1.1\r\nhost: loc".to_owned(),
            _ => String::new(),
        };
        let _ = stream.write_all(start.as_bytes()).await;
        held.push(stream);
    }
    // Whoever watches is answered beside them, and a thread goes on as if there were none.
    for path in ["healthz", "readyz"] {
        let answer = http_client::get(&format!("http://{}/{path}", world.broker.address()), &[], ANSWER).await;
        assert_eq!(answer.expect("an answer").status.as_u16(), 200, "{path}");
    }
    let root = world.mention("still here?");
    world.answer(&root, "still here?").await;
    drop(held);
    let body = json!({"channel_id": CHANNEL, "thread_ts": ours.root, "text": "at last"}).to_string();
    let served = timeout(LIMIT, async {
        loop {
            match http_client::post(&url, &headers, body.clone().into_bytes(), ANSWER).await {
                Ok(answer) if answer.status.as_u16() == 200 => return,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    served.await.expect("the rest is served once they are gone");
    assert_eq!(world.broker.pid(), pid);
    let grown = world.broker.resident_kib().saturating_sub(before);
    println!("resident memory grew by {grown} KiB");
    assert!(grown < 20 * 1024, "{grown} KiB");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_of_small_values_is_a_megabyte() {
    let Some(world) = World::start("hostile-json").await else { return };
    let ours = session(&world, "ours").await;
    let bearer = format!("Bearer {}", ours.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let before = world.broker.resident_kib();
    let most = 1024 * 1024 - 64;
    let filled = |piece: &str| piece.repeat(most / piece.len());
    let lists = filled("[],");
    let objects = filled("{\"a\":{}},");
    let fields: String = (0..60_000).map(|n| format!("\"f{n}\":{n},")).collect();
    for path in ["post-message", "post-file"] {
        let url = &format!("http://{}/slack/{path}", world.broker.address());
        for body in [
            format!("{{\"text\":[{}0]}}", filled("0,")),
            format!("{{\"text\":[{lists}0],\"title\":0}}"),
            format!("{{\"kind\":[{objects}0]}}"),
            format!("{{{fields}\"text\":\"x\"}}"),
            format!("{{\"text\":\"{}\"}}", "x".repeat(most)),
        ] {
            let many = (0..32).map(|_| http_client::post(url, &headers, body.clone().into_bytes(), LIMIT));
            for answer in futures_util::future::join_all(many).await {
                let answer = answer.expect("an answer");
                assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
            }
        }
    }
    let grown = world.broker.peak_kib().saturating_sub(before);
    println!("resident memory grew by {grown} KiB at its peak");
    // 32 bodies at once and what their reading takes.
    assert!(grown < 128 * 1024, "{grown} KiB");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_holds_over_the_end_of_the_broker() {
    let Some(mut world) = World::start("api-key").await else { return };
    let ours = session(&world, "ours").await;
    let bearer = format!("Bearer {}", ours.token);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", "nightly report"),
    ];
    let body = json!({"channel_id": CHANNEL, "thread_ts": ours.root, "text": "the nightly report"}).to_string();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let url = format!("http://{}/slack/post-message", world.broker.address());
        let answer = http_client::post(&url, &headers, body.clone().into_bytes(), LIMIT).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answers.push(answer.json());
        world.broker.sigkill().await;
        world.broker.start_again().await;
        world.broker.ready().await;
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(world.answers_with(&ours.root, "the nightly report"), 1);
    world.finish().await;
}
