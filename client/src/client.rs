//! A client that reconnects: a handle for commands, a stream of updates, and the task between them
//! and the server.
//!
//! What it knows is [`State`]; here is the I/O around it. Nothing grows without a bound:
//! - Commands without an answer have `outbox_len_max` slots, for which the next command waits.
//! - Updates that nobody takes have `updates_len_max` slots. When they are full, the task stops
//!   reading, and the server waits. If a command has no answer meanwhile, the answer stands behind
//!   those events, and whoever should take them may be waiting for it. Then the task makes a new
//!   connection, on which no room is followed again until half of the slots are free. Nothing
//!   comes there before an answer, but for what a `join` brings after its own: so on each such
//!   connection at least one command is answered, and they end. No event is lost: each room goes on
//!   from where it was.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::{BadUrl, Connection, Gone, Target, Waits};
use crate::error::{Error, Refused};
use crate::event::{Page, Update};
use crate::state::{Answer, Ask, Output, Start, State};

/// Updates that one frame may lead to: a `leave`, and that the room is not followed any more.
const UPDATES_PER_FRAME: usize = 2;
/// How long a command waits for the program to take updates before its connection is given up.
const STALL: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: the back-off starts again.
const GOOD: Duration = Duration::from_secs(10);

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Nodes of one cluster, or a load balancer. When a connection is lost, the next one is tried.
    /// If there is none, the client ends at once.
    pub targets: Vec<Target>,
    /// The user as whom the client sends and follows.
    pub user: String,
    /// How long each connection waits for the server.
    pub waits: Waits,
    /// The wait between attempts to connect; by default up to 1 s, doubling up to 30 s.
    pub backoff: Backoff,
    /// The most unanswered commands; the next one waits. By default 256; at least 1.
    pub outbox_len_max: usize,
    /// The most updates that are kept for [`Updates::next`]; then the client stops reading. By
    /// default 1024; at least 4.
    pub updates_len_max: usize,
}

impl Settings {
    /// Settings with the defaults.
    pub fn new(url: &str, user: &str) -> Result<Self, BadUrl> {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(30));
        Ok(Self {
            targets: vec![Target::parse(url)?],
            user: user.to_owned(),
            waits: Waits::default(),
            backoff: Backoff { first, longest },
            outbox_len_max: 256,
            updates_len_max: 1024,
        })
    }
}

/// Sends commands. Clones share one connection.
///
/// Every command waits for as long as it must: for one of `outbox_len_max` slots, for a
/// connection, for its answer. Commands of one room are carried out in the order in which they
/// found a slot: that of the calls, if each is awaited before the next one is made (for messages,
/// [`Client::post`] is enough). Calls that run side by side have no order.
///
/// All of them may be awaited in the loop that takes the updates: when there is no slot for more
/// updates, a command waits about a second longer.
///
/// When the last clone is dropped, the client ends as soon as every command has its answer, also
/// if nobody takes updates.
#[derive(Clone)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    slots: Arc<Semaphore>,
}

/// The updates of a client. If it is dropped, the client continues, and the updates are lost.
pub struct Updates(mpsc::Receiver<Update>);

/// The future answer to a message that was accepted for sending.
#[must_use = "it says whether the message was stored; drop it if that does not matter"]
pub struct Receipt(oneshot::Receiver<Result<Answer, Refused>>);

struct Request {
    room: String,
    ask: Ask,
    reply: Reply,
}

/// Where the answer goes, and the command's slot until then.
struct Reply {
    to: oneshot::Sender<Result<Answer, Refused>>,
    _slot: OwnedSemaphorePermit,
}

