//! Whether the stores that the settings name answer, for `verbatim check`.
//!
//! It opens what a node would open, asks it once, reads all of an embedded log and tries out Redis;
//! it serves nobody and leaves nothing open or behind.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::log::{Log, LogError};
use crate::mirror;
use crate::model::LogIdentity;

/// How often a line says that a large file is still being read.
const PROGRESS: Duration = Duration::from_secs(5);

/// What was found of one store: its name, and how it is or why it is not.
pub struct Finding {
    pub store: &'static str,
    pub state: Result<String, String>,
}

/// Tries the log, then the mirror. What takes long says so meanwhile.
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
        Some([]) => Ok("answers, and is sound".to_owned()),
        Some(problems) => Err(format!(
            "the log {path} is damaged ({}); restore a copy of it",
            problems.join("; ")
        )),
    }
}

/// With what lies behind it.
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
