//! A client that talks, in the manner that its plan says, until every command has its answer.
//!
//! Whatever was not answered it sends again, with the same id: on the same socket, on the next one
//! or to two nodes at once. What it must not do is to send again what has no id.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use verbatim_checker::{Command, Kind, Start};
use verbatim_client::frame::{self, Frame};

use super::Phase;
use super::client::{Answered, Client, Gone, Heard, Open};
use super::plan::{self, Manner, What, Words};
use super::shadow::{self, Reader};

/// Of the connections that break under commands, one in so many is not made again for them: the
/// sender went away and will never know.
const FORGETFUL: u32 = 12;
/// After an outage the talker does not say all at once what it would have said meanwhile.
const BACKLOG: Duration = Duration::from_millis(500);
/// Before what was answered `unavailable` is sent again.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);

/// A command, before and after it was sent.
#[derive(Clone)]
pub struct Job {
    kind: Kind,
    room: String,
    id: Option<String>,
    pub json: String,
    pub command: Command,
    /// Not before, after `unavailable`.
    not_before: Instant,
}

pub struct Talker {
    client: Client,
    manner: Manner,
    words: Words,
    rooms: Vec<String>,
    rng: StdRng,
    /// When the next thing is said.
    due: Instant,
    said: u64,
    /// To be sent, in this order. Bounded: nothing is added while the window is full.
    queue: VecDeque<Job>,
    /// Sent and not answered, in the order of their answers.
    pending: VecDeque<Job>,
    /// When the hasty lose patience with it; `None`: they have sent it again already.
    impatient_at: Option<Instant>,
    twin: Option<mpsc::Sender<Job>>,
    /// Rooms to be joined again once the event of having left is here.
    returning: Vec<String>,
    /// Another connection, to ask what was written.
    reader: Option<Reader>,
}

impl Talker {
    pub fn new(client: Client, plan: &plan::Talker, words: Words) -> Self {
        let stage = client.stage.clone();
        let other = |suffix: &str| {
            let name = format!("{}{suffix}", client.name);
            Client::new(&stage, &name, &client.user, client.home + 1, false)
        };
        Self {
            manner: plan.manner,
            twin: (plan.manner == Manner::Twin).then(|| shadow::twin(other("'"))),
            reader: (plan.manner == Manner::Reading).then(|| Reader::new(other(" reading"))),
            rng: StdRng::seed_from_u64(plan.seed),
            rooms: stage.rooms.clone(),
            words,
            due: Instant::now(),
            impatient_at: None,
            said: 0,
            queue: VecDeque::new(),
            pending: VecDeque::new(),
            returning: Vec::new(),
            client,
        }
    }

    /// Talks until it is told to stop, and then until everything is answered.
    pub async fn run(mut self) {
        while let Ok(mut open) = self.client.connect().await {
            if self.talk(&mut open).await.is_ok() {
                self.client.unfollow();
                return open.line.close().await;
            }
            self.client.unfollow();
            self.client.move_on();
            self.put_back();
        }
    }

    async fn talk(&mut self, open: &mut Open) -> Result<(), Gone> {
        loop {
            let phase = self.client.phase.borrow_and_update().clone();
            match phase {
                Phase::Over => return Err(Gone),
                Phase::Talk => self.think(),
                _ if self.queue.is_empty() && self.pending.is_empty() => return Ok(()),
                _ => {}
            }
            self.send(open).await?;
            let wake = self.wake(phase == Phase::Talk);
            tokio::select! {
                text = open.next() => self.hear(open, &text?).await,
                () = sleep_until(wake) => self.send_again(open).await?,
                // It ends with the stage, which this client holds.
                _ = self.client.phase.changed() => {}
            }
        }
    }

    fn window(&self) -> usize {
        match self.manner {
            Manner::Pipelined { window } => window,
            _ => 1,
        }
    }

    /// Says what is due by now.
    fn think(&mut self) {
        let now = Instant::now();
        while self.due <= now && self.queue.len() + self.pending.len() < self.window() {
            let Some(word) = self.words.next() else { return };
            let pause = Duration::from_millis(word.pause_ms);
            self.due = self.due.max(now.checked_sub(BACKLOG).unwrap_or(now)) + pause;
            let room = self.rooms[word.room].clone();
            match word.what {
                What::Message(text) => self.add(Kind::Message, room, Some(text)),
                What::Return => self.add(Kind::Leave, room, None),
                What::Create(number) => {
                    self.add(Kind::Create, format!("{room}-made-{number}"), None);
                }
            }
        }
    }

    fn add(&mut self, kind: Kind, room: String, text: Option<String>) {
        self.said += 1;
        let number = self.said;
        let id = (self.manner != Manner::Mumbling).then(|| format!("c{number}"));
        // Without an id it is the text that says which is which.
        let text = text.map(|text| match id {
            Some(_) => text,
            None => format!("{} {number}: {text}", self.client.user),
        });
        let command = self.client.command(kind, &room, id.as_deref(), text.as_deref());
        let (user_id, message) = (&*self.client.user, text.as_deref());
        let r#type = kind.name();
        let (room_name, id_text) = (Some(&*room), id.as_deref());
        let json = frame::Command {
            r#type,
            user_id,
            room: room_name,
            message,
            id: id_text,
            ..Default::default()
        };
        let (json, not_before) = (json.json(), Instant::now());
        self.queue.push_back(Job { kind, room, id, json, command, not_before });
    }

