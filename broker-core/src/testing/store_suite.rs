//! What every [`StateStore`] has to do.
//!
//! Each case is a function that takes an empty store and panics where the store is wrong; [`all`] runs every one of them. A
//! durable store runs them a second time inside [`Reopened`], which closes and opens it before each call: then nothing that
//! a case relies on was kept in memory alone.
#![expect(clippy::unwrap_used, reason = "a conformance suite panics where the store is wrong")]

use std::sync::Arc;

use crate::agent::{AgentThreadId, InputId, TurnId};
use crate::chat::{
    Author, ChatMessage, ChatTime, ConversationId, ConversationKey, ConversationKind, FileRef, InstallationId,
    Mentionable, MessageId, OpKey, PartBody, Person, PersonId, RawEnvelope, Standing, ThreadKey,
};
use crate::clock::Timestamp;
use crate::store::{
    Backfill, ContextMessage, Fence, InboxKind, InboxRow, InboxState, JournalId, OwnerId, PartRow, PartState, PostId,
    PostKind, Revision, SessionCommit, SessionId, SessionRecord, SessionRows, StateStore, TurnEnd, TurnRow,
};

pub mod journal;
pub mod outbox;
mod reopened;
pub mod sessions;

pub use reopened::Reopened;

/// A store under test.
pub type Store = Arc<dyn StateStore>;

/// Runs every case, each on a store of its own.
pub async fn all<F: Future<Output = Store>>(make: impl Fn() -> F) {
    journal::one_row_per_key(make().await).await;
    journal::callers_at_once_agree(make().await).await;
    journal::unread_rows_come_in_pages(make().await).await;
    journal::a_settled_row_is_not_read_again(make().await).await;
    journal::unrouted_rows_come_back_once(make().await).await;
    journal::old_rows_are_deleted_and_unread_ones_kept(make().await).await;
    sessions::old_rows_of_sessions_are_deleted_when_closed(make().await).await;
    journal::ids_are_never_used_twice(make().await).await;
    sessions::an_old_claim_is_void(make().await).await;
    sessions::a_step_on_other_rows_is_refused(make().await).await;
    sessions::a_step_is_all_or_nothing(make().await).await;
    sessions::joined_steps_are_as_good_as_single_ones(make().await).await;
    sessions::a_step_stays_in_its_session(make().await).await;
    sessions::a_message_is_one_inbox_row(make().await).await;
    sessions::every_field_comes_back(make().await).await;
    sessions::every_name_comes_back(make().await).await;
    sessions::a_row_is_replaced_whole(make().await).await;
    sessions::what_is_open_is_loaded(make().await).await;
    sessions::what_was_put_aside_is_loaded(make().await).await;
    sessions::turns_are_their_sessions_own(make().await).await;
    sessions::sessions_with_work_are_found(make().await).await;
    sessions::active_sessions_say_how_far_they_were_read(make().await).await;
    outbox::parts_keep_their_order(make().await).await;
    outbox::every_field_comes_back(make().await).await;
    outbox::a_stop_drops_what_was_not_sent(make().await).await;
    outbox::of_two_deciders_the_first_wins(make().await).await;
    people_are_remembered(make().await).await;
    things_are_counted(make().await).await;
    it_is_well(make().await).await;
}

/// People are remembered with the moment of the look-up.
pub async fn people_are_remembered(store: Store) {
    assert_eq!(store.person(&PersonId::new("U1")).await.unwrap(), None);
    let bare = Person { display_name: None, username: None, ..person("U1", Standing::Guest) };
    for (person, at) in [(bare, 1), (person("U1", Standing::Member), 2)] {
        store.put_person(person.clone(), Timestamp::from_millis(at)).await.unwrap();
        let known = store.person(&PersonId::new("U1")).await.unwrap();
        assert_eq!(known, Some((person, Timestamp::from_millis(at))));
    }
    let standings = [Standing::Member, Standing::Guest, Standing::External, Standing::Bot, Standing::Deactivated];
    for standing in standings {
        store.put_person(person("U2", standing), Timestamp::from_millis(3)).await.unwrap();
        let (known, _) = store.person(&PersonId::new("U2")).await.unwrap().unwrap();
        assert_eq!(known.standing, standing);
    }
}

