//! What else was read: pages of history, and positions that somebody was told of.

use super::findings::{About, Findings};
use super::index::{Index, Standing};
use super::times::Reach;
use crate::history::History;
use crate::names::Room;
use crate::record::{Asked, Page};
use crate::violation::Rule;

pub(super) fn judge(history: &History, index: &Index, findings: &mut Findings<'_>) {
    let reaches: Vec<Reach> =
        index.log.iter().map(|log| Reach::new(log, |line| line.known_at())).collect();
    let rooms = (0..index.log.len()).map(Room::from);
    let highest: Vec<u64> = rooms.map(|room| index.highest(room)).collect();
    let may_show_gone =
        |page: &Page| history.set_backs.get(&page.room).is_some_and(|it| page.asked_at < it.until);
    for page in &history.pages {
        judge_page(page, index, &reaches[page.room.index()], may_show_gone(page), findings);
    }
    for read in &history.reads {
        judge_position(read.room, read.last_seq, &highest, findings, |history| {
            history.place_name(read.place)
        });
    }
    for view in &history.views {
        for follow in &view.follows {
            let told = follow.last_seq.max(follow.reset.unwrap_or(0));
            judge_position(view.room, told, &highest, findings, |_| view.who.clone());
        }
    }
}

/// What was once there is there for ever, but for what was lost when the log was set back.
fn judge_position(
    room: Room,
    seq: u64,
    highest: &[u64],
    findings: &mut Findings<'_>,
    who: impl FnOnce(&History) -> String,
) {
    let last = highest[room.index()];
    if seq > last {
        findings.add(Rule::PositionBeyondLog, About::place(room, seq), |history| {
            let (who, room) = (who(history), history.room_name(room));
            format!("{who} said {seq} for {room:?}, the log ends at {last}")
        });
    }
}

/// One stretch of the log, byte for byte, where it was asked for, and as much as there was.
fn judge_page(
    page: &Page,
    index: &Index,
    reach: &Reach,
    may_show_gone: bool,
    findings: &mut Findings<'_>,
) {
    let mut seqs = Vec::with_capacity(page.events.len());
    for frame in &page.events {
        match index.standing(*frame) {
            Standing::Stored(event, _) if event.room == page.room => seqs.push(event.seq),
            // It was there when it was asked for.
            Standing::Gone(event) if event.room == page.room && may_show_gone => {
                seqs.push(event.seq);
            }
            Standing::Stored(event, _)
            | Standing::Gone(event)
            | Standing::Otherwise(event)
            | Standing::Unwritten(event) => {
                seqs.push(event.seq);
                let about = About::place(page.room, event.seq);
                findings.add(Rule::PageDiffersFromLog, about, |history| {
                    let (node, shown) = (history.node_name(page.node), history.shown(*frame));
                    format!("{node} has in {}: {shown}", history.named(page))
                });
            }
            Standing::NoEvent => {
                findings.add(Rule::UnreadableFrame, About::room(page.room), |history| {
                    let (node, shown) = (history.node_name(page.node), history.shown(*frame));
                    format!("{node} has in {}: {shown}", history.named(page))
                });
                return;
            }
        }
    }
    let is_stretch = seqs.is_sorted_by(|a, b| *b == a + 1);
    let (first, last) = (seqs.first().copied(), seqs.last().copied());
    let known = reach.before(page.asked_at);
    let is_in_place = match page.asked {
        Asked::Newest => true,
        // What was known to be there must be there, up to the seq that was named.
        Asked::Before(seq) => {
            let end = last.unwrap_or(0);
            end < seq.max(1) && (end + 1 == seq || known + 1 < seq || seq == 0)
        }
        Asked::After(seq) => first.is_none_or(|first| first == seq + 1),
    };
    if !is_stretch || !is_in_place {
        let about = About { seqs: first.zip(last), ..About::room(page.room) };
        findings.add(Rule::PageOutOfRange, about, |history| {
            let node = history.node_name(page.node);
            format!("{node} has in {} these: {seqs:?}", history.named(page))
        });
        return;
    }
    judge_ends(page, first, last, known, index, findings);
}

/// It ends where the room ended when it was asked for, or later; and what it says about more is so.
fn judge_ends(
    page: &Page,
    first: Option<u64>,
    last: Option<u64>,
    known: u64,
    index: &Index,
    findings: &mut Findings<'_>,
) {
    let (end, wanted, has_more) = match page.asked {
        // At the moment of the answer there may have been more than there was at the question.
        Asked::After(seq) => {
            let end = last.unwrap_or(seq);
            let wanted = if page.more { end } else { known };
            (end, wanted, page.more && end < index.highest(page.room))
        }
        Asked::Newest => (last.unwrap_or(0), known, first.is_some_and(|first| first > 1)),
        Asked::Before(seq) => {
            let has_more = first.is_some_and(|first| first > 1);
            (last.unwrap_or(0), known.min(seq.saturating_sub(1)), has_more)
        }
    };
    if end < wanted {
        findings.add(Rule::StaleRead, About::place(page.room, wanted), |history| {
            let node = history.node_name(page.node);
            format!("{wanted} was known, and {node} ends {} at {end}", history.named(page))
        });
    }
    if page.more != has_more {
        findings.add(Rule::PageWrongAboutMore, About::place(page.room, end), |history| {
            let (node, more) = (history.node_name(page.node), page.more);
            format!("{node} says more: {more} of {}, {first:?} to {last:?}", history.named(page))
        });
    }
}
