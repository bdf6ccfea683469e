#![forbid(unsafe_code)]
//! What stands beside a thread while the agent works, end to end: it is there, it is true, and it never outlives its turn.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{CHANNEL, Call, State, Trouble};
use broker_tests::world::{ANSWER, World};
use futures_util::future::join_all;

const METHOD: &str = "assistant.threads.setStatus";
/// A lost call is made up for after 30 s.
const CLEARED: Duration = Duration::from_secs(90);
/// Threads, and turns in each.
const THREADS: usize = 25;
const TURNS: usize = 4;

/// How a turn goes out.
const WAYS: [&str; 9] = ["text", "command", "progress", "final", "block", "silence", "error", "limit", "stop"];

fn script(way: &str) -> Vec<Step> {
    let text = || Step::Text("done".to_owned());
    match way {
        "command" => vec![Step::Shell("true".to_owned()), text()],
        "progress" => vec![Step::post("progress", "half way"), text()],
        "final" => vec![Step::post("final", "all of it"), Step::Nothing],
        "block" => vec![Step::post("block", "who decides?"), Step::Nothing],
        "silence" => vec![Step::Nothing, Step::Nothing],
        "error" => vec![Step::Error(400, None)],
        "limit" => vec![Step::UsageLimit],
        "stop" => vec![Step::Hang],
        _ => vec![text()],
    }
}

/// One thread: its turns one after another, each another way out.
async fn live(world: &World, number: usize) {
    let mut root = String::new();
    for turn in 0..TURNS {
        let way = WAYS[(number * TURNS + turn) % WAYS.len()];
        let word = format!("word-{number}-{turn}");
        let text = format!("{word} {}", world.model.script(script(way)));
        let before = if turn == 0 { 0 } else { world.slack.answers(CHANNEL, &root).len() };
        if turn == 0 {
            root = world.mention(&text);
        } else {
            world.reply(&root, &text);
        }
        if way == "stop" {
            world.model.wait_for_request("the turn that hangs", ANSWER, |request| request.says(&word)).await;
            world.reply(&root, "-stop");
        }
        let wanted = before + if way == "progress" { 2 } else { 1 };
        let posted = |state: &State| (state.answers(CHANNEL, &root).len() >= wanted).then_some(());
        world.slack.wait_for(&format!("the end of {word} ({way})"), ANSWER * 2, posted).await;
    }
}

/// Whether a call had an effect, sooner or later.
fn had_effect(call: &Call) -> bool {
    ["ok", "Delay", "LandsLate", "LoseAnswer", "DoneThen"].iter().any(|word| call.outcome.starts_with(word))
}

/// Everything that was asked for has landed, nothing stands.
fn settled(state: &State) -> Option<()> {
    let calls = state.calls(METHOD);
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for call in &calls {
        last.insert(argument(call, "thread_ts"), argument(call, "status"));
    }
    let landed = calls.iter().filter(|call| had_effect(call)).count();
    let changes: usize = last.keys().map(|thread| state.statuses(CHANNEL, thread).len()).sum();
    let cleared = last.values().all(|status| status.is_empty());
    (changes == landed && cleared && state.standing().is_empty() && state.reactions().is_empty()).then_some(())
}

