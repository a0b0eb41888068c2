//! Whether the configured stores work, for `verbatim check`.
//!
//! It opens what a node would open and pings it, reads all of an embedded log, and tries Redis out.
//! It serves nobody and leaves nothing behind.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::log::{Log, LogError};
use crate::mirror;
use crate::model::LogIdentity;

/// Interval of progress lines while a large file is read.
const PROGRESS: Duration = Duration::from_secs(5);

/// The result for one store: its state, or what is wrong.
pub struct Finding {
    pub store: &'static str,
    pub state: Result<String, String>,
}

/// Tries the log, then the mirror. Reports progress while that takes long.
pub async fn stores(config: &Config, progress: impl Fn(&str)) -> Vec<Finding> {
    let mut identity = None;
    let log = log(config, &mut identity, progress).await;
    vec![
        Finding { store: "log", state: log },
        Finding { store: "mirror", state: mirror(config, identity.as_ref()).await },
    ]
}

async fn log(
    config: &Config,
    identity: &mut Option<LogIdentity>,
    progress: impl Fn(&str),
) -> Result<String, String> {
    let log = Log::open(config).await.map_err(|err| err.to_string())?;
    *identity = log.identity().cloned();
    let answer = answer(&log, &config.log.path, progress).await;
    let (name, closed) = (log.name(), log.closed());
    drop(log);
    closed.wait().await;
    answer.map(|answer| format!("{name} {answer}"))
}

async fn answer(log: &Log, path: &str, progress: impl Fn(&str)) -> Result<String, String> {
    log.ping().await.map_err(told)?;
    let (examined, begun) = (log.examine(), Instant::now());
    tokio::pin!(examined);
    let problems = loop {
        tokio::select! {
            problems = &mut examined => break problems.map_err(told)?,
            () = tokio::time::sleep(PROGRESS) => {
                progress(&format!("reading {path}: {} s", begun.elapsed().as_secs()));
            }
        }
    };
    match problems.as_deref() {
        None => Ok("answers".to_owned()),
        Some([]) => Ok("answers; no damage found".to_owned()),
        Some(problems) => {
            Err(format!("the log {path} is damaged ({}); restore a backup", problems.join("; ")))
        }
    }
}

/// The error with its cause.
fn told(error: LogError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn mirror(config: &Config, log: Option<&LogIdentity>) -> Result<String, String> {
    match config.mirror.url.is_empty() {
        true => Ok("none".to_owned()),
        false => mirror::probe(&config.mirror, log).await.map_err(|err| err.to_string()),
    }
}
