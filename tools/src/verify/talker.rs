//! A client that sends, in the manner that its plan says, until every command is answered.
//!
//! It sends unanswered commands again, with the same id: on the same socket, on the next one, or to
//! two nodes at once. It must not resend commands that have no id.

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

/// When a connection breaks, one in this many unanswered commands is not sent again, as if the
/// sender had gone away and would never know.
const FORGETFUL: u32 = 12;
/// The most of an outage that the talker makes up for. Otherwise it would send at once everything
/// that was due meanwhile.
const BACKLOG: Duration = Duration::from_millis(500);
/// The pause before a command that was answered `unavailable` is sent again.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);

/// A command, from before it is sent until it is answered.
#[derive(Clone)]
pub struct Job {
    kind: Kind,
    room: String,
    id: Option<String>,
    pub json: String,
    pub command: Command,
    /// The earliest time to send it, after `unavailable`.
    not_before: Instant,
}

pub struct Talker {
    client: Client,
    manner: Manner,
    words: Words,
    rooms: Vec<String>,
    rng: StdRng,
    /// When the next command is due.
    due: Instant,
    said: u64,
    /// Commands to send, in this order. Bounded: nothing is added while the window is full.
    queue: VecDeque<Job>,
    /// Unanswered commands, in the order of their answers.
    pending: VecDeque<Job>,
    /// When a hasty talker sends the oldest one again; `None`: it already has.
    impatient_at: Option<Instant>,
    twin: Option<mpsc::Sender<Job>>,
    /// Rooms to join again once the event of the `leave` has arrived.
    returning: Vec<String>,
    /// Another connection, which asks for what was written.
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

    /// Sends until it is told to stop, and then waits until everything is answered.
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
                // Never an error: this client holds the sender (`Stage`).
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

    /// Queues the commands that are due now.
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
        // Without an id, the text identifies the message.
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

    /// Sends as many commands as the window allows, in one write.
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

    /// Records the command as sent, and returns its frame.
    fn sending(&mut self, open: &Open, job: &Job) -> String {
        if job.kind == Kind::Join {
            return self.client.join(open, &job.room, Start::Last(0), job.id.as_deref());
        }
        self.client.sent(open, job.command);
        if let Some(twin) = &self.twin {
            // An error: the twin's queue is full (see `shadow`).
            let _ = twin.try_send(job.clone());
        }
        job.json.clone()
    }

    /// When there is something to do, if nothing arrives before.
    fn wake(&self, talking: bool) -> Instant {
        // The connection itself notices within seconds that nothing arrives.
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

    /// A hasty talker sends a command once more if it is not answered in time.
    async fn send_again(&mut self, open: &mut Open) -> Result<(), Gone> {
        let Some(job) = self.pending.front().cloned() else { return Ok(()) };
        if self.impatient_at.take_if(|at| *at <= Instant::now()).is_none() {
            return Ok(());
        }
        let again = self.sending(open, &job);
        self.pending.push_back(job);
        Ok(open.line.send([again]).await?)
    }

    /// After its connection has ended: unanswered commands go first, in their old order.
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
                if let Some(index) = self.pending.iter().position(is_it) {
                    self.pending.remove(index);
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
            // Its user had already left, or was about to come back.
            (Answered::Refused, Kind::Leave | Kind::Message) => self.come_back(job.room),
            (Answered::Refused, _) => {}
        }
    }

    /// Joins the room again, unless a `join` is already on its way.
    ///
    /// The ack of a `leave` may arrive before its event. If the socket still follows then, a `join`
    /// does not start anew. Only the server knows whether it does, so this waits for the event.
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

/// Removes and returns the command that the frame answers: the one with its id, or, if the frame
/// has no id, the oldest without one.
pub fn take_answered(pending: &mut VecDeque<Job>, frame: &Frame<'_>) -> Option<Job> {
    let is_it = |job: &Job| job.id.as_deref() == frame.id.as_deref();
    let index = pending.iter().position(is_it)?;
    pending.remove(index)
}
