//! What a session does with a reply: frames for its client, rooms to follow, and the weight to
//! charge.
//!
//! The desk has done the work.

use std::time::Instant;

use super::answers::Asks;
use super::limits::Verdict;
use super::lost::lost_sync;
use super::paging::Paging;
use super::{End, Session};
use crate::desk::follow::Follow;
use crate::desk::pace::weight_of;
use crate::desk::resume::{self, Resuming};
use crate::desk::{Pending, Reply};
use crate::metrics;
use crate::protocol::close::CloseCode;
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::{self, Frame};
use crate::protocol::table::CommandType;

/// Answers of at least this length are queued as they are; shorter ones are gathered.
const LARGE_BYTES_MIN: usize = 4096;

impl Session {
    pub(super) fn on_reply(&mut self, reply: Reply, mut asks: Asks) -> Result<(), End> {
        self.payer = asks.user.take();
        self.charge(reply.weight());
        if let Some((re, frame)) = reply.frame() {
            self.answer(re, &frame);
            return Ok(());
        }
        match reply {
            Reply::Pages(pages) => {
                self.count(Some(CommandType::History), "ok");
                self.flush();
                self.paging = Some(Box::new(Paging::new(self.link.clone(), pages)));
                Ok(())
            }
            Reply::Problem(problem) => {
                for (room, user) in &asks.follows {
                    self.follows.refuse(room, user);
                }
                self.refuse(&problem)
            }
            Reply::Written(asked, outcome) => {
                self.on_written(asked, &outcome);
                Ok(())
            }
            Reply::Follow(follow) => {
                self.count(Some(CommandType::Join), "ok");
                self.follow(&follow)
            }
            Reply::Resumed(resuming, from) => self.on_resumed(resuming, from, asks),
            Reply::Who(asked) => {
                self.on_who(&asked);
                Ok(())
            }
            // Handled above, or not made for sockets.
            _ => Ok(()),
        }
    }

    /// Sends `joined`, then follows. In this order, so that no event comes before it.
    fn follow(&mut self, follow: &Follow) -> Result<(), End> {
        self.say_joined(follow);
        self.flush();
        self.follows.follow(follow).map(drop).map_err(lost_sync)
    }

    fn say_joined(&mut self, follow: &Follow) {
        let Follow { joined, reset, .. } = follow;
        let (asked, room) = (&joined.asked, &joined.asked.room);
        // The id of a `resume` is repeated in `resumed`.
        let id = asked.id.as_ref().filter(|_| asked.re == CommandType::Join);
        self.out.extend_from_slice(joined.frame(id).bytes());
        // Joining again moves nothing, so there is nothing to reset.
        if *reset && !self.follows.contains(room) {
            self.out.extend_from_slice(frame::reset(room, joined.last_seq).bytes());
        }
    }

    /// First a `joined` (or an error) for each room, then the replays, then `resumed`. This handles
    /// the rooms from `from` on. The next part follows when the client has taken these.
    fn on_resumed(&mut self, resuming: Box<Resuming>, from: usize, asks: Asks) -> Result<(), End> {
        for follow in &resuming.done[from..] {
            match follow {
                Ok(follow) => self.say_joined(follow),
                // Looking up a room that does not exist, or that the user may not follow, is work
                // as well. A client that asks only for those is treated like one that sends only
                // garbage.
                Err(problem) => {
                    self.say_refused(problem);
                    self.count_refused(problem.code != Code::Unavailable)?;
                }
            }
        }
        self.charge(CommandType::Resume.weight(resuming.done.len() - from));
        self.flush();
        if !resuming.is_over() {
            let asks = Asks { user: self.payer.clone(), ..asks };
            self.answers.go_on(Pending::later(|| resume::part(resuming)), asks);
            return Ok(());
        }
        let Resuming { done, id, .. } = *resuming;
        let mut followers = Vec::with_capacity(done.len());
        // One ask per room, in the order of the answers.
        for (follow, (room, user)) in done.iter().zip(&asks.follows) {
            match follow {
                Ok(follow) => {
                    let follower = self.follows.follow(follow).map_err(lost_sync)?;
                    followers.push((follower, follow.joined.last_seq));
                }
                Err(_) => self.follows.refuse(room, user),
            }
        }
        self.follows.resume(followers, id);
        Ok(())
    }

    pub(super) fn answer(&mut self, re: CommandType, frame: &Frame) {
        self.count(Some(re), "ok");
        let bytes = frame.bytes();
        self.charge(weight_of(bytes.len()));
        if bytes.len() < LARGE_BYTES_MIN {
            self.out.extend_from_slice(bytes);
            return;
        }
        // Not copied. What comes before it is sent first.
        self.flush();
        // If it is closed, the next turn of the loop learns that from the socket.
        let _ = self.link.push(bytes);
    }

    fn refuse(&mut self, problem: &Problem) -> Result<(), End> {
        self.say_refused(problem);
        self.count_refused(problem.code.is_refused_frame())
    }

    fn say_refused(&mut self, problem: &Problem) {
        self.count(problem.re, problem.code.name());
        self.out.extend_from_slice(problem.frame().bytes());
    }

    fn count_refused(&mut self, counts: bool) -> Result<(), End> {
        if !counts {
            return Ok(());
        }
        let verdict = self.limits.refuse(&self.desk.config.session, Instant::now());
        self.obey(verdict, "too many refused frames")
    }

    /// Frames without an answer arrived: control frames and fragments.
    pub(super) fn on_frames(&mut self, count: u32) -> Result<(), End> {
        let verdict = self.limits.frames(&self.desk.config.session, count, Instant::now());
        self.desk.pace.charge(self.address, None, count, Instant::now());
        self.obey(verdict, "too many frames")
    }

    fn obey(&mut self, verdict: Verdict, why: &'static str) -> Result<(), End> {
        match verdict {
            Verdict::Go => Ok(()),
            Verdict::Rest(pause) => {
                self.rest = Some(Box::pin(tokio::time::sleep(pause)));
                Ok(())
            }
            Verdict::Close => {
                self.flush();
                Err((CloseCode::POLICY, why))
            }
        }
    }

    /// Charges for work done for the client.
    pub(super) fn charge(&mut self, weight: u32) {
        if weight > 0 {
            let now = Instant::now();
            self.limits.charge(&self.desk.config.session, weight, now);
            self.desk.pace.charge(self.address, self.payer.as_ref(), weight, now);
        }
    }

    /// `None`: the frame named no command.
    pub(super) fn count(&self, re: Option<CommandType>, result: &'static str) {
        let r#type = re.map_or("unknown", CommandType::name);
        self.desk.metrics.commands.get_or_create(&metrics::CommandLabel { r#type, result }).inc();
    }

    /// Queues the answers that are ready, as one piece. The queue takes them whatever their length:
    /// they are bounded because the session stops reading.
    pub(super) fn flush(&mut self) {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            // If it is closed, the next turn of the loop learns that from the socket.
            let _ = self.link.push(&out.into_boxed_slice().into());
        }
    }
}
