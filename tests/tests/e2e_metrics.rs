#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! `/metrics` of a broker that has worked, read by a small reader of Prometheus' text format.

use std::collections::BTreeMap;

use broker_core::telemetry::{self, Kind};
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};

/// What a scrape says: the type of each metric, and the value of each sample by its name and labels.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// After <https://prometheus.io/docs/instrumenting/exposition_formats>.
    fn read(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                let value = value.parse().expect("a number");
                assert!(scrape.samples.insert(name.to_owned(), value).is_none(), "{name} twice");
            }
        }
        scrape
    }

    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_counted_and_nobody_is_named() {
    let Some(world) = World::start("metrics").await else { return };
    world.exchange("counted").await;
    world.broker.ready().await;
    let settled = async || {
        let scrape = Scrape::read(&world.broker.metrics().await);
        (scrape.get("broker_outbox_open") + scrape.get("broker_inbox_open") == 0.0).then_some(scrape)
    };
    let scrape = poll(ANSWER, settled).await.expect("nothing is open in the end");
    for metric in telemetry::ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Seconds => "histogram",
        };
        assert_eq!(scrape.types.get(metric.name).map(String::as_str), Some(kind), "{}", metric.name);
    }
    assert!(scrape.get("broker_envelopes_total{delivery=\"new\"}") >= 1.0);
    assert!(scrape.get("broker_acks_total") >= 1.0);
    assert_eq!(scrape.get("broker_turns_total{outcome=\"completed\"}"), 1.0);
    assert!(scrape.get("broker_slack_calls_total{method=\"chat.postMessage\",result=\"ok\"}") >= 1.0);
    assert!(scrape.get("broker_envelope_commit_seconds_count") >= 1.0);
    assert!(scrape.get("broker_recovery_passes_total") >= 1.0);
    assert_eq!(scrape.get("broker_sessions"), 1.0);
    assert!(scrape.get("process_resident_memory_bytes") > 1_000_000.0);
    let text = world.broker.metrics().await;
    for name in ["C0GENERAL", "U0ALICE", "T0TEAM", "xoxb", "xapp"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
    let readiness = world.broker.readiness().await.expect("an answer");
    assert_eq!(readiness["parts"]["turns"]["ok"], true);
    // It is looked at once a second.
    let sessions = &readiness["parts"]["sessions"];
    assert!(sessions["ok"] == true && sessions["live"].is_u64() && sessions["resting"] == 0, "{sessions}");
    let connections = readiness["parts"]["socket"]["connections"].as_array().expect("each connection");
    assert_eq!(connections.len(), 2);
    for connection in connections {
        assert_eq!(connection["state"], "open", "{connection}");
        assert!(connection["since_ms"].is_u64() && connection["last_frame_ms"].is_u64(), "{connection}");
    }
    world.finish().await;
}
