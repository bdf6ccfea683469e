//! `GET /metrics`: the recorder, and the figures that somebody has to be asked for.

use std::sync::Arc;
use std::time::Duration;

use broker_core::clock::{Clock, Timestamp};
use broker_core::engine::TurnCounts;
use broker_core::store::StateStore;
use broker_core::telemetry::{self, Kind};
use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// The bounds of histograms, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 60.0];
/// How often what was counted is put in order: what waits for that grows with each measured time.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

/// What was counted since the start.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    handle: PrometheusHandle,
}

impl Figures {
    /// Installs the recorder of the process.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in telemetry::ALL.iter().filter(|metric| metric.kind == Kind::Seconds) {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &BUCKETS)?;
        }
        let handle = builder.install_recorder()?;
        telemetry::describe();
        for metric in telemetry::ALL {
            // From the start, so that nobody wonders whether there is such a metric.
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name).absolute(0),
                Kind::Gauge => gauge!(metric.name).set(0.0),
                Kind::Seconds => drop(metrics::histogram!(metric.name)),
            }
        }
        Ok(Self { handle })
    }

    /// Puts what was counted in order.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Everything, in the text format of Prometheus.
    pub(crate) async fn text(&self, store: Arc<dyn StateStore>, clock: Arc<dyn Clock>) -> String {
        // A store that cannot be read leaves its figures as they were; readiness says what is wrong with it.
        if let Ok(counts) = store.counts().await {
            let now = clock.now();
            let age = |oldest: Option<Timestamp>| oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "a count that is off by one in 2^53")]
            for (name, count) in [
                (telemetry::SESSIONS, counts.sessions as f64),
                (telemetry::JOURNAL_UNREAD, counts.journal_unread as f64),
                (telemetry::INBOX_OPEN, counts.inbox_open as f64),
                (telemetry::INBOX_AGE, age(counts.inbox_oldest)),
                (telemetry::OUTBOX_OPEN, counts.parts_open as f64),
                (telemetry::OUTBOX_AGE, age(counts.parts_oldest)),
            ] {
                gauge!(name).set(count);
            }
        }
        // Files, if only of the kernel's; whoever scrapes gets the last figures when that panics.
        let _ = tokio::task::spawn_blocking(process).await;
        self.handle.render()
    }
}

/// How many turns run and wait.
pub(crate) fn turns(counts: TurnCounts) {
    #[expect(clippy::cast_precision_loss, reason = "a count that is off by one in 2^53")]
    for (name, count) in
        [(telemetry::TURNS_ACTIVE, counts.active as f64), (telemetry::TURNS_WAITING, counts.waiting as f64)]
    {
        gauge!(name).set(count);
    }
}

/// What the process uses, where the system says so (`/proc` of Linux).
fn process() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    for (metric, value) in
        [(telemetry::MEMORY, number("VmRSS:").map(|kib| kib * 1024.0)), (telemetry::THREADS, number("Threads:"))]
    {
        if let Some(value) = value {
            gauge!(metric).set(value);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        #[expect(clippy::cast_precision_loss, reason = "a count that is off by one in 2^53")]
        gauge!(telemetry::DESCRIPTORS).set(open.count() as f64);
    }
}
