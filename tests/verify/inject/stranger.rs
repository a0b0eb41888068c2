//! A node of another cluster that was given the Redis of this one, by mistake.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use verbatim_tools::verify::Run;

use super::{Effect, LOOK_PAUSE};
use crate::bystander::Bystander;
use crate::harness::process::Process;
use crate::site::{Site, ask};

/// It says things in a room of the same name as one of ours. It hits when one of them was acked.
pub async fn inject(site: &Site<'_>, run: &Run, lasting: Duration) -> Effect {
    let database = site.postgres.lock().await.postgres.database().await;
    let environment = [
        ("VERBATIM_NODE__ID", "stranger"),
        ("DATABASE_URL", &database),
        ("REDIS_URL", &site.redis_url),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let Ok(process) = Process::try_start(None, environment.to_vec()).await else {
        return Effect::default();
    };
    let urls = [format!("ws://{}", process.addr)];
    let mut stranger = Bystander::new(&urls, &run.rooms()[0]);
    let until = Instant::now() + lasting;
    let mut has_hit = stranger.say(None, lasting).await.is_some();
    while Instant::now() < until {
        has_hit &= stranger.say(Some("what a stranger said"), lasting).await.is_some();
        sleep(LOOK_PAUSE).await;
    }
    let ready = ask(process.addr, "/readyz").await.unwrap_or_default();
    let broken = format!("a stranger at the same Redis is ready: {ready}");
    let broken = (!ready.starts_with("HTTP/1.1 503")).then_some(broken);
    Effect { has_hit, broken, ..Effect::default() }
}
