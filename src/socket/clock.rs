//! When a socket must be pinged, and when it is given up. Pure: the time is an argument.
//!
//! Three rules end a socket. Of the first two only one is in force at any moment:
//!
//! - **Stalled** (4008), while something waits for the kernel: it took no byte for the stall
//!   timeout. A client that does not read cannot answer pings, since it does not see them, so its
//!   silence says nothing; and a ping would only stand behind the backlog.
//! - **Silent** (4009), while nothing waits and we listen: nothing was heard for two heartbeats,
//!   although a ping went out with each. While the session does not listen (a command is pending)
//!   a pong may lie unread, so silence says nothing then either.
//! - **Unfinished** (1008), while we listen: a message has begun, and has not come whole within the
//!   frame timeout. Without it a client could keep what it has begun for as long as it likes, with
//!   a byte now and then.
//!
//! The race that this closes: (1) a client stops reading for a minute and is not pinged; (2) it
//! reads again and the queue empties; (3) a silence counted from its last pong would already be
//! over, and a healthy client would be closed for the time in which nobody asked it. So silence is
//! counted anew whenever its rule comes into force.

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
    /// When any byte last came in, or the silence rule last came into force.
    heard_at: Instant,
    /// The silence rule is in force.
    is_listening: bool,
}

/// What it is time for.
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

    /// Bytes came in: any of them are a sign of life.
    pub fn on_heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// The silence rule is or is not in force. `now` is asked for only when that changes. Whether
    /// it is in force again.
    pub fn set_listening(&mut self, is_listening: bool, now: impl FnOnce() -> Instant) -> bool {
        let begins = is_listening && !self.is_listening;
        if begins {
            self.heard_at = now();
        }
        self.is_listening = is_listening;
        begins
    }

    /// The next moment to call `on_due`. `stuck_since` is when the queue last moved, if anything
    /// waits in it; `begun_at` when a message began, if one has and is not whole.
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

    /// What to do now. A ping counts as sent.
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

    /// A heartbeat of 25 s and a stall timeout of 60 s; times are seconds since the socket opened.
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

        /// The next moment is as given, nothing is due before it, and then this.
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
    fn a_client_that_answers_is_pinged_for_ever() {
        let mut run = Run::new();
        for seconds in [25, 50, 75, 100] {
            run.check(None, seconds, Due::Ping);
            run.clock.on_heard(run.at(seconds + 1));
        }
    }

    #[test]
    fn a_backlog_is_governed_by_the_stall_rule_alone() {
        let mut run = Run::new();
        run.listens(false, 10);
        run.check(Some(10), 70, Due::Stalled);
        run.check(Some(69), 129, Due::Stalled);
    }

    #[test]
    fn silence_is_counted_anew_when_the_backlog_is_gone() {
        let mut run = Run::new();
        run.listens(false, 10);
        run.listens(true, 69);
        // The ping is overdue and goes out at once; then the client has its two heartbeats.
        assert_eq!(run.clock.on_due(None, None, run.at(69)), Due::Ping);
        run.check(None, 94, Due::Ping);
        run.check(None, 119, Due::Silent);
    }

    #[test]
    fn a_message_that_does_not_come_whole_is_given_up() {
        let mut run = Run::new();
        run.check_begun(None, Some(3), 25, Due::Ping);
        run.clock.on_heard(run.at(32));
        run.check_begun(None, Some(3), 33, Due::Unfinished);
        // While nothing is read, or the client does not read, it is not the client's fault.
        run.listens(false, 33);
        run.check_begun(None, Some(3), 50, Due::Ping);
        run.check_begun(Some(40), Some(3), 100, Due::Stalled);
    }

    #[test]
    fn a_session_that_does_not_listen_goes_on_pinging() {
        let mut run = Run::new();
        run.listens(false, 1);
        for seconds in [25, 50, 75, 100] {
            run.check(None, seconds, Due::Ping);
        }
    }
}
