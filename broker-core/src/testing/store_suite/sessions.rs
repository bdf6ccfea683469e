//! Cases of sessions: claims, steps, the inbox, turns.

use super::{
    Store, accepted, begin, claim, conversation, full_record, full_row, full_turn, key, key_in, part, person, record,
    row, turn,
};
use crate::agent::{AgentThreadId, InputId, TurnId};
use crate::chat::{
    ChatTime, ConversationKey, ConversationKind, InstallationId, MessageId, OpKey, PersonId, Standing, ThreadKey,
};
use crate::clock::Timestamp;
use crate::session::MAX_PARKED;
use crate::store::{
    ActiveSession, Backfill, CommitError, Fence, InboxKind, InboxRow, InboxState, KnownMessage, Old, PartRow,
    PartState, PostKind, Revision, SessionCommit, SessionRecord, SessionRows, TurnEnd, TurnRow,
};

/// Who claims last owns the session; a claim alone changes none of its rows.
pub async fn an_old_claim_is_void(store: Store) {
    let key = key("1");
    let (first, rows) = claim(&store, &key).await;
    assert_eq!(rows, SessionRows::default());
    let (second, rows) = claim(&store, &key).await;
    assert_eq!(rows, SessionRows::default());
    assert!(second > first);
    assert_eq!(store.session(&key).await.unwrap(), None);
    let mut step = SessionCommit::empty(key.clone(), first, Revision(0));
    step.record = Some(record(&key));
    assert_eq!(store.commit(step.clone()).await, Err(CommitError::Fenced));
    let ahead = SessionCommit { fence: Fence(second.0 + 1), ..step.clone() };
    assert_eq!(store.commit(ahead).await, Err(CommitError::Fenced), "nor may one that nobody was given");
    assert_eq!(store.commit(SessionCommit { fence: second, ..step }).await, Ok(Revision(1)));
    let unclaimed = SessionCommit::empty(self::key("9"), second, Revision(0));
    assert_eq!(store.commit(unclaimed).await, Err(CommitError::Fenced));
}

/// A step that builds on other rows than there are is refused, and says which there are.
pub async fn a_step_on_other_rows_is_refused(store: Store) {
    let key = key("1");
    let fence = begin(&store, &key, |_| {}).await;
    let step = |expected| SessionCommit::empty(key.clone(), fence, Revision(expected));
    for expected in [0, 2] {
        let stale = CommitError::Stale { expected: Revision(expected), found: Revision(1) };
        assert_eq!(store.commit(step(expected)).await, Err(stale));
    }
    assert_eq!(store.commit(step(1)).await, Ok(Revision(2)), "a step without a record counts as well");
    let (_, rows) = claim(&store, &key).await;
    assert_eq!((rows.revision, rows.record), (Revision(2), Some(record(&key))));
}

/// A step that is refused changes nothing; one that is taken changes everything that it names.
pub async fn a_step_is_all_or_nothing(store: Store) {
    let key = key("1");
    let id = accepted(&store, "e", 1).await;
    let (fence, _) = claim(&store, &key).await;
    let mut step = SessionCommit::empty(key.clone(), fence, Revision(0));
    step.record = Some(SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key) });
    step.inbox = vec![row(&key, "i1", "10", InboxState::Queued)];
    step.turns = vec![turn(&key)];
    step.parts = vec![part(&key, "p.1", 1, PartState::Queued)];
    step.read = vec![id];
    let twice = part(&key, "p.1", 2, PartState::Queued);
    for refused in [
        SessionCommit { expected: Revision(5), ..step.clone() },
        SessionCommit { fence: Fence(0), ..step.clone() },
        // A part is new, always.
        SessionCommit { parts: vec![step.parts[0].clone(), twice], ..step.clone() },
    ] {
        store.commit(refused).await.unwrap_err();
        assert_eq!(store.session(&key).await.unwrap(), None);
        assert_eq!(store.open_parts(&key, 10).await.unwrap(), []);
        assert_eq!(store.unread(None, 10).await.unwrap().len(), 1);
        assert_eq!(store.sessions_with_work().await.unwrap(), []);
        assert_eq!(store.known_message(&conversation("C1"), &MessageId::new("10")).await.unwrap(), None);
    }
    store.commit(step.clone()).await.unwrap();
    assert_eq!(store.session(&key).await.unwrap(), step.record);
    assert_eq!(store.open_parts(&key, 10).await.unwrap(), step.parts);
    assert_eq!(store.unread(None, 10).await.unwrap(), []);
    let known = KnownMessage { kind: InboxKind::Message, state: InboxState::Queued, withdrawn: false, given_to: None };
    assert_eq!(store.known_message(&conversation("C1"), &MessageId::new("10")).await.unwrap(), Some(known.clone()));
    let mut deletion = SessionCommit::empty(key.clone(), fence, Revision(1));
    deletion.withdrawn = vec![MessageId::new("10"), MessageId::new("of nothing")];
    store.commit(deletion).await.unwrap();
    let known = KnownMessage { withdrawn: true, ..known };
    assert_eq!(store.known_message(&conversation("C1"), &MessageId::new("10")).await.unwrap(), Some(known));
    let again = SessionCommit { expected: Revision(2), ..step };
    assert!(matches!(store.commit(again).await, Err(CommitError::Store(_))), "the part is there already");
    assert_eq!(claim(&store, &key).await.1.revision, Revision(2));
}