impl Client {
    /// Starts a client, which connects in the background. Call it inside a tokio runtime.
    pub fn start(settings: Settings) -> (Self, Updates) {
        let slots = settings.outbox_len_max.clamp(1, Semaphore::MAX_PERMITS);
        let (requests, taken) = mpsc::channel(slots);
        let updates_len =
            settings.updates_len_max.clamp(2 * UPDATES_PER_FRAME, Semaphore::MAX_PERMITS);
        let (updates, shown) = mpsc::channel(updates_len);
        let task = Task {
            state: State::new(settings.user.clone(), format!("{:032x}", rand::random::<u128>())),
            settings,
            requests: taken,
            updates,
            updates_len,
            news: None,
            follows: true,
            pause: None,
            is_suspect: false,
            target: 0,
        };
        tokio::spawn(task.run());
        (Self { requests, slots: Arc::new(Semaphore::new(slots)) }, Updates(shown))
    }

    /// Creates a room, whose owner and first member is the user. Returns the seq of the event.
    pub async fn create(&self, room: &str) -> Result<u64, Error> {
        seq(self.ask(room, Ask::Create).await?.answer().await?)
    }

    /// Makes the user a member of the room and follows it, across all breaks from then on. A room
    /// that is followed already stays where it is, whatever `start` says. After [`Client::leave`]
    /// it is a new beginning; only if the connection was lost before the event of the leave came,
    /// the room may go on from where it was. Returns the seq of the room's last event.
    ///
    /// Unlike a message, it is not retried while the server cannot carry it out: `unavailable` and
    /// `rate_limited` are returned like any other error.
    pub async fn join(&self, room: &str, start: Start) -> Result<u64, Error> {
        seq(self.ask(room, Ask::Join(start)).await?.answer().await?)
    }

    /// Ends the user's membership, and stops following the room. Returns the seq of the event. If
    /// the connection was lost before, events that had not come by then do not come any more.
    pub async fn leave(&self, room: &str) -> Result<u64, Error> {
        seq(self.ask(room, Ask::Leave).await?.answer().await?)
    }

    /// Sends a message, and waits until it is stored; returns its seq. It is sent again, with the
    /// same id, after every reconnect, `unavailable` and `rate_limited`, so it is stored once.
    ///
    /// If the call is dropped while it waits for a slot, nothing is sent. If it is dropped later,
    /// the message is sent all the same.
    ///
    /// While you wait here, you take no updates. In a loop over [`Updates`], use [`Client::post`].
    pub async fn send(&self, room: &str, message: &str) -> Result<u64, Error> {
        self.post(room, message).await?.seq().await
    }

    /// Sends a message as [`Client::send`] does, but waits only for a slot, not until the message
    /// is stored. Cancel-safe: if the call is dropped, nothing is sent.
    pub async fn post(&self, room: &str, message: &str) -> Result<Receipt, Error> {
        self.ask(room, Ask::Message(message.to_owned())).await
    }

    /// A page of the room's past, with up to `limit` events (1 to 200): the next ones above
    /// `after`, those right below `before`, or, with neither, the newest. Do not give both. Like
    /// [`Client::join`], it is not retried.
    pub async fn history(
        &self,
        room: &str,
        before: Option<u64>,
        after: Option<u64>,
        limit: u64,
    ) -> Result<Page, Error> {
        match self.ask(room, Ask::History { before, after, limit }).await?.answer().await? {
            Answer::Page(page) => Ok(page),
            Answer::Seq(_) => Err(Error::Closed),
        }
    }

    async fn ask(&self, room: &str, ask: Ask) -> Result<Receipt, Error> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (to, answer) = oneshot::channel();
        let reply = Reply { to, _slot: slot };
        let request = Request { room: room.to_owned(), ask, reply };
        // The channel is as long as there are slots.
        self.requests.try_send(request).map_err(|_| Error::Closed)?;
        Ok(Receipt(answer))
    }
}

impl Receipt {
    /// Waits until the message is stored; returns its seq.
    pub async fn seq(self) -> Result<u64, Error> {
        seq(self.answer().await?)
    }

    async fn answer(self) -> Result<Answer, Error> {
        Ok(self.0.await.map_err(|_| Error::Closed)??)
    }
}

fn seq(answer: Answer) -> Result<u64, Error> {
    match answer {
        Answer::Seq(seq) => Ok(seq),
        // The server does not speak this protocol.
        Answer::Page(_) => Err(Error::Closed),
    }
}

