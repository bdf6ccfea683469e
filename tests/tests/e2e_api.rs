#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! The local API, end to end: the real Codex, and `curl` in its sandbox.

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::CHANNEL;
use broker_tests::world::World;

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
