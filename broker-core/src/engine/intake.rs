//! Commits envelopes, and keeps the link to the platform.

use std::sync::Arc;

use async_trait::async_trait;

use super::router::Rows;
use super::{Shared, vital};
use crate::chat::{Intake, LinkError, RawEnvelope};
use crate::sabotage::{Plant, planted};
use crate::store::{Accepted, JournalId, JournalRow, StoreError};
use crate::telemetry;

/// Commits an envelope, then hands its row to the router.
struct Journal {
    shared: Arc<Shared>,
    rows: Rows,
}

impl Journal {
    /// What [`Intake::accept`] must never be: an answer before the commit.
    fn accept_later(&self, envelope: RawEnvelope) -> Accepted {
        let (shared, rows) = (Arc::clone(&self.shared), self.rows.clone());
        self.shared.tasks.spawn(async move {
            if let Ok(accepted) = shared.parts.store.accept(vec![envelope.clone()]).await
                && let Some(accepted) = accepted.first().filter(|accepted| accepted.fresh)
            {
                rows.hand_on(JournalRow { id: accepted.id, envelope });
            }
        });
        Accepted { id: JournalId(0), fresh: false }
    }
}

#[async_trait]
impl Intake for Journal {
    async fn accept(&self, envelope: RawEnvelope) -> Result<Accepted, StoreError> {
        if planted(Plant::AckBeforeCommit) {
            return Ok(self.accept_later(envelope));
        }
        let begun = tokio::time::Instant::now();
        let mut accepted = self.shared.parts.store.accept(vec![envelope.clone()]).await?;
        let accepted = accepted.pop().ok_or_else(|| StoreError::new("the store gave no row for an envelope"))?;
        metrics::histogram!(telemetry::COMMIT_SECONDS).record(begun.elapsed());
        let what = if accepted.fresh { "new" } else { "redelivery" };
        metrics::counter!(telemetry::ENVELOPES, "delivery" => what).increment(1);
        if accepted.fresh {
            self.rows.hand_on(JournalRow { id: accepted.id, envelope });
        }
        Ok(accepted)
    }
}

/// Runs the link until the broker closes.
pub(super) fn start(shared: &Arc<Shared>, rows: Rows) {
    let intake = Arc::new(Journal { shared: Arc::clone(shared), rows });
    let transport = Arc::clone(&shared.parts.transport);
    let stop = shared.closing.clone();
    vital::spawn(shared, "intake", async move {
        match transport.run(intake, stop).await {
            Ok(()) => tracing::info!("the link to the chat platform is closed"),
            Err(LinkError::Fatal { reason }) => tracing::error!(reason, "the link to the chat platform has ended"),
        }
    });
}
