#![forbid(unsafe_code)]
//! The main job, end to end: a fake Slack, the real broker, the real Codex, a fake model.

use std::time::Duration;

use broker_tests::fake_model::{ModelRequest, Step};
use broker_tests::fake_slack::{ALICE, BOB, CHANNEL, GONE, GUEST, STRANGER, Trouble};
use broker_tests::processes::{self, poll};
use broker_tests::world::{ANSWER, World};

/// A shell command that says in its workspace that it runs, and goes on until somebody makes the file `go` there.
const UNTIL_GO: &str = "touch waiting; while [ ! -e go ]; do sleep 0.05; done; echo went";

#[tokio::test(flavor = "multi_thread")]
async fn a_first_mention_brings_the_latest_of_a_long_thread() {
    let Some(world) = World::start("backfill").await else { return };
    let root = world.slack.seed_root(CHANNEL, BOB, "the root of it all", Duration::from_secs(86_400));
    world.slack.seed_history(CHANNEL, &root, 450);
    world.slack.mention_in(CHANNEL, &root, ALICE, "what was said? scenario:text:A lot was said.");
    world.answer(&root, "A lot was said.").await;

    let request = world.model.requests().remove(0);
    let given = request.last_user_text();
    let places: Vec<_> = (443..=450).map(|n| given.find(&format!("\"reply {n}\""))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {given}");
    assert!(!given.contains("\"reply 442\"") && !given.contains("the root of it all"), "{given}");
    assert!(given.find("what was said?") > places[7], "the message follows what went before: {given}");
    let reads = world.slack.look(|state| state.calls("conversations.replies").len());
    assert!(reads <= 10, "{reads} pages were read");

    // Only the first mention brings what was said before.
    world.slack.reply(CHANNEL, &root, BOB, "and now? scenario:text:Not much.");
    world.answer(&root, "Not much.").await;
    let last = world.model.requests().pop().expect("a request").last_user_text();
    assert!(last.contains("and now?") && !last.contains("\"reply 450\""), "{last}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_cannot_be_read_does_not_hold_the_message_up() {
    let Some(world) = World::start("no-backfill").await else { return };
    let root = world.slack.seed_root(CHANNEL, BOB, "root", Duration::from_secs(3600));
    world.slack.trouble("conversations.replies", Trouble::Hang, 20);
    world.slack.mention_in(CHANNEL, &root, ALICE, "anyway scenario:text:Here I am.");
    world.answer(&root, "Here I am.").await;
    let given = world.model.requests().remove(0).last_user_text();
    assert!(given.contains("could not be read"), "{given}");
    world.slack.no_more_trouble();
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_is_one_conversation() {
    let Some(world) = World::start("thread").await else { return };
    let root = world.mention("one scenario:text:first answer");
    world.answer(&root, "first answer").await;
    world.slack.reply(CHANNEL, &root, BOB, "two scenario:text:second answer");
    world.answer(&root, "second answer").await;
    world.slack.broadcast(CHANNEL, &root, ALICE, "three scenario:text:third answer");
    world.answer(&root, "third answer").await;

    let requests = world.model.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.thread == requests[0].thread));
    let last = &requests[2];
    for word in ["one scenario", "two scenario", "three scenario"] {
        // Each message stands in the history once, with its text as it came and with mentions resolved.
        assert_eq!(last.times(word), 1, "{word}: {:?}", last.user_texts());
    }
    assert_eq!(world.slack.answers(CHANNEL, &root), ["first answer", "second answer", "third answer"]);
    // The same message under a new event id, and a thread that is nobody's, change nothing.
    world.slack.announce_again(CHANNEL, &root);
    let other = world.slack.say(CHANNEL, BOB, "not for the bot");
    world.slack.reply(CHANNEL, &other, ALICE, "not for it either");
    world.exchange("later").await;
    assert_eq!(world.model.requests().len(), 4);
    assert_eq!(world.slack.answers(CHANNEL, &other), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_joins_the_turn_that_runs() {
    let Some(world) = World::start("steer").await else { return };
    let script = world.model.script([Step::Shell(UNTIL_GO.to_owned()), Step::Text("both done".to_owned())]);
    let root = world.mention(&format!("begin {script}"));
    let waiting = world.file_of_agent("waiting").await;
    world.reply(&root, "and the other thing too");
    world.given(2).await;
    std::fs::write(waiting.with_file_name("go"), "").expect("a file in the workspace");
    world.answer(&root, "both done").await;

    let requests = world.model.requests();
    let last = requests.last().expect("a request");
    assert!(last.says("begin script") && last.says("and the other thing too"), "{:?}", last.user_texts());
    assert!(requests.iter().all(|request| request.turn == requests[0].turn), "one turn");
    assert_eq!(world.answers_with(&root, "both done"), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_quick_messages_are_given_once_each_and_in_order() {
    // Slack spreads events over the connections of an app: with several, a burst comes in any order.
    let Some(world) = World::with("quick", &[("SLACK_SOCKET_CONNECTIONS", "1")]).await else { return };
    let root = world.mention("word-one scenario:text:answered");
    world.reply(&root, "word-two scenario:text:answered");
    world.reply(&root, "word-three scenario:text:answered");
    let all = |request: &ModelRequest| ["word-one", "word-two", "word-three"].iter().all(|word| request.says(word));
    let request = world.model.wait_for_request("request with all three", ANSWER, all).await;
    let texts = request.user_texts();
    let places: Vec<_> = ["word-one", "word-two", "word-three"]
        .iter()
        .map(|word| texts.iter().position(|text| text.contains(word)))
        .collect();
    assert!(places.is_sorted(), "{places:?} in {texts:?}");
    world.answer(&root, "answered").await;
    world.exchange("later").await;
    for word in ["word-one", "word-two", "word-three"] {
        assert_eq!(request.times(word), 1, "{word}");
    }

    // The same in a conversation that is under way: a burst on one socket keeps its order.
    for n in 0..8 {
        world.reply(&root, &format!("burst-{n} scenario:text:answered"));
    }
    let all = |request: &ModelRequest| (0..8).all(|n| request.says(&format!("burst-{n} ")));
    let texts = world.model.wait_for_request("request with the whole burst", ANSWER, all).await.user_texts();
    let places: Vec<_> = (0..8).map(|n| texts.iter().position(|text| text.contains(&format!("burst-{n} ")))).collect();
    assert!(places.is_sorted(), "{places:?} in {texts:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_the_run_and_its_command() {
    let Some(world) = World::start("stop").await else { return };
    for (round, by_mention) in [(0_u32, false), (1, true)] {
        let seconds = 7_000 + round + std::process::id() % 100 * 10;
        let command = format!("touch waiting-{round}; sleep {seconds}");
        let root = world.mention(&world.model.script([Step::Shell(command), Step::Text("never".to_owned())]));
        world.file_of_agent(&format!("waiting-{round}")).await;
        let marks = format!("sleep {seconds}");
        let runs = || {
            processes::belonging_to(world.folder.path())
                .into_iter()
                .filter(|process| process.command.starts_with(&marks))
                .count()
        };
        assert!(poll(ANSWER, async || (runs() > 0).then_some(())).await.is_some(), "the command runs");
        let stop = |world: &World| match by_mention {
            true => world.slack.mention_in(CHANNEL, &root, BOB, "-stop"),
            false => world.slack.reply(CHANNEL, &root, BOB, "-stop"),
        };
        stop(&world);
        world.answer(&root, "Stopped the current run.").await;
        assert!(poll(ANSWER, async || (runs() == 0).then_some(())).await.is_some(), "the command is gone");
        world.reply(&root, "go on scenario:text:going on");
        world.answer(&root, "going on").await;
        // The turn is over by now; before, a second stop would have met its end.
        stop(&world);
        world.answer(&root, "No active run to stop.").await;
        let last = world.model.requests().pop().expect("a request");
        assert!(!last.says("-stop"), "a stop is not a prompt: {:?}", last.user_texts());
        assert_eq!(
            world.slack.answers(CHANNEL, &root),
            ["Stopped the current run.", "going on", "No active run to stop."]
        );
    }
    // Where there is no session it opens none.
    let root = world.mention("-stop");
    world.answer(&root, "No active run to stop.").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_is_answered_in_its_own_thread() {
    let Some(world) = World::start("dm").await else { return };
    let (channel, root) = world.slack.dm(ALICE, "psst scenario:text:yes?");
    let answer = async |part: &'static str| {
        world.slack.wait_for_answer(&channel, &root, part, ANSWER, move |text| text.contains(part)).await
    };
    answer("yes?").await;
    world.slack.reply(&channel, &root, ALICE, "more scenario:text:all of it");
    answer("all of it").await;
    let requests = world.model.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].thread, requests[1].thread);

    // `-stop` at the top level of the conversation is meant for every run in it.
    world.slack.reply(&channel, &root, ALICE, "wait scenario:hang");
    world.model.wait_for_request("hanging turn", ANSWER, |request| request.says("wait scenario")).await;
    let (_, stop) = world.slack.dm(ALICE, "-stop");
    world.slack.wait_for_answer(&channel, &stop, "answer to the stop", ANSWER, |text| text.contains("Stopped")).await;
    world.model.wait_until_idle(ANSWER).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_says_is_posted_once() {
    let Some(world) = World::start("posts").await else { return };
    let say = |text: &str| Step::Text(text.to_owned());
    for (name, steps, expected) in [
        (
            "progress, then a final text",
            vec![Step::post("progress", "half way"), say("all the way")],
            vec!["half way", "all the way"],
        ),
        (
            "a final post, then a closing remark",
            vec![Step::post("final", "the result"), say("closing remark")],
            vec!["the result"],
        ),
        ("a blocked run", vec![Step::post("block", "I need a decision"), say("waiting")], vec!["I need a decision"]),
        ("commentary, then an answer", vec![Step::Commentary("thinking".to_owned())], vec!["final: thinking"]),
    ] {
        let root = world.mention(&world.model.script(steps));
        let last = *expected.last().expect("an answer");
        world.answer(&root, last).await;
        world.model.wait_until_idle(ANSWER).await;
        world.exchange(&format!("after {}", name.split(',').next().unwrap_or_default())).await;
        assert_eq!(world.slack.answers(CHANNEL, &root), expected, "{name}");
    }
    // A call that makes no sense is refused, and the agent is told why.
    let wrong = Step::Tool("post".to_owned(), serde_json::json!({ "text": 5, "kind": "shout" }));
    let root = world.mention(&world.model.script([wrong, say("I see")]));
    world.answer(&root, "I see").await;
    let told = world.model.requests().pop().expect("a request").tool_outputs().pop().expect("an answer of the tool");
    assert!(!told.contains("posted (") && !told.is_empty(), "{told}");
    let help = Step::Tool("broker".to_owned(), serde_json::json!({ "action": "help" }));
    let root = world.mention(&world.model.script([help, say("read")]));
    world.answer(&root, "read").await;
    let told = world.model.requests().pop().expect("a request").tool_outputs().pop().expect("an answer of the tool");
    assert!(told.contains("history") && told.contains("state"), "{told}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_ends_without_a_word_is_woken_once() {
    let Some(world) = World::start("silent").await else { return };
    let root = world.mention(&world.model.script([Step::Nothing, Step::Text("sorry, here it is".to_owned())]));
    world.answer(&root, "sorry, here it is").await;
    assert_eq!(world.slack.answers(CHANNEL, &root).len(), 1);

    let before = world.model.requests().len();
    let root = world.mention(&world.model.script([Step::Nothing, Step::Nothing, Step::Text("too late".to_owned())]));
    world.answer(&root, "without an answer").await;
    world.exchange("later").await;
    // The turn, the one reminder, and the later message.
    assert_eq!(world.model.requests().len(), before + 3);
    assert_eq!(world.slack.answers(CHANNEL, &root).len(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_turn_is_told_in_plain_words() {
    let Some(world) = World::start("failed").await else { return };
    for (step, words) in [
        (Step::UsageLimit, "usage limit"),
        (Step::Failed("context_length_exceeded".to_owned(), "too long".to_owned()), "context"),
        (Step::Failed("server_is_overloaded".to_owned(), "busy".to_owned()), "overloaded"),
        (Step::Error(503, None), "could not be reached"),
        (Step::Cutoff, "The run failed"),
    ] {
        let root = world.mention(&format!("word-lost {}", world.model.script([step.clone()])));
        world.answer(&root, words).await;
        world.reply(&root, "again scenario:text:now it works");
        world.answer(&root, "now it works").await;
        let last = world.model.requests().pop().expect("a request");
        assert_eq!(last.times("word-lost"), 1, "{step:?}: the first message stands in the history once");
        assert_eq!(world.slack.answers(CHANNEL, &root).len(), 2, "{step:?}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_and_tables_arrive_whole() {
    let Some(world) = World::start("long").await else { return };
    let lines: Vec<_> = (0..300).map(|n| format!("let line_{n:04} = \"{}\";", "y".repeat(20))).collect();
    let answer = format!("Here it is:\n\n```rust\n{}\n```\n\nThe end of it.", lines.join("\n"));
    assert!(answer.chars().count() > 12_000);
    let root = world.mention(&world.model.script([Step::Text(answer)]));
    world.answer(&root, "The end of it.").await;
    let parts = world.slack.answers(CHANNEL, &root);
    assert!(parts.len() >= 4, "{} parts", parts.len());
    for part in &parts {
        assert!(part.chars().count() <= 3_500, "{} characters", part.chars().count());
        assert_eq!(part.matches("```").count() % 2, 0, "a fence stays open: {part}");
    }
    let together = parts.concat();
    let mut from = 0;
    for line in &lines {
        assert_eq!(together.matches(line.as_str()).count(), 1, "{line}");
        let at = together.find(line.as_str()).expect("found just now");
        assert!(at >= from, "{line} is out of order");
        from = at;
    }

    let table = "| name | what |\n| --- | --- |\n| alpha | first & best |\n| beta | <!channel> |\n\nThat was it.";
    let root = world.mention(&world.model.script([Step::Text(table.to_owned())]));
    world.answer(&root, "That was it.").await;
    let shown = world.slack.answers(CHANNEL, &root).concat();
    for word in ["alpha", "first &amp; best", "beta"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    assert!(!shown.contains("<!channel>"), "{shown}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_bots_are_refused() {
    let Some(world) = World::start("refused").await else { return };
    for (user, times) in [(STRANGER, 2), (GUEST, 1), (GONE, 1)] {
        for _ in 0..times {
            world.slack.mention(CHANNEL, user, "let me in scenario:text:welcome");
        }
    }
    let told = world
        .slack
        .wait_for("ephemeral lines", ANSWER, |state| {
            (state.ephemerals().len() >= 3).then(|| state.ephemerals().to_vec())
        })
        .await;
    let bot_root = world.slack.bot_says(CHANNEL, None, "<@U0BROKER> let me in scenario:text:welcome");

    // In a thread of somebody who may, they stay outside too; another bot's words go along as context.
    let root = world.mention("hello scenario:text:hello yourself");
    world.answer(&root, "hello yourself").await;
    world.slack.reply(CHANNEL, &root, STRANGER, "stranger-word scenario:text:welcome");
    let bot_word = world.slack.bot_says(CHANNEL, Some(&root), "bot-word build 7 is red");
    let acked = |state: &broker_tests::fake_slack::State| state.acked_message(CHANNEL, &bot_word).then_some(());
    world.slack.wait_for("ack of the bot's message", ANSWER, acked).await;
    world.reply(&root, "what did the bot say? scenario:text:it is red");
    world.answer(&root, "it is red").await;

    let requests = world.model.requests();
    assert_eq!(requests.len(), 2, "nobody else was listened to");
    let last = requests.last().expect("a request");
    assert!(last.says("bot-word") && !last.says("stranger-word"), "{:?}", last.user_texts());
    assert_eq!(world.slack.answers(CHANNEL, &bot_root), Vec::<String>::new());
    let mut users: Vec<_> = told.iter().map(|line| line.user.as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, [GONE, GUEST, STRANGER], "once each");
    world.exchange("later").await;
    assert_eq!(world.slack.ephemerals().len(), 3, "not again within the hour");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_mentions_people_of_its_thread_and_nobody_else() {
    let Some(world) = World::start("mentions").await else { return };
    let root = world.mention("word-one scenario:text:hello");
    world.answer(&root, "hello").await;
    let text = "over to @bob, not @guest, <@U0GUEST>, <!here> or <@U0ALICE|boss>";
    let script = world.model.script([Step::post("final", text), Step::Nothing]);
    world.slack.reply(CHANNEL, &root, BOB, &format!("word-two {script}"));
    let answer = world.answer(&root, "over to").await;
    assert_eq!(answer, "over to <@U0BOB>, not @guest, &lt;@U0GUEST&gt;, &lt;!here&gt; or <@U0ALICE>");
    world.finish().await;
}