/// The counts say how much there is.
pub async fn things_are_counted(store: Store) {
    let key = key("1");
    accepted(&store, "unread", 1).await;
    let odd = accepted(&store, "odd", 1).await;
    let fate = crate::store::JournalFate::Unreadable { reason: "odd".to_owned() };
    store.settle(vec![odd], fate).await.unwrap();
    begin(&store, &key, |commit| {
        commit.inbox = vec![row(&key, "i1", "1", InboxState::Given), row(&key, "i2", "2", InboxState::Delivered)];
        commit.parts = vec![part(&key, "p.1", 1, PartState::Unknown), part(&key, "p.2", 2, PartState::Sent)];
    })
    .await;
    claim(&store, &self::key("2")).await;
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.sessions, counts.inbox_open, counts.parts_open), (1, 1, 1), "a mere claim is no session");
    assert_eq!((counts.journal_unread, counts.journal_unreadable), (1, 1));
}

/// A store that has committed says that it is well.
pub async fn it_is_well(store: Store) {
    accepted(&store, "a", 1).await;
    assert!(store.health().borrow().ok);
}

fn envelope(key: &str, at: i64) -> RawEnvelope {
    RawEnvelope {
        key: key.to_owned(),
        kind: "events_api".to_owned(),
        retry_attempt: 2,
        received_at: Timestamp::from_millis(at),
        raw: vec![0xff, 0x00, b'x'],
    }
}

async fn accepted(store: &Store, key: &str, at: i64) -> JournalId {
    store.accept(vec![envelope(key, at)]).await.unwrap()[0].id
}

fn conversation(name: &str) -> ConversationKey {
    ConversationKey { installation: InstallationId::new("T1"), conversation: ConversationId::new(name) }
}

fn key(root: &str) -> ThreadKey {
    key_in("C1", root)
}

fn key_in(name: &str, root: &str) -> ThreadKey {
    let ConversationKey { installation, conversation } = conversation(name);
    ThreadKey { installation, conversation, root: MessageId::new(root) }
}

fn person(id: &str, standing: Standing) -> Person {
    Person {
        id: PersonId::new(id),
        display_name: Some("ada".to_owned()),
        real_name: Some("Ada \"Countess\" Lovelace".to_owned()),
        username: Some("ada.l".to_owned()),
        email: Some("ada@example.org".to_owned()),
        team: Some("T1".to_owned()),
        standing,
    }
}

fn message(key: &ThreadKey, id: &str) -> ChatMessage {
    ChatMessage {
        conversation: key.conversation_key(),
        conversation_kind: ConversationKind::Channel,
        id: MessageId::new(id),
        at: micros(id),
        thread_root: Some(key.root.clone()),
        author: Author::Person { id: PersonId::new("U1"), team: Some("T1".to_owned()) },
        text: "grüße 🦀 'quoted'; DROP TABLE inbox; \u{0}".to_owned(),
        mentions: vec![PersonId::new("U2")],
        channels: Vec::new(),
        mentions_self: true,
        control_text: "-stop".to_owned(),
        files: vec![FileRef { id: "F1".to_owned(), name: None, media_type: None, size: Some(7), ..FileRef::default() }],
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: true,
    }
}

fn micros(text: &str) -> ChatTime {
    ChatTime::from_micros(text.parse().unwrap())
}

