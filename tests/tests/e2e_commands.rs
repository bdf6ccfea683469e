#![forbid(unsafe_code)]
//! Commands of people, end to end: a fake Slack, the real broker, the real Codex, a fake model.

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{ALICE, CHANNEL, GUEST, State};
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};

#[tokio::test(flavor = "multi_thread")]
async fn help_and_status_are_answered_with_and_without_a_session() {
    let Some(world) = World::start("commands").await else { return };
    let root = world.mention("-help");
    let help = world.answer(&root, "`-status`").await;
    assert!(["`-help`", "`-stop`", "`-new`", "`-retry`"].iter().all(|word| help.contains(word)), "{help}");
    let nothing = world.mention("-STATUS");
    world.answer(&nothing, "no conversation with the agent").await;
    assert_eq!(world.model.requests().len(), 0, "nothing was begun");
    let alone = [root, nothing];

    let root = world.mention("one scenario:text:first answer");
    world.answer(&root, "first answer").await;
    world.reply(&root, "-status");
    let status = world.answer(&root, "Status").await;
    for part in ["Run: nothing runs", "0 waiting", "Agent: connected", "Workspace: "] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let model = world.model.requests()[0].body["model"].as_str().expect("a model").to_owned();
    assert!(status.contains(&format!("Model: `{model}`")), "{status}");
    assert!(status.contains(" in the context (") && status.contains(" in this conversation in all"), "{status}");
    // The same while the agent is at work.
    let told = |state: &State| {
        let calls = state.calls("assistant.threads.setStatus");
        calls.iter().any(|call| format!("{call:?}").contains("running a command")).then_some(())
    };
    let script = world.model.script([Step::Shell("touch waiting; while [ ! -e go ]; do sleep 0.05; done".to_owned())]);
    world.reply(&root, &format!("work {script}"));
    let waiting = world.file_of_agent("waiting").await;
    world.slack.wait_for("status beside the thread", ANSWER, told).await;
    world.reply(&root, "–status");
    let status = world.answer(&root, "Run: running for").await;
    assert!(status.contains("the agent is running a command"), "{status}");
    world.reply(&root, "-help");
    world.answer(&root, "`-retry`").await;
    world.reply(&root, "-retry");
    world.answer(&root, "nothing to retry").await;
    std::fs::write(waiting.with_file_name("go"), "").expect("a file in the workspace");
    // Whoever may not instruct may not command either.
    world.slack.mention_in(CHANNEL, &root, GUEST, "-help");
    let refused = poll(ANSWER, async || (!world.slack.ephemerals().is_empty()).then_some(())).await;
    assert!(refused.is_some(), "the guest is told");
    // Another word with a dash is for the agent.
    world.reply(&root, "-foo scenario:text:foo it is");
    world.answer(&root, "foo it is").await;
    assert_eq!(world.answers_with(&root, "`-retry`"), 1, "the guest's was not answered");
    // Slack tells of what mentions the broker twice, as a mention and as a message.
    assert_eq!(alone.map(|root| world.slack.answers(CHANNEL, &root).len()), [1, 1]);
    let last = world.model.requests().pop().expect("a request");
    assert!(last.says("-foo scenario") && !last.says("-status") && !last.says("-help"), "{:?}", last.user_texts());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_conversation_has_the_history_and_the_files_of_the_old_one() {
    let Some(world) = World::start("new").await else { return };
    let script = world.model.script([
        Step::Shell("echo kept > kept.txt; touch waiting; while [ ! -e go ]; do sleep 0.05; done".to_owned()),
        Step::Text("never said".to_owned()),
    ]);
    let root = world.mention(&format!("remember the plum {script}"));
    let kept = world.file_of_agent("waiting").await.with_file_name("kept.txt");
    world.reply(&root, "-new");
    world.answer(&root, "The next message begins a fresh conversation").await;
    world.reply(&root, "go on scenario:text:going on");
    world.answer(&root, "going on").await;
    let requests = world.model.requests();
    let (first, last) = (&requests[0], requests.last().expect("a request"));
    assert_ne!(first.thread, last.thread, "another thread of the agent");
    assert_eq!(last.user_texts().iter().filter(|text| text.contains("go on scenario")).count(), 1);
    let given = last.last_user_text();
    assert!(given.contains("go on scenario") && given.contains("remember the plum"), "{given}");
    assert_eq!(last.tool_outputs(), Vec::<String>::new(), "what the agent did before is not in it");
    assert!(kept.exists(), "the files stay");

    // It goes on there, and after a crash too.
    world.slack.reply(CHANNEL, &root, ALICE, "and on scenario:text:on and on");
    world.answer(&root, "on and on").await;
    let requests = world.model.requests();
    let next = requests.last().expect("a request");
    assert_eq!(next.thread, requests[requests.len() - 2].thread);
    assert_eq!(world.answers_with(&root, "never said"), 0);
    assert_eq!(world.answers_with(&root, "The next message begins a fresh"), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_done_once_when_the_broker_is_killed() {
    let Some(mut world) = World::start("commands-kill").await else { return };
    let root = world.mention("one scenario:text:first answer");
    world.answer(&root, "first answer").await;
    for command in ["-status", "-help", "-new", "-retry"] {
        world.reply(&root, command);
        world.broker.sigkill().await;
        world.broker.start_again().await;
        world.broker.ready().await;
    }
    for part in
        ["Run: nothing runs", "A message that is nothing but", "The next message begins a fresh", "nothing to retry"]
    {
        world.answer(&root, part).await;
    }
    world.reply(&root, "two scenario:text:second answer");
    world.answer(&root, "second answer").await;
    for part in
        ["Run: nothing runs", "A message that is nothing but", "The next message begins a fresh", "nothing to retry"]
    {
        assert_eq!(world.answers_with(&root, part), 1, "{part}: {:?}", world.slack.answers(CHANNEL, &root));
    }
    let requests = world.model.requests();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0].thread, requests[1].thread);
    world.finish().await;
}
