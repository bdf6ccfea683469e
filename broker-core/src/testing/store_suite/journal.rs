//! Cases of the journal.

use futures_util::future::join_all;

use super::{Store, accepted, begin, envelope, key};
use crate::clock::Timestamp;
use crate::store::{JournalFate, JournalId, JournalRow, Old};

fn names(rows: &[JournalRow]) -> Vec<&str> {
    rows.iter().map(|row| row.envelope.key.as_str()).collect()
}

/// One row per key, however often an envelope comes, within one batch or later, and in the order of coming.
pub async fn one_row_per_key(store: Store) {
    assert_eq!(store.accept(Vec::new()).await.unwrap(), []);
    let batch = vec![envelope("a", 1), envelope("b", 2), envelope("a", 3)];
    let first = store.accept(batch).await.unwrap();
    assert_eq!(first.iter().map(|it| it.fresh).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(first[0].id, first[2].id);
    let again = store.accept(vec![envelope("b", 4), envelope("c", 5)]).await.unwrap();
    assert_eq!(again.iter().map(|it| it.fresh).collect::<Vec<_>>(), [false, true]);
    assert_eq!(again[0].id, first[1].id);
    let unread = store.unread(None, 10).await.unwrap();
    assert_eq!(names(&unread), ["a", "b", "c"]);
    assert_eq!(unread[0].envelope, envelope("a", 1), "the first delivery is the one that is kept, byte for byte");
}

/// Of callers that bring the same envelope at once, exactly one has brought it.
pub async fn callers_at_once_agree(store: Store) {
    let callers = (0..90).map(|n| store.accept(vec![envelope(&format!("{}", n % 30), n)]));
    let answers = join_all(callers).await.into_iter().map(Result::unwrap);
    let fresh = answers.filter(|accepted| accepted[0].fresh).count();
    assert_eq!(fresh, 30);
    assert_eq!(store.unread(None, 100).await.unwrap().len(), 30);
}

/// Unread rows come oldest first, at most as many as are asked for, from after the row that is named.
pub async fn unread_rows_come_in_pages(store: Store) {
    store.accept((0..7).map(|n| envelope(&n.to_string(), 7 - n)).collect()).await.unwrap();
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = store.unread(after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        pages.push(names(&page).join(""));
    }
    assert_eq!(pages, ["012", "345", "6"]);
    assert_eq!(store.unread(None, 0).await.unwrap(), []);
}

/// A row that is settled is not read again, whatever became of it, and a redelivery is still known.
pub async fn a_settled_row_is_not_read_again(store: Store) {
    let reason = || "a reason".to_owned();
    let fates = [
        JournalFate::Ignored { reason: reason() },
        JournalFate::Unreadable { reason: reason() },
        JournalFate::Denied { reason: reason() },
        JournalFate::Unrouted { thread: key("1") },
        JournalFate::Done,
    ];
    for fate in fates {
        let ids = [accepted(&store, fate.as_str(), 1).await, accepted(&store, &format!("{}2", fate.as_str()), 1).await];
        store.settle(ids.to_vec(), fate.clone()).await.unwrap();
        assert_eq!(store.unread(None, 10).await.unwrap(), [], "{fate:?}");
        assert!(!store.accept(vec![envelope(fate.as_str(), 9)]).await.unwrap()[0].fresh);
    }
    // A row that is not there is no failure: it may have been deleted meanwhile.
    store.settle(vec![JournalId(4711)], JournalFate::Done).await.unwrap();
}

/// Replies that came before their thread's mention come back once, and not when they are too old.
pub async fn unrouted_rows_come_back_once(store: Store) {
    for (name, at, thread) in [
        ("old", 14, "1"),
        ("new", 15, "1"),
        ("newer", 30, "1"),
        ("other", 30, "2"),
        ("denied", 30, "1"),
        ("read", 30, "1"),
    ] {
        let id = accepted(&store, name, at).await;
        store.settle(vec![id], JournalFate::Unrouted { thread: key(thread) }).await.unwrap();
        match name {
            "denied" => store.settle(vec![id], JournalFate::Denied { reason: "a guest".to_owned() }).await.unwrap(),
            "read" => drop(begin(&store, &key("3"), |commit| commit.read = vec![id]).await),
            _ => {}
        }
    }
    let since = Timestamp::from_millis(15);
    let taken = store.take_unrouted(&key("1"), since).await.unwrap();
    assert_eq!(names(&taken), ["new", "newer"]);
    assert_eq!(store.take_unrouted(&key("1"), since).await.unwrap(), []);
    assert_eq!(store.unread(None, 10).await.unwrap(), taken, "they count as unread again");
    store.settle(vec![taken[0].id], JournalFate::Unrouted { thread: key("1") }).await.unwrap();
    assert_eq!(names(&store.take_unrouted(&key("1"), since).await.unwrap()), ["new"], "they may be unrouted once more");
}

/// Old rows are deleted, whatever became of them, but never one that nobody has read.
pub async fn old_rows_are_deleted_and_unread_ones_kept(store: Store) {
    for (name, at) in [("unread", 10), ("edge", 20), ("new", 30), ("done", 19), ("odd", 10), ("unrouted", 10)] {
        let id = accepted(&store, name, at).await;
        let fate = match name {
            "unread" => continue,
            "odd" => JournalFate::Unreadable { reason: "odd".to_owned() },
            "unrouted" => JournalFate::Unrouted { thread: key("1") },
            _ => JournalFate::Done,
        };
        store.settle(vec![id], fate).await.unwrap();
    }
    let back = accepted(&store, "back", 10).await;
    store.settle(vec![back], JournalFate::Unrouted { thread: key("2") }).await.unwrap();
    store.take_unrouted(&key("2"), Timestamp::from_millis(0)).await.unwrap();
    let old = Old { journal: Timestamp::from_millis(20), closed: Timestamp::from_millis(0) };
    assert_eq!(store.prune(old).await.unwrap(), 3);
    assert_eq!(store.prune(old).await.unwrap(), 0);
    assert_eq!(names(&store.unread(None, 10).await.unwrap()), ["unread", "back"]);
    assert_eq!(store.take_unrouted(&key("1"), Timestamp::from_millis(0)).await.unwrap(), []);
    for (name, fresh) in [("unread", false), ("edge", false), ("new", false), ("done", true), ("odd", true)] {
        assert_eq!(store.accept(vec![envelope(name, 40)]).await.unwrap()[0].fresh, fresh, "{name}");
    }
}

/// A row that was deleted does not leave its id to another one.
pub async fn ids_are_never_used_twice(store: Store) {
    let first = accepted(&store, "a", 1).await;
    store.settle(vec![first], JournalFate::Done).await.unwrap();
    let old = Old { journal: Timestamp::from_millis(2), closed: Timestamp::from_millis(2) };
    assert_eq!(store.prune(old).await.unwrap(), 1);
    assert!(accepted(&store, "a", 3).await > first);
}