/// Steps that are joined leave the rows that they leave one after the other; where that cannot be they do not join.
pub async fn joined_steps_are_as_good_as_single_ones(store: Store) {
    let steps = |key: &ThreadKey, fence: Fence, name: &str| {
        // One conversation has both threads.
        let state = |state| row(key, name, &format!("{}0", name.len()), state);
        let mut first = SessionCommit::empty(key.clone(), fence, Revision(1));
        first.record = Some(SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(key) });
        first.inbox = vec![state(InboxState::Given)];
        first.turns = vec![turn(key)];
        first.drop_queued_parts = true;
        let mut second = SessionCommit::empty(key.clone(), fence, Revision(2));
        second.record = Some(record(key));
        second.inbox = vec![
            state(InboxState::Delivered),
            row(key, &format!("{name}+"), &format!("{}1", name.len()), InboxState::Queued),
        ];
        second.turns = vec![TurnRow { inputs: 2, ..turn(key) }];
        second.parts = vec![PartRow { id: OpKey::new(name), ..part(key, name, 1, PartState::Queued) }];
        (first, second)
    };
    let (apart, together) = (key("1"), key("2"));
    let fence = begin(&store, &apart, |_| {}).await;
    let (first, second) = steps(&apart, fence, "a");
    store.commit(first).await.unwrap();
    assert_eq!(store.commit(second).await, Ok(Revision(3)));
    let fence = begin(&store, &together, |_| {}).await;
    let (mut first, second) = steps(&together, fence, "bb");
    first.join(second.clone()).unwrap();
    first.join(SessionCommit::empty(together.clone(), fence, Revision(3))).unwrap();
    assert_eq!((first.inbox.len(), first.turns.len()), (2, 1), "of each row the last version alone");
    assert_eq!(store.commit(first.clone()).await, Ok(Revision(3)));
    for (key, name) in [(&apart, "a"), (&together, "bb")] {
        let rows = claim(&store, key).await.1;
        assert_eq!((rows.revision, rows.record), (Revision(3), Some(record(key))));
        assert_eq!(rows.inbox, [row(key, &format!("{name}+"), &format!("{}1", name.len()), InboxState::Queued)]);
        let parts = store.open_parts(key, 10).await.unwrap();
        assert_eq!(parts.iter().map(|part| part.id.as_str()).collect::<Vec<_>>(), [name]);
    }
    // It would drop the part that the first one adds.
    let drops = SessionCommit { drop_queued_parts: true, parts: Vec::new(), ..second };
    assert_eq!(first.join(drops.clone()), Err(Box::new(drops)));
}

