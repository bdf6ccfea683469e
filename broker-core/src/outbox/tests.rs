//! Given this row and this answer, that row.

use std::time::Duration;

use super::*;
use crate::chat::{ConversationId, InstallationId, MessageId, OpKey, OutContent, OutFile, ThreadKey};
use crate::store::{PostId, PostKind};

const SETTLE: Option<Duration> = Some(Duration::from_secs(30));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn part(state: PartState) -> PartRow {
    PartRow {
        id: OpKey::new("k"),
        thread: ThreadKey {
            installation: InstallationId::new("T"),
            conversation: ConversationId::new("C"),
            root: MessageId::new("1"),
        },
        post: PostId::new("p"),
        place: 1,
        number: 1,
        of: 1,
        kind: PostKind::Final,
        turn: None,
        fingerprint: None,
        body: PartBody::Text { markup: "hello".to_owned() },
        state,
        attempts: 1,
        attempted_at: Some(at(100)),
        first_attempt_at: Some(at(100)),
        look_ups: 0,
        not_before: at(100),
        message: None,
        error: None,
        created_at: at(100),
    }
}

#[test]
fn what_is_to_be_done() {
    let cases = [
        (PartState::Queued, at(100), Action::Send),
        (PartState::Queued, at(99), Action::Wait(at(100))),
        (PartState::Unknown, at(99), Action::Wait(at(100))),
        (PartState::Unknown, at(100), Action::LookUp),
        (PartState::Sending, at(100), Action::LookUp),
    ];
    for (state, now, action) in cases {
        assert_eq!(decide(&part(state), now), action, "{state:?} at {now:?}");
    }
}

#[test]
fn a_clock_that_was_set_back_holds_nothing_up() {
    let back = |part: &PartRow| seen_at(part, at(50));
    assert_eq!(decide(&back(&part(PartState::Queued)), at(50)), Action::Send);
    let doubtful = back(&part(PartState::Unknown));
    assert_eq!(decide(&doubtful, at(50)), Action::LookUp);
    let absent = looked_up(&doubtful, &Ok(Vec::new()), SETTLE, at(50));
    assert_eq!((absent.state, absent.not_before), (PartState::Unknown, at(80)), "30 s by the clock as it is now");
    let absent = seen_at(&absent, at(80));
    assert_eq!(looked_up(&absent, &Ok(Vec::new()), SETTLE, at(80)).state, PartState::Queued);
    let waits = PartRow { not_before: at(160), ..part(PartState::Queued) };
    assert_eq!(seen_at(&waits, at(130)), waits, "a wait that the clock has begun is left alone");
}

#[test]
fn what_an_answer_makes_of_a_part() {
    let temporary = |retry_after| DeliverError::Temporary { reason: "ratelimited".to_owned(), retry_after };
    let unknown = DeliverError::Unknown { reason: "timeout".to_owned() };
    let cases: [(Result<Receipt, DeliverError>, PartState, i64, u32); 6] = [
        (Ok(Receipt { message: Some(MessageId::new("9")), file: None }), PartState::Sent, 100, 1),
        (Err(temporary(Some(Duration::from_secs(7)))), PartState::Queued, 117, 0),
        (Err(temporary(None)), PartState::Queued, 110, 0),
        (Err(unknown), PartState::Unknown, 111, 1),
        (Err(DeliverError::Refused { code: "is_archived".to_owned() }), PartState::Refused, 100, 1),
        (Err(DeliverError::Account { code: "invalid_auth".to_owned() }), PartState::Queued, 140, 0),
    ];
    for (answer, state, not_before, attempts) in cases {
        let row = sent(&part(PartState::Sending), &answer, at(110));
        assert_eq!((row.state, row.attempts), (state, attempts), "{answer:?}");
        assert!(row.not_before >= at(not_before), "{answer:?}: {:?}", row.not_before);
    }
}

#[test]
fn a_part_in_doubt_is_looked_up_before_it_is_sent_again() {
    let found = Found { key: OpKey::new("k"), message: MessageId::new("9") };
    let row = looked_up(&part(PartState::Unknown), &Ok(vec![found]), SETTLE, at(101));
    assert_eq!((row.state, row.message), (PartState::Sent, Some(MessageId::new("9"))));
    // "Not there" is believed only 30 seconds after the attempt.
    let row = looked_up(&part(PartState::Sending), &Ok(vec![]), SETTLE, at(129));
    assert_eq!((row.state, row.not_before), (PartState::Unknown, at(130)));
    let row = looked_up(&part(PartState::Unknown), &Ok(vec![]), SETTLE, at(130));
    assert_eq!(row.state, PartState::Queued);
    assert_eq!(row.body, part(PartState::Queued).body, "it is surely not there, so nothing is marked");
}

