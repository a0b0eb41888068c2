//! Settings: a TOML file, and behind the first NUL the environment, a variable a line.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use verbatim::config::{Config, Sources};

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|text: &str| {
    let (toml, variables) = text.split_once('\0').unwrap_or((text, ""));
    let file = FOLDER.path().join("config.toml");
    std::fs::write(&file, toml).expect("a file");
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let environment: BTreeMap<_, _> =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let sources = Sources { file: Some(file), folder: None, environment };
    // What an operator is told is one line.
    if let Some(warning) = sources.ignored() {
        is_a_line(&warning.to_string());
    }
    match Config::load(sources) {
        Ok(config) => match config.check() {
            Ok(warnings) => warnings.iter().for_each(|warning| is_a_line(&warning.to_string())),
            Err(err) => is_a_line(&err.to_string()),
        },
        Err(err) => is_a_line(&err.to_string()),
    }
});

fn is_a_line(text: &str) {
    assert_eq!(text.lines().count(), 1, "{text:?}");
}
