#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! Restarts and crashes, end to end: nothing said is lost, nothing is given or posted twice, and a turn that was cut goes
//! on or is told of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{BOB, CHANNEL, Trouble};
use broker_tests::processes::{self, poll};
use broker_tests::world::{ANSWER, World};
use rustix::process::Signal;

/// Read-back waits 30 s before it believes that a post is not there.
const DOUBT: Duration = Duration::from_secs(120);

/// A command that says that it runs, and ends only by being killed.
fn endless(name: &str) -> Step {
    Step::Shell(format!("touch {name}; while :; do sleep 0.2; done"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_two_messages_keeps_the_conversation() {
    let Some(mut world) = World::start("restart").await else { return };
    let root = world.mention("before scenario:text:first");
    world.answer(&root, "first").await;
    world.broker.restart().await;
    world.reply(&root, "after scenario:text:second");
    world.answer(&root, "second").await;
    let requests = world.model.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].thread, requests[1].thread, "the same Codex thread");
    assert!(requests[1].says("before scenario") && requests[1].says("after scenario"));
    assert_eq!(world.slack.answers(CHANNEL, &root), ["first", "second"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_the_broker_is_away_is_taken_up() {
    let Some(mut world) = World::start("away").await else { return };
    let root = world.mention("before scenario:text:first");
    world.answer(&root, "first").await;
    world.broker.sigkill().await;
    // Slack keeps what it could not deliver and sends it to the next connection.
    world.reply(&root, "word-away scenario:text:second");
    let other = world.mention("elsewhere scenario:text:third");
    world.broker.start_again().await;
    world.broker.ready().await;
    world.answer(&root, "second").await;
    world.answer(&other, "third").await;
    let given = world.model.requests().iter().filter(|request| request.last_user_text().contains("word-away")).count();
    assert_eq!(given, 1);
    world.finish().await;
}

/// The files of Codex's threads below a folder.
fn rollouts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { rollouts(&entry.path()) } else { vec![entry.path()] }).collect()
}

/// Codex makes the file of a thread first and writes to it then: killed in between, it leaves a file that it cannot resume.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_whose_file_was_never_written_begins_anew() {
    let Some(mut world) = World::start("bare").await else { return };
    let root = world.mention("before scenario:text:first");
    world.answer(&root, "first").await;
    world.broker.sigterm().await;
    let files = rollouts(&world.data().join("codex-home/sessions"));
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::write(&files[0], "").expect("the file is emptied");
    world.broker.start_again().await;
    world.broker.ready().await;
    world.reply(&root, "after scenario:text:second");
    world.answer(&root, "second").await;
    let answers = world.slack.answers(CHANNEL, &root);
    assert!(answers.iter().any(|text| text.contains("memory of this thread is lost")), "{answers:?}");
    assert!(world.model.requests().last().is_some_and(|request| request.says("before scenario")), "as history");
    world.finish().await;
}

/// What is killed in the middle of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Broker,
    AppServer,
    Both,
}

async fn kill(world: &mut World, victim: Victim) {
    let servers = world.broker.app_server_pids();
    assert!(!servers.is_empty(), "an app-server runs");
    // Both means at once: no chance for one to notice the other.
    if victim != Victim::Broker {
        for pid in &servers {
            processes::signal(*pid, Signal::KILL);
        }
    }
    if victim != Victim::AppServer {
        world.broker.sigkill().await;
        world.broker.start_again().await;
    }
    let new = async || world.broker.app_server_pids().iter().any(|pid| !servers.contains(pid)).then_some(());
    assert!(poll(ANSWER, new).await.is_some(), "a new app-server: {}", world.broker.last_lines(40));
    let old_gone = async || servers.iter().all(|pid| !processes::alive(*pid)).then_some(());
    assert!(poll(ANSWER, old_gone).await.is_some(), "the old app-server is ended: {}", world.broker.last_lines(40));
    world.broker.ready().await;
}