#[test]
fn five_look_ups_that_are_refused_lead_to_one_marked_try() {
    let silent = || Err(HistoryError::Refused { code: "missing_scope".to_owned() });
    let mut row = part(PartState::Unknown);
    for _ in 1..MAX_LOOK_UPS {
        row = looked_up(&row, &silent(), SETTLE, row.not_before);
        assert_eq!(row.state, PartState::Unknown);
    }
    row = looked_up(&row, &silent(), SETTLE, row.not_before);
    let PartBody::Text { markup } = &row.body else { panic!("a text") };
    assert_eq!((row.state, markup.as_str()), (PartState::Queued, "_(may be a duplicate)_\nhello"));
    // And no third time.
    row.look_ups = MAX_LOOK_UPS;
    assert_eq!(looked_up(&row, &silent(), SETTLE, at(500)).state, PartState::Refused);
    // A platform that cannot read back decides nothing.
    assert_eq!(looked_up(&part(PartState::Unknown), &Ok(vec![]), None, at(500)).state, PartState::Queued);
}

#[test]
fn a_part_that_never_arrives_is_given_up_after_some_tries() {
    let mut row = part(PartState::Unknown);
    row.attempts = MAX_SENDS;
    assert_eq!(looked_up(&row, &Ok(vec![]), SETTLE, at(500)).state, PartState::Queued, "for half an hour it is tried");
    let row = looked_up(&row, &Ok(vec![]), SETTLE, at(100 + 30 * 60));
    assert_eq!((row.state, row.error.as_deref()), (PartState::Refused, Some("never_arrived")));
}

/// What a platform does in an outage.
type Outage = fn(&PartRow, Action) -> Option<bool>;

#[test]
fn an_outage_of_twenty_minutes_loses_and_doubles_nothing() {
    // Whether a call has its effect; nothing when it is not answered.
    let outages: [(&str, Outage); 3] = [
        ("nothing is answered, and what is sent is lost", |_, _| None),
        ("nothing is answered, and the first that was sent stands there", |row, action| {
            (action == Action::Send && row.attempts == 1).then_some(true)
        }),
        ("look-ups are answered", |_, action| (action == Action::LookUp).then_some(false)),
    ];
    for (what, outage) in outages {
        let (mut row, mut now, mut standing, mut calls) = (part(PartState::Queued), at(100), 0, 0);
        row.attempts = 0;
        let over = at(100 + 20 * 60);
        while !matches!(row.state, PartState::Sent | PartState::Refused) {
            calls += 1;
            let well = now >= over;
            match decide(&row, now) {
                Action::Wait(until) => now = until,
                Action::Send => {
                    row = sending(&row, now);
                    standing += usize::from(well || outage(&row, Action::Send).is_some());
                    let unknown = DeliverError::Unknown { reason: "http_503".to_owned() };
                    let receipt = Receipt { message: Some(MessageId::new("9")), file: None };
                    row = sent(&row, &if well { Ok(receipt) } else { Err(unknown) }, now);
                }
                Action::LookUp => {
                    let found = Found { key: OpKey::new("k"), message: MessageId::new("9") };
                    let answer = if well || outage(&row, Action::LookUp).is_some() {
                        Ok(if standing > 0 { vec![found] } else { Vec::new() })
                    } else {
                        Err(HistoryError::Unavailable { reason: "http_503".to_owned(), retry_after: None })
                    };
                    row = looked_up(&row, &answer, SETTLE, now);
                }
                Action::Upload => unreachable!("it is a text"),
            }
        }
        assert_eq!((row.state, standing), (PartState::Sent, 1), "{what}");
        assert_eq!(row.body, part(PartState::Queued).body, "{what}: there was no reason for a mark");
        assert!(now.since(over) < Duration::from_secs(120) && calls < 150, "{what}: {now:?}, {calls} calls");
    }
}

fn file_part(uploaded: Option<&str>) -> PartRow {
    let file = OutFile {
        name: "a.csv".to_owned(),
        title: None,
        alt_text: None,
        snippet_type: None,
        content_type: None,
        comment: "here".to_owned(),
        bytes: 3,
        content: OutContent::Text { text: "a,b".to_owned() },
        uploaded: uploaded.map(str::to_owned),
    };
    let body = PartBody::File { file: Box::new(file) };
    PartRow { body, attempts: 0, not_before: at(0), ..part(PartState::Queued) }
}