fn argument<'a>(call: &'a Call, name: &str) -> &'a str {
    call.args.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_turns_with_every_way_out_leave_no_status() {
    let Some(world) = World::start("status").await else { return };
    for _ in 0..4 {
        world.slack.trouble(METHOD, Trouble::Delay(Duration::from_secs(3)), 3);
        world.slack.trouble(METHOD, Trouble::RateLimited(1), 2);
        world.slack.trouble(METHOD, Trouble::LandsLate(Duration::from_secs(6)), 2);
        world.slack.trouble(METHOD, Trouble::Status(503), 1);
        world.slack.trouble(METHOD, Trouble::DoneThenStatus(500), 1);
        world.slack.trouble(METHOD, Trouble::LoseAnswer, 2);
        world.slack.trouble(METHOD, Trouble::NotJson, 1);
        world.slack.trouble(METHOD, Trouble::Error("internal_error"), 1);
    }
    join_all((0..THREADS).map(|number| live(&world, number))).await;
    world.slack.wait_for("end of every status", CLEARED, settled).await;

    let calls = world.slack.look(|state| state.calls(METHOD));
    let mut last: BTreeMap<String, tokio::time::Instant> = BTreeMap::new();
    for call in &calls {
        let thread = argument(call, "thread_ts").to_owned();
        if let Some(before) = last.insert(thread.clone(), call.at) {
            let pause = call.at.duration_since(before);
            assert!(pause >= Duration::from_secs(2), "{thread}: two calls within {pause:?}");
        }
    }
    assert_eq!(last.len(), THREADS, "every thread showed something");
    let shown: Vec<&str> = calls.iter().map(|call| argument(call, "status")).collect();
    assert!(shown.contains(&"is thinking…"), "{shown:?}");
    world.finish().await;
}

/// The thread of a turn that hangs, and beside which something stands.
async fn hanging(world: &World) -> String {
    let root = world.mention("word-hangs scenario:hang");
    world.model.wait_for_request("the turn", ANSWER, |request| request.says("word-hangs")).await;
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_survives_no_crash_and_no_restart() {
    let Some(mut world) = World::with("status-crash", &[("SHUTDOWN_GRACE_MS", "4000")]).await else { return };
    let root = hanging(&world).await;
    world.slack.wait_for("status", ANSWER, |state| (!state.standing().is_empty()).then_some(())).await;
    world.broker.sigkill().await;
    assert_eq!(world.slack.look(|state| state.standing().len()), 1, "nobody was left to take it away");
    world.broker.start_again().await;
    world.broker.ready().await;
    world.slack.wait_for_answer(CHANNEL, &root, "end of the turn that was cut", ANSWER, |_| true).await;
    world.slack.wait_for("end of the status", CLEARED, settled).await;

    // A status whose clear never came (of a turn that lasts long enough to show one): the broker dies while it waits for the answer.
    world.slack.trouble_when(METHOD, "\"status\":\"\"", Trouble::Hang, 1);
    world.reply(&root, "and scenario:sleep:6");
    let hangs = |state: &State| state.calls(METHOD).iter().any(|call| call.outcome == "Hang").then_some(());
    world.slack.wait_for("clear that hangs", ANSWER, hangs).await;
    world.broker.sigkill().await;
    world.broker.start_again().await;
    world.slack.wait_for("end of the status", CLEARED, settled).await;

    // A turn that is still at work when the grace period ends: the next broker continues it, and this one says nothing.
    world.reply(&root, "word-again scenario:hang");
    world.model.wait_for_request("the turn", ANSWER, |request| request.says("word-again")).await;
    world.slack.wait_for("status", ANSWER, |state| (!state.standing().is_empty()).then_some(())).await;
    let status = world.broker.sigterm().await;
    assert!(status.success(), "{status}");
    assert!(world.slack.look(|state| state.standing().is_empty()), "cleared before the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_stands_in_where_slack_refuses_and_goes_as_well() {
    let Some(mut world) = World::start("status-refused").await else { return };
    world.slack.trouble(METHOD, Trouble::Error("missing_scope"), usize::MAX);
    let root = hanging(&world).await;
    let eyes = (CHANNEL.to_owned(), root.clone(), "eyes".to_owned());
    let stands = |state: &State| state.reactions().contains(&eyes).then_some(());
    world.slack.wait_for("reaction", ANSWER, stands).await;
    world.broker.sigkill().await;
    world.broker.start_again().await;
    world.broker.ready().await;
    world.slack.wait_for_answer(CHANNEL, &root, "end of the turn that was cut", ANSWER, |_| true).await;
    let gone = |state: &State| state.reactions().is_empty().then_some(());
    world.slack.wait_for("end of the reaction", CLEARED, gone).await;
    world.reply(&root, "scenario:text:more");
    world.answer(&root, "more").await;
    world.slack.wait_for("end of the reaction", CLEARED, gone).await;
    world.finish().await;
}
