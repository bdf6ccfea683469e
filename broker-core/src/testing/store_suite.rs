//! What every [`StateStore`] has to do.
//!
//! Each case is a function that takes an empty store and panics where the store is wrong; [`all`] runs every one of them.
#![expect(clippy::unwrap_used, reason = "a conformance suite panics where the store is wrong")]

use std::sync::Arc;

use crate::agent::{AgentThreadId, InputId, TurnId};
use crate::chat::{
    Author, ChatMessage, ChatTime, ConversationId, ConversationKey, ConversationKind, InstallationId, MessageId, OpKey,
    PartBody, Person, PersonId, RawEnvelope, Standing, ThreadKey,
};
use crate::clock::Timestamp;
use crate::store::{
    Backfill, CommitError, Fence, InboxKind, InboxRow, InboxState, JournalFate, JournalId, OwnerId, PartChange,
    PartRow, PartState, PostId, PostKind, Revision, SessionCommit, SessionId, SessionRecord, SessionRows, StateStore,
    TurnRow,
};

type Store = Arc<dyn StateStore>;

/// Runs every case, each on a store of its own.
pub async fn all(mut make: impl FnMut() -> Store) {
    one_row_per_key(make()).await;
    rows_are_settled_once(make()).await;
    unrouted_rows_come_back_once(make()).await;
    old_rows_are_deleted_and_unread_ones_kept(make()).await;
    an_old_claim_is_void(make()).await;
    a_step_is_all_or_nothing(make()).await;
    a_message_is_one_inbox_row(make()).await;
    what_is_open_is_loaded(make()).await;
    sessions_with_work_are_found(make()).await;
    parts_keep_their_order(make()).await;
    of_two_deciders_the_first_wins(make()).await;
    people_are_remembered(make()).await;
    things_are_counted(make()).await;
}

fn envelope(key: &str, at: i64) -> RawEnvelope {
    RawEnvelope {
        key: key.to_owned(),
        kind: "events_api".to_owned(),
        retry_attempt: 0,
        received_at: Timestamp::from_millis(at),
        raw: vec![0xff, 0x00, b'x'],
    }
}

fn conversation(name: &str) -> ConversationKey {
    ConversationKey { installation: InstallationId::new("T1"), conversation: ConversationId::new(name) }
}

fn key(root: &str) -> ThreadKey {
    let ConversationKey { installation, conversation } = conversation("C1");
    ThreadKey { installation, conversation, root: MessageId::new(root) }
}

fn owner() -> OwnerId {
    OwnerId::new("owner")
}

fn message(key: &ThreadKey, id: &str) -> ChatMessage {
    ChatMessage {
        conversation: key.conversation_key(),
        conversation_kind: ConversationKind::Channel,
        id: MessageId::new(id),
        at: ChatTime::from_micros(id.parse().unwrap()),
        thread_root: Some(key.root.clone()),
        author: Author::Person { id: PersonId::new("U1"), team: None },
        text: "grüße 🦀 'quoted'".to_owned(),
        mentions: Vec::new(),
        mentions_self: false,
        control_text: String::new(),
        files: Vec::new(),
        externally_shared: false,
    }
}

fn record(key: &ThreadKey) -> SessionRecord {
    SessionRecord {
        key: key.clone(),
        id: SessionId::new("s"),
        channel_name: Some("general".to_owned()),
        conversation_kind: ConversationKind::Channel,
        started_by: PersonId::new("U1"),
        started_with: MessageId::new("1"),
        folder: "C1-1".to_owned(),
        agent_thread: Some(AgentThreadId::new("th")),
        agent_confirmed: true,
        running_turn: None,
        watermark: ChatTime::from_micros(7),
        stopped_at: ChatTime::ZERO,
        last_notice: None,
        next_number: 3,
        created_at: Timestamp::from_millis(1),
        last_activity: Timestamp::from_millis(2),
    }
}

fn row(key: &ThreadKey, id: &str, place: &str, state: InboxState) -> InboxRow {
    InboxRow {
        id: InputId::new(id),
        session: key.clone(),
        kind: InboxKind::Message,
        state,
        at: ChatTime::from_micros(place.parse().unwrap()),
        message: Some(message(key, place)),
        notice: None,
        people: Vec::new(),
        backfill: Backfill::None,
        late: false,
        attempts: 0,
        not_before: Timestamp::from_millis(0),
        given_to: (state != InboxState::Queued).then(|| AgentThreadId::new("th")),
        turn: None,
        created_at: Timestamp::from_millis(0),
    }
}