/// A claim covers one session: a step that brings another's rows is refused whole.
pub async fn a_step_stays_in_its_session(store: Store) {
    let (own, other) = (key("1"), key("2"));
    let fence = begin(&store, &own, |_| {}).await;
    begin(&store, &other, |_| {}).await;
    let empty = || SessionCommit::empty(own.clone(), fence, Revision(1));
    for refused in [
        SessionCommit { record: Some(full_record(&other)), ..empty() },
        SessionCommit { inbox: vec![row(&other, "i1", "10", InboxState::Queued)], ..empty() },
        SessionCommit { turns: vec![turn(&other)], ..empty() },
        SessionCommit { parts: vec![part(&other, "p.1", 1, PartState::Queued)], ..empty() },
    ] {
        assert!(matches!(store.commit(refused).await, Err(CommitError::Store(_))));
    }
    assert_eq!(store.commit(empty()).await, Ok(Revision(2)));
    assert_eq!(store.session(&other).await.unwrap(), Some(record(&other)));
}

/// (installation, conversation, message) is one inbox row, whatever arrives how often.
pub async fn a_message_is_one_inbox_row(store: Store) {
    let key = key("1");
    let fence = begin(&store, &key, |commit| commit.inbox = vec![row(&key, "i1", "10", InboxState::Queued)]).await;
    let id = accepted(&store, "again", 1).await;
    let mut again = SessionCommit::empty(key.clone(), fence, Revision(1));
    again.inbox = vec![
        row(&key, "i2", "10", InboxState::Given),
        row(&key, "i3", "11", InboxState::Queued),
        row(&key, "i4", "11", InboxState::Queued),
        // Rows without a message never get in each other's way.
        InboxRow { kind: InboxKind::WakeUp, message: None, ..row(&key, "i5", "12", InboxState::Queued) },
        InboxRow { kind: InboxKind::WakeUp, message: None, ..row(&key, "i6", "12", InboxState::Queued) },
        // Nor does what a message became get in the way of the message.
        InboxRow { kind: InboxKind::Edit, ..row(&key, "i9", "13", InboxState::Queued) },
        row(&key, "i10", "13", InboxState::Queued),
        InboxRow { kind: InboxKind::Edit, ..row(&key, "i11", "13", InboxState::Queued) },
    ];
    again.read = vec![id];
    store.commit(again).await.unwrap();
    let (_, rows) = claim(&store, &key).await;
    let ids: Vec<_> = rows.inbox.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["i1", "i3", "i5", "i6", "i10", "i11", "i9"]);
    assert_eq!(rows.inbox[0], row(&key, "i1", "10", InboxState::Queued), "the first one stays as it is");
    assert_eq!(store.unread(None, 10).await.unwrap(), [], "the journal row is settled all the same");
    // The same id of a message in another conversation or installation is another message.
    let elsewhere = key_in("C2", "1");
    begin(&store, &elsewhere, |commit| commit.inbox = vec![row(&elsewhere, "i7", "10", InboxState::Queued)]).await;
    let abroad = ThreadKey { installation: InstallationId::new("T2"), ..key.clone() };
    begin(&store, &abroad, |commit| commit.inbox = vec![row(&abroad, "i8", "10", InboxState::Queued)]).await;
    for key in [elsewhere, abroad] {
        assert_eq!(claim(&store, &key).await.1.inbox.len(), 1);
        assert!(store.known_message(&key.conversation_key(), &MessageId::new("10")).await.unwrap().is_some());
    }
    assert_eq!(store.known_message(&conversation("C3"), &MessageId::new("10")).await.unwrap(), None);
}

/// What was committed comes back field by field.
pub async fn every_field_comes_back(store: Store) {
    let key = key("1");
    let inbox = vec![
        full_row(&key, "i1", "10"),
        InboxRow { backfill: Backfill::Wanted, ..row(&key, "i2", "20", InboxState::Queued) },
        InboxRow {
            backfill: Backfill::Unreadable { reason: "no answer".to_owned() },
            ..row(&key, "i3", "30", InboxState::Queued)
        },
        InboxRow { message: None, at: ChatTime::MAX, ..full_row(&key, "i4", "40") },
    ];
    let (record, turn) = (full_record(&key), full_turn(&key));
    begin(&store, &key, |commit| {
        commit.record = Some(record.clone());
        commit.inbox = inbox.clone();
        commit.turns = vec![turn.clone()];
    })
    .await;
    assert_eq!(store.session(&key).await.unwrap(), Some(record.clone()));
    let (_, rows) = claim(&store, &key).await;
    assert_eq!(rows.record, Some(record));
    assert_eq!(rows.turn, Some(turn));
    assert_eq!(rows.inbox, inbox);
}

