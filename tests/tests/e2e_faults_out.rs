#![forbid(unsafe_code)]
//! What can go wrong on the way out, and below: each fault by name. Of a stream of messages nothing is lost, nothing is given
//! or posted twice, and everything is answered. What goes wrong on the way in stands in `e2e_faults.rs`.

use std::time::Duration;

use broker_tests::fake_slack::{ALICE, Channel, ChannelKind, Redelivery, State, Trouble};
use broker_tests::processes::poll;
use broker_tests::traffic::{Drill, SETTLE, Way};
use broker_tests::world::{ANSWER, World};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const POST: &str = "chat.postMessage";
/// A channel that is archived.
const SHELVED: &str = "C0SHELVED";

/// Opens a thread for each trouble that the post of its answer meets.
fn each(drill: &mut Drill, troubles: impl IntoIterator<Item = Trouble>) {
    for (number, trouble) in troubles.into_iter().enumerate() {
        drill.world.slack.trouble_when(POST, &drill.traffic.next_word(), trouble, 1);
        drill.open(if number % 2 == 0 { Way::Text } else { Way::Post });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_limits_the_rate() {
    let Some(mut drill) = Drill::start("rate").await else { return };
    drill.stir();
    for method in [POST, "assistant.threads.setStatus", "users.info", "conversations.replies"] {
        drill.world.slack.trouble(method, Trouble::RateLimited(2), 3);
    }
    drill.stir();
    drill.stir();
    drill.answered().await;
    let calls = drill.world.slack.look(|state| state.calls(POST));
    let limited: Vec<_> = calls.iter().filter(|call| call.outcome.starts_with("RateLimited")).collect();
    assert!(!limited.is_empty(), "no post was refused");
    for refused in limited {
        let next = calls.iter().map(|call| call.at).filter(|at| *at > refused.at).min();
        let pause = next.map(|next| next - refused.at).unwrap_or(Duration::MAX);
        // What was on its way when the gate closed is not the broker's to call back.
        let under_way = pause < Duration::from_millis(100);
        assert!(
            under_way || pause >= Duration::from_millis(1900),
            "after `Retry-After: 2` a post came after {pause:?}"
        );
    }
    drill.end("429 with Retry-After").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_answers_with_a_5xx() {
    let Some(mut drill) = Drill::start("5xx").await else { return };
    each(&mut drill, [500, 502, 503, 504].map(Trouble::Status));
    each(&mut drill, [500, 503].map(Trouble::DoneThenStatus));
    each(&mut drill, ["internal_error", "fatal_error", "service_unavailable"].map(Trouble::DoneThenError));
    each(&mut drill, ["internal_error", "fatal_error"].map(Trouble::Error));
    drill.world.slack.trouble("users.info", Trouble::Status(503), 2);
    drill.stir();
    drill.end("5xx").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_arrives_and_its_answer_is_lost() {
    let Some(mut drill) = Drill::start("lost-answer").await else { return };
    let late = Trouble::LandsLate(Duration::from_secs(10));
    each(&mut drill, [Trouble::LoseAnswer, Trouble::DoneThenHang, late.clone(), Trouble::Drop]);
    each(&mut drill, [late, Trouble::LoseAnswer]);
    drill.stir();
    drill.end("posted, and the answer was lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_hang_or_are_slow() {
    let Some(mut drill) = Drill::start("slow").await else { return };
    let slow = Duration::from_secs(8);
    each(&mut drill, [Trouble::Hang, Trouble::Delay(slow), Trouble::DoneThenDelay(slow), Trouble::DoneThenHang]);
    for method in ["users.info", "conversations.info", "assistant.threads.setStatus", "conversations.replies"] {
        drill.world.slack.trouble(method, Trouble::Hang, 1);
        drill.world.slack.trouble(method, Trouble::Delay(Duration::from_secs(3)), 1);
    }
    drill.stir();
    drill.stir();
    drill.end("hanging and slow calls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_answers_with_a_page_instead_of_json() {
    let Some(mut drill) = Drill::start("html").await else { return };
    each(&mut drill, [Trouble::NotJson, Trouble::DoneThenStatus(200), Trouble::NotJson, Trouble::DoneThenStatus(200)]);
    for method in ["users.info", "conversations.info", "assistant.threads.setStatus", "conversations.replies"] {
        drill.world.slack.trouble(method, Trouble::NotJson, 1);
    }
    drill.world.slack.trouble("apps.connections.open", Trouble::NotJson, 2);
    drill.stir();
    drill.world.slack.drop_sockets();
    drill.stir();
    drill.end("HTML instead of JSON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_archived_in_the_middle_of_an_answer() {
    let Some(mut drill) = Drill::start("archived").await else { return };
    drill.world.slack.add_channel(Channel::new(SHELVED, "shelved", ChannelKind::Public));
    let word = drill.traffic.next_word();
    let thread = drill.traffic.open(&drill.world.slack, SHELVED, ALICE, Way::Late(2000));
    drill.world.model.wait_for_request("the turn", ANSWER, |request| request.says(&word)).await;
    drill.world.slack.archive(SHELVED, true);
    let refused = |state: &State| state.calls(POST).iter().filter(|call| call.outcome == "is_archived").count() >= 2;
    drill.open(Way::Progress);
    // The answer is refused for good, and so is the word about that.
    drill.seen("refusal of the answer and of the notice", ANSWER, refused).await;
    drill.open(Way::Text);
    // One message is never answered; everything else is.
    drill.traffic.backlog(&drill.world, 1, SETTLE).await;
    drill.world.slack.archive(SHELVED, false);
    drill.say(thread, Way::Post);
    drill.traffic.backlog(&drill.world, 1, SETTLE).await;
    let count = drill.traffic.count(&drill.world);
    println!("archived channel: {count}");
    let unanswered: Vec<_> = count.unanswered.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(unanswered, [format!("{word} was never answered")], "what was refused for good, and nothing else");
    assert_eq!(count.problems().count(), 1, "{count}");
    drill.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_is_refused_for_good_is_told() {
    let Some(mut drill) = Drill::start("refused").await else { return };
    let codes = ["is_archived", "restricted_action"];
    each(&mut drill, codes.map(Trouble::Error));
    drill.answered().await;
    // Who posted by a tool call hears of it, and says it again at the end of its turn.
    for ((thread, code), again) in drill.traffic.threads().iter().zip(codes).zip([false, true]) {
        let told = format!("Only 0 of 1 messages of a post arrived; the rest could not be posted ({code}).");
        let answers = || drill.world.slack.answers(&thread.channel, &thread.root);
        let all = async || (answers().len() > usize::from(again)).then(answers);
        let all = poll(ANSWER, all).await.unwrap_or_else(answers);
        assert_eq!((all.len(), &all[0]), (1 + usize::from(again), &told), "{all:?}");
        assert!(all[1..].iter().all(|text| text.starts_with("answer ")), "{all:?}");
    }
    drill.stir();
    let count = drill.end("refused for good").await;
    assert!(count.notices.is_empty(), "{:?}", count.notices);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_token_is_revoked_and_comes_back() {
    let Some(mut drill) = Drill::start("revoked").await else { return };
    drill.stir();
    drill.answered().await;
    drill.stir();
    drill.world.slack.refuse_bot_token(Some("token_revoked"));
    drill.stir();
    let told = async || {
        let readiness = drill.world.broker.readiness().await?;
        let told = readiness.to_string().contains("Slack refuses our credentials (token_revoked)");
        (readiness["ok"] == false && told).then_some(())
    };
    assert!(poll(ANSWER, told).await.is_some(), "{:?}", drill.world.broker.readiness().await);
    drill.stir();
    drill.world.slack.refuse_bot_token(None);
    drill.answered().await;
    drill.world.broker.ready().await;
    drill.end("token revoked").await;
}

/// The broker's clock differs from Slack's, after a jump of either. `ahead` is Slack's, in seconds.
async fn clocks_differ(name: &str, ahead: i64) {
    let Some(mut drill) = Drill::start(name).await else { return };
    drill.world.slack.set_clock_ahead(ahead * 1000);
    drill.stir();
    drill.answered().await;
    each(&mut drill, [Trouble::LoseAnswer, Trouble::DoneThenStatus(503), Trouble::Status(503), Trouble::Drop]);
    drill.stir();
    drill.answered().await;
    // A message that no event tells of.
    let place = drill.traffic.threads()[0].clone();
    let text = drill.traffic.next_text(Way::Text);
    let ts = drill.world.slack.unheard(&place.channel, Some(&place.root), ALICE, &text);
    drill.traffic.heard(0, &ts);
    drill.world.slack.drop_sockets();
    drill.stir();
    drill.end(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_twenty_minutes_slow() {
    clocks_differ("slow-clock", 20 * 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_twenty_minutes_fast() {
    clocks_differ("fast-clock", -20 * 60).await;
}

/// No write of the broker beyond this many bytes of a file succeeds any more: the nearest thing to a full disk that needs no
/// rights. SQLite sees `EFBIG` where a full disk gives `ENOSPC`; the words for that one are tested with the store.
fn limit_files(pid: u32, limit: Option<u64>) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let old = prlimit(pid, Resource::Fsize, Rlimit { current: limit, maximum: None });
    assert!(old.is_ok(), "{old:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full_and_has_room_again() {
    // The signal that goes with the limit would end the process; a full disk sends none.
    let Some(world) = World::after("full-disk", &[], "trap '' XFSZ").await else { return };
    let mut drill = Drill::on(world);
    drill.world.slack.set_redelivery(Redelivery { after: Duration::from_secs(2), times: 30, fresh_id: true });
    drill.stir();
    drill.answered().await;
    let pid = drill.world.broker.pid();
    for _ in 0..2 {
        drill.stir();
        limit_files(pid, Some(0));
        drill.stir();
        let ill = async || {
            let readiness = drill.world.broker.readiness().await?;
            (readiness["parts"]["store"]["ok"] == false).then_some(())
        };
        assert!(poll(ANSWER, ill).await.is_some(), "{:?}", drill.world.broker.readiness().await);
        assert!(drill.world.slack.connections() > 0, "a store that fails never costs the socket");
        drill.stir();
        limit_files(pid, None);
        drill.traffic.settle(&drill.world, SETTLE).await;
        drill.world.broker.ready().await;
    }
    assert_eq!(drill.world.broker.pid(), pid, "it lived through it");
    drill.end("full disk").await;
}