fn record(key: &ThreadKey) -> SessionRecord {
    SessionRecord {
        key: key.clone(),
        id: SessionId::new(format!("s-{}", key.root)),
        channel_name: None,
        conversation_kind: ConversationKind::Channel,
        started_by: PersonId::new("U1"),
        started_with: MessageId::new("1"),
        folder: "C1-1".to_owned(),
        agent_thread: None,
        agent_confirmed: false,
        running_turn: None,
        watermark: ChatTime::from_micros(7),
        stopped_at: ChatTime::ZERO,
        last_notice: None,
        people: Vec::new(),
        status_shown: false,
        next_number: 3,
        token_generation: 1,
        created_at: Timestamp::from_millis(1),
        last_activity: Timestamp::from_millis(2),
    }
}

/// A record of which every field is filled.
fn full_record(key: &ThreadKey) -> SessionRecord {
    SessionRecord {
        channel_name: Some("general".to_owned()),
        agent_thread: Some(AgentThreadId::new("th")),
        agent_confirmed: true,
        running_turn: Some(TurnId::new("t1")),
        stopped_at: ChatTime::MAX,
        last_notice: Some(("quota".to_owned(), Timestamp::from_millis(-5))),
        people: vec![Mentionable { id: PersonId::new("U1"), names: vec!["Ada \"A\" L.".to_owned(), "ada".to_owned()] }],
        status_shown: true,
        token_generation: 7,
        ..record(key)
    }
}

fn row(key: &ThreadKey, id: &str, place: &str, state: InboxState) -> InboxRow {
    InboxRow {
        id: InputId::new(id),
        session: key.clone(),
        kind: InboxKind::Message,
        state,
        at: micros(place),
        message: Some(message(key, place)),
        notice: None,
        people: Vec::new(),
        backfill: Backfill::None,
        late: false,
        withdrawn: false,
        attempts: 0,
        not_before: Timestamp::from_millis(0),
        given_to: (state != InboxState::Queued).then(|| AgentThreadId::new("th")),
        turn: None,
        created_at: Timestamp::from_millis(0),
    }
}

/// A row of which every field is filled.
fn full_row(key: &ThreadKey, id: &str, place: &str) -> InboxRow {
    let context =
        ContextMessage { message: message(key, "1"), people: vec![person("U3", Standing::Bot)], denied: true };
    InboxRow {
        notice: Some("your turn was cut".to_owned()),
        people: vec![person("U1", Standing::Member), person("U2", Standing::External)],
        backfill: Backfill::Read { messages: vec![context], has_more: true },
        late: true,
        withdrawn: true,
        attempts: 4,
        not_before: Timestamp::from_millis(99),
        turn: Some(TurnId::new("t1")),
        created_at: Timestamp::from_millis(98),
        ..row(key, id, place, InboxState::Given)
    }
}

fn part(key: &ThreadKey, id: &str, place: u64, state: PartState) -> PartRow {
    PartRow {
        id: OpKey::new(id),
        thread: key.clone(),
        post: PostId::new("p"),
        place,
        number: u32::try_from(place).unwrap(),
        of: 9,
        kind: PostKind::Final,
        turn: Some(TurnId::new("t1")),
        fingerprint: None,
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
        signal: None,
        stopped: false,
    }
}

/// A turn of which every field is filled.
fn full_turn(key: &ThreadKey) -> TurnRow {
    TurnRow {
        ended: Some((Timestamp::from_millis(9), TurnEnd::Cut)),
        continuation: true,
        signal: Some((PostKind::Block, Some("why".to_owned()))),
        stopped: true,
        ..turn(key)
    }
}

async fn claim(store: &Store, key: &ThreadKey) -> (Fence, SessionRows) {
    store.claim(key, &OwnerId::new("owner")).await.unwrap()
}

/// Claims a session and makes a step that brings its record, and what else `fill` says.
async fn begin(store: &Store, key: &ThreadKey, fill: impl FnOnce(&mut SessionCommit)) -> Fence {
    let (fence, rows) = claim(store, key).await;
    let mut commit = SessionCommit::empty(key.clone(), fence, rows.revision);
    commit.record = Some(record(key));
    fill(&mut commit);
    assert_eq!(store.commit(commit).await.unwrap(), Revision(rows.revision.0 + 1));
    fence
}
