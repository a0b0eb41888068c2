//! What Redis and the mirror do to committed events on their way to this node: they arrive late,
//! twice, reordered, or never.

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::chance::{Chance, ms};
use crate::mirror::{Incoming, Mirrored};

/// Runs for as long as something may be committed.
pub async fn carry(
    chance: Chance,
    is_lossy: bool,
    mut committed: mpsc::UnboundedReceiver<Mirrored>,
    feed: mpsc::Sender<Incoming>,
) {
    while let Some(first) = committed.recv().await {
        let mut events = vec![first];
        while chance.percent(60)
            && let Ok(next) = committed.try_recv()
        {
            events.push(next);
        }
        if !is_lossy {
            chance.pause().await;
            hand_on(&feed, events).await;
            continue;
        }
        let times = match chance.below(10) {
            0 | 1 => 0,
            2 | 3 => 2,
            _ => 1,
        };
        if chance.percent(20) {
            events.reverse();
        }
        for _ in 0..times {
            let delay = match chance.below(10) {
                0 => chance.between(200, 2000),
                1..4 => chance.between(1, 100),
                _ => 0,
            };
            let (feed, events) = (feed.clone(), events.clone());
            tokio::spawn(async move {
                sleep(ms(delay)).await;
                hand_on(&feed, events).await;
            });
        }
    }
}

async fn hand_on(feed: &mpsc::Sender<Incoming>, events: Vec<Mirrored>) {
    // An error: the node has stopped.
    let _ = feed.send(Incoming::Events { events, backlog: false }).await;
}
