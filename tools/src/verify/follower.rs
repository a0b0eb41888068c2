//! A client that reads. It follows rooms, disconnects in the way that its plan says, and comes back
//! with the position of the last event it has seen.
//!
//! It sends only what it needs to follow, leave and come back.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};
use verbatim_checker::{Command, Kind, Start};
use verbatim_client::frame::{self, Frame};

use super::Phase;
use super::client::{Answered, Client, Gone, Heard, Open};
use super::plan::{self, Entry, Habit, Vanish};

/// Most connections of one client that are neither read nor closed.
const ATTIC_LEN_MAX: usize = 4;
/// The pause before it asks again for a room that it could not follow.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);
/// The time between two disturbances of its connection, in milliseconds.
const WHIM_MS: std::ops::Range<u64> = 300..3000;
/// How long a slow follower pauses reading, in milliseconds.
const REST_MS: std::ops::Range<u64> = 200..2500;

pub struct Follower {
    client: Client,
    habit: Habit,
    entry: Start,
    rooms: Vec<String>,
    rng: StdRng,
    /// Connections that it abandoned silently.
    attic: VecDeque<Open>,
    /// The unanswered `leave`.
    leaving: Option<(Command, String)>,
    left: u64,
    /// When it next acts out its habit.
    whim: Instant,
    has_settled: bool,
    has_arrived: bool,
}

/// Why it stops reading a connection.
enum End {
    Gone,
    Vanish(Vanish),
    Roam,
    Over,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<verbatim_client::Gone> for End {
    fn from(_: verbatim_client::Gone) -> Self {
        Self::Gone
    }
}

impl Follower {
    pub fn new(client: Client, plan: &plan::Follower) -> Self {
        let rooms = plan.rooms.iter().map(|room| client.stage.rooms[*room].clone());
        Self {
            habit: plan.habit,
            entry: match plan.entry {
                Entry::Beginning => Start::After(0),
                Entry::Last(len) => Start::Last(len),
                Entry::Now => Start::Last(0),
            },
            rooms: rooms.collect(),
            rng: StdRng::seed_from_u64(plan.seed),
            attic: VecDeque::new(),
            leaving: None,
            left: 0,
            whim: Instant::now(),
            has_settled: false,
            has_arrived: false,
            client,
        }
    }

    /// Follows until the run is over.
    pub async fn run(mut self) {
        while let Ok(mut open) = self.client.connect().await {
            self.plan_whim();
            let Err(end) = self.follow(&mut open).await;
            if let End::Over = end {
                // It follows until the end, so nothing is recorded as unfollowed.
                return;
            }
            self.client.disconnected();
            self.client.move_on();
            if let Some((command, _)) = self.leaving.take() {
                self.client.abandoned(command);
            }
            match end {
                End::Vanish(Vanish::Rst) => open.line.reset(),
                End::Vanish(Vanish::Silent) => {
                    self.attic.push_back(open);
                    if self.attic.len() > ATTIC_LEN_MAX {
                        self.attic.pop_front();
                    }
                }
                End::Roam => open.line.close().await,
                End::Gone | End::Vanish(Vanish::Fin) | End::Over => {}
            }
        }
    }

    fn plan_whim(&mut self) {
        self.whim = Instant::now() + Duration::from_millis(self.rng.random_range(WHIM_MS));
    }

    async fn follow(&mut self, open: &mut Open) -> Result<std::convert::Infallible, End> {
        self.enter(open).await?;
        loop {
            let phase = self.client.phase.borrow_and_update().clone();
            if phase == Phase::Over {
                return Err(End::Over);
            }
            self.report(&phase);
            let has_whims = phase == Phase::Talk && self.habit != Habit::Steady;
            tokio::select! {
                text = open.next() => self.hear(open, &text?).await?,
                () = sleep_until(self.whim), if has_whims => self.act(open).await?,
                // Never an error: this client holds the sender (`Stage`).
                _ = self.client.phase.changed() => {}
            }
        }
    }

