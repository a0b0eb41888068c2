//! What a worked-out answer makes of a session: words for its client, rooms to follow, and what it
//! weighs.
//!
//! It works nothing out; `answers` and its neighbours do.

use std::time::Instant;

use super::answers::{Asked, Asks, Follow, Pending, Reply};
use super::limits::Verdict;
use super::lost::lost_sync;
use super::pace::{weight, weight_of};
use super::paging::Paging;
use super::resume::{self, Resuming};
use super::{End, Session};
use crate::log::Reading;
use crate::metrics;
use crate::protocol::close::CloseCode;
use crate::protocol::error::{Code, Problem};
use crate::protocol::frame::{self, Frame, Joined};

/// Rooms of a `resume` that weigh as much as a small command.
const ROOMS_PER_WEIGHT: usize = 5;
/// Answers of this length on are handed over as they are; shorter ones are gathered.
const LARGE_BYTES_MIN: usize = 4096;

impl Session {
    pub(super) fn on_reply(&mut self, reply: Reply, mut asks: Asks) -> Result<(), End> {
        self.payer = asks.user.take();
        match reply {
            Reply::Nothing => Ok(()),
            Reply::Frame { re, frame, weight } => {
                self.charge(weight);
                self.answer(re, &frame);
                Ok(())
            }
            Reply::Pages(pages) => {
                self.count("history", "ok");
                self.charge(pages.weight);
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
            Reply::Joined(follow) => {
                self.count("join", "ok");
                self.follow(&follow)
            }
            Reply::Resumed(resuming, from) => self.on_resumed(resuming, from, asks),
            Reply::Who(asked) => {
                self.on_who(&asked);
                Ok(())
            }
        }
    }

    /// Says `joined`, then follows: in this order, so that no event comes before it.
    fn follow(&mut self, follow: &Follow) -> Result<(), End> {
        self.say_joined(follow);
        self.flush();
        self.follows.follow(follow).map(drop).map_err(lost_sync)
    }

    fn say_joined(&mut self, follow: &Follow) {
        let Follow { asked, last_seq, members, reading, reset, .. } = follow;
        let Asked { room, user, id, re, .. } = asked;
        // The id of a `resume` comes back in `resumed`.
        let id = id.as_ref().filter(|_| *re == "join");
        let (last_seq, members, Reading { read, unread }) = (*last_seq, *members, *reading);
        let joined = Joined { room, user, last_seq, members, read, unread, id };
        let joined = frame::joined(&joined);
        self.out.extend_from_slice(joined.bytes());
        // Joining again moves nothing, so there is nothing to reset.
        if *reset && !self.follows.contains(room) {
            self.out.extend_from_slice(frame::reset(room, last_seq).bytes());
        }
    }

    /// First a `joined` (or an error) for each room, then the replays, then `resumed`. Here are the
    /// rooms from one place on; the rest is answered when the client has taken these.
    fn on_resumed(&mut self, resuming: Box<Resuming>, from: usize, asks: Asks) -> Result<(), End> {
        for follow in &resuming.done[from..] {
            match follow {
                Ok(follow) => self.say_joined(follow),
                // One that is not there, or not the user's, was worth a look: who asks for nothing
                // but those is as bad as one who sends nothing but nonsense.
                Err(problem) => {
                    self.say_refused(problem);
                    self.count_refused(problem.code != Code::Unavailable)?;
                }
            }
        }
        self.charge(weight(resuming.done.len() - from, ROOMS_PER_WEIGHT));
        self.flush();
        if !resuming.is_over() {
            let asks = Asks { user: self.payer.clone(), ..asks };
            self.answers.go_on(Pending::later(|| resume::part(resuming)), asks);
            return Ok(());
        }
        let Resuming { done, id, .. } = *resuming;
        let mut followers = Vec::with_capacity(done.len());
        // One ask for each room, in the order of the answers.
        for (follow, (room, user)) in done.iter().zip(&asks.follows) {
            match follow {
                Ok(follow) => {
                    let follower = self.follows.follow(follow).map_err(lost_sync)?;
                    followers.push((follower, follow.last_seq));
                }
                Err(_) => self.follows.refuse(room, user),
            }
        }
        self.follows.resume(followers, id);
        Ok(())
    }

    pub(super) fn answer(&mut self, re: &'static str, frame: &Frame) {
        self.count(re, "ok");
        let bytes = frame.bytes();
        self.charge(weight_of(bytes.len()));
        if bytes.len() < LARGE_BYTES_MIN {
            self.out.extend_from_slice(bytes);
            return;
        }
        // Not copied. What was to be said before it goes first.
        self.flush();
        // Closed: the next turn of the loop hears of it from the socket.
        let _ = self.link.push(bytes);
    }

    fn refuse(&mut self, problem: &Problem) -> Result<(), End> {
        self.say_refused(problem);
        self.count_refused(problem.code.is_refused_frame())
    }

    fn say_refused(&mut self, problem: &Problem) {
        self.count(problem.re.unwrap_or("unknown"), problem.code.name());
        self.out.extend_from_slice(problem.frame().bytes());
    }

    fn count_refused(&mut self, counts: bool) -> Result<(), End> {
        if !counts {
            return Ok(());
        }
        let verdict = self.limits.refuse(&self.shared.config.session, Instant::now());
        self.obey(verdict, "too many refused frames")
    }

    /// Frames came that have no answer: control frames, and parts of messages.
    pub(super) fn on_frames(&mut self, count: u32) -> Result<(), End> {
        let verdict = self.limits.frames(&self.shared.config.session, count, Instant::now());
        self.shared.pace.charge(self.address, None, count, Instant::now());
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

    /// Something of that weight was done for the client.
    pub(super) fn charge(&mut self, weight: u32) {
        if weight > 0 {
            let now = Instant::now();
            self.limits.charge(&self.shared.config.session, weight, now);
            self.shared.pace.charge(self.address, self.payer.as_ref(), weight, now);
        }
    }

    pub(super) fn count(&self, r#type: &'static str, result: &'static str) {
        self.shared.metrics.commands.get_or_create(&metrics::Command { r#type, result }).inc();
    }

    /// Hands over the answers that are ready, in one piece. The queue takes them whatever its
    /// length: what bounds them is that the session stops reading.
    pub(super) fn flush(&mut self) {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            // Closed: the next turn of the loop hears of it from the socket.
            let _ = self.link.push(&out.into_boxed_slice().into());
        }
    }
}