/// Every kind and every way to end comes back under the name that it was stored by.
pub async fn every_name_comes_back(store: Store) {
    use ConversationKind::{Channel, Direct, GroupDirect, PrivateChannel, Unknown};
    use InboxKind::{Command, Context, Continuation, Message, WakeUp};
    let kinds = [Message, Context, Command, WakeUp, Continuation];
    let conversations = [Channel, PrivateChannel, Direct, GroupDirect, Unknown];
    let ends = [TurnEnd::Completed, TurnEnd::Interrupted, TurnEnd::Failed, TurnEnd::Cut, TurnEnd::Completed];
    let signals = [PostKind::Progress, PostKind::Final, PostKind::Block, PostKind::Wait, PostKind::Notice];
    for n in 0..5 {
        let key = key(&n.to_string());
        let record = SessionRecord { conversation_kind: conversations[n], ..full_record(&key) };
        let id = format!("i{n}");
        let inbox = InboxRow { kind: kinds[n], ..row(&key, &id, &n.to_string(), InboxState::Given) };
        let turn = TurnRow {
            ended: Some((Timestamp::from_millis(9), ends[n])),
            signal: Some((signals[n], None)),
            ..full_turn(&key)
        };
        begin(&store, &key, |commit| {
            commit.record = Some(record.clone());
            commit.inbox = vec![inbox.clone()];
            commit.turns = vec![turn.clone()];
        })
        .await;
        let (_, rows) = claim(&store, &key).await;
        assert_eq!((rows.record, rows.inbox, rows.turn), (Some(record), vec![inbox], Some(turn)));
    }
}

/// A row that is committed again replaces the former one whole, in both directions.
pub async fn a_row_is_replaced_whole(store: Store) {
    let key = key("1");
    let turning = || SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key) };
    let bare = (turning(), row(&key, "i1", "10", InboxState::Queued), turn(&key));
    let full = (full_record(&key), full_row(&key, "i1", "10"), full_turn(&key));
    for (record, row, turn) in [bare.clone(), full, bare] {
        begin(&store, &key, |commit| {
            commit.record = Some(record.clone());
            commit.inbox = vec![row.clone()];
            commit.turns = vec![turn.clone()];
        })
        .await;
        let (_, rows) = claim(&store, &key).await;
        assert_eq!((rows.record, rows.inbox, rows.turn), (Some(record), vec![row], Some(turn)));
    }
}

/// What is open is loaded, in order of place; what is done is not.
pub async fn what_is_open_is_loaded(store: Store) {
    let key = key("1");
    let running = SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key) };
    let inbox = vec![
        row(&key, "i4", "400", InboxState::Queued),
        row(&key, "i2", "50", InboxState::Given),
        row(&key, "i1", "10", InboxState::Delivered),
        row(&key, "i3", "300", InboxState::Cancelled),
        row(&key, "i6", "20", InboxState::Parked),
        InboxRow { kind: InboxKind::WakeUp, message: None, ..row(&key, "i5", "500", InboxState::Given) },
    ];
    let mut parts = vec![
        part(&key, "p.3", 3, PartState::Refused),
        part(&key, "p.1", 1, PartState::Sent),
        part(&key, "p.2", 2, PartState::Queued),
    ];
    let other = crate::store::PartRow { turn: Some(TurnId::new("t0")), ..part(&key, "q.1", 4, PartState::Queued) };
    let notice = crate::store::PartRow { turn: None, ..part(&key, "n.1", 5, PartState::Queued) };
    begin(&store, &key, |commit| {
        commit.record = Some(running.clone());
        commit.inbox = inbox.clone();
        commit.turns = vec![turn(&key), TurnRow { id: TurnId::new("t0"), ..turn(&key) }];
        commit.parts = [parts.clone(), vec![other, notice]].concat();
    })
    .await;
    parts.sort_by_key(|part| part.place);
    let (fence, loaded) = claim(&store, &key).await;
    let wanted = SessionRows {
        record: Some(running),
        revision: Revision(1),
        inbox: vec![inbox[1].clone(), inbox[0].clone(), inbox[5].clone()],
        parked: inbox.iter().filter(|row| row.state == InboxState::Parked).cloned().collect(),
        newest_given: ChatTime::from_micros(300),
        turn: Some(turn(&key)),
        turn_parts: parts,
        open_parts: 3,
    };
    assert_eq!(loaded, wanted);
    let mut ended = SessionCommit::empty(key.clone(), fence, Revision(1));
    ended.record = Some(record(&key));
    store.commit(ended).await.unwrap();
    let (_, loaded) = claim(&store, &key).await;
    assert_eq!((loaded.turn, loaded.turn_parts), (None, Vec::new()), "no turn runs");
}

