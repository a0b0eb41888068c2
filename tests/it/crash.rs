//! kill -9 of the real process in the middle of everything, many times over: what was acked is
//! there, what is there is there once, and those who follow never notice more than a broken line.

use tokio::sync::watch;

use crate::crowd::Crowd;
use crate::harness::process::{Exit, Process};
use crate::harness::{World, on_both_logs};
use crate::stored::assert_sound;

/// How often the server is killed. Each time at another moment of its work.
const KILLS: usize = 20;

on_both_logs!(a_server_that_is_killed_in_a_burst_keeps_every_word_exactly_once);

async fn a_server_that_is_killed_in_a_burst_keeps_every_word_exactly_once(world: World) {
    let mut environment = world.environment();
    // The crowd talks faster than a person.
    environment.push(("VERBATIM_SESSION__COMMANDS_PER_SECOND".into(), "1000000".into()));
    environment.push(("VERBATIM_SESSION__COMMANDS_BURST".into(), "1000000".into()));
    let mut process = Process::start(environment.clone()).await;
    let (address, at) = watch::channel(process.addr);
    let crowd = Crowd::gather(&[at], 4, 3, 32).await;
    for _ in 0..KILLS {
        crowd.answered(rand::random_range(20..300)).await;
        process.kill9();
        assert_eq!(process.wait_exit().await, Exit::Signal(9));
        process = Process::start(environment.clone()).await;
        address.send_replace(process.addr);
    }
    crowd.answered(100).await;
    let outcome = crowd.end(&world.config.log).await;
    outcome.assert_kept();
    // Nobody was spared; one that had not come back yet may have missed the next death.
    assert!(outcome.reconnects >= KILLS, "{} connections broke", outcome.reconnects);
    // And the server died between a commit and its ack, too.
    assert!(outcome.progress.duplicates > 0, "no command was sent again after its commit");
    if world.config.log.url.0.is_empty() {
        assert_sound(&world.config.log);
    }
}
