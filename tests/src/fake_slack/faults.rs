//! What can go wrong with a call, on demand.

use std::time::Duration;

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
