//! What goes into a batch.

use super::*;
use crate::model::{Text, UserId};

fn job(bytes: usize) -> Job {
    let verb = Verb::Message(Text::stored(&"x".repeat(bytes)));
    let (room, caller) = (RoomName::stored("r"), UserId::stored("u"));
    let (answer, _) = oneshot::channel();
    let write = Write { room, caller, id: None, verb };
    Job { write, answer, due: Instant::now(), batch_len_max: usize::MAX, ticket: None }
}

/// `few`: indexes of jobs, each with the largest batch that it may be in.
fn lens(bytes: &[usize], few: &[(usize, usize)]) -> usize {
    let mut jobs: Vec<_> = bytes.iter().map(|bytes| job(*bytes)).collect();
    for (index, len_max) in few {
        jobs[*index].batch_len_max = *len_max;
    }
    batch_len(&jobs, 4)
}

#[test]
fn a_batch_is_bounded_in_commands_and_in_bytes_and_never_empty() {
    const MIB: usize = 1024 * 1024;
    assert_eq!(lens(&[], &[]), 0);
    assert_eq!(lens(&[1; 3], &[]), 3);
    assert_eq!(lens(&[1; 5], &[]), 4);
    assert_eq!(lens(&[3 * MIB; 4], &[]), 2);
    assert_eq!(lens(&[16 * MIB, 1], &[]), 1);
    assert_eq!(lens(&[1, 16 * MIB, 1], &[]), 1);
}

#[test]
fn a_job_of_a_failed_batch_goes_into_a_smaller_one() {
    assert_eq!(lens(&[1; 4], &[(0, 1)]), 1);
    assert_eq!(lens(&[1; 4], &[(0, 1), (1, 1), (2, 1), (3, 1)]), 1);
    assert_eq!(lens(&[1; 4], &[(2, 1), (3, 1)]), 2);
    assert_eq!(lens(&[1; 4], &[(0, 2), (1, 2)]), 2);
    assert_eq!(lens(&[1; 4], &[(0, 3), (1, 2)]), 2);
    assert_eq!(lens(&[1; 4], &[(3, 3)]), 3);
}
