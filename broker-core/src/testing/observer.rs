//! Shows a test what a session's machine is after each of its commits.

use std::cell::RefCell;

use crate::chat::ThreadKey;
use crate::session::SessionMachine;
use crate::store::SessionRows;

/// Is told of a session, and of the rows that its machine would be rebuilt from.
pub type Observer = Box<dyn Fn(&ThreadKey, SessionRows)>;

thread_local! {
    static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

/// From now on this observer is told of all sessions whose tasks run on the present thread.
pub fn observe(observer: Option<Observer>) {
    OBSERVER.with(|known| *known.borrow_mut() = observer);
}

/// A machine's step is durable.
pub(crate) fn observed(key: &ThreadKey, machine: &SessionMachine) {
    OBSERVER.with(|known| {
        if let Some(observer) = &*known.borrow() {
            observer(key, machine.rows());
        }
    });
}