/// Runtimes may count turns per thread: two sessions' turns of the same id are two turns.
pub async fn turns_are_their_sessions_own(store: Store) {
    for root in ["1", "2"] {
        let key = key(root);
        let of_this = TurnRow { thread: AgentThreadId::new(root), ..turn(&key) };
        begin(&store, &key, |commit| {
            commit.record = Some(SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&key) });
            commit.turns = vec![of_this];
            commit.parts = vec![part(&key, &format!("p{root}"), 1, PartState::Queued)];
        })
        .await;
    }
    for root in ["1", "2"] {
        let (_, rows) = claim(&store, &key(root)).await;
        assert_eq!(rows.turn.map(|turn| turn.thread), Some(AgentThreadId::new(root)));
        assert_eq!(rows.turn_parts, [part(&key(root), &format!("p{root}"), 1, PartState::Queued)]);
    }
}

/// Sessions in which something is to be done are found, in one conversation and in all; others are not.
pub async fn sessions_with_work_are_found(store: Store) {
    let states =
        [InboxState::Queued, InboxState::Given, InboxState::Delivered, InboxState::Cancelled, InboxState::Parked];
    for (n, state) in states.into_iter().enumerate() {
        let key = key(&n.to_string());
        let id = format!("i{n}");
        begin(&store, &key, |commit| commit.inbox = vec![row(&key, &id, &n.to_string(), state)]).await;
    }
    let context = key("5");
    begin(&store, &context, |commit| {
        commit.inbox = vec![InboxRow {
            kind: InboxKind::Context,
            id: InputId::new("i5"),
            ..row(&context, "i5", "5", InboxState::Queued)
        }];
    })
    .await;
    for running in [key("6"), key_in("C10", "1")] {
        begin(&store, &running, |commit| {
            commit.record = Some(SessionRecord { running_turn: Some(TurnId::new("t1")), ..record(&running) });
            commit.turns = vec![turn(&running)];
        })
        .await;
    }
    claim(&store, &key("7")).await;
    // What stands beside a thread is to be taken away after a crash, and is nothing that a `-stop` could stop.
    begin(&store, &key("8"), |commit| {
        commit.record = Some(SessionRecord { status_shown: true, ..record(&key("8")) });
    })
    .await;
    let here = [key("0"), key("1"), key("6")];
    assert_eq!(store.busy_sessions_in(&conversation("C1")).await.unwrap(), here);
    assert_eq!(store.sessions_with_work().await.unwrap(), [here.as_slice(), &[key("8"), key_in("C10", "1")]].concat());
    assert_eq!(store.busy_sessions_in(&conversation("C2")).await.unwrap(), []);
    let abroad = ConversationKey { installation: InstallationId::new("T2"), ..conversation("C1") };
    assert_eq!(store.busy_sessions_in(&abroad).await.unwrap(), []);
}

