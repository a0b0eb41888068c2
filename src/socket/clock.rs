//! When a socket must be pinged, and when it is given up. Pure: the time is an argument.
//!
//! Three rules end a socket. Only one of the first two applies at any moment:
//!
//! - **Stalled** (4008), while something waits for the kernel: it took no byte for the stall
//!   timeout. A client that does not read cannot answer pings, because it does not see them, so its
//!   silence means nothing; and a ping would only wait behind the backlog.
//! - **Silent** (4009), while nothing waits and we listen: nothing was heard for two heartbeats,
//!   although a ping went out with each. While the session does not listen (a command is pending) a
//!   pong may lie unread, so silence means nothing then either.
//! - **Unfinished** (1008), while we listen: a message began, and is not complete within the frame
//!   timeout. Without this rule a client could keep an unfinished message forever, with a byte now
//!   and then.
//!
//! The race that this closes:
//!
//! 1. A client stops reading for a minute, and is not pinged.
//! 2. It reads again, and the queue empties.
//! 3. If silence were counted from its last pong, a healthy client would be closed for the time in
//!    which nobody pinged it.
//!
//! So silence is counted from when its rule begins to apply.

use std::time::Duration;

use tokio::time::Instant;

/// The deadlines of one socket.
#[derive(Debug)]
pub(super) struct Clock {
    heartbeat: Duration,
    stall_timeout: Duration,
    frame_timeout: Duration,
    /// When the last ping was sent; at first, when the socket opened.
    pinged_at: Instant,
    /// When any byte last came in, or the silence rule last began to apply.
    heard_at: Instant,
    /// The silence rule applies.
    is_listening: bool,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    Stalled,
    Silent,
    Unfinished,
}

impl Clock {
    pub fn new(
        heartbeat: Duration,
        stall_timeout: Duration,
        frame_timeout: Duration,
        now: Instant,
    ) -> Self {
        let (pinged_at, heard_at) = (now, now);
        Self { heartbeat, stall_timeout, frame_timeout, pinged_at, heard_at, is_listening: true }
    }

    /// Bytes came in; any byte proves that the client is alive.
    pub fn on_heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Sets whether the silence rule applies. `now` is only called when it begins to. Returns
    /// whether it did.
    pub fn set_listening(&mut self, is_listening: bool, now: impl FnOnce() -> Instant) -> bool {
        let begins = is_listening && !self.is_listening;
        if begins {
            self.heard_at = now();
        }
        self.is_listening = is_listening;
        begins
    }

    /// When to call `on_due` next. `stuck_since`: when the queue last moved, if anything waits in
    /// it; `begun_at`: when an unfinished message began.
    pub fn next_due(&self, stuck_since: Option<Instant>, begun_at: Option<Instant>) -> Instant {
        let ping_at = self.pinged_at + self.heartbeat;
        match stuck_since {
            Some(moved_at) => moved_at + self.stall_timeout,
            None if self.is_listening => {
                let due = ping_at.min(self.silent_at());
                begun_at.map_or(due, |begun_at| due.min(begun_at + self.frame_timeout))
            }
            None => ping_at,
        }
    }

    /// What to do now. A `Ping` counts as sent.
    pub fn on_due(
        &mut self,
        stuck_since: Option<Instant>,
        begun_at: Option<Instant>,
        now: Instant,
    ) -> Due {
        if now < self.next_due(stuck_since, begun_at) {
            return Due::Nothing;
        }
        if stuck_since.is_some() {
            return Due::Stalled;
        }
        if self.is_listening && begun_at.is_some_and(|at| now >= at + self.frame_timeout) {
            return Due::Unfinished;
        }
        if self.is_listening && now >= self.silent_at() {
            return Due::Silent;
        }
        self.pinged_at = now;
        Due::Ping
    }

    fn silent_at(&self) -> Instant {
        self.heard_at + 2 * self.heartbeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heartbeat of 25 s, a stall timeout of 60 s, a frame timeout of 30 s; times are seconds
    /// since the socket opened.
    struct Run {
        clock: Clock,
        opened: Instant,
    }

    impl Run {
        fn new() -> Self {
            let opened = Instant::now();
            let [heartbeat, stall_timeout, frame_timeout] = [25, 60, 30].map(Duration::from_secs);
            let clock = Clock::new(heartbeat, stall_timeout, frame_timeout, opened);
            Self { clock, opened }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.opened + Duration::from_secs(seconds)
        }

        /// The next deadline is as given, nothing is due before it, and then `due`.
        fn check(&mut self, stuck_since: Option<u64>, seconds: u64, due: Due) {
            self.check_begun(stuck_since, None, seconds, due);
        }

        /// The same with a message that began at that time.
        fn check_begun(
            &mut self,
            stuck_since: Option<u64>,
            begun_at: Option<u64>,
            seconds: u64,
            due: Due,
        ) {
            let stuck_since = stuck_since.map(|seconds| self.at(seconds));
            let begun_at = begun_at.map(|seconds| self.at(seconds));
            assert_eq!(self.clock.next_due(stuck_since, begun_at), self.at(seconds));
            let just_before = self.at(seconds) - Duration::from_millis(1);
            assert_eq!(self.clock.on_due(stuck_since, begun_at, just_before), Due::Nothing);
            assert_eq!(self.clock.on_due(stuck_since, begun_at, self.at(seconds)), due);
        }

        fn listens(&mut self, listens: bool, seconds: u64) {
            let now = self.at(seconds);
            let begins = self.clock.set_listening(listens, || now);
            assert_eq!(begins, listens);
        }
    }

    #[test]
    fn a_client_that_never_answers_is_silent_after_two_heartbeats() {
        let mut run = Run::new();
        run.check(None, 25, Due::Ping);
        run.check(None, 50, Due::Silent);
    }

    #[test]
    fn a_client_that_answers_is_pinged_forever() {
        let mut run = Run::new();
        for seconds in [25, 50, 75, 100] {
            run.check(None, seconds, Due::Ping);
            run.clock.on_heard(run.at(seconds + 1));
        }
    }

    #[test]
    fn only_the_stall_rule_applies_to_a_backlog() {
        let mut run = Run::new();
        run.listens(false, 10);
        run.check(Some(10), 70, Due::Stalled);
        run.check(Some(69), 129, Due::Stalled);
    }

    #[test]
    fn silence_is_counted_from_when_the_backlog_is_gone() {
        let mut run = Run::new();
        run.listens(false, 10);
        run.listens(true, 69);
        // The ping is overdue and sent at once; then the client has its two heartbeats.
        assert_eq!(run.clock.on_due(None, None, run.at(69)), Due::Ping);
        run.check(None, 94, Due::Ping);
        run.check(None, 119, Due::Silent);
    }

    #[test]
    fn an_unfinished_message_is_given_up() {
        let mut run = Run::new();
        run.check_begun(None, Some(3), 25, Due::Ping);
        run.clock.on_heard(run.at(32));
        run.check_begun(None, Some(3), 33, Due::Unfinished);
        // While nothing is read, or the client does not read, a message cannot be late.
        run.listens(false, 33);
        run.check_begun(None, Some(3), 50, Due::Ping);
        run.check_begun(Some(40), Some(3), 100, Due::Stalled);
    }

    #[test]
    fn a_session_that_does_not_listen_keeps_pinging() {
        let mut run = Run::new();
        run.listens(false, 1);
        for seconds in [25, 50, 75, 100] {
            run.check(None, seconds, Due::Ping);
        }
    }
}
