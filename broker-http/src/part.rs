//! The parts of the broker that readiness asks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broker_core::health::PartHealth;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long a part may take to say how it stands.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

type Answer = Pin<Box<dyn Future<Output = PartHealth> + Send>>;

/// A part of the broker, and where it says how it stands.
#[derive(Clone)]
pub struct Part {
    name: &'static str,
    ask: Arc<dyn Fn() -> Answer + Send + Sync>,
}

impl Part {
    /// A part that is asked each time. It is ill when it takes longer than two seconds, or panics.
    pub fn asked<F, A>(name: &'static str, ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = PartHealth> + Send + 'static,
    {
        Self { name, ask: Arc::new(move || Box::pin(ask())) }
    }

    /// A part that keeps its state in a watch channel, of which `pick` takes what belongs to it. It is ill when whoever
    /// wrote the state is gone: the last word of somebody who no longer speaks is not the truth.
    pub fn watched<T, P>(name: &'static str, health: watch::Receiver<T>, pick: P) -> Self
    where
        T: Send + Sync + 'static,
        P: Fn(&T) -> PartHealth + Send + Sync + 'static,
    {
        Self::asked(name, move || {
            let now = match health.has_changed() {
                Ok(_) => pick(&health.borrow()),
                Err(_) => PartHealth::ill("it has ended and reports no longer; restart the broker"),
            };
            std::future::ready(now)
        })
    }

    /// Its name in the answer.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Asks all parts at once, each in a task of its own, so that none can hold up or bring down another.
pub(crate) async fn ask_all(parts: &[Part]) -> Vec<(&'static str, PartHealth)> {
    let asked: Vec<_> = parts
        .iter()
        .map(|part| {
            let ask = Arc::clone(&part.ask);
            let answer = async move { tokio::time::timeout(ANSWER_LIMIT, ask()).await };
            (part.name, AbortOnDropHandle::new(tokio::spawn(answer)))
        })
        .collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (name, answer) in asked {
        let health = match answer.await {
            Ok(Ok(health)) => health,
            Ok(Err(_)) => PartHealth::ill("no answer within 2 s"),
            Err(_) => PartHealth::ill("it panicked when asked; the log has the place"),
        };
        answers.push((name, health));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_or_panics_is_ill_and_alone_in_it() {
        let parts = [
            Part::asked("hung", std::future::pending),
            Part::asked("panics", || async { panic!("on purpose") }),
            Part::asked("well", || async { PartHealth::well() }),
        ];
        let answers = ask_all(&parts).await;
        assert_eq!(
            answers.iter().map(|(name, health)| (*name, health.ok)).collect::<Vec<_>>(),
            [("hung", false), ("panics", false), ("well", true)]
        );
    }

    #[tokio::test]
    async fn a_watched_part_is_ill_once_its_writer_is_gone() {
        let (tell, health) = watch::channel(7);
        let part = [Part::watched("store", health, |n| PartHealth::well().with("n", *n))];
        assert_eq!(ask_all(&part).await, [("store", PartHealth::well().with("n", 7))]);
        tell.send_replace(8);
        assert_eq!(ask_all(&part).await, [("store", PartHealth::well().with("n", 8))]);
        drop(tell);
        assert!(!ask_all(&part).await[0].1.ok);
    }
}
