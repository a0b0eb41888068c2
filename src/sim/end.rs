//! The end of a schedule. Everything works again, so every client must get everything. Then all
//! clients go, and nothing may be left over.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::chance::ms;
use super::node::Node;
use super::plan::{FOLLOWS_MAX, Redis};
use super::schedule::{Schedule, Submitted};
use super::truth::Truth;
use crate::lane::{Answer, Failure};
use crate::protocol::frame;
use crate::rules::Outcome;

/// How many checks, and the pause between two. Together half a minute, longer than anything may
/// take.
const LOOKS: usize = 600;
const LOOK_PAUSE_MS: usize = 50;

/// Checks until nothing is missing. Returns what still is, if that does not happen.
async fn until(mut missing: impl AsyncFnMut() -> Option<String>) -> Result<(), String> {
    let mut last = None;
    for _ in 0..LOOKS {
        last = missing().await;
        if last.is_none() {
            return Ok(());
        }
        sleep(ms(LOOK_PAUSE_MS)).await;
    }
    Err(last.unwrap_or_default())
}

impl Schedule {
    /// `carrier`: brings what is committed, until the end.
    pub async fn end(mut self, carrier: JoinHandle<()>) -> Result<(), String> {
        self.heal();
        self.answered().await?;
        if self.node.plan.has_last_words {
            self.say_last_words().await?;
        }
        if self.node.plan.goes_back {
            // A log that went back is noticed when the last delayed event has arrived.
            sleep(ms(5000)).await;
        }
        self.wait_for_all().await?;
        self.clients.iter().for_each(|client| client.compare());
        self.end_all();
        let node = self.node.clone();
        until(async || {
            let left = node.desk.tasks.len().saturating_sub(node.tasks_len);
            (left > 0).then(|| format!("{left} tasks are left"))
        })
        .await?;
        // A room whose log went back is kept for a minute.
        if !node.plan.goes_back {
            sleep(ms(node.plan.linger_ms as usize * 2 + 1000)).await;
            until(async || {
                let rooms = node.desk.hub.room_names();
                let what = || format!("rooms are kept that nobody follows: {rooms:?}");
                (!rooms.is_empty()).then(what)
            })
            .await?;
        }
        drop(self);
        carrier.abort();
        let node = Arc::into_inner(node).ok_or("somebody still has the node")?;
        stop(node).await
    }

    /// Every command must be answered.
    async fn answered(&mut self) -> Result<(), String> {
        for mut submitted in self.submitted.drain(..) {
            match timeout(ms(20_000), &mut submitted.answer).await {
                Ok(Ok(answer)) => submitted.check(answer, &self.node.truth)?,
                Ok(Err(_)) => return Err("an answer was dropped".into()),
                Err(_) => return Err("a command was never answered".into()),
            }
        }
        Ok(())
    }

    /// Writes an event to each room, which reveals anything missed before it. If the log went back,
    /// writes beyond its highest seq: a log that went back is noticed by different events at one
    /// seq.
    async fn say_last_words(&mut self) -> Result<(), String> {
        let plan = self.node.plan.clone();
        for room in 0..plan.rooms {
            let highest = self.node.truth.highest(room);
            while !self.node.truth.is_beyond(room, highest) {
                // What another node says may be lost, too.
                let is_heard = plan.has_others && plan.redis != Redis::Lossy;
                if is_heard && self.node.chance.percent(50) {
                    self.others_say(room);
                    continue;
                }
                match timeout(ms(20_000), self.host_says(room)).await {
                    Ok(Ok(Ok(Outcome::Committed { .. }))) => {}
                    // An earlier commit is in doubt, which passes.
                    Ok(Ok(_)) => sleep(ms(LOOK_PAUSE_MS)).await,
                    _ => return Err("the last words were not answered".into()),
                }
            }
        }
        Ok(())
    }

    /// Everybody returns, asks for what they want, and gets all of it.
    async fn wait_for_all(&mut self) -> Result<(), String> {
        until(async || {
            let mut lacks = None;
            for (index, client) in self.clients.clone().into_iter().enumerate() {
                if self.node.truth.broken().is_some() {
                    return None;
                }
                if !client.state().is_connected {
                    self.connect(index);
                }
                if let Some(lack) = client.lacks() {
                    lacks.get_or_insert(format!("client {index} lacks {lack}"));
                    if client.state().owed == 0 && lack.contains("wants to follow") {
                        self.resume(index);
                    }
                }
            }
            lacks
        })
        .await
    }
}

impl Submitted {
    /// Whether the answer agrees with the log, unless that has gone back since.
    fn check(&self, answer: Answer, truth: &Truth) -> Result<(), String> {
        let Self { room, user, id, at, is_repeated, .. } = self;
        let written = truth.written(*room, id);
        let is_true = match &answer {
            Ok(Outcome::Committed { event, .. }) => {
                written == Some(event.seq) && truth.fact(frame::event(event).bytes()).is_some()
            }
            Ok(Outcome::Duplicate(receipt)) => *is_repeated && written == Some(receipt.seq),
            Ok(Outcome::Refused(_)) => !truth.was_member_since(*room, *user, *at),
            Ok(Outcome::Joined { .. }) => false,
            Err(Failure::Unwritten | Failure::Damaged) => written.is_none() || *is_repeated,
            Err(Failure::Unavailable) => true,
            Err(Failure::Internal) => false,
        };
        if is_true || truth.has_gone_back(*room) {
            return Ok(());
        }
        Err(format!("{id} of user {user} in room {room}: {answer:?}, and the log has {written:?}"))
    }
}

/// The node stops: its tasks end, and it has released everything that it held.
async fn stop(node: Node) -> Result<(), String> {
    let Node { desk, feed, memory, .. } = node;
    let (budgets, tasks) = (desk.budgets.clone(), desk.tasks.clone());
    let mut share = desk.hub.share(IpAddr::from([127, 0, 0, 1]));
    if !share.grow(FOLLOWS_MAX / 2) {
        return Err("slots of followers were not released".into());
    }
    if !desk.replay.is_idle() {
        return Err("a page that nobody reads was not forgotten".into());
    }
    drop((feed, memory, share, desk));
    tasks.stop();
    if timeout(ms(10_000), tasks.ended()).await.is_err() {
        return Err(format!("{} tasks do not end", tasks.len()));
    }
    if budgets.bytes() > 0 {
        return Err(format!("bytes were not released: {budgets:?}"));
    }
    Ok(())
}