fn part(key: &ThreadKey, id: &str, place: u64, state: PartState) -> PartRow {
    PartRow {
        id: OpKey::new(id),
        thread: key.clone(),
        post: PostId::new("p"),
        place,
        number: u32::try_from(place).unwrap(),
        of: 3,
        kind: PostKind::Final,
        turn: Some(TurnId::new("t1")),
        body: PartBody::Text { markup: format!("part {place}") },
        state,
        attempts: 0,
        attempted_at: None,
        first_attempt_at: None,
        look_ups: 0,
        not_before: Timestamp::from_millis(0),
        message: None,
        error: None,
        created_at: Timestamp::from_millis(0),
    }
}

fn turn(key: &ThreadKey) -> TurnRow {
    TurnRow {
        id: TurnId::new("t1"),
        session: key.clone(),
        thread: AgentThreadId::new("th"),
        started_at: Timestamp::from_millis(5),
        ended: None,
        inputs: 1,
        from_person: true,
        continuation: false,
        signal: Some((PostKind::Block, Some("why".to_owned()))),
        stopped: false,
    }
}

async fn claim(store: &Store, key: &ThreadKey) -> (Fence, SessionRows) {
    store.claim(key, &owner()).await.unwrap()
}

/// Claims a session and makes its first step.
async fn begin(store: &Store, key: &ThreadKey, fill: impl FnOnce(&mut SessionCommit)) -> Fence {
    let (fence, rows) = claim(store, key).await;
    let mut commit = SessionCommit::empty(key.clone(), fence, rows.revision);
    commit.record = Some(record(key));
    fill(&mut commit);
    assert_eq!(store.commit(commit).await.unwrap(), Revision(rows.revision.0 + 1));
    fence
}

