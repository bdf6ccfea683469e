#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! The local API, end to end: the real Codex, and `curl` in its sandbox.

use std::time::Duration;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{CHANNEL, State};
use broker_tests::http_client;
use broker_tests::world::{ANSWER, World};
use serde_json::json;

/// Lets the agent run a command in a thread, or in a new one; returns the thread and what the command printed.
async fn run_in(world: &World, root: Option<&str>, command: &str) -> (String, String) {
    let done = format!("done with {}", world.model.requests().len());
    let script = world.model.script([Step::Shell(command.to_owned()), Step::Text(done.clone())]);
    let text = format!("please {script}");
    let root = match root {
        Some(root) => {
            world.reply(root, &text);
            root.to_owned()
        }
        None => world.mention(&text),
    };
    world.answer(&root, &done).await;
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.last_user_text().contains(&format!("{script}\"")));
    (root, last.and_then(|request| request.tool_outputs().pop()).expect("the command's output"))
}

/// A POST of the agent's with its own token, or with `token`.
fn curl(path: &str, token: &str) -> String {
    format!(
        "curl -sS -w ' status=%{{http_code}}' -X POST -H \"authorization: Bearer {token}\" -H 'content-type: \
         application/json' -d '{{}}' \"$BROKER_API_BASE{path}\""
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reaches_its_own_session_from_its_sandbox_and_no_other() {
    let Some(mut world) = World::start("api").await else { return };
    let (ours, _) = run_in(&world, None, "true").await;
    let (theirs, _) = run_in(&world, None, "true").await;
    let retry = |root: &str| format!("/sessions/{CHANNEL}:{root}/retry");

    let (_, told) = run_in(&world, Some(&ours), &curl(&retry(&ours), "$BROKER_TOKEN")).await;
    assert!(told.contains("{\"ok\":true} status=200"), "{told}");
    let (_, told) = run_in(&world, Some(&ours), &curl(&retry(&theirs), "$BROKER_TOKEN")).await;
    assert!(told.contains("forbidden") && told.contains("status=403"), "{told}");
    let (_, told) = run_in(&world, Some(&ours), "cat ../../../state/install.key && echo it-was-read").await;
    assert!(!told.contains("it-was-read"), "{told}");

    // What an operator's script gets is the same token.
    let printed = world.broker.run(&["token", &format!("{CHANNEL}:{ours}")]).await;
    let token = String::from_utf8(printed.stdout).expect("text");
    assert!(printed.status.success() && token.starts_with("bst_"), "{token}");
    let (_, told) = run_in(&world, Some(&ours), "printf %s $BROKER_TOKEN | wc -c; echo ${BROKER_TOKEN%?????}").await;
    assert!(told.contains(&token.trim()[..token.trim().len() - 5]), "{told}");

    // A resume gives it again, by way of a port that changed.
    world.broker.restart().await;
    let (_, told) = run_in(&world, Some(&ours), &curl(&retry(&ours), "$BROKER_TOKEN")).await;
    assert!(told.contains("status=200"), "{told}");

    let log = world.broker.last_lines(usize::MAX);
    assert!(!log.contains(token.trim()), "the log holds the token");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_posts_reads_and_reacts_from_its_sandbox() {
    let Some(world) = World::start("api-post").await else { return };
    let (root, _) = run_in(&world, None, "true").await;
    let send = |path: &str, body: &str, more: &str| {
        format!(
            "curl -sS -w ' status=%{{http_code}}' -X POST -H \"authorization: Bearer $BROKER_TOKEN\" -H 'content-type: \
             application/json' {more} -d '{body}' \"$BROKER_API_BASE{path}\""
        )
    };
    let place = format!("\"channel_id\":\"{CHANNEL}\",\"thread_ts\":\"{root}\"");
    let post =
        send("/slack/post-message", &format!("{{{place},\"text\":\"**half** way\"}}"), "-H 'idempotency-key: k1'");
    let (_, told) = run_in(&world, Some(&root), &format!("{post}; {post}")).await;
    assert!(told.contains("\"state\":\"sent\"") && told.contains("status=200"), "{told}");
    assert_eq!(world.answers_with(&root, "*half* way"), 1, "it was sent twice and is posted once");

    let read = format!(
        "curl -sS -H \"authorization: Bearer $BROKER_TOKEN\" \
         \"$BROKER_API_BASE/slack/thread-history?channel_id={CHANNEL}&thread_ts={root}&limit=50\""
    );
    let (_, told) = run_in(&world, Some(&root), &read).await;
    assert!(told.contains("\"returnedCount\":3") && told.contains("please script"), "{told}");
    assert!(!told.contains("half"), "the broker's own posts are no part of it: {told}");

    let file = send("/slack/post-file", &format!("{{{place},\"file_path\":\"report.txt\"}}"), "");
    let (_, told) = run_in(&world, Some(&root), &format!("printf content > report.txt; {file}")).await;
    assert!(told.contains("\"state\":\"sent\"") && told.contains("status=200"), "{told}");
    let sent = |state: &State| state.messages_in(CHANNEL, &root).iter().filter(|m| !m.files().is_empty()).count();
    assert_eq!(world.slack.look(sent), 1);

    let (_, told) =
        run_in(&world, Some(&root), &send("/slack/react", &format!("{{{place},\"name\":\"tada\"}}"), "")).await;
    assert!(told.contains("status=200"), "{told}");

    // The final word of a command is the turn's: what the model says after it is not posted.
    let done = send("/slack/post-message", &format!("{{{place},\"text\":\"done by curl\",\"kind\":\"final\"}}"), "");
    let script = world.model.script([Step::Shell(done), Step::Text("not to be seen".to_owned())]);
    world.reply(&root, &format!("please {script}"));
    world.answer(&root, "done by curl").await;
    world.exchange("after").await;
    assert_eq!(world.answers_with(&root, "not to be seen"), 0);
    world.finish().await;
}

/// Clients that post at once, each as many as this.
const CLIENTS: usize = 32;
const POSTS: usize = 20;
const THREADS: usize = 8;

/// How long a process has computed so far.
fn computed(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the broker runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 on every Linux there is.
    Duration::from_millis(ticks * 10)
}

/// Prints posts a second, and what one costs the broker. Both depend on the machine and on the fake Slack; that none is lost
/// and none overtakes another does not.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_clients_post_at_once() {
    let Some(world) = World::start("api-load").await else { return };
    let mut threads = Vec::new();
    for n in 0..THREADS {
        let root = world.exchange(&format!("thread-{n}")).await;
        let printed = world.broker.run(&["token", &format!("{CHANNEL}:{root}")]).await;
        threads.push((root, String::from_utf8(printed.stdout).expect("text").trim().to_owned()));
    }
    let url = format!("http://{}/slack/post-message", world.broker.address());
    let (clock, before) = (tokio::time::Instant::now(), computed(world.broker.pid()));
    let clients = (0..CLIENTS).map(|client| {
        let ((root, token), url) = (threads[client % THREADS].clone(), url.clone());
        tokio::spawn(async move {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            for n in 0..POSTS {
                let body =
                    json!({"channel_id": CHANNEL, "thread_ts": root, "text": format!("client {client} says {n:03}")});
                let answer =
                    http_client::post(&url, &headers, body.to_string().into_bytes(), ANSWER).await.expect("an answer");
                assert_eq!(
                    (answer.status.as_u16(), &answer.json()["state"]),
                    (200, &json!("sent")),
                    "{}",
                    answer.text()
                );
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    let (took, cost) = (clock.elapsed(), computed(world.broker.pid()).saturating_sub(before));
    let total = CLIENTS * POSTS;
    println!(
        "{total} posts of {CLIENTS} clients in {THREADS} threads: {:.0} a second, {:.2} ms of processor time each",
        total as f64 / took.as_secs_f64(),
        cost.as_secs_f64() * 1000.0 / total as f64
    );
    for client in 0..CLIENTS {
        let said = format!("client {client} says ");
        let answers = world.slack.answers(CHANNEL, &threads[client % THREADS].0);
        let found: Vec<String> =
            answers.iter().filter_map(|text| text.strip_prefix(&said).map(str::to_owned)).collect();
        let expected: Vec<String> = (0..POSTS).map(|n| format!("{n:03}")).collect();
        assert_eq!(found, expected, "client {client}");
    }
    world.finish().await;
}

/// 96 MiB within a JSON body pass through the broker in pieces. Prints what they cost.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_within_a_request_is_not_held_in_memory() {
    let Some(world) = World::start("api-inline").await else { return };
    let root = world.exchange("inline").await;
    let printed = world.broker.run(&["token", &format!("{CHANNEL}:{root}")]).await;
    let bearer = format!("Bearer {}", String::from_utf8(printed.stdout).expect("text").trim());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let url = format!("http://{}/slack/post-file", world.broker.address());
    let post = async |name: &str, base64: String| {
        let body = json!({"channel_id": CHANNEL, "thread_ts": root, "filename": name, "text": "made by a script",
            "content_type": "application/x-zeros", "content_base64": base64});
        let answer = http_client::post(&url, &headers, body.to_string().into_bytes(), ANSWER * 4).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    };
    post("small.bin", "AAAA".to_owned()).await;
    let before = world.broker.peak_kib();
    let clock = tokio::time::Instant::now();
    post("zeros.bin", "A".repeat(128 << 20)).await;
    let grown = world.broker.peak_kib() - before;
    println!("96 MiB in {:.1} s, {grown} KiB more memory at the peak", clock.elapsed().as_secs_f64());
    assert!(grown < 20 * 1024, "{grown} KiB");
    let sizes = world.slack.look(|state| state.uploads().iter().map(|upload| upload.received).collect::<Vec<_>>());
    assert_eq!(sizes, [Some(3), Some(96 << 20)]);
    world.finish().await;
}