#[test]
fn a_file_is_handed_over_before_it_is_posted_and_its_id_is_in_the_row_by_then() {
    let row = file_part(None);
    assert_eq!(decide(&row, at(0)), Action::Upload);
    // Nobody has seen anything: an answer that was lost is no doubt, it is handed over again.
    let lost = uploaded(&row, &Err(DeliverError::Unknown { reason: "x".to_owned() }), at(0));
    assert_eq!((lost.state, lost.attempts, decide(&lost, lost.not_before)), (PartState::Queued, 0, Action::Upload));
    let row = uploaded(&lost, &Ok(Receipt { message: None, file: Some("F1".to_owned()) }), at(5));
    assert_eq!((row.state, row.attempts, decide(&row, at(5))), (PartState::Queued, 0, Action::Send));
    assert_eq!(sought(&row), OpKey::new("F1"));
}

#[test]
fn a_file_in_doubt_is_looked_for_by_its_id_and_one_that_is_gone_is_handed_over_again() {
    let row = sending(&file_part(Some("F1")), at(0));
    let doubt = sent(&row, &Err(DeliverError::Unknown { reason: "x".to_owned() }), at(1));
    assert_eq!(doubt.state, PartState::Unknown);
    let found = Ok(vec![Found { key: OpKey::new("F1"), message: MessageId::new("9") }]);
    assert_eq!(looked_up(&doubt, &found, SETTLE, at(2)).state, PartState::Sent);
    let other = Ok(vec![Found { key: OpKey::new("F2"), message: MessageId::new("9") }]);
    assert_eq!(looked_up(&doubt, &other, SETTLE, at(2)).state, PartState::Unknown);
    let is_gone = Err(DeliverError::Refused { code: GONE.to_owned() });
    let gone = sent(&row, &is_gone, at(1));
    assert_eq!((gone.state, decide(&gone, gone.not_before)), (PartState::Queued, Action::Upload));
    // After an attempt in doubt it may be gone because it is posted: it is looked for first.
    let nothing = Ok(Vec::new());
    let again = sending(&looked_up(&doubt, &nothing, SETTLE, at(40)), at(40));
    let gone = sent(&again, &is_gone, at(41));
    assert_eq!(decide(&gone, gone.not_before), Action::LookUp);
    assert_eq!(looked_up(&gone, &found, SETTLE, at(42)).state, PartState::Sent);
    let nowhere = looked_up(&gone, &nothing, SETTLE, at(90));
    assert_eq!(decide(&nowhere, nowhere.not_before), Action::Upload);
}

#[test]
fn a_file_that_cannot_be_handed_over_is_given_up() {
    // How long a try takes, and when the platform wants the next; how many tries there are, and how long that takes.
    let tried = |takes: u64, retry_after: Option<u64>| {
        let (mut row, mut now, mut tries) = (file_part(None), at(0), 0);
        while row.state == PartState::Queued && tries < 50_000 {
            now = now.max(row.not_before).plus(Duration::from_secs(takes));
            let retry_after = retry_after.map(Duration::from_secs);
            row = uploaded(&row, &Err(DeliverError::Temporary { reason: "x".to_owned(), retry_after }), now);
            tries += 1;
        }
        assert_eq!(row.error.as_deref(), Some("x"));
        (tries, now.since(at(0)))
    };
    let (tries, took) = tried(0, None);
    assert!(tries == MAX_UPLOADS && took >= GIVE_UP_AFTER, "{tries} {took:?}");
    // An upload that drips, and a platform that names a time for as long as that lasts.
    let hours = |took: Duration| took.as_secs() / 3600;
    let (tries, took) = tried(3 * 3600, None);
    assert!(tries <= 4 && hours(took) <= 12, "{tries} {took:?}");
    assert_eq!(tried(0, Some(1)).0, 50_000, "no failure of the file's");
    // One failure, and then nothing for long: the account was refused, or there was no broker.
    let temporary = Err(DeliverError::Temporary { reason: "x".to_owned(), retry_after: None });
    let refused = Err(DeliverError::Account { code: "token_revoked".to_owned() });
    let late = at(9 * 3600);
    for between in [Some(&refused), None] {
        let mut row = uploaded(&file_part(None), &temporary, at(0));
        row = between.map_or(row.clone(), |answer| uploaded(&row, answer, at(1)));
        assert_eq!(uploaded(&row, &temporary, late).state, PartState::Queued);
    }
    let refused = uploaded(&file_part(None), &Err(DeliverError::Refused { code: "no".to_owned() }), at(0));
    assert_eq!((refused.state, refused.error.as_deref()), (PartState::Refused, Some("no")));
}