impl Updates {
    /// The next update; `None` when the client has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.0.recv().await
    }
}

struct Task {
    settings: Settings,
    state: State<Reply>,
    requests: mpsc::Receiver<Request>,
    updates: mpsc::Sender<Update>,
    updates_len: usize,
    /// The last `Connected` or `Disconnected`, while there is no slot for it. Earlier ones do not
    /// matter.
    news: Option<Update>,
    /// `false` while the connection only carries commands, because too many updates wait.
    follows: bool,
    /// How long the server asked to wait before the next connection.
    pause: Option<Duration>,
    /// The server has thrown it out for what it did, and has said nothing to it since but hello.
    is_suspect: bool,
    /// Which of the targets is next.
    target: usize,
}

/// Why a connection is not used any more.
enum End {
    Gone(Gone),
    /// The program took no updates while a command was unanswered.
    Stalled,
    /// The program does not use the client any more.
    Over,
}

impl From<Gone> for End {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

impl Task {
    async fn run(mut self) {
        let mut tries = 0;
        while let Some(target) = self.settings.targets.get(self.target).cloned() {
            let end = match self.connect(&target, &mut tries).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            self.state.disconnected();
            match end {
                End::Over => return,
                End::Stalled => continue,
                End::Gone(why) if self.is_for_good(&why) => return self.give_up(why).await,
                End::Gone(why) => self.news = Some(Update::Disconnected { why }),
            }
            self.tell_news();
            self.target = (self.target + 1) % self.settings.targets.len();
            let backoff = self.settings.backoff;
            // After a `goodbye`, as long as the server says, or up to twice as long, so that not
            // all clients return at once.
            let wait = match self.pause.take() {
                Some(pause) => pause.min(backoff.longest).mul_f64(1.0 + rand::random::<f64>()),
                None => backoff.wait(tries, rand::random()),
            };
            tries = tries.saturating_add(1);
            if self.beside(sleep(wait)).await.is_err() {
                return;
            }
        }
    }

    /// Whether connecting again would not help. When a node is short of memory, or a network stands
    /// still for long, it looks as if the client had broken a rule: so that is tried once more.
    fn is_for_good(&mut self, why: &Gone) -> bool {
        let was_suspect = self.is_suspect;
        self.is_suspect |= why.is_for_policy();
        why.is_for_good() && (was_suspect || !why.is_for_policy())
    }

    /// Makes a connection and uses it. `tries` is 0 after one that was good.
    async fn connect(&mut self, target: &Target, tries: &mut u32) -> Result<Never, End> {
        let open = Connection::open(target, self.settings.waits.clone());
        let mut connection = self.beside(open).await??;
        let begun = Instant::now();
        let Err(end) = self.converse(&mut connection).await;
        if begun.elapsed() > GOOD {
            *tries = 0;
        }
        if matches!(end, End::Over) {
            connection.close().await;
        }
        Err(end)
    }

    /// Ends, because connecting again would not help.
    async fn give_up(self, why: Gone) {
        let Self { state, requests, updates, .. } = self;
        // First, because the program may wait for an answer before it takes the update.
        drop((state, requests));
        // An error: the program has dropped the updates.
        let _ = updates.send(Update::Disconnected { why }).await;
    }

    /// Waits for `job`, and takes commands meanwhile. `Err`: the program does not use the client
    /// any more.
    async fn beside<F: Future>(&mut self, job: F) -> Result<F::Output, End> {
        tokio::pin!(job);
        loop {
            if self.is_over() {
                return Err(End::Over);
            }
            let nobody_sends = self.nobody_sends();
            tokio::select! {
                done = &mut job => return Ok(done),
                request = self.requests.recv(), if !nobody_sends => self.take(request),
            }
        }
    }

