#![forbid(unsafe_code)]
//! A stream of twenty messages a second while Slack refreshes every connection three times and cuts every connection three
//! times: nothing is lost, nothing is given or answered twice, and at a refresh no moment is without a connection.
//!
//! How many connections are open is counted by the fake Slack, at every opening and every end; what became of the messages
//! is counted in Slack and in what the model was shown.

use std::time::Duration;

use broker_tests::fake_slack::{ALICE, BOB, CHANNEL, FakeSlack};
use broker_tests::traffic::{Traffic, Way};
use broker_tests::world::World;
use tokio::time::Instant;

/// Twenty a second.
const EVERY: Duration = Duration::from_millis(50);
const THREADS: usize = 10;
const ROUNDS: usize = 3;
/// The broker's usual number.
const CONNECTIONS: usize = 2;
/// From the announcement to the end of a connection, as Slack has it.
const GRACE: Duration = Duration::from_secs(10);
/// What stood so long is replaced at once when Slack announces its end.
const STOOD: Duration = Duration::from_millis(5_200);
/// The broker waits up to four seconds between tries here.
const STEP: Duration = Duration::from_secs(30);
/// From the last message to the last answer.
const SETTLE: Duration = Duration::from_secs(90);

/// What is done to the connections next, and when.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// All have stood for a while: refresh them.
    Refresh,
    /// All were replaced since then: cut them.
    Cut(Instant),
    /// All are back.
    Back,
}

/// The disturbance of the stream.
struct Weather {
    next: Next,
    since: Instant,
    rounds: usize,
    /// The fewest open connections at each refresh.
    fewest: Vec<usize>,
}

impl Weather {
    /// Looks, and acts where it is time to; says what it did.
    fn pass(&mut self, slack: &FakeSlack) -> Option<&'static str> {
        assert!(
            self.since.elapsed() < STEP,
            "{:?} is not reached; {:?}",
            self.next,
            slack.look(|it| it.standing_since())
        );
        let now = Instant::now();
        let standing = slack.look(|state| state.standing_since());
        if standing.len() < CONNECTIONS {
            return None;
        }
        let did = match self.next {
            Next::Refresh if standing.iter().all(|opened| now - *opened >= STOOD) => {
                // The reasons that Slack gives.
                slack.disconnect(["refresh_requested", "warning"][self.rounds % 2], GRACE);
                self.next = Next::Cut(now);
                "Slack refreshes every connection"
            }
            // The old ones are closed by the broker, long before the grace is over.
            Next::Cut(refreshed) if slack.connections() == CONNECTIONS => {
                self.fewest.push(slack.look(|state| state.fewest_connections_since(refreshed)));
                slack.drop_sockets();
                self.next = Next::Back;
                "every connection is cut"
            }
            Next::Back if standing.iter().all(|opened| *opened > self.since) => {
                self.rounds += 1;
                self.next = Next::Refresh;
                "the connections are back"
            }
            _ => return None,
        };
        self.since = now;
        Some(did)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_three_refreshes_and_three_cuts_loses_and_doubles_nothing() {
    // Everything is logged: a ticket would be among it.
    let Some(world) = World::with("stream", &[("LOG_LEVEL", "trace")]).await else { return };
    let mut traffic = Traffic::new(&world);
    let mut weather = Weather { next: Next::Refresh, since: Instant::now(), rounds: 0, fewest: Vec::new() };
    let begun = Instant::now();
    let mut pace = tokio::time::interval(EVERY);
    let mut said = 0_usize;
    // A few more after the last round, on the connections that came back.
    let mut after = 0;
    while after < 10 {
        pace.tick().await;
        match said {
            0..THREADS => drop(traffic.open(&world.slack, CHANNEL, ALICE, Way::Text)),
            _ => traffic.say(&world.slack, said % THREADS, BOB, Way::Text),
        }
        said += 1;
        if weather.rounds == ROUNDS {
            after += 1;
        } else if let Some(what) = weather.pass(&world.slack) {
            traffic.event(what);
        }
    }
    let rate = said as f64 / begun.elapsed().as_secs_f64();
    traffic.settle(&world, SETTLE).await;
    let settled = begun.elapsed();
    traffic.close(&world, ALICE, SETTLE).await;
    let count = traffic.count(&world);
    println!("{rate:.1} messages a second, all answered after {settled:.1?}; {count}");
    println!("fewest open connections at each refresh: {:?}", weather.fewest);
    traffic.assert_clean(&world, &count, "cargo test -p broker-tests --test e2e_stream -- --nocapture");
    assert_eq!(weather.fewest, [CONNECTIONS; ROUNDS]);

    let ever = world.slack.look(|state| state.connections_ever());
    assert_eq!(ever, CONNECTIONS * (1 + 2 * ROUNDS), "each was opened once, refreshed thrice and opened again thrice");
    let leak = world.broker.log_lines().into_iter().find(|line| line.to_string().contains("ticket="));
    assert_eq!(leak, None);
    let health = world.broker.readiness().await.expect("the broker is there");
    assert_eq!(health["parts"]["socket"]["strangers"], 0, "{health}");
    world.finish().await;
}
