//! The sender's rules, pure: order, waiting, read-back, holes.
//!
//! A part that may have arrived is never sent again before its fate was looked up. [`decide`] says what is to be done
//! with the first open part of a thread; [`sent`] and [`looked_up`] say what the row becomes. The parts of a thread go
//! out one after another in their order, so that nothing of the same thread comes between them.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::chat::{DeliverError, Found, PartBody, Receipt};
use crate::clock::Timestamp;
use crate::history::HistoryError;
use crate::store::{PartRow, PartState};

/// After this many look-ups that could not decide, the part is sent once more with a mark.
pub const MAX_LOOK_UPS: u32 = 5;
/// A part is sent at most this often; each further time only after a look-up that did not find it.
pub const MAX_SENDS: u32 = 5;
/// The wait before a new try while our credentials are refused.
pub const ACCOUNT_WAIT: Duration = Duration::from_secs(30);
/// What stands in front of a part that may already have arrived.
pub const MAYBE_DUPLICATE: &str = "_(may be a duplicate)_\n";

/// What is to be done with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Wait until then.
    Wait(Timestamp),
    /// Mark it as being sent, then send it.
    Send,
    /// Look whether it stands in the thread.
    LookUp,
}

/// The part as a clock sees it that may have been set back since the row was written: an attempt that lies ahead of it counts
/// as made just now, and nothing waits for a time that it has yet to reach.
pub fn seen_at(part: &PartRow, now: Timestamp) -> PartRow {
    let mut row = part.clone();
    if part.attempted_at.unwrap_or(part.created_at) > now {
        row.attempted_at = part.attempted_at.map(|at| at.min(now));
        row.first_attempt_at = part.first_attempt_at.map(|at| at.min(now));
        row.created_at = part.created_at.min(now);
        row.not_before = now;
    }
    row
}

/// What is to be done with the first open part of a thread.
pub fn decide(part: &PartRow, now: Timestamp) -> Action {
    match part.state {
        _ if part.not_before > now => Action::Wait(part.not_before),
        PartState::Queued => Action::Send,
        // `Sending` here is a part that a crash caught between the commit and the answer.
        _ => Action::LookUp,
    }
}

/// The row while the call is made.
pub fn sending(part: &PartRow, now: Timestamp) -> PartRow {
    PartRow {
        state: PartState::Sending,
        attempts: part.attempts + 1,
        attempted_at: Some(now),
        first_attempt_at: part.first_attempt_at.or(Some(now)),
        ..part.clone()
    }
}

/// The row after the platform's answer.
pub fn sent(part: &PartRow, result: &Result<Receipt, DeliverError>, now: Timestamp) -> PartRow {
    let mut row = part.clone();
    match result {
        Ok(receipt) => {
            row.state = PartState::Sent;
            row.message.clone_from(&receipt.message);
            row.error = None;
        }
        Err(DeliverError::Temporary { reason, retry_after }) => {
            // It surely had no effect, so it does not count as sent.
            row.state = PartState::Queued;
            row.attempts = part.attempts.saturating_sub(1);
            row.look_ups = part.look_ups.saturating_add(1);
            let wait = back_off(row.look_ups, Duration::from_secs(60));
            row.not_before = now.plus(retry_after.unwrap_or(wait).max(Duration::from_millis(100)));
            row.error = Some(reason.clone());
        }
        Err(DeliverError::Unknown { reason }) => {
            row.state = PartState::Unknown;
            row.look_ups = 0;
            row.not_before = now.plus(Duration::from_secs(1));
            row.error = Some(reason.clone());
        }
        Err(DeliverError::Refused { code }) => {
            row.state = PartState::Refused;
            row.error = Some(code.clone());
        }
        Err(DeliverError::Account { code }) => {
            row.state = PartState::Queued;
            row.attempts = part.attempts.saturating_sub(1);
            row.not_before = now.plus(ACCOUNT_WAIT);
            row.error = Some(code.clone());
        }
    }
    row
}

/// The row after a look-up. `settle` is how long after an attempt "not there" may be believed; absent where the platform
/// cannot read back.
pub fn looked_up(
    part: &PartRow,
    result: &Result<Vec<Found>, HistoryError>,
    settle: Option<Duration>,
    now: Timestamp,
) -> PartRow {
    let mut row = PartRow { state: PartState::Unknown, ..part.clone() };
    if part.state == PartState::Sending {
        // Until now the field counted attempts that surely had no effect.
        row.look_ups = 0;
    }
    let Some(settle) = settle else { return send_marked(row, now) };
    match result {
        Ok(found) => {
            if let Some(found) = found.iter().find(|found| found.key == part.id) {
                row.state = PartState::Sent;
                row.message = Some(found.message.clone());
                row.error = None;
                return row;
            }
            let believable = part.attempted_at.unwrap_or(part.created_at).plus(settle);
            if believable > now {
                row.not_before = believable;
            } else if part.attempts >= MAX_SENDS {
                row.state = PartState::Refused;
                row.error = Some("never_arrived".to_owned());
            } else {
                row.state = PartState::Queued;
                row.look_ups = 0;
                row.not_before = now;
            }
            row
        }
        Err(_) if row.look_ups + 1 >= MAX_LOOK_UPS => send_marked(row, now),
        Err(HistoryError::Unavailable { retry_after, .. }) => {
            row.look_ups += 1;
            row.not_before = now.plus(retry_after.unwrap_or_else(|| back_off(row.look_ups, Duration::from_secs(30))));
            row
        }
        Err(HistoryError::Refused { .. }) => {
            row.look_ups += 1;
            row.not_before = now.plus(back_off(row.look_ups, Duration::from_secs(30)));
            row
        }
    }
}

/// Nothing could be decided: once more with a mark, and no third time.
fn send_marked(mut row: PartRow, now: Timestamp) -> PartRow {
    let PartBody::Text { markup } = &row.body;
    if markup.starts_with(MAYBE_DUPLICATE) {
        row.state = PartState::Refused;
        row.error = Some("undecided".to_owned());
        return row;
    }
    row.body = PartBody::Text { markup: format!("{MAYBE_DUPLICATE}{markup}") };
    row.state = PartState::Queued;
    row.look_ups = 0;
    row.not_before = now;
    row
}

fn back_off(tries: u32, most: Duration) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << tries.saturating_sub(1).min(16)).min(most)
}
