//! More arrives at once than there is room for on the way.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_has_no_room_on_the_way_to_the_router_is_found_as_soon_as_there_is_room() {
    let house = House::new(|_| finish("hello")).await;
    house.first_pass().await;
    let begun = tokio::time::Instant::now();
    // Nothing runs between these, so the broker meets them at once.
    for n in 0..2 * router::QUEUE {
        house.chat.say("C1", None, "U1", &format!("to each other {n}"));
    }
    let last = house.chat.say("C1", None, "U1", "@broker hi");
    assert_eq!(house.posts(&last, 1).await, ["hello"]);
    house.until("all are read", |house| house.counts().journal_unread == 0).await;
    assert!(begun.elapsed() < router::SWEEP / 2, "no sweep was waited for: {:?}", begun.elapsed());
}
