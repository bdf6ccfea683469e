//! Looks at what a thread holds.

use super::*;
use crate::store::ContextMessage;

impl House {
    async fn read(&self, thread: &ThreadKey) -> Vec<ContextMessage> {
        self.broker().door().earlier(thread, None, None).await.unwrap().0
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
