//! Whether the stores that the settings name answer, for `verbatim check`.
//!
//! It opens what a node would open and asks it once; it serves nobody and leaves nothing open.

use crate::config::Config;
use crate::log::Log;

/// What was found of one store: its name, and how it is or why it is not.
pub struct Finding {
    pub store: &'static str,
    pub state: Result<String, String>,
}

/// Tries the log, then the mirror.
pub async fn stores(config: &Config) -> Vec<Finding> {
    vec![
        Finding { store: "log", state: log(config).await },
        Finding { store: "mirror", state: mirror(config) },
    ]
}

async fn log(config: &Config) -> Result<String, String> {
    let log = Log::open(config).await.map_err(|err| err.to_string())?;
    let answer = log.ping().await.map_err(|err| format!("{err}"));
    let (name, closed) = (log.name(), log.closed());
    drop(log);
    closed.wait().await;
    answer.map(|()| format!("{name} answers"))
}

fn mirror(config: &Config) -> Result<String, String> {
    let url = &config.mirror.url;
    Ok(if url.is_empty() { "none".to_owned() } else { format!("{url} not checked") })
}