async fn crash_during_a_turn(victim: Victim) {
    let Some(mut world) = World::start("crash").await else { return };
    let script = world.model.script([
        Step::post("progress", "half way"),
        endless("waiting"),
        Step::Text("went on".to_owned()),
        Step::Text("went on too far".to_owned()),
    ]);
    let root = world.mention(&format!("word-one {script}"));
    world.file_of_agent("waiting").await;
    let waiting = world.mention("word-two scenario:hang");
    world.model.wait_for_request("the second turn", ANSWER, |request| request.says("word-two")).await;
    kill(&mut world, victim).await;

    world.answer(&root, "went on").await;
    // The turn that hung is taken up as well; its script is over, so the model answers in its own words.
    world.slack.wait_for_answer(CHANNEL, &waiting, "answer", ANSWER, |_| true).await;
    world.reply(&root, "word-three scenario:text:all well");
    world.answer(&root, "all well").await;
    world.exchange("later").await;

    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.says("word-three")).expect("the last turn");
    for word in ["word-one", "word-three"] {
        assert_eq!(last.times(word), 1, "{victim:?}: {word} in {:?}", last.user_texts());
    }
    assert!(last.thread == requests[0].thread, "{victim:?}: the same Codex thread");
    assert_eq!(world.slack.answers(CHANNEL, &root), ["half way", "went on", "all well"], "{victim:?}");
    assert_eq!(world.slack.answers(CHANNEL, &waiting).len(), 1, "{victim:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_is_killed_during_a_turn() {
    crash_during_a_turn(Victim::Broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_server_is_killed_during_a_turn() {
    crash_during_a_turn(Victim::AppServer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_killed_during_a_turn() {
    crash_during_a_turn(Victim::Both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_cut_twice_is_told() {
    let Some(mut world) = World::start("cut-twice").await else { return };
    let script =
        world.model.script([endless("waiting-1"), endless("waiting-2"), Step::Text("a third time".to_owned())]);
    let root = world.mention(&format!("word-one {script}"));
    world.file_of_agent("waiting-1").await;
    kill(&mut world, Victim::Both).await;
    world.file_of_agent("waiting-2").await;
    kill(&mut world, Victim::Both).await;
    world.answer(&root, "cut once more").await;
    world.reply(&root, "go on scenario:text:with pleasure");
    world.answer(&root, "with pleasure").await;
    assert_eq!(world.answers_with(&root, "a third time"), 0);
    let last = world.model.requests().pop().expect("a request");
    assert_eq!(last.times("word-one"), 1, "{:?}", last.user_texts());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_without_an_answer_is_looked_up_and_not_repeated() {
    for (name, trouble) in [
        ("lost", Trouble::LoseAnswer),
        ("status", Trouble::DoneThenStatus(503)),
        ("code", Trouble::DoneThenError("internal_error")),
        ("refused", Trouble::Status(500)),
        ("limited", Trouble::RateLimited(1)),
    ] {
        let Some(world) = World::start(&format!("post-{name}")).await else { return };
        world.slack.trouble_when("chat.postMessage", "the answer", trouble, 1);
        let root = world.mention("scenario:text:the answer");
        world.slack.wait_for_answer(CHANNEL, &root, name, DOUBT, |text| text.contains("the answer")).await;
        world.slack.reply(CHANNEL, &root, BOB, "more scenario:text:something else");
        world
            .slack
            .wait_for_answer(CHANNEL, &root, "the next answer", DOUBT, |text| text.contains("something else"))
            .await;
        assert_eq!(world.answers_with(&root, "the answer"), 1, "{name}");
        world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_it_posts_does_not_post_again() {
    let Some(mut world) = World::start("killed-posting").await else { return };
    world.slack.trouble_when("chat.postMessage", "the answer", Trouble::DoneThenHang, 1);
    let root = world.mention("scenario:text:the answer");
    world.answer(&root, "the answer").await;
    world.broker.sigkill().await;
    world.broker.start_again().await;
    world.broker.ready().await;
    world.reply(&root, "more scenario:text:something else");
    world.slack.wait_for_answer(CHANNEL, &root, "the next answer", DOUBT, |text| text.contains("something else")).await;
    assert_eq!(world.slack.answers(CHANNEL, &root), ["the answer", "something else"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_on_the_same_folder_is_refused() {
    let Some(world) = World::start("second").await else { return };
    let second = world.second_broker().await;
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&world.broker.pid().to_string()), "it names the first: {said}");
    world.exchange("still here").await;
    world.finish().await;
}
