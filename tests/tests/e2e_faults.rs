#![forbid(unsafe_code)]
//! What can go wrong on the way in, each fault by name: of a stream of messages nothing is lost, nothing is given or posted
//! twice, and everything is answered. What goes wrong on the way out stands in `e2e_faults_out.rs`.

use std::time::Duration;

use broker_tests::fake_slack::{ALICE, BOB, CHANNEL, Redelivery, State, Trouble};
use broker_tests::processes::poll;
use broker_tests::traffic::{Drill, Way, mention};
use broker_tests::world::ANSWER;

/// A link on which nothing comes is given up after 25 s.
const DEAD: Duration = Duration::from_secs(40);
/// Slack itself notices later than the broker has to.
const GIVEN_UP: Duration = Duration::from_secs(45);
/// After a refusal that an operator has to mend the next try comes after a minute.
const MENDED: Duration = Duration::from_secs(100);

/// Waits until `/readyz` says something of the socket.
async fn told(drill: &Drill, what: &str) {
    let said = async || {
        let readiness = drill.world.broker.readiness().await?;
        readiness.to_string().contains(what).then_some(())
    };
    assert!(poll(ANSWER, said).await.is_some(), "`{what}` is never told: {:?}", drill.world.broker.readiness().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_drops() {
    let Some(mut drill) = Drill::start("drop").await else { return };
    for _ in 0..3 {
        drill.stir();
        drill.world.slack.drop_sockets();
        drill.stir();
        drill.answered().await;
    }
    drill.end("socket drop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_half_open() {
    let Some(mut drill) = Drill::start("half-open").await else { return };
    drill.stir();
    drill.answered().await;
    let before = drill.world.slack.look(State::connections_ever);
    // What goes into a dead link comes again on another one, sooner or later.
    drill.world.slack.set_redelivery(Redelivery { after: Duration::from_secs(5), times: 30, fresh_id: true });
    drill.world.slack.half_open(GIVEN_UP);
    drill.stir();
    drill.seen("link in the place of the dead one", DEAD, |state| state.connections_ever() > before).await;
    drill.stir();
    drill.end("half-open link").await;
}

async fn disconnect(reason: &str) {
    let Some(mut drill) = Drill::start(reason).await else { return };
    for _ in 0..2 {
        drill.stir();
        let before = drill.world.slack.look(State::connections_ever);
        drill.world.slack.disconnect(reason, Duration::from_secs(3));
        drill.stir();
        drill.seen("new link", ANSWER, |state| state.connections_ever() > before).await;
        drill.stir();
        drill.answered().await;
    }
    drill.end(reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_warns_before_it_disconnects() {
    disconnect("warning").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_asks_for_a_refresh() {
    disconnect("refresh_requested").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_says_that_there_are_too_many_websockets() {
    disconnect("too_many_websockets").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_mode_is_switched_off_and_on_again() {
    let Some(mut drill) = Drill::start("link-disabled").await else { return };
    drill.stir();
    drill.world.slack.disconnect("link_disabled", Duration::from_secs(1));
    drill.stir();
    told(&drill, "Socket Mode is switched off for the app").await;
    drill.seen("no link", ANSWER, |state| state.open_connections() == 0).await;
    drill.stir();
    drill.seen("new link", MENDED, |state| state.open_connections() > 0).await;
    drill.end("link_disabled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_token_is_refused_and_taken_again() {
    let Some(mut drill) = Drill::start("app-token").await else { return };
    drill.stir();
    drill.world.slack.trouble("apps.connections.open", Trouble::Error("invalid_auth"), usize::MAX);
    drill.world.slack.drop_sockets();
    drill.stir();
    told(&drill, "slack refuses the socket (invalid_auth): SLACK_APP_TOKEN").await;
    drill.world.slack.no_more_trouble();
    drill.seen("new link", MENDED, |state| state.open_connections() > 0).await;
    drill.end("app token refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_delivered_again() {
    let Some(mut drill) = Drill::start("redelivery").await else { return };
    for fresh_id in [true, false] {
        let redelivery = Redelivery { after: Duration::from_millis(500), times: 5, fresh_id };
        drill.world.slack.set_redelivery(redelivery);
        drill.world.slack.lose_acks(6);
        drill.stir();
        drill.stir();
        drill.answered().await;
    }
    let again = |state: &State| state.envelopes().iter().filter(|envelope| envelope.sent > 1).count() >= 8;
    drill.seen("redelivery", ANSWER, again).await;
    drill.end("redelivery").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_comes_in_several_events() {
    let Some(mut drill) = Drill::start("duplicates").await else { return };
    for _ in 0..2 {
        let first = drill.world.slack.look(|state| state.messages_of(CHANNEL));
        drill.stir();
        drill.stir();
        let all = drill.world.slack.look(|state| state.messages_of(CHANNEL));
        let new = all.into_iter().filter(|message| !first.contains(message) && !message.is_own());
        for message in new {
            drill.world.slack.announce_again(CHANNEL, &message.ts);
        }
        drill.answered().await;
    }
    // Long after everything is over, too.
    for message in drill.world.slack.look(|state| state.messages_of(CHANNEL)) {
        drill.world.slack.announce_again(CHANNEL, &message.ts);
    }
    drill.end("duplicates").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_another_order() {
    let Some(mut drill) = Drill::start("reorder").await else { return };
    let mut random = fastrand::Rng::with_seed(5);
    for backwards in [true, false, false] {
        drill.world.slack.hold();
        drill.stir();
        drill.stir();
        if backwards {
            drill.world.slack.release(<[usize]>::reverse);
        } else {
            drill.world.slack.release(|all| random.shuffle(all));
        }
        drill.answered().await;
    }
    drill.end("reorder").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_comes_before_its_root() {
    let Some(mut drill) = Drill::start("early-reply").await else { return };
    drill.stir();
    for way in [Way::Text, Way::Post] {
        let text = mention(&drill.traffic.next_text(way));
        let root = drill.world.slack.unheard(CHANNEL, None, ALICE, &text);
        let thread = drill.traffic.opened(CHANNEL, &root);
        drill.say(thread, way);
        drill.traffic.say(&drill.world.slack, thread, BOB, Way::Shell);
        let acked = |state: &State| state.envelopes().iter().all(|envelope| envelope.acked.is_some());
        drill.seen("ack of the reply", ANSWER, acked).await;
        drill.world.slack.announce_again(CHANNEL, &root);
        drill.answered().await;
    }
    drill.end("reply before its root").await;
}
