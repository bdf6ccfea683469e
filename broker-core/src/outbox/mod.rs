//! The sender's rules, pure: order, waiting, read-back, holes.
//!
//! A part that may have arrived is never sent again before its fate was looked up. [`decide`] says what is to be done
//! with the first open part of a thread; [`sent`] and [`looked_up`] say what the row becomes. The parts of a thread go
//! out one after another in their order, so that nothing of the same thread comes between them.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::chat::{DeliverError, Found, OpKey, PartBody, Receipt};
use crate::clock::Timestamp;
use crate::history::HistoryError;
use crate::sabotage::{Plant, planted};
use crate::store::{PartRow, PartState};

/// After this many look-ups that the platform refused, the part is sent once more with a mark. One that got no answer says
/// nothing, however often: an outage is waited out.
pub const MAX_LOOK_UPS: u32 = 5;
/// A part that was sent this often, each further time after a look-up that did not find it, is given up, but not before
/// [`GIVE_UP_AFTER`].
pub const MAX_SENDS: u32 = 5;
/// As long as this a platform may fail with every call that has an effect, and nothing is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30 * 60);
/// A file that nobody has seen is tried this often before it is given up, and for [`GIVE_UP_AFTER`] at the least. A platform that
/// says when it wants to be asked again has not failed.
pub const MAX_UPLOADS: u32 = 40;
/// After [`LONGEST_UPLOADING`] so many tries are enough.
const MIN_UPLOADS: u32 = 3;
/// After so long a file is given up that takes hours each time: what follows it in the thread waits.
pub const LONGEST_UPLOADING: Duration = Duration::from_secs(6 * 60 * 60);
/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// What a platform says of a file that was handed over and is no longer there.
pub const GONE: &str = "file_not_found";
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
    /// Hand its file over, which nobody sees yet.
    Upload,
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
        PartState::Queued if part.body.to_upload().is_some() => Action::Upload,
        PartState::Queued => Action::Send,
        _ if planted(Plant::ResendWithoutReadBack) => Action::Send,
        // `Sending` here is a part that a crash caught between the commit and the answer.
        _ => Action::LookUp,
    }
}

/// By which key the part is found in its thread.
pub fn sought(part: &PartRow) -> OpKey {
    match &part.body {
        PartBody::File { file } => file.uploaded.as_ref().map_or_else(|| part.id.clone(), OpKey::new),
        PartBody::Text { .. } => part.id.clone(),
    }
}