/// Sessions in which something happened lately are found, the latest first, each with the place up to which it was read.
pub async fn active_sessions_say_how_far_they_were_read(store: Store) {
    let at = Timestamp::from_millis;
    for (root, activity) in [("1", 100), ("2", 300), ("3", 200), ("4", 99)] {
        begin(&store, &key(root), |commit| {
            commit.record = Some(SessionRecord { last_activity: at(activity), ..record(&key(root)) });
        })
        .await;
    }
    claim(&store, &key("5")).await;
    let began = record(&key("1")).watermark;
    let later = ChatTime::from_micros(began.as_micros() + 5);
    store.caught_up(&key("2"), later).await.unwrap();
    store.caught_up(&key("2"), began).await.unwrap();
    store.caught_up(&key("1"), ChatTime::from_micros(1)).await.unwrap();
    store.caught_up(&key("99"), later).await.unwrap();
    let place = |root: &str, caught_up| ActiveSession { key: key(root), began, caught_up };
    let all = [place("2", later), place("3", began), place("1", began)];
    assert_eq!(store.active_sessions(at(100), 9).await.unwrap(), all);
    assert_eq!(store.active_sessions(at(100), 2).await.unwrap(), all[..2]);
    assert_eq!(store.active_sessions(at(301), 9).await.unwrap(), []);
    // A step afterwards leaves the place where it is.
    let (fence, rows) = claim(&store, &key("2")).await;
    let mut step = SessionCommit::empty(key("2"), fence, rows.revision);
    step.record = rows.record;
    store.commit(step).await.unwrap();
    assert_eq!(store.active_sessions(at(300), 9).await.unwrap(), [place("2", later)]);
    assert!(store.birth().await.unwrap() <= at(i64::MAX));
}

/// What was put aside is loaded with its session, the latest of it, and nothing but messages.
pub async fn what_was_put_aside_is_loaded(store: Store) {
    let key = key("1");
    begin(&store, &key, |commit| {
        let parked = |n: usize| row(&key, &format!("i{n}"), &(100 + n).to_string(), InboxState::Parked);
        commit.inbox = (0..=MAX_PARKED).map(parked).collect();
        let wake_up = row(&key, "wake", "90", InboxState::Parked);
        commit.inbox.push(InboxRow { kind: InboxKind::WakeUp, message: None, ..wake_up });
    })
    .await;
    let (_, rows) = claim(&store, &key).await;
    assert_eq!(rows.inbox, []);
    assert_eq!(rows.parked.len(), MAX_PARKED);
    assert_eq!((rows.parked[0].id.as_str(), rows.parked[1].id.as_str()), ("i1", "i2"));
    assert_eq!(store.sessions_with_work().await.unwrap(), [], "it waits for somebody to ask");
}

/// What is closed goes after a while, but a message only when its thread was read back beyond it: else a search could find
/// it again, and take it for a new one.
pub async fn old_rows_of_sessions_are_deleted_when_closed(store: Store) {
    let (read, unread) = (key("1"), key_in("C2", "1"));
    let far = "1000000000";
    for key in [&read, &unread] {
        let id = |name: &str| format!("{}-{name}", key.conversation);
        begin(&store, key, |commit| {
            let edit = InboxRow { kind: InboxKind::Edit, ..row(key, &id("edit"), "10", InboxState::Delivered) };
            commit.inbox = vec![
                row(key, &id("done"), "10", InboxState::Delivered),
                row(key, &id("open"), "11", InboxState::Queued),
                row(key, &id("fresh"), far, InboxState::Delivered),
                edit,
            ];
            commit.turns = vec![full_turn(key), TurnRow { id: TurnId::new("t2"), ..turn(key) }];
            commit.parts =
                vec![part(key, &id("sent"), 1, PartState::Sent), part(key, &id("waits"), 2, PartState::Queued)];
        })
        .await;
    }
    store.caught_up(&read, ChatTime::from_micros(1_000_000_000)).await.unwrap();
    store.put_person(person("U1", Standing::Member), Timestamp::from_millis(5)).await.unwrap();
    let old = Old { journal: Timestamp::from_millis(0), closed: Timestamp::from_millis(10) };
    // Of both: the edit, the turn, the part; of the one that was read its old message; the person.
    assert_eq!(store.prune(old).await.unwrap(), 2 * 3 + 1 + 1);
    assert_eq!(store.prune(old).await.unwrap(), 0);
    for (key, place, kept) in [(&read, "10", false), (&read, "11", true), (&read, far, true), (&unread, "10", true)] {
        let known = store.known_message(&key.conversation_key(), &MessageId::new(place)).await.unwrap();
        assert_eq!(known.is_some(), kept, "{key} {place}");
    }
    assert_eq!(store.open_parts(&read, 9).await.unwrap().len(), 1);
    assert!(store.session(&read).await.unwrap().is_some(), "a thread may go on after years");
    assert_eq!(store.person(&PersonId::new("U1")).await.unwrap(), None);
}