    /// One connection, from its greeting to its end.
    async fn converse(&mut self, connection: &mut Connection) -> Result<Never, End> {
        let (mut is_greeted, begun) = (false, Instant::now());
        loop {
            self.tell_news();
            let is_shut = self.updates.is_closed();
            self.follows |= is_shut || self.updates.capacity() >= self.updates_len / 2;
            let due = self.state.due(Instant::now(), self.follows);
            let frames = self.act(due)?;
            if !frames.is_empty() {
                connection.send(frames).await?;
            }
            // What cannot be sent at all has its answer now.
            if self.is_over() {
                return Err(End::Over);
            }
            let is_full = !is_shut && self.updates.capacity() < UPDATES_PER_FRAME;
            if is_full && self.state.is_following() {
                self.wait_for_taker().await?;
                connection.rested();
                continue;
            }
            let (wake, nobody_sends) = (self.state.wake(self.follows), self.nobody_sends());
            tokio::select! {
                text = connection.next() => {
                    let text = text?;
                    let heard = self.state.hear(&text, Instant::now(), rand::random());
                    self.act(heard)?;
                    // Refusals come before a close for too many of them, so they prove nothing.
                    let is_good = is_greeted && !text.starts_with(r#"{"type":"error""#);
                    (self.is_suspect, is_greeted) = (self.is_suspect && !is_good, true);
                }
                request = self.requests.recv(), if !nobody_sends => self.take(request),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                () = sleep_until(begun + self.settings.waits.open), if !is_greeted => {
                    return Err(Gone::silent("greet").into());
                }
                () = has_slots(&self.updates, self.updates_len / 2), if !self.follows => {}
            }
        }
    }

    /// Waits, without reading, until there are slots for the updates of one more frame.
    async fn wait_for_taker(&mut self) -> Result<(), End> {
        let nobody_sends = self.nobody_sends();
        let taken = has_slots(&self.updates, UPDATES_PER_FRAME);
        if !self.state.is_idle() {
            if timeout(STALL, taken).await.is_err() {
                self.follows = false;
                return Err(End::Stalled);
            }
            return Ok(());
        }
        tokio::select! {
            () = taken => {}
            request = self.requests.recv(), if !nobody_sends => self.take(request),
        }
        Ok(())
    }

    fn take(&mut self, request: Option<Request>) {
        // `None`: the last handle was dropped.
        if let Some(Request { room, ask, reply }) = request {
            self.state.push(room, ask, reply);
        }
    }

    /// Passes updates and answers on. Returns the frames to send.
    fn act(&mut self, outputs: Vec<Output<Reply>>) -> Result<Vec<String>, End> {
        let mut frames = Vec::new();
        for output in outputs {
            match output {
                Output::Send(frame) => frames.push(frame),
                Output::Tell(update @ Update::Connected { .. }) => self.news = Some(update),
                // There is a slot for it (see `converse`), unless nothing is followed. What comes
                // then may be lost, as signals are.
                Output::Tell(update) => drop(self.updates.try_send(update)),
                // An error: nobody waits for it.
                Output::Answer(reply, answer) => drop(reply.to.send(answer)),
                Output::Hole => return Err(Gone::Lost("an event is missing".to_owned()).into()),
                Output::Wait(pause) => self.pause = Some(pause),
            }
        }
        Ok(frames)
    }

    /// If there is no slot for the news now, it is passed on later.
    fn tell_news(&mut self) {
        if let Some(Err(TrySendError::Full(news))) =
            self.news.take().map(|news| self.updates.try_send(news))
        {
            self.news = Some(news);
        }
    }

    /// Nobody sends, and every command has its answer.
    fn is_over(&self) -> bool {
        self.nobody_sends() && self.state.is_idle()
    }

    fn nobody_sends(&self) -> bool {
        self.requests.is_closed() && self.requests.is_empty()
    }
}

/// Waits for free slots. Returns at once if the program has dropped the updates.
async fn has_slots(updates: &mpsc::Sender<Update>, len: usize) {
    // An error: they were dropped.
    let _ = updates.reserve_many(len).await;
}

/// A connection is used until it ends.
type Never = std::convert::Infallible;

#[cfg(test)]
mod tests;
