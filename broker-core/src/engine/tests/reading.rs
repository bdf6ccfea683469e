//! Looks at what a thread holds.

use super::*;
use crate::agent::AgentAnswer;
use crate::chat::{ChatMessage, ConversationId, ConversationKey, FileRef, Kept, MentionedChannel};
use crate::store::ContextMessage;
use crate::testing::memory_chat::MemoryFile;

impl House {
    async fn read(&self, thread: &ThreadKey) -> Vec<ContextMessage> {
        self.broker().door().earlier(thread, None, None).await.unwrap().messages
    }
}

#[tokio::test]
async fn whom_the_platform_does_not_know_is_not_looked_up_each_time() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.lose_person("U9");
    let thread = house.chat.seed("C1", None, "U9", "who am I?");
    for _ in 0..3 {
        assert!(house.read(&thread).await[0].denied);
    }
    assert_eq!(house.chat.times_looked_up("U9"), 1);
}

#[tokio::test]
async fn a_bot_may_instruct_where_the_operator_lets_it() {
    for allowed in [true, false] {
        let mut house = House::new(|_| finish("hello")).await;
        house.settings.policy.bots.extend(allowed.then(|| "B1".to_owned()));
        house.restart().await;
        let thread = house.chat.bot_says("C1", None, "B1", "build failed");
        assert_eq!(house.read(&thread).await[0].denied, !allowed);
    }
}

#[tokio::test]
async fn channels_that_are_mentioned_by_their_ids_have_names_where_everybody_may_know_them() {
    let house = House::new(|_| finish("hello")).await;
    let mentions = |message: ChatMessage| {
        let id = |id: &str| MentionedChannel { id: ConversationId::new(id), name: None };
        let channels = (0..12).map(|n| id(&format!("C{n:02}"))).chain([id("P1")]).collect();
        ChatMessage { channels, ..message }
    };
    let root = house.chat.seed("C1", None, "U1", "see <#C01>, <#C11> and <#P1>");
    house.chat.change(&root.root, mentions);
    let read = &house.read(&root).await[0].message;
    let named: Vec<_> = read.channels.iter().filter_map(|channel| channel.name.as_deref()).collect();
    assert_eq!(named, (0..10).map(|n| format!("c{n:02}")).collect::<Vec<_>>(), "as many as are looked up at once");
    let private = ConversationKey { conversation: ConversationId::new("P1"), ..root.conversation_key() };
    assert_eq!(house.chat.channel_name(&private).await, Ok(None));
}

#[tokio::test]
async fn files_of_older_messages_are_there_once_the_agent_has_read_them() {
    let arguments = serde_json::json!({"action": "history"});
    let read = Act::Tool { name: "broker".to_owned(), arguments };
    let mut house = House::new(move |_| vec![read.clone(), Act::Finish(Some("read".to_owned()))]).await;
    // Nothing goes along with the first mention.
    house.settings.initial_history = 0;
    house.settings.history_limit = 5;
    house.restart().await;
    let shown = FileRef { id: "F1".to_owned(), size: Some(4), ..FileRef::default() };
    let file = MemoryFile { shown, bytes: b"plan".to_vec(), ..MemoryFile::default() };
    let root = house.chat.share("C1", None, "U2", "the plan", &[file]);
    house.chat.say("C1", Some(&root.root), "U1", "@broker look at the plan");
    house.posts(&root, 1).await;
    let AgentAnswer::Tool { text: answer, .. } = house.agent.answers().pop().unwrap();
    assert!(answer.contains(".slack-attachments/") && answer.contains("F1-file"), "{answer}");
    let door = house.broker().door();
    let earlier = door.earlier(&root, None, Some(5)).await.unwrap();
    let Some(Kept::Here { path, .. }) = &earlier.messages[0].message.files[0].kept else { panic!("{earlier:?}") };
    let path = earlier.workspace.unwrap().join(path);
    assert_eq!(std::fs::read(&path).unwrap(), b"plan");
    // Whoever only looks is told how to get at what is not there, and nothing is made.
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let earlier = door.earlier(&root, None, Some(5)).await.unwrap();
    let Some(Kept::Missing { reason }) = &earlier.messages[0].message.files[0].kept else { panic!("{earlier:?}") };
    assert!(reason.contains("`history`") && !path.parent().unwrap().exists(), "{reason}");
}

#[tokio::test]
async fn a_file_that_takes_longer_than_an_answer_is_there_the_next_time() {
    let house = House::new(|_| finish("hello")).await;
    let root = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&root, 1).await;
    let shared = &house.broker().shared;
    let files = crate::engine::files::SessionFiles::default();
    let record = house.record(&root).expect("a session");
    let workspace = house.settings.sessions_root.join(&record.folder).join("workspace");
    let fetch = async |wait: u64| {
        let until = tokio::time::Instant::now() + Duration::from_secs(wait);
        let file = FileRef { id: "F1".to_owned(), size: Some(4), ..FileRef::default() };
        let fetched = files.fetch_earlier(shared, &workspace, vec![(root.root.clone(), file)], until).await;
        fetched[0].1.kept.clone().expect("it is known what became of it")
    };
    let still = |kept: &Kept| matches!(kept, Kept::Missing { reason } if reason.contains("still being fetched"));
    // Nobody shares it yet, so that it is not to be had; then all places are taken.
    assert!(matches!(fetch(10).await, Kept::Missing { reason } if !reason.contains("still")));
    let shown = FileRef { id: "F1".to_owned(), size: Some(4), ..FileRef::default() };
    house.chat.share(
        "C1",
        Some(&root.root),
        "U1",
        "it",
        &[MemoryFile { shown, bytes: b"plan".to_vec(), ..MemoryFile::default() }],
    );
    let places = files.take_all().await;
    assert!(still(&fetch(0).await));
    assert!(still(&fetch(10).await), "it is begun once, and nobody waits for what another waits for");
    drop(places);
    let there = async {
        while !matches!(fetch(1).await, Kept::Here { .. }) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, there).await.expect("it was fetched all the same");
}

#[tokio::test]
async fn that_none_go_along_by_themselves_says_nothing_of_who_asks() {
    let mut house = House::new(|_| finish("hello")).await;
    house.settings.initial_history = 0;
    house.restart().await;
    let thread = house.chat.seed("C1", None, "U1", "one");
    house.chat.seed("C1", Some(&thread.root), "U1", "two");
    assert_eq!(house.read(&thread).await.len(), 2);
}
