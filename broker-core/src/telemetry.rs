//! The names of everything that is counted.
//!
//! The crates count through the facade of the `metrics` crate: without a recorder that costs next to nothing, and a program
//! that embeds the broker installs whatever recorder it likes. Labels have few values: never a channel, a person or a thread.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often which length of time, in seconds.
    Seconds,
}

/// A metric: its name, what it is, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, after <https://prometheus.io/docs/practices/naming>.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All of them.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metrics! {
    ENVELOPES = Counter "broker_envelopes_total",
        "Envelopes that were committed, by whether they were `new` or a `redelivery`.";
    COMMIT_SECONDS = Seconds "broker_envelope_commit_seconds",
        "From an envelope to its commit, after which it is acknowledged.";
    ACKS = Counter "broker_acks_total", "Acknowledgements that were sent to Slack.";
    TURNS = Counter "broker_turns_total", "Turns that ended, by `outcome`: completed, interrupted, failed, cut.";
    TOOL_CALLS = Counter "broker_tool_calls_total", "Calls of the broker's tools by the agent, by `tool`.";
    TOOL_ANSWERS = Counter "broker_tool_answers_total", "Answers to them, by `result`: done or refused.";
    SLACK_CALLS = Counter "broker_slack_calls_total",
        "Calls of Slack's Web API, by `method` and `result`: ok, refused, limited, unknown, not_sent.";
    SLACK_SECONDS = Seconds "broker_slack_call_seconds", "How long these took, the wait for their turn apart.";
    LIMITER_SECONDS = Seconds "broker_slack_limiter_wait_seconds", "How long calls waited for their turn.";
    LINKS = Counter "broker_socket_links_total", "Socket links that were opened.";
    LINK_TROUBLES = Counter "broker_socket_troubles_total", "Tries to open a socket link that failed.";
    RECOVERIES = Counter "broker_recovery_passes_total", "Searches for missed messages that came to their end.";
    RECOVERED = Counter "broker_recovered_messages_total", "Messages that were found by them.";
    PANICS = Counter "broker_panics_total", "Panics in the task of one thread, which begins anew, by `task`.";
    SESSIONS = Gauge "broker_sessions", "Sessions there are.";
    JOURNAL_UNREAD = Gauge "broker_journal_unread", "Envelopes that wait to be read.";
    INBOX_OPEN = Gauge "broker_inbox_open", "Messages that wait for the agent, or of which it is not known whether it has them.";
    INBOX_AGE = Gauge "broker_inbox_oldest_age_seconds", "How long the oldest of them waits.";
    OUTBOX_OPEN = Gauge "broker_outbox_open", "Parts of posts that are not in Slack yet.";
    OUTBOX_AGE = Gauge "broker_outbox_oldest_age_seconds", "How long the oldest of them waits.";
    TURNS_ACTIVE = Gauge "broker_turns_active", "Threads that the agent works on.";
    TURNS_WAITING = Gauge "broker_turns_waiting", "Threads that wait for one of these to end.";
    MEMORY = Gauge "process_resident_memory_bytes", "Memory of the broker's process, without that of the agent's.";
    DESCRIPTORS = Gauge "process_open_fds", "Open file descriptors of the broker's process.";
    THREADS = Gauge "process_threads", "Threads of the broker's process.";
}

/// Tells the recorder what each metric is. To be called after the recorder was installed.
pub fn describe() {
    for Metric { name, kind, help } in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Seconds => metrics::describe_histogram!(*name, metrics::Unit::Seconds, *help),
        }
    }
}
