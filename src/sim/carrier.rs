//! What Redis and the mirror do to committed events on their way to this node: they arrive late,
//! twice, reordered, or never.

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::chance::{Chance, ms};
use super::plan::Redis;
use crate::mirror::{Incoming, Mirrored};

/// Between two polls of the log.
const ASK_EVERY_MS: usize = 500;

/// Runs for as long as something may be committed.
pub async fn carry(
    chance: Chance,
    redis: Redis,
    mut committed: mpsc::UnboundedReceiver<Mirrored>,
    feed: mpsc::Sender<Incoming>,
) {
    match redis {
        Redis::Whole | Redis::Lossy => {}
        Redis::None => return,
        Redis::Silent => return ask(&feed).await,
    }
    while let Some(first) = committed.recv().await {
        let mut events = vec![first];
        while chance.percent(60)
            && let Ok(next) = committed.try_recv()
        {
            events.push(next);
        }
        if redis == Redis::Whole {
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

/// Without Redis, the node polls the log.
async fn ask(feed: &mpsc::Sender<Incoming>) {
    while feed.send(Incoming::Doubt).await.is_ok() {
        sleep(ms(ASK_EVERY_MS)).await;
    }
}

async fn hand_on(feed: &mpsc::Sender<Incoming>, events: Vec<Mirrored>) {
    // An error: the node has stopped.
    let _ = feed.send(Incoming::Events { events, backlog: false }).await;
}
