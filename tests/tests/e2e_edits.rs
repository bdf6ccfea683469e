#![forbid(unsafe_code)]
//! Messages that people change or delete, and turns that wait for each other, end to end.

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{ALICE, CHANNEL};
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};

/// A command that runs until a file appears in the workspace.
const UNTIL_GO: &str = "touch waiting; until [ -e go ]; do sleep 0.05; done";

fn times(world: &World, word: &str) -> usize {
    world.model.requests().last().map_or(0, |request| request.times(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_to_the_agent_and_what_slack_changes_itself_is_not() {
    let Some(world) = World::start("edits").await else { return };
    let root = world.mention("word-draft scenario:text:first");
    world.answer(&root, "first").await;
    // Slack says that a message changed when it unfurls a link too.
    let text = world.slack.look(|state| state.messages_in(CHANNEL, &root)[0].text.clone());
    world.slack.edit(CHANNEL, &root, &text);
    world.slack.edit(CHANNEL, &root, "word-final scenario:text:second");
    world.answer(&root, "second").await;
    assert_eq!(world.model.requests().len(), 2);
    assert_eq!((times(&world, "word-draft"), times(&world, "word-final")), (1, 1));
    assert!(world.model.requests()[1].last_user_text().contains("has changed it"));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_told_to_the_agent_without_what_was_deleted() {
    let Some(world) = World::start("deletions").await else { return };
    let root = world.mention("word-secret scenario:text:first");
    world.answer(&root, "first").await;
    world.slack.reply(CHANNEL, &root, ALICE, "word-reply scenario:text:second");
    world.answer(&root, "second").await;
    world.slack.delete(CHANNEL, &root);
    let told = async || (world.model.requests().len() > 2).then_some(());
    assert!(poll(ANSWER, told).await.is_some(), "the agent hears of it");
    let requests = world.model.requests();
    let read = requests[2].last_user_text();
    assert!(read.contains("was deleted") && read.contains(r#""deleted": true"#), "{read}");
    assert!(!read.contains("word-secret"), "{read}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_another_turn_can_be_changed_and_taken_back() {
    let Some(world) = World::with("waiting", &[("CODEX_MAX_ACTIVE_TURNS", "1")]).await else { return };
    let script = world.model.script([Step::Shell(UNTIL_GO.to_owned()), Step::Text("went".to_owned())]);
    let root = world.mention(&format!("begin {script}"));
    let waiting = world.file_of_agent("waiting").await;
    let changed = world.mention("word-draft scenario:text:drafted");
    let deleted = world.mention("word-mistake scenario:text:mistaken");
    let direct = world.slack.dm(ALICE, "word-gone scenario:text:gone");
    // They wait, and people see that.
    for place in [(CHANNEL.to_owned(), changed.clone()), (CHANNEL.to_owned(), deleted.clone()), direct.clone()] {
        let standing = |state: &broker_tests::fake_slack::State| {
            state.standing().get(&place).is_some_and(|text| text.contains("waiting for other threads")).then_some(())
        };
        world.slack.wait_for("status of a thread that waits", ANSWER, standing).await;
    }
    world.slack.edit(CHANNEL, &changed, "<@U0BROKER> word-final scenario:text:finished");
    world.slack.reply(CHANNEL, &deleted, ALICE, "word-kept scenario:text:kept");
    world.slack.delete(CHANNEL, &deleted);
    world.slack.delete(&direct.0, &direct.1);
    let acked = async || world.slack.look(|state| state.envelopes().iter().all(|e| e.acked.is_some())).then_some(());
    assert!(poll(ANSWER, acked).await.is_some(), "everything is taken");
    std::fs::write(waiting.with_file_name("go"), "").expect("a file in the workspace");
    world.answer(&root, "went").await;
    world.answer(&changed, "finished").await;
    world.answer(&deleted, "kept").await;
    world.exchange("later").await;
    let given = |word: &str| world.model.requests().iter().filter(|request| request.says(word)).count();
    assert_eq!((given("word-draft"), given("word-mistake"), given("word-gone")), (0, 0, 0));
    let none = |state: &broker_tests::fake_slack::State| state.standing().is_empty().then_some(());
    world.slack.wait_for("end of the last status", ANSWER, none).await;
    world.finish().await;
}