    /// Resumes the rooms in which it has a position, and joins the others.
    async fn enter(&mut self, open: &mut Open) -> Result<(), Gone> {
        let known: Vec<_> = self.rooms.iter().filter(|it| self.client.knows(it)).cloned().collect();
        let mut frames = Vec::from_iter(self.client.resume());
        for room in self.rooms.iter().filter(|room| !known.contains(room)) {
            frames.push(self.client.join(open, room, self.entry, None));
        }
        Ok(open.line.send(frames).await?)
    }

    /// Tells the run how far it has come.
    fn report(&mut self, phase: &Phase) {
        let stage = &self.client.stage;
        let follows_all = self.rooms.iter().all(|room| self.client.follows(room));
        if *phase != Phase::Talk && follows_all && self.leaving.is_none() && !self.has_settled {
            self.has_settled = true;
            stage.settled.send_modify(|settled| *settled += 1);
        }
        if let Phase::End(ends) = phase
            && !self.has_arrived
            && follows_all
            && self.client.has_seen(ends)
        {
            self.has_arrived = true;
            stage.arrived.send_modify(|arrived| *arrived += 1);
        }
    }

    async fn hear(&mut self, open: &mut Open, text: &str) -> Result<(), Gone> {
        match self.client.hear(open, text) {
            // It asked for this itself, and the answer is still to come.
            Heard::Left(room) => {
                let join = self.client.join(open, &room, self.entry, None);
                Ok(open.line.send([join]).await?)
            }
            Heard::Answer => {
                let frame: Frame<'_> = serde_json::from_str(text).map_err(|_| Gone)?;
                self.on_answer(open, &frame, text).await
            }
            Heard::Joined(_) | Heard::Nothing => Ok(()),
        }
    }

    async fn on_answer(
        &mut self,
        open: &mut Open,
        frame: &Frame<'_>,
        text: &str,
    ) -> Result<(), Gone> {
        let is_its = |(_, id): &mut (Command, String)| frame.id.as_deref() == Some(id);
        if let Some((command, _)) = self.leaving.take_if(is_its) {
            // The event says that it has left. If the server could not carry it out, it does not
            // try again.
            if self.client.answered(open, command, frame, text) == Answered::Unavailable {
                self.client.abandoned(command);
            }
            return Ok(());
        }
        // The refusal of a `join`, or of one room of a `resume`.
        let is_known = matches!(frame.code.as_deref(), Some("not_member" | "unavailable"));
        let Some(room) = frame.room.as_deref().filter(|_| is_known) else {
            open.stray(text);
            return Ok(());
        };
        self.client.not_joined(room);
        sleep(AGAIN_PAUSE).await;
        let join = self.client.join(open, room, self.entry, None);
        Ok(open.line.send([join]).await?)
    }

    /// Acts out its habit.
    async fn act(&mut self, open: &mut Open) -> Result<(), End> {
        self.plan_whim();
        match self.habit {
            Habit::Steady => Ok(()),
            Habit::Slow => {
                let rest = Duration::from_millis(self.rng.random_range(REST_MS));
                tokio::select! {
                    () = sleep(rest) => {}
                    _ = self.client.phase.changed() => {}
                }
                open.line.rested();
                Ok(())
            }
            Habit::Vanishing(how) => Err(End::Vanish(how)),
            Habit::Roaming => Err(End::Roam),
            Habit::Leaving => Ok(self.leave(open).await?),
        }
    }

    async fn leave(&mut self, open: &mut Open) -> Result<(), Gone> {
        let Some(room) = self.rooms.choose(&mut self.rng) else { return Ok(()) };
        if self.leaving.is_some() || !self.client.follows(room) {
            return Ok(());
        }
        self.left += 1;
        let id = format!("l{}", self.left);
        let command = self.client.command(Kind::Leave, room, Some(&id), None);
        let (user_id, room, id_text) = (&*self.client.user, Some(&**room), Some(&*id));
        let leave =
            frame::Command { r#type: "leave", user_id, room, id: id_text, ..Default::default() };
        self.client.sent(open, command);
        self.leaving = Some((command, id.clone()));
        Ok(open.line.send([leave.json()]).await?)
    }
}
