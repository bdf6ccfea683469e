//! Cases of the outbox.

use super::{Store, begin, key, part};
use crate::agent::TurnId;
use crate::chat::{MessageId, PartBody};
use crate::clock::Timestamp;
use crate::store::{Fingerprint, PartChange, PartRow, PartState, PostId, PostKind, Revision, SessionCommit};

const STATES: [PartState; 6] = [
    PartState::Queued,
    PartState::Sending,
    PartState::Unknown,
    PartState::Sent,
    PartState::Refused,
    PartState::Dropped,
];

fn ids(parts: &[PartRow]) -> Vec<&str> {
    parts.iter().map(|part| part.id.as_str()).collect()
}

/// The open parts of a thread come by place, those of a post by number, and threads without open parts are not named.
pub async fn parts_keep_their_order(store: Store) {
    let (one, two, done) = (key("1"), key("2"), key("3"));
    begin(&store, &one, |commit| {
        commit.parts = vec![
            part(&one, "c", 11, PartState::Queued),
            part(&one, "a", 2, PartState::Sending),
            part(&one, "sent", 1, PartState::Sent),
            part(&one, "b", 10, PartState::Unknown),
        ];
    })
    .await;
    begin(&store, &two, |commit| {
        commit.parts = vec![PartRow { post: PostId::new("q"), ..part(&two, "d", 1, PartState::Queued) }];
    })
    .await;
    begin(&store, &done, |commit| {
        commit.parts = vec![PartRow { post: PostId::new("r"), ..part(&done, "e", 1, PartState::Sent) }];
    })
    .await;
    assert_eq!(ids(&store.open_parts(&one, 9).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(ids(&store.open_parts(&one, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(ids(&store.post(&PostId::new("p")).await.unwrap()), ["sent", "a", "b", "c"]);
    assert_eq!(store.open_parts(&done, 9).await.unwrap(), []);
    assert_eq!(store.post(&PostId::new("none")).await.unwrap(), []);
    assert_eq!(store.threads_with_parts().await.unwrap(), [one, two]);
}

/// What was committed comes back field by field, in every state and of every kind; and so does what the sender changed.
pub async fn every_field_comes_back(store: Store) {
    let key = key("1");
    let kinds =
        [PostKind::Progress, PostKind::Final, PostKind::Block, PostKind::Wait, PostKind::Notice, PostKind::Notice];
    let full = |n: usize| PartRow {
        kind: kinds[n],
        fingerprint: Some(Fingerprint::new("5d41402a")),
        attempts: 3,
        attempted_at: Some(Timestamp::from_millis(7)),
        first_attempt_at: Some(Timestamp::from_millis(5)),
        look_ups: 2,
        not_before: Timestamp::from_millis(8),
        message: Some(MessageId::new("1700000000.000100")),
        error: Some("too_long".to_owned()),
        created_at: Timestamp::from_millis(4),
        ..part(&key, &n.to_string(), u64::try_from(n).unwrap() + 1, STATES[n])
    };
    let bare = PartRow { turn: None, ..part(&key, "bare", 9, PartState::Queued) };
    let parts: Vec<_> = (0..6).map(full).chain([bare.clone()]).collect();
    begin(&store, &key, |commit| commit.parts = parts.clone()).await;
    assert_eq!(store.post(&PostId::new("p")).await.unwrap(), parts);
    let marked = PartRow {
        id: bare.id.clone(),
        place: bare.place,
        number: bare.number,
        kind: bare.kind,
        turn: None,
        fingerprint: None,
        created_at: bare.created_at,
        body: PartBody::Text { markup: "may be a duplicate".to_owned() },
        ..full(2)
    };
    let change = |expected, row: &PartRow| PartChange { expected, row: row.clone() };
    assert!(store.change_parts(vec![change(PartState::Queued, &marked)]).await.unwrap());
    assert_eq!(store.post(&PostId::new("p")).await.unwrap()[6], marked);
    assert!(store.change_parts(vec![change(PartState::Unknown, &bare)]).await.unwrap());
    assert_eq!(store.post(&PostId::new("p")).await.unwrap(), parts);
}

/// A stop drops what was not yet sent in its thread, and nothing that comes with it.
pub async fn a_stop_drops_what_was_not_sent(store: Store) {
    let (key, other) = (key("1"), key("2"));
    let part_in = |n: usize| part(&key, &n.to_string(), u64::try_from(n).unwrap(), STATES[n]);
    let fence = begin(&store, &key, |commit| commit.parts = (0..6).map(part_in).collect()).await;
    let untouched =
        PartRow { post: PostId::new("o"), turn: Some(TurnId::new("t2")), ..part(&other, "o", 1, STATES[0]) };
    begin(&store, &other, |commit| commit.parts = vec![untouched.clone()]).await;
    let mut stop = SessionCommit::empty(key.clone(), fence, Revision(1));
    stop.drop_queued_parts = true;
    stop.parts = vec![PartRow { post: PostId::new("q"), ..part(&key, "q", 9, PartState::Queued) }];
    store.commit(stop).await.unwrap();
    assert_eq!(ids(&store.open_parts(&key, 10).await.unwrap()), ["1", "2", "q"]);
    let states: Vec<_> = store.post(&PostId::new("p")).await.unwrap().into_iter().map(|part| part.state).collect();
    assert_eq!(states, [&[PartState::Dropped], &STATES[1..]].concat());
    assert_eq!(store.open_parts(&other, 10).await.unwrap(), [untouched]);
}

/// A change of parts takes effect only when every row is still what the sender believes it to be.
pub async fn of_two_deciders_the_first_wins(store: Store) {
    let key = key("1");
    begin(&store, &key, |commit| {
        commit.parts = vec![part(&key, "p.1", 1, PartState::Queued), part(&key, "p.2", 2, PartState::Dropped)];
    })
    .await;
    let sending = |id: &str, place| PartChange {
        expected: PartState::Queued,
        row: PartRow { attempts: 1, ..part(&key, id, place, PartState::Sending) },
    };
    assert!(!store.change_parts(vec![sending("p.1", 1), sending("p.2", 2)]).await.unwrap());
    assert!(!store.change_parts(vec![sending("p.1", 1), sending("nobody", 2)]).await.unwrap());
    assert_eq!(store.open_parts(&key, 1).await.unwrap()[0].state, PartState::Queued, "all or none");
    assert!(store.change_parts(vec![sending("p.1", 1)]).await.unwrap());
    assert!(!store.change_parts(vec![sending("p.1", 1)]).await.unwrap());
    assert_eq!(store.open_parts(&key, 9).await.unwrap(), [sending("p.1", 1).row]);
    assert!(store.change_parts(Vec::new()).await.unwrap(), "nothing to change is no disagreement");
}
