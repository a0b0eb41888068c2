//! Every promise that can be broken, by its name, and one case of breaking it.

use std::fmt;

use crate::names::{Command, Room, View};
use crate::record::Nanos;

/// Declares the rules, each with its name: one list, so that none can be without one.
macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident $name:literal)*) => {
        /// What must never happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// Short, and the same for ever: by it a planted fault says what it expects.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }
        }
    };
}

rules! {
    // The log by itself.
    /// A seq is missing between two others, or below the first.
    HoleInLog "hole-in-log"
    /// Two rows of a room have the same seq.
    SeqTwice "seq-twice"
    /// An event has an earlier time than the one before it in its room.
    TimeWentBack "time-went-back"
    /// A row is not an event of the protocol.
    RowIsNoEvent "row-is-no-event"
    /// The events cannot follow on each other: a message of a non-member, a second `create`, …
    AgainstChatRules "against-chat-rules"
    /// `last_seq`, `message_count` or `member_count` are not what the events say.
    CountersDiffer "counters-differ"
    /// The members are not those whom the events made members.
    MembersDiffer "members-differ"

    // Commands and their rows.
    /// One `id` of one user in one room has two seqs.
    IdStoredTwice "id-stored-twice"
    /// A command without an `id` has more rows than it was sent times.
    StoredMoreThanSent "stored-more-than-sent"
    /// A row whose command nobody sent.
    StoredNeverSent "stored-never-sent"
    /// A row with another type or text than the command that was sent under its `id`.
    StoredOtherwiseThanSent "stored-otherwise-than-sent"
    /// Every attempt was refused, and there is a row.
    RefusedButStored "refused-but-stored"

    // Answers.
    /// An `ack` of something that is not in the log.
    AckedNotStored "acked-not-stored"
    /// An `ack` with another seq than the row's.
    AckedAtWrongSeq "acked-at-wrong-seq"
    /// An `ack` with another type or time than the row's.
    AckDiffersFromRow "ack-differs-from-row"
    /// Two acks of one `id` with two seqs.
    AcksDisagree "acks-disagree"
    /// Two acks of one row, and neither says that it is a duplicate.
    TwoFirstAcks "two-first-acks"
    /// An answer to what was not sent before on that connection.
    AnswerToNothing "answer-to-nothing"
    /// An answer came after that of a later command, or twice.
    AnswerOutOfOrder "answer-out-of-order"
    /// A later command was answered on the connection, and this one never.
    AnswerSkipped "answer-skipped"
    /// A command that was sent until it would be answered never was.
    NeverAnswered "never-answered"
    /// Acked, sent again with the same `id`, and refused.
    RefusedAfterAck "refused-after-ack"

    // Time. What was received before something was sent was there before it.
    /// An event is shown that was not sent yet.
    DeliveredBeforeSent "delivered-before-sent"
    /// An event is shown that the table does not have yet.
    DeliveredBeforeCommit "delivered-before-commit"
    /// An event is acked that the table does not have yet.
    AckedBeforeCommit "acked-before-commit"
    /// What was sent after an event was known has a lower seq than that event.
    OrderBroken "order-broken"
    /// A read through a node lacks what somebody knew before it was asked: read-your-writes.
    StaleRead "stale-read"
    /// Somebody was told of a last seq that the log does not have.
    PositionBeyondLog "position-beyond-log"

    // What followers are shown.
    /// An event is shown that is not in the log.
    DeliveredNotStored "delivered-not-stored"
    /// An event is shown with other bytes than the log's.
    DeliveredOtherwiseThanStored "delivered-otherwise-than-stored"
    /// An event is shown twice in one following.
    DeliveredTwice "delivered-twice"
    /// An event is shown after a later one.
    DeliveredOutOfOrder "delivered-out-of-order"
    /// Events are never shown, and later ones are.
    DeliveredWithHole "delivered-with-hole"
    /// A following begins elsewhere than it was asked to.
    StartsAtWrongSeq "starts-at-wrong-seq"
    /// A `reset`, although the log had what the client said it had.
    ResetWithoutReason "reset-without-reason"
    /// The log was set back under somebody who had been shown more, and they were not told before
    /// they were shown what came then.
    NotTold "not-told"
    /// Something is shown to a user after their own leave.
    DeliveredAfterLeave "delivered-after-leave"
    /// An event of a room that the connection does not follow.
    DeliveredUnasked "delivered-unasked"
    /// A frame that is no event, where only an event can be.
    UnreadableFrame "unreadable-frame"
    /// After the last fault, an event took longer to a follower than it may.
    LateFollower "late-follower"
    /// Who still follows at the end has not been shown the end.
    StoppedShort "stopped-short"

    // What else there is to read.
    /// A page of history is not the stretch that was asked for.
    PageOutOfRange "page-out-of-range"
    /// A page of history has other bytes than the log.
    PageDiffersFromLog "page-differs-from-log"
    /// A page of history says that there is more where there is nothing, or nothing where there is.
    PageWrongAboutMore "page-wrong-about-more"
    /// An event never reached the stream.
    StreamLacksEvent "stream-lacks-event"
    /// An entry of the stream has other bytes, room or seq than the log, or is not in it.
    StreamDiffersFromLog "stream-differs-from-log"
    /// The outbox has rows long after everything was well.
    OutboxNotDrained "outbox-not-drained"

    /// A node has more resident memory than it may.
    MemoryBeyondBound "memory-beyond-bound"
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One case of a broken promise. `History` has the names of the numbers; the sentence needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub room: Option<Room>,
    /// The first and the last seq that it is about.
    pub seqs: Option<(u64, u64)>,
    pub view: Option<View>,
    pub command: Option<Command>,
    /// When it happened, where it is about a moment.
    pub at: Option<Nanos>,
    /// What happened, with all names.
    pub sentence: String,
}

impl Violation {
    pub fn name(&self) -> &'static str {
        self.rule.name()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.sentence)
    }
}
