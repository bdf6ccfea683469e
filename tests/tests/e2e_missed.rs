#![forbid(unsafe_code)]
//! Messages of which no event ever came, end to end: they are found in Slack's history and given once.

use broker_tests::fake_slack::{ALICE, BOB, BOT_USER, CHANNEL};
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};

/// The searches that came to their end, by the clock of the broker.
async fn pass_after(world: &World, before: &serde_json::Value) {
    let passed = async || {
        let last = world.broker.figure("recovery", "last_pass_ms").await?;
        (last != *before).then_some(())
    };
    assert!(poll(ANSWER, passed).await.is_some(), "no search; {}", world.broker.last_lines(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slack_never_delivers_is_found() {
    let Some(mut world) = World::start("missed").await else { return };
    let root = world.mention("word-one scenario:text:first");
    world.answer(&root, "first").await;
    world.broker.sigkill().await;
    let mention = |text: &str| format!("<@{BOT_USER}> {text}");
    world.slack.unheard(CHANNEL, Some(&root), ALICE, "word-two scenario:text:second");
    let other = world.slack.unheard(CHANNEL, None, BOB, &mention("word-three scenario:text:third"));
    let talk = world.slack.unheard(CHANNEL, None, BOB, "people talk");
    world.slack.unheard(CHANNEL, Some(&talk), ALICE, &mention("word-four scenario:text:fourth"));
    let (direct, _) = world.slack.dm(BOB, "word-five scenario:text:fifth");
    world.broker.start_again().await;
    world.broker.ready().await;
    world.answer(&root, "second").await;
    world.answer(&other, "third").await;
    world.answer(&talk, "fourth").await;
    let posted = |state: &broker_tests::fake_slack::State| {
        state.messages_of(&direct).iter().any(|message| message.is_own() && message.text == "fifth").then_some(())
    };
    world.slack.wait_for("answer to the direct message", ANSWER, posted).await;

    // A link that breaks, and a message that is lost with it.
    let before = world.broker.figure("recovery", "last_pass_ms").await.expect("a search");
    world.slack.unheard(CHANNEL, Some(&root), ALICE, "word-six scenario:text:sixth");
    world.slack.drop_sockets();
    world.answer(&root, "sixth").await;
    pass_after(&world, &before).await;

    // The next broker finds nothing new.
    world.broker.restart().await;
    pass_after(&world, &serde_json::Value::Null).await;
    world.exchange("later").await;
    assert_eq!(world.slack.answers(CHANNEL, &root), ["first", "second", "sixth"]);
    for word in ["word-one", "word-two", "word-three", "word-four", "word-five", "word-six"] {
        let given = world.model.requests().iter().filter(|request| request.last_user_text().contains(word)).count();
        assert_eq!(given, 1, "{word}");
    }
    world.finish().await;
}