    /// Sends what may be under way, in one write.
    async fn send(&mut self, open: &mut Open) -> Result<(), Gone> {
        let now = Instant::now();
        let mut frames = Vec::new();
        while self.pending.len() < self.window()
            && self.queue.front().is_some_and(|job| job.not_before <= now)
            && let Some(job) = self.queue.pop_front()
        {
            frames.push(self.sending(open, &job));
            self.pending.push_back(job);
            if let Manner::Hasty { patience_ms } = self.manner {
                self.impatient_at = Some(now + Duration::from_millis(patience_ms));
            }
        }
        if !frames.is_empty() {
            open.line.send(frames).await?;
        }
        Ok(())
    }

    /// Its frame, recorded as sent.
    fn sending(&mut self, open: &Open, job: &Job) -> String {
        if job.kind == Kind::Join {
            return self.client.join(open, &job.room, Start::Last(0), job.id.as_deref());
        }
        self.client.sent(open, job.command);
        if let Some(twin) = &self.twin {
            // See `shadow` for what it means that it is full.
            let _ = twin.try_send(job.clone());
        }
        job.json.clone()
    }

    /// When there is something to do without having heard anything.
    fn wake(&self, talking: bool) -> Instant {
        // The line itself notices within seconds that nothing comes.
        let mut wake = Instant::now() + Duration::from_secs(60);
        if talking && self.queue.len() + self.pending.len() < self.window() {
            wake = wake.min(self.due);
        }
        if let Some(job) = self.queue.front()
            && self.pending.len() < self.window()
        {
            wake = wake.min(job.not_before);
        }
        match self.impatient_at {
            Some(at) if !self.pending.is_empty() => wake.min(at),
            _ => wake,
        }
    }

    /// The hasty send again what was not answered so fast, once.
    async fn send_again(&mut self, open: &mut Open) -> Result<(), Gone> {
        let Some(job) = self.pending.front().cloned() else { return Ok(()) };
        if self.impatient_at.take_if(|at| *at <= Instant::now()).is_none() {
            return Ok(());
        }
        let again = self.sending(open, &job);
        self.pending.push_back(job);
        Ok(open.line.send([again]).await?)
    }

    /// After its connection has ended: what was not answered goes first, in the old order.
    fn put_back(&mut self) {
        for job in std::mem::take(&mut self.pending).into_iter().rev() {
            let is_known = self.queue.iter().any(|known| known.id == job.id);
            match job.id {
                None => {}
                Some(_) if is_known => {}
                Some(_) if self.rng.random_ratio(1, FORGETFUL) => {
                    self.client.abandoned(job.command);
                }
                Some(_) => self.queue.push_front(job),
            }
        }
        for room in std::mem::take(&mut self.returning) {
            self.come_back(room);
        }
    }

    async fn hear(&mut self, open: &Open, text: &str) {
        match self.client.hear(open, text) {
            Heard::Joined(room) => {
                let is_it = |job: &Job| job.kind == Kind::Join && job.room == room;
                if let Some(place) = self.pending.iter().position(is_it) {
                    self.pending.remove(place);
                }
            }
            Heard::Answer => {
                if let Ok(frame) = serde_json::from_str(text)
                    && let Some(job) = take_answered(&mut self.pending, &frame)
                {
                    self.on_answer(open, job, &frame, text).await;
                } else {
                    open.stray(text);
                }
            }
            Heard::Left(room) if self.returning.contains(&room) => self.come_back(room),
            Heard::Nothing | Heard::Left(_) => {}
        }
    }

    async fn on_answer(&mut self, open: &Open, mut job: Job, frame: &Frame<'_>, text: &str) {
        let answered = self.client.answered(open, job.command, frame, text);
        match (answered, job.kind) {
            (Answered::Acked(seq), _) => {
                match job.kind {
                    Kind::Leave => self.come_back(job.room.clone()),
                    Kind::Create => self.client.made(&job.room),
                    _ => {}
                }
                if let Some(reader) = &mut self.reader {
                    reader.read(&job.room, seq).await;
                }
            }
            (Answered::Unavailable, Kind::Join) => {
                self.client.not_joined(&job.room);
                job.not_before = Instant::now() + AGAIN_PAUSE;
                self.queue.push_back(job);
            }
            (Answered::Unavailable, _) if job.id.is_some() => {
                job.not_before = Instant::now() + AGAIN_PAUSE;
                self.queue.push_back(job);
            }
            (Answered::Unavailable, _) => {}
            // It had left, which it did not know, or was about to come back.
            (Answered::Refused, Kind::Leave | Kind::Message) => self.come_back(job.room),
            (Answered::Refused, _) => {}
        }
    }

    /// Joins the room again, unless that is on its way.
    ///
    /// The ack of a leave may come before its event, and to a socket that still follows, a join is
    /// no new beginning. Whether it does, only the server knows; so this waits for the event.
    fn come_back(&mut self, room: String) {
        if self.client.follows(&room) {
            return self.returning.push(room);
        }
        self.returning.retain(|known| *known != room);
        let under_way = self.pending.iter().chain(&self.queue);
        let mut joins = under_way.filter(|job| job.kind == Kind::Join);
        if !joins.any(|job| job.room == room) {
            self.add(Kind::Join, room, None);
            self.queue.rotate_right(1);
        }
    }
}

/// The command that the frame is the answer to: that of its id, and without an id the oldest.
pub fn take_answered(pending: &mut VecDeque<Job>, frame: &Frame<'_>) -> Option<Job> {
    let is_it = |job: &Job| job.id.as_deref() == frame.id.as_deref();
    let place = pending.iter().position(is_it)?;
    pending.remove(place)
}
