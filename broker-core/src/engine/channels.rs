//! What the conversations are called that messages mention by their ids alone.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Shared;
use super::people::NAME_LIMIT;
use crate::chat::{ChatMessage, ConversationId, ConversationKey};

/// Conversations that are looked up for one look at messages; more keep their ids.
const MAX_LOOKED_UP: usize = 10;

/// The names that can be told within the time that names are waited for.
pub(super) async fn names(shared: &Shared, messages: &[ChatMessage]) -> BTreeMap<ConversationId, String> {
    let mentioned = messages.iter().flat_map(|message| {
        let installation = &message.conversation.installation;
        message
            .channels
            .iter()
            .map(|channel| ConversationKey { installation: installation.clone(), conversation: channel.id.clone() })
    });
    let mentioned: BTreeSet<ConversationKey> = mentioned.collect();
    let looked_up = mentioned.into_iter().take(MAX_LOOKED_UP).map(|key| async move {
        let name = timeout(NAME_LIMIT, shared.parts.transport.channel_name(&key)).await;
        Some((key.conversation, name.ok()?.ok()??))
    });
    join_all(looked_up).await.into_iter().flatten().collect()
}

/// Notes the names that were found.
pub(super) fn note(messages: &mut [ChatMessage], names: &BTreeMap<ConversationId, String>) {
    for channel in messages.iter_mut().flat_map(|message| &mut message.channels) {
        channel.name = names.get(&channel.id).cloned();
    }
}