/// The journal has one row per key, however often an envelope comes, and keeps the order.
pub async fn one_row_per_key(store: Store) {
    let batch = vec![envelope("a", 1), envelope("b", 2), envelope("a", 3)];
    let first = store.accept(batch).await.unwrap();
    assert_eq!(first.iter().map(|it| it.fresh).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(first[0].id, first[2].id);
    let again = store.accept(vec![envelope("b", 4), envelope("c", 5)]).await.unwrap();
    assert_eq!(again.iter().map(|it| it.fresh).collect::<Vec<_>>(), [false, true]);
    let unread = store.unread(None, 10).await.unwrap();
    let keys: Vec<_> = unread.iter().map(|row| row.envelope.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(unread[0].envelope, envelope("a", 1), "the first delivery is the one that is kept, byte for byte");
    assert_eq!(store.unread(Some(unread[0].id), 1).await.unwrap(), [unread[1].clone()]);
}

async fn accepted(store: &Store, key: &str, at: i64) -> JournalId {
    store.accept(vec![envelope(key, at)]).await.unwrap()[0].id
}

/// A row that is settled is not read again.
pub async fn rows_are_settled_once(store: Store) {
    let fates = [
        JournalFate::Ignored { reason: "an edit".to_owned() },
        JournalFate::Unreadable { reason: "no ts".to_owned() },
        JournalFate::Denied { reason: "a guest".to_owned() },
        JournalFate::Done,
    ];
    for (n, fate) in fates.into_iter().enumerate() {
        let id = accepted(&store, &n.to_string(), 1).await;
        store.settle(vec![id], fate).await.unwrap();
    }
    assert_eq!(store.unread(None, 10).await.unwrap(), []);
    assert!(!store.accept(vec![envelope("0", 9)]).await.unwrap()[0].fresh, "a redelivery is still known");
}

/// Replies that came before their thread's mention come back once, and not when they are too old.
pub async fn unrouted_rows_come_back_once(store: Store) {
    for (name, at, thread) in [("old", 10, "1"), ("new", 20, "1"), ("newer", 30, "1"), ("other", 30, "2")] {
        let id = accepted(&store, name, at).await;
        store.settle(vec![id], JournalFate::Unrouted { thread: key(thread) }).await.unwrap();
    }
    let taken = store.take_unrouted(&key("1"), Timestamp::from_millis(15)).await.unwrap();
    let names: Vec<_> = taken.iter().map(|row| row.envelope.key.as_str()).collect();
    assert_eq!(names, ["new", "newer"]);
    assert_eq!(store.take_unrouted(&key("1"), Timestamp::from_millis(15)).await.unwrap(), []);
    assert_eq!(store.unread(None, 10).await.unwrap(), taken, "they count as unread again");
}

/// Old rows are deleted, but never one that nobody has read.
pub async fn old_rows_are_deleted_and_unread_ones_kept(store: Store) {
    for (name, at) in [("old", 10), ("unread", 10), ("new", 30)] {
        let id = accepted(&store, name, at).await;
        if name != "unread" {
            store.settle(vec![id], JournalFate::Done).await.unwrap();
        }
    }
    assert_eq!(store.prune(Timestamp::from_millis(20)).await.unwrap(), 1);
    assert!(store.accept(vec![envelope("old", 40)]).await.unwrap()[0].fresh);
    assert!(!store.accept(vec![envelope("unread", 40), envelope("new", 40)]).await.unwrap()[0].fresh);
}

/// Who claims last owns the session; a step that builds on older rows is refused.
pub async fn an_old_claim_is_void(store: Store) {
    let key = key("1");
    let (nobody, rows) = claim(&store, &key).await;
    assert_eq!(rows, SessionRows::default());
    let fence = begin(&store, &key, |_| {}).await;
    assert!(fence > nobody);
    let mut late = SessionCommit::empty(key.clone(), nobody, Revision(1));
    late.record = Some(record(&key));
    assert_eq!(store.commit(late.clone()).await, Err(CommitError::Fenced));
    let stale = SessionCommit { fence, expected: Revision(0), ..late.clone() };
    assert_eq!(store.commit(stale).await, Err(CommitError::Stale { expected: Revision(0), found: Revision(1) }));
    let unclaimed = SessionCommit::empty(self::key("9"), fence, Revision(0));
    assert_eq!(store.commit(unclaimed).await, Err(CommitError::Fenced));
    assert_eq!(store.commit(SessionCommit { fence, ..late }).await, Ok(Revision(2)));
}

/// A step that is refused changes nothing; one that is taken changes everything that it names.
pub async fn a_step_is_all_or_nothing(store: Store) {
    let key = key("1");
    let id = accepted(&store, "e", 1).await;
    let (fence, _) = claim(&store, &key).await;
    let mut commit = SessionCommit::empty(key.clone(), fence, Revision(5));
    commit.record = Some(record(&key));
    commit.inbox = vec![row(&key, "i1", "10", InboxState::Queued)];
    commit.turns = vec![turn(&key)];
    commit.parts = vec![part(&key, "p.1", 1, PartState::Queued)];
    commit.read = vec![id];
    assert!(store.commit(commit.clone()).await.is_err());
    assert_eq!(store.session(&key).await.unwrap(), None);
    assert_eq!(store.open_parts(&key, 10).await.unwrap(), []);
    assert_eq!(store.unread(None, 10).await.unwrap().len(), 1);
    commit.expected = Revision(0);
    store.commit(commit).await.unwrap();
    assert_eq!(store.session(&key).await.unwrap(), Some(record(&key)));
    assert_eq!(store.open_parts(&key, 10).await.unwrap().len(), 1);
    assert_eq!(store.unread(None, 10).await.unwrap(), []);
    assert!(store.has_message(&conversation("C1"), &MessageId::new("10")).await.unwrap());
    assert!(!store.has_message(&conversation("C2"), &MessageId::new("10")).await.unwrap());
}

/// (installation, conversation, message) is one inbox row, whatever arrives how often.
pub async fn a_message_is_one_inbox_row(store: Store) {
    let key = key("1");
    let fence = begin(&store, &key, |commit| commit.inbox = vec![row(&key, "i1", "10", InboxState::Queued)]).await;
    let id = accepted(&store, "again", 1).await;
    let mut again = SessionCommit::empty(key.clone(), fence, Revision(1));
    again.inbox = vec![row(&key, "i2", "10", InboxState::Queued), row(&key, "i3", "11", InboxState::Queued)];
    again.read = vec![id];
    store.commit(again).await.unwrap();
    let (_, rows) = claim(&store, &key).await;
    let ids: Vec<_> = rows.inbox.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["i1", "i3"]);
    assert_eq!(store.unread(None, 10).await.unwrap(), [], "its journal row is settled all the same");
}

/// What is open is loaded, in order; what is done is not.
pub async fn what_is_open_is_loaded(store: Store) {
    let key = key("1");
    let running = SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key) };
    let inbox = vec![
        row(&key, "i4", "40", InboxState::Queued),
        row(&key, "i2", "20", InboxState::Given),
        row(&key, "i1", "10", InboxState::Delivered),
        row(&key, "i3", "30", InboxState::Cancelled),
        InboxRow { kind: InboxKind::WakeUp, message: None, ..row(&key, "i5", "50", InboxState::Given) },
    ];
    let parts = vec![part(&key, "p.1", 1, PartState::Sent), part(&key, "p.2", 2, PartState::Queued)];
    let (record, rows, kept) = (running.clone(), inbox.clone(), parts.clone());
    begin(&store, &key, |commit| {
        commit.record = Some(record);
        commit.inbox = rows;
        commit.turns = vec![turn(&key)];
        commit.parts = kept;
    })
    .await;
    let (_, loaded) = claim(&store, &key).await;
    assert_eq!(
        loaded,
        SessionRows {
            record: Some(running),
            revision: Revision(1),
            inbox: vec![inbox[1].clone(), inbox[0].clone(), inbox[4].clone()],
            newest_given: ChatTime::from_micros(30),
            turn: Some(turn(&key)),
            turn_parts: parts,
        }
    );
}

