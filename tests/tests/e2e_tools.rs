#![forbid(unsafe_code)]
//! How a turn ends by the agent's word, and images that it generated: by the `broker` tool and by `curl`, with the real Codex.

#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{CHANNEL, State};
use broker_tests::http_client;
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};
use serde_json::{Value, json};

fn broker(action: &str, arguments: &Value) -> Step {
    Step::Tool("broker".to_owned(), json!({ "action": action, "arguments": arguments }))
}

fn post(arguments: Value) -> Step {
    Step::Tool("post".to_owned(), arguments)
}

/// A request of the agent's own from its sandboxed shell.
fn curl(root: &str, path: &str, mut body: Value) -> Step {
    (body["channel_id"], body["thread_ts"]) = (json!(CHANNEL), json!(root));
    Step::Shell(format!(
        "curl -sS -w ' status=%{{http_code}}' -X POST -H \"authorization: Bearer $BROKER_TOKEN\" -H 'content-type: \
         application/json' -d '{body}' \"$BROKER_API_BASE/slack/{path}\""
    ))
}

/// Runs a turn of these steps in a thread until another thread's message, written after it, is answered. Returns what the tools
/// of the turn told, and what was posted in the thread meanwhile.
async fn turn(world: &World, root: &str, steps: Vec<Step>) -> (Vec<String>, Vec<String>) {
    let (before, posted) = (world.model.requests().len(), world.slack.answers(CHANNEL, root).len());
    let (calls, all) = (steps.len() - 1, before + steps.len());
    world.reply(root, &format!("please {}", world.model.script(steps)));
    let asked = poll(ANSWER, async || (world.model.requests().len() >= all).then_some(())).await;
    assert!(asked.is_some(), "the turn goes on; {}", world.broker.last_lines(20));
    world.exchange(&format!("after-{before}")).await;
    assert_eq!(world.model.requests().len(), all + 1, "nobody is reminded of an answer");
    let mut told = world.model.requests()[all - 1].tool_outputs();
    (told.split_off(told.len() - calls), world.slack.answers(CHANNEL, root).split_off(posted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_ends_as_the_agent_says_by_tool_and_by_curl() {
    let Some(world) = World::start("tools").await else { return };
    let root = world.exchange("first").await;
    let hidden = || Step::Text("not to be seen".to_owned());
    let block = json!({"kind": "block", "reason": "only you know the password"});
    let asks = |text: &str| {
        let mut post = block.clone();
        post["text"] = json!(text);
        post
    };

    // What the model says after it has said how the turn ends is not posted.
    let (told, posted) = turn(&world, &root, vec![post(asks("Which **one**?")), hidden()]).await;
    assert!(told[0].contains("posted (1 message)"), "{told:?}");
    assert_eq!(posted, ["Which *one*?"]);
    let (told, posted) = turn(&world, &root, vec![curl(&root, "post-message", asks("And *now*?")), hidden()]).await;
    assert!(told[0].contains("\"state\":\"sent\"") && told[0].contains("status=200"), "{told:?}");
    assert_eq!(posted, ["And _now_?"]);
    let (_, posted) = turn(&world, &root, vec![broker("state", &block), hidden()]).await;
    assert_eq!(posted, [""; 0]);
    let (told, posted) = turn(&world, &root, vec![curl(&root, "post-state", block.clone()), hidden()]).await;
    assert!(told[0].contains("{\"ok\":true} status=200"), "{told:?}");
    assert_eq!(posted, [""; 0]);

    // Nothing runs that could be waited for, and nobody blocks without a reason: the turn owes its answer still.
    let wait = json!({"kind": "wait", "reason": "the build"});
    let waits = json!({"kind": "wait", "reason": "the build", "text": "I wait"});
    let refused = vec![
        post(waits.clone()),
        broker("state", &wait),
        curl(&root, "post-message", waits),
        curl(&root, "post-state", wait),
        post(json!({"kind": "block", "text": "I need you"})),
        broker("state", &json!({"kind": "block"})),
        curl(&root, "post-message", json!({"kind": "block", "text": "I need you"})),
        curl(&root, "post-state", json!({"kind": "block"})),
        curl(&root, "post-state", json!({"kind": "progress"})),
        curl(&root, "post-file", json!({"kind": "wait", "reason": "the build", "file_path": "x"})),
        Step::Text("here it is".to_owned()),
    ];
    let (told, posted) = turn(&world, &root, refused).await;
    assert_eq!(posted, ["here it is"]);
    for (answer, part) in told.iter().zip([
        "nothing was recorded",
        "nothing was recorded",
        "\"error\":\"no_job\"",
        "\"error\":\"no_job\"",
        "needs `reason`",
        "needs `reason`",
        "\"error\":\"missing_reason\"",
        "\"error\":\"missing_reason\"",
        "\"error\":\"invalid_kind\"",
        "\"error\":\"invalid_kind\"",
    ]) {
        assert!(answer.contains(part), "{part}: {told:?}");
    }
    assert!(told[2].contains("status=409") && told[6].contains("status=400"), "{told:?}");

    let (told, posted) = turn(&world, &root, vec![curl(&root, "post-state", json!({"kind": "final"})), hidden()]).await;
    assert!(told[0].contains("{\"ok\":true} status=200"), "{told:?}");
    assert_eq!(posted, [""; 0]);

    // Without a turn there is none to end, and no job to wait for either.
    let printed = world.broker.run(&["token", &format!("{CHANNEL}:{root}")]).await;
    let bearer = format!("Bearer {}", String::from_utf8(printed.stdout).expect("text").trim());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for (path, mut body, code) in [
        ("post-state", json!({"kind": "final"}), "no_turn"),
        ("post-state", block.clone(), "no_turn"),
        ("post-message", json!({"kind": "wait", "reason": "the build", "text": "I wait"}), "no_job"),
    ] {
        (body["channel_id"], body["thread_ts"]) = (json!(CHANNEL), json!(root));
        let url = format!("http://{}/slack/{path}", world.broker.address());
        let answer = http_client::post(&url, &headers, body.to_string().into_bytes(), ANSWER).await.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.json()["error"].as_str()), (409, Some(code)), "{path}");
    }

    // What was said before, by the tool.
    let (told, _) = turn(&world, &root, vec![broker("history", &json!({"limit": 50})), hidden()]).await;
    assert!(told[0].contains("first scenario:text:answer to first"), "{told:?}");
    world.finish().await;
}

/// The threads of Codex that have begun so far.
fn agent_threads(world: &World) -> BTreeSet<String> {
    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .flat_map(|entry| match entry.path() {
                path if path.is_dir() => files(&path),
                path => vec![path.file_stem().expect("a name").to_string_lossy().into_owned()],
            })
            .collect()
    }
    // `rollout-<date and time>-<id>`; the id is a UUID.
    let names = files(&world.data().join("codex-home/sessions"));
    names.into_iter().filter_map(|name| Some(name[name.len().checked_sub(36)?..].to_owned())).collect()
}

