//! The threads that read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use broker_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::schema::OpenError;
use crate::sql::Sql;

/// Questions that may wait for a thread; more callers wait outside.
const QUEUE: usize = 1024;

type Question = (Box<dyn FnOnce(&Connection) + Send>, OwnedSemaphorePermit);

/// A few threads, each with a connection of its own, that answer from one queue: a long question keeps one of them busy and
/// the others free. Dropped, they finish what they have and end.
#[derive(Debug)]
pub(crate) struct Readers {
    questions: mpsc::Sender<Question>,
    places: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// One thread per connection.
    pub(crate) fn start(connections: Vec<Connection>) -> Result<Self, OpenError> {
        let (questions, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let start = |connection| {
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name("store-reader".to_owned());
            thread.spawn(move || answer(&connection, &waiting)).map_err(|source| OpenError::Thread { source })
        };
        let threads = connections.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { questions, places: Arc::new(Semaphore::new(QUEUE)), threads })
    }

    /// Asks a question.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::new("the store's threads have ended; restart the broker");
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| ended())?;
        let (sender, answer) = oneshot::channel();
        let ask = move |connection: &Connection| {
            // A caller that is gone does not want to know.
            let _ = sender.send(question(connection).map_err(StoreError::from));
        };
        self.questions.send((Box::new(ask), place)).map_err(|_| ended())?;
        answer
            .await
            .map_err(|_| StoreError::new("the question panicked; this is a fault of the broker, see its log"))?
    }

    /// Ends the threads and waits for them. Blocks.
    pub(crate) fn join(self) {
        drop(self.questions);
        for thread in self.threads {
            // They catch the panics of questions; were there another, the panic hook has told it.
            let _ = thread.join();
        }
    }
}

fn answer(connection: &Connection, waiting: &Mutex<mpsc::Receiver<Question>>) {
    loop {
        // One thread waits for a question, the others for their turn to wait.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((question, _)) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| question(connection))).is_err() {
            tracing::error!("a question to the store panicked");
        }
    }
}