/// Sessions in which something is to be done are found, others are not.
pub async fn sessions_with_work_are_found(store: Store) {
    let context = |key: &ThreadKey| InboxRow {
        kind: InboxKind::Context,
        ..row(key, &format!("i{}", key.root), key.root.as_str(), InboxState::Queued)
    };
    begin(&store, &key("1"), |_| {}).await;
    begin(&store, &key("2"), |commit| commit.inbox = vec![row(&key("2"), "i2", "2", InboxState::Queued)]).await;
    begin(&store, &key("3"), |commit| commit.inbox = vec![context(&key("3"))]).await;
    begin(&store, &key("4"), |commit| {
        commit.record = Some(SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key("4")) });
        commit.turns = vec![turn(&key("4"))];
    })
    .await;
    assert_eq!(store.sessions_with_work().await.unwrap(), [key("2"), key("4")]);
    assert_eq!(store.busy_sessions_in(&conversation("C1")).await.unwrap(), [key("2"), key("4")]);
    assert_eq!(store.busy_sessions_in(&conversation("C2")).await.unwrap(), []);
}

/// Parts come in their order; a stop drops those that were not sent, and nothing that comes with it.
pub async fn parts_keep_their_order(store: Store) {
    let key = key("1");
    let fence = begin(&store, &key, |commit| {
        commit.parts = vec![
            part(&key, "p.3", 3, PartState::Queued),
            part(&key, "p.1", 1, PartState::Sending),
            part(&key, "p.2", 2, PartState::Queued),
        ];
    })
    .await;
    let ids = |parts: Vec<PartRow>| parts.into_iter().map(|part| part.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(store.open_parts(&key, 2).await.unwrap()), ["p.1", "p.2"]);
    assert_eq!(store.threads_with_parts().await.unwrap(), std::slice::from_ref(&key));
    let mut stop = SessionCommit::empty(key.clone(), fence, Revision(1));
    stop.drop_queued_parts = true;
    stop.parts = vec![PartRow { post: PostId::new("q"), ..part(&key, "q.1", 4, PartState::Queued) }];
    store.commit(stop).await.unwrap();
    assert_eq!(ids(store.open_parts(&key, 10).await.unwrap()), ["p.1", "q.1"]);
    let states: Vec<_> = store.post(&PostId::new("p")).await.unwrap().into_iter().map(|part| part.state).collect();
    assert_eq!(states, [PartState::Sending, PartState::Dropped, PartState::Dropped]);
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
    assert_eq!(store.open_parts(&key, 1).await.unwrap()[0].state, PartState::Queued, "all or none");
    assert!(store.change_parts(vec![sending("p.1", 1)]).await.unwrap());
    assert!(!store.change_parts(vec![sending("p.1", 1)]).await.unwrap());
    assert!(!store.change_parts(vec![sending("nobody", 1)]).await.unwrap());
    assert_eq!(store.open_parts(&key, 9).await.unwrap(), [sending("p.1", 1).row]);
}

/// People are remembered with the moment of the look-up.
pub async fn people_are_remembered(store: Store) {
    let person = |name: &str| Person {
        id: PersonId::new("U1"),
        display_name: Some(name.to_owned()),
        real_name: None,
        username: None,
        email: None,
        team: None,
        standing: Standing::Member,
    };
    assert_eq!(store.person(&PersonId::new("U1")).await.unwrap(), None);
    for (name, at) in [("ada", 1), ("ada l.", 2)] {
        store.put_person(person(name), Timestamp::from_millis(at)).await.unwrap();
        let known = store.person(&PersonId::new("U1")).await.unwrap();
        assert_eq!(known, Some((person(name), Timestamp::from_millis(at))));
    }
}

/// The counts say how much there is.
pub async fn things_are_counted(store: Store) {
    let key = key("1");
    accepted(&store, "unread", 1).await;
    let odd = accepted(&store, "odd", 1).await;
    store.settle(vec![odd], JournalFate::Unreadable { reason: "odd".to_owned() }).await.unwrap();
    begin(&store, &key, |commit| {
        commit.inbox = vec![row(&key, "i1", "1", InboxState::Given), row(&key, "i2", "2", InboxState::Delivered)];
        commit.parts = vec![part(&key, "p.1", 1, PartState::Unknown), part(&key, "p.2", 2, PartState::Sent)];
    })
    .await;
    claim(&store, &self::key("2")).await;
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.sessions, counts.inbox_open, counts.parts_open), (1, 1, 1));
    assert_eq!((counts.journal_unread, counts.journal_unreadable), (1, 1));
}