/// The row after its file was handed over, or could not be. Nobody has seen it in any case: it may be handed over again.
pub fn uploaded(part: &PartRow, result: &Result<Receipt, DeliverError>, now: Timestamp) -> PartRow {
    let mut row = part.clone();
    let answer = result.as_ref().map(|receipt| receipt.file.clone());
    match (answer, &mut row.body) {
        (Ok(id @ Some(_)), PartBody::File { file }) => {
            file.uploaded = id;
            row.look_ups = 0;
            // From here on it is the time of its first attempt to be posted.
            row.first_attempt_at = None;
            row.not_before = now;
            row.error = None;
        }
        (Ok(_), _) => {
            row.state = PartState::Refused;
            row.error = Some("no_file_id".to_owned());
        }
        (Err(DeliverError::Unknown { reason }), _) => {
            let surely = DeliverError::Temporary { reason: reason.clone(), retry_after: None };
            return uploaded(part, &Err(surely), now);
        }
        (Err(DeliverError::Temporary { retry_after, .. }), _) => {
            let first = *row.first_attempt_at.get_or_insert(now);
            row.attempts += 1;
            row = sent(&row, result, now);
            if retry_after.is_some() {
                row.look_ups = part.look_ups;
            }
            let tried = now.since(first);
            let failed = |tries, after| row.look_ups >= tries && tried >= after;
            if failed(MAX_UPLOADS, GIVE_UP_AFTER) || failed(MIN_UPLOADS, LONGEST_UPLOADING) {
                row.state = PartState::Refused;
            }
        }
        (Err(_), _) => {
            // An account that is refused says nothing of the file, however long that lasts.
            row.first_attempt_at = None;
            // No attempt to post was made that could be taken back.
            row.attempts += 1;
            return sent(&row, result, now);
        }
    }
    row
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
            let wait = back_off(row.look_ups, MAX_WAIT);
            row.not_before = now.plus(retry_after.unwrap_or(wait).max(Duration::from_millis(100)));
            row.error = Some(reason.clone());
        }
        Err(DeliverError::Unknown { reason }) => {
            row.state = PartState::Unknown;
            row.look_ups = 0;
            row.not_before = now.plus(Duration::from_secs(1));
            row.error = Some(reason.clone());
        }
        // What was handed over and not posted for long is gone. Nothing of it was seen, unless an attempt before this one was in
        // doubt: then the platform may mean that it is posted already.
        Err(DeliverError::Refused { code }) if code == GONE && part.attempts < MAX_SENDS => {
            if part.attempts > 1 && matches!(row.body, PartBody::File { .. }) {
                row.state = PartState::Unknown;
                row.look_ups = 0;
                row.not_before = now.plus(Duration::from_secs(1));
            } else if let PartBody::File { file } = &mut row.body {
                file.uploaded = None;
                row.state = PartState::Queued;
                row.not_before = now.plus(back_off(part.attempts, MAX_WAIT));
            } else {
                row.state = PartState::Refused;
            }
            row.error = Some(code.clone());
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
            let key = sought(part);
            if let Some(found) = found.iter().find(|found| found.key == key) {
                row.state = PartState::Sent;
                row.message = Some(found.message.clone());
                row.error = None;
                return row;
            }
            let believable = part.attempted_at.unwrap_or(part.created_at).plus(settle);
            if believable > now {
                row.not_before = believable;
            } else if part.attempts >= MAX_SENDS && tried_for(part, now) >= GIVE_UP_AFTER {
                row.state = PartState::Refused;
                row.error = Some("never_arrived".to_owned());
            } else {
                row.state = PartState::Queued;
                row.look_ups = 0;
                if let PartBody::File { file } = &mut row.body
                    && row.error.as_deref() == Some(GONE)
                {
                    // It is gone, and stands nowhere.
                    file.uploaded = None;
                }
                // The look-up has waited already; a platform that fails for longer is not asked more and more often.
                row.not_before = if part.attempts < MAX_SENDS { now } else { now.plus(MAX_WAIT) };
            }
            row
        }
        Err(HistoryError::Unavailable { retry_after, .. }) => {
            // The longer it lasts, the longer the wait: half of what has passed since the attempt.
            let passed = now.since(part.attempted_at.unwrap_or(part.created_at));
            let wait = (passed / 2).clamp(Duration::from_millis(500), MAX_WAIT);
            row.not_before = now.plus(retry_after.unwrap_or(wait));
            row
        }
        Err(HistoryError::Refused { .. }) if row.look_ups + 1 >= MAX_LOOK_UPS => send_marked(row, now),
        Err(HistoryError::Refused { .. }) => {
            row.look_ups += 1;
            row.not_before = now.plus(back_off(row.look_ups, Duration::from_secs(30)));
            row
        }
    }
}

/// How long ago a part was sent for the first time.
fn tried_for(part: &PartRow, now: Timestamp) -> Duration {
    part.first_attempt_at.map_or(Duration::ZERO, |first| now.since(first))
}

/// Nothing could be decided: once more with a mark, and no third time.
fn send_marked(mut row: PartRow, now: Timestamp) -> PartRow {
    let said = match &mut row.body {
        PartBody::Text { markup } => markup,
        PartBody::File { file } => &mut file.comment,
    };
    if said.starts_with(MAYBE_DUPLICATE) {
        row.state = PartState::Refused;
        row.error = Some("undecided".to_owned());
        return row;
    }
    said.insert_str(0, MAYBE_DUPLICATE);
    row.state = PartState::Queued;
    row.look_ups = 0;
    row.not_before = now;
    row
}

fn back_off(tries: u32, most: Duration) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << tries.saturating_sub(1).min(16)).min(most)
}