/// An image by its thread's folder and its name.
fn other_folder(image: &Path) -> PathBuf {
    let parts: Vec<_> = image.components().rev().take(2).collect();
    parts.into_iter().rev().collect()
}

/// Codex keeps the images that its model makes by thread, and tells the model where.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_agent_generated_is_posted_and_that_of_another_thread_is_not() {
    let Some(world) = World::start("generated").await else { return };
    let theirs = world.exchange("theirs").await;
    let others = agent_threads(&world);
    let ours = world.exchange("ours").await;
    let all = agent_threads(&world);
    let image = |thread: &str| {
        let folder = world.data().join("codex-home/generated_images").join(thread);
        std::fs::create_dir_all(&folder).expect("Codex's folder");
        let path = folder.join("ig_1.png");
        image::DynamicImage::new_rgb8(3, 2).save(&path).expect("an image");
        path
    };
    let (of_others, of_ours) =
        (image(others.first().expect("a thread")), image(all.difference(&others).next().expect("one")));

    let file = |path: &Path| broker("file", &json!({"path": path, "title": "A sketch", "alt_text": "two lines"}));
    let by_curl = |path: &Path| curl(&ours, "post-file", json!({"file_path": path, "title": "Another"}));
    let (around, link) =
        (of_ours.with_file_name("..").join(other_folder(&of_others)), of_ours.with_file_name("ig_2.png"));
    symlink(&of_others, &link).expect("a link");
    let refused = [of_others, around, link, of_ours.with_file_name("../../config.toml")];
    let mut steps: Vec<Step> = refused.iter().flat_map(|path| [file(path), by_curl(path)]).collect();
    steps.extend([
        file(&of_ours),
        by_curl(&of_ours),
        Step::Shell(format!("cat {} > copy.png && echo it-was-read", of_ours.display())),
        Step::Text("done".to_owned()),
    ]);
    let (told, posted) = turn(&world, &ours, steps).await;
    for (path, told) in refused.iter().zip(told.chunks(2)) {
        assert!(told[0].contains("only files of your workspace"), "{}: {told:?}", path.display());
        let route = &told[1];
        assert!(
            route.contains("\"error\":\"not_allowed\"") && route.contains("status=400"),
            "{}: {route}",
            path.display()
        );
    }
    let [tool, route, read] = &told[2 * refused.len()..] else { panic!("{told:?}") };
    assert!(tool.contains("posted (1 message)"), "{tool}");
    assert!(route.contains("\"name\":\"ig_1.png\"") && route.contains("status=200"), "{route}");
    // The agent's commands do not get there, so it is told where its images are and what does.
    assert!(!read.contains("it-was-read"), "{read}");
    let root = world.data().join("codex-home/generated_images");
    let given = world.model.requests()[0].body.to_string();
    assert!(given.contains(&format!("are saved below {}, in a folder of your own thread", root.display())), "{given}");
    assert_eq!(posted.last().map(String::as_str), Some("done"));
    let files =
        |state: &State, root: &str| state.messages_in(CHANNEL, root).iter().map(|m| m.files().len()).sum::<usize>();
    assert_eq!(world.slack.look(|state| (files(state, &ours), files(state, &theirs))), (2, 0));
    assert!(of_ours.is_file(), "what was posted is a copy");
    world.finish().await;
}
