//! What can go wrong with a call, on demand.

use std::time::Duration;

use super::FakeSlack;

/// What happens to a call instead of an ordinary answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The answer comes late, and is right.
    Delay(Duration),
    /// It is done, and answered late.
    DoneThenDelay(Duration),
    /// No answer, nothing done; the connection stays open.
    Hang,
    /// An HTTP status with an HTML body, nothing done.
    Status(u16),
    /// It is done, and then answered with an HTTP status.
    DoneThenStatus(u16),
    /// HTTP 429 with `Retry-After` in seconds, nothing done.
    RateLimited(u64),
    /// HTTP 200 with a page that is not JSON, nothing done.
    NotJson,
    /// `{"ok":false,"error":…}`, nothing done.
    Error(&'static str),
    /// It is done, and then answered with `{"ok":false,"error":…}`.
    DoneThenError(&'static str),
    /// It is done, and never answered; the connection stays open.
    DoneThenHang,
    /// It is done, and the connection closes before the answer.
    LoseAnswer,
    /// The connection closes, and it is done after this time.
    LandsLate(Duration),
    /// The connection closes, nothing done.
    Drop,
}

/// A trouble that waits for its calls.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) method: String,
    pub(super) trouble: Trouble,
    /// Only calls whose arguments, as JSON, hold this text.
    pub(super) holding: Option<String>,
    pub(super) times: usize,
}

impl FakeSlack {
    /// Nothing goes through the open connections any more, in either direction, and nobody closes them. Slack gives them up
    /// after `limit`.
    pub fn half_open(&self, limit: Duration) {
        let open: Vec<_> = self.shared.state.read(|state| {
            let open = state.connections.iter().filter(|connection| connection.is_open());
            open.map(|connection| (connection.dead.clone(), connection.abort.clone())).collect()
        });
        for (dead, _) in &open {
            dead.cancel();
        }
        let stop = self.server.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(limit) => {}
            }
            for (_, abort) in open {
                abort.cancel();
            }
        });
    }

    /// Forgets what a long run would gather without end: calls, statuses, and the payloads of envelopes that are settled.
    pub fn forget_settled(&self) {
        self.shared.state.change(|state| state.forget_settled());
    }

    /// Keeps envelopes back.
    pub fn hold(&self) {
        self.shared.state.change(|state| state.held = true);
    }

    /// Lets go the envelopes that were kept back, in an order of the test's own.
    pub fn release<T>(&self, order: impl FnOnce(&mut [usize]) -> T) {
        self.shared.state.change(|state| {
            order(&mut state.pending);
            state.held = false;
        });
    }

    /// The next acknowledgements get lost.
    pub fn lose_acks(&self, count: usize) {
        self.shared.state.change(|state| state.lost_acks = count);
    }

    /// Every call with the bot token is refused with this code, or no more.
    pub fn refuse_bot_token(&self, code: Option<&'static str>) {
        self.shared.state.change(|state| state.refusal = code);
    }

    /// Slack's clock is ahead of this machine's by so many milliseconds, or behind it. From the machine's side it is the
    /// machine's clock that is wrong. Before the first message: Slack's own clock never goes back.
    pub fn set_clock_ahead(&self, millis: i64) {
        self.shared.state.change(|state| state.ahead = millis);
    }

    /// Archives a conversation, or takes it out of the archive.
    ///
    /// # Panics
    ///
    /// When the workspace does not have it.
    pub fn archive(&self, channel: &str, archived: bool) {
        let known = |state: &mut super::State| {
            state.channels.get_mut(channel).map(|channel| channel.archived = archived).is_some()
        };
        assert!(self.shared.state.change(known), "there is no {channel}");
    }
}
