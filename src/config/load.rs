//! Merges the sources of settings into a `Config`, and refuses unknown names and wrong types.
//!
//! Each source is checked before the merge, because only then it is known where a wrong name or
//! value came from. Whether the values work together is for `check`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::check::Warning;
use super::environment::{self, SEPARATOR};
use super::{Config, ConfigError, Secret, host_name};

/// The defaults, compiled in: the same file that documents the settings.
pub(super) const DEFAULTS: &str = include_str!("../../config.toml");

/// Prefix of variables that set settings.
pub(super) const PREFIX: &str = "VERBATIM_";

/// Variables without the prefix, shared with other tools, and the settings they stand for.
const PLAIN: [(&str, &str); 2] = [("DATABASE_URL", "log.url"), ("REDIS_URL", "mirror.url")];

/// Longest part of a wrong value that an error repeats, in characters: enough to recognize it,
/// short enough for one line.
const SHOWN_CHARS_MAX: usize = 80;

/// Where settings come from. Plain values, so that tests need not change the process.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file named with `--config`, which must exist.
    pub file: Option<PathBuf>,
    /// The folder of `config.toml`, which is read if it exists and no file was named.
    pub folder: Option<PathBuf>,
    /// The environment. Only `VERBATIM_…` and the variables of `PLAIN` matter.
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// The sources of this process: its working directory and its environment.
    pub fn of_process(file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let mut environment = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if is_setting(&name) {
                let value = text_of(&name, value)?;
                environment.insert(name, value);
            } else if name.starts_with(PREFIX) {
                environment.insert(name, value.to_string_lossy().into_owned());
            }
        }
        Ok(Self { file, folder: Some(PathBuf::new()), environment })
    }

    /// A warning about variables that look like settings and are ignored.
    pub fn ignored(&self) -> Option<Warning> {
        environment::ignored(&self.environment)
    }
}

impl Config {
    /// The compiled-in defaults.
    pub fn from_defaults() -> Self {
        Self::merge(Sources::default()).expect("a test loads the compiled-in defaults")
    }

    /// Merges the defaults, the file, `VERBATIM_SECTION__KEY`, then the plain variables. Later
    /// wins.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let mut config = Self::merge(sources)?;
        if config.node.id.is_empty() {
            config.node.id = host_name();
        }
        Ok(config)
    }

    fn merge(sources: Sources) -> Result<Self, ConfigError> {
        let mut builder =
            ::config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some((name, text)) = read_file(&sources)? {
            let source = File::from_str(&text, FileFormat::Toml);
            let values = source.collect().map_err(|err| syntax_error(&name, &err.to_string()))?;
            judge_file(&name, values)?;
            builder = builder.add_source(source);
        }
        // An empty variable counts as not set: that is how compose files pass on a missing value.
        let mut environment: Map<String, String> =
            sources.environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let plain = PLAIN.map(|(variable, name)| (name, environment.remove(variable)));
        environment.retain(|name, _| is_setting(name));
        judge_environment(&environment)?;
        // `try_parsing` stays off: it would turn a password of digits into a number.
        builder = builder.add_source(
            Environment::with_prefix("VERBATIM")
                .prefix_separator("_")
                .separator(SEPARATOR)
                .source(Some(environment)),
        );
        for (name, value) in plain {
            builder = builder.set_override_option(name, value).map_err(unexpected)?;
        }
        builder.build().and_then(::config::Config::try_deserialize).map_err(unexpected)
    }
}

/// The settings in a text such as `config.toml`: section, key, and the default as written.
pub(super) fn setting_lines(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        }
        let (key, value) = line.split_once(" = ").filter(|_| !line.starts_with('#'))?;
        Some((section, key, value))
    })
}

/// The type of a setting, taken from its default.
#[derive(Clone, Copy)]
enum Kind {
    Switch,
    Whole,
    Text,
    List,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        let (_, _, default) =
            setting_lines(DEFAULTS).find(|(section, key, _)| name == format!("{section}.{key}"))?;
        Some(match default.as_bytes()[0] {
            b'"' => Self::Text,
            b'[' => Self::List,
            b't' | b'f' => Self::Switch,
            _ => Self::Whole,
        })
    }

    /// Stricter than the merge, which would accept `true` for 1 and 7 for "7". No setting needs
    /// more than 32 bits.
    fn accepts(self, value: &ValueKind) -> bool {
        match (self, value) {
            (Self::Switch, ValueKind::Boolean(_)) => true,
            (Self::Whole, ValueKind::I64(n)) => u32::try_from(*n).is_ok(),
            (Self::Text, ValueKind::String(_)) => true,
            (Self::List, ValueKind::Array(items)) => {
                items.iter().all(|item| matches!(item.kind, ValueKind::String(_)))
            }
            _ => false,
        }
    }

    /// The same for a variable, which is always a text.
    fn accepts_text(self, text: &str) -> bool {
        match self {
            Self::Switch => text == "true" || text == "false",
            Self::Whole => text.parse::<u32>().is_ok(),
            Self::Text | Self::List => true,
        }
    }

    fn allowed(self) -> String {
        match self {
            Self::Switch => "must be true or false".to_owned(),
            Self::Whole => format!("must be a whole number from 0 to {}", u32::MAX),
            Self::Text => "must be a string in quotes".to_owned(),
            Self::List => "must be a list of strings in quotes".to_owned(),
        }
    }
}

/// Whether the variable sets a setting, or tries to.
fn is_setting(variable: &str) -> bool {
    let is_prefixed = variable.starts_with(PREFIX) && variable.contains(SEPARATOR);
    is_prefixed || PLAIN.iter().any(|(name, _)| *name == variable)
}

fn text_of(variable: &str, value: OsString) -> Result<String, ConfigError> {
    value.into_string().map_err(|_| ConfigError::Value {
        name: variable.to_owned(),
        value: "…".to_owned(),
        origin: " (environment)".to_owned(),
        allowed: "must be UTF-8".to_owned(),
    })
}

/// Name and content of the settings file, if there is one.
fn read_file(sources: &Sources) -> Result<Option<(String, String)>, ConfigError> {
    let path = match (&sources.file, &sources.folder) {
        (Some(file), _) => file.clone(),
        (None, Some(folder)) => folder.join("config.toml"),
        (None, None) => return Ok(None),
    };
    let name = printable(&path);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((name, text))),
        Err(err) if err.kind() == ErrorKind::NotFound && sources.file.is_none() => Ok(None),
        Err(err) => Err(ConfigError::File { file: name, reason: format!("cannot read: {err}") }),
    }
}

fn printable(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

/// Keeps only the position and the reason of the parser's message: the message also quotes the line
/// that failed, which may hold a password.
fn syntax_error(file: &str, message: &str) -> ConfigError {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let place = lines.next().unwrap_or_default().trim_start_matches("TOML parse error ");
    let place = place.split(" in ").next().unwrap_or_default();
    let drawn = |line: &&str| line.contains('|');
    let reason = lines.rfind(|line| !drawn(line)).unwrap_or("cannot be read");
    ConfigError::File { file: file.to_owned(), reason: format!("not TOML {place}: {reason}") }
}

fn judge_file(file: &str, values: Map<String, Value>) -> Result<(), ConfigError> {
    let mut settings = BTreeMap::new();
    flatten("", values, &mut settings);
    for (name, value) in settings {
        let Some(kind) = Kind::of(&name) else {
            let hint = nearest(&name).map(|known| format!(": did you mean {known}?"));
            return Err(ConfigError::Unknown {
                name: name.escape_debug().to_string(),
                hint: hint.unwrap_or_default(),
                origin: file.to_owned(),
            });
        };
        if !kind.accepts(&value) {
            let value = shown(&name, &value.to_string());
            let origin = format!(" ({file})");
            return Err(ConfigError::Value { name, value, origin, allowed: kind.allowed() });
        }
    }
    Ok(())
}

fn judge_environment(environment: &Map<String, String>) -> Result<(), ConfigError> {
    // The map is unordered. Sorting makes the error always name the same variable.
    let environment: BTreeMap<_, _> = environment.iter().collect();
    for (variable, value) in environment {
        let name = variable[PREFIX.len()..].to_lowercase().replace(SEPARATOR, ".");
        let kind = Kind::of(&name).filter(|_| *variable == variable_of(&name));
        let Some(kind) = kind else {
            let hint =
                nearest(&name).map(|known| format!(": did you mean {}?", variable_of(&known)));
            return Err(ConfigError::Unknown {
                name: variable.escape_debug().to_string(),
                hint: hint.unwrap_or_default(),
                origin: "environment".to_owned(),
            });
        };
        if !kind.accepts_text(value) {
            return Err(ConfigError::Value {
                value: shown(&name, value),
                name,
                origin: format!(" (environment variable {variable})"),
                allowed: kind.allowed(),
            });
        }
    }
    Ok(())
}

pub(super) fn variable_of(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('.', SEPARATOR))
}

fn flatten(prefix: &str, values: Map<String, Value>, out: &mut BTreeMap<String, ValueKind>) {
    for (key, value) in values {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value.kind {
            ValueKind::Table(inner) => flatten(&name, inner, out),
            kind => {
                out.insert(name, kind);
            }
        }
    }
}

/// The known setting that a wrong name was probably meant to be: few letters differ, or the key is
/// right and the section is missing.
pub(super) fn nearest(name: &str) -> Option<String> {
    const SECTION_FORGOTTEN: usize = 1;
    let letters_max = (name.len() / 4).max(2);
    let key = name.rsplit('.').next().unwrap_or(name);
    setting_lines(DEFAULTS)
        .map(|(section, known_key, _)| {
            let known = format!("{section}.{known_key}");
            let whole = strsim::damerau_levenshtein(name, &known);
            let alone = strsim::damerau_levenshtein(key, known_key) + SECTION_FORGOTTEN;
            (whole.min(alone), whole, known)
        })
        .min()
        .filter(|(distance, _, _)| *distance <= letters_max)
        .map(|(_, _, known)| known)
}

/// A value as an error may repeat it: one line, no secret, not too long.
fn shown(name: &str, value: &str) -> String {
    if PLAIN.iter().any(|(_, secret)| *secret == name) {
        return format!("{:?}", Secret(value.to_owned()).masked());
    }
    if value.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{value:?}");
    }
    let start: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start:?}…")
}

/// An error of the merge that the checks above did not catch. None is known; its text is not shown,
/// because it may quote a secret.
fn unexpected(err: ::config::ConfigError) -> ConfigError {
    let key = match err {
        ::config::ConfigError::Type { key: Some(key), .. }
        | ::config::ConfigError::At { key: Some(key), .. } => key,
        _ => "a setting".to_owned(),
    };
    ConfigError::Together(format!("{key} has an unusable value; see config.toml for allowed ones"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let check = |name: &str, known: Option<&str>| {
            assert_eq!(nearest(name).as_deref(), known, "nearest to {name}");
        };
        check("server.lisen", Some("server.listen"));
        check("serve.listen", Some("server.listen"));
        check("log_url", Some("log.url"));
        check("listen", Some("server.listen"));
        check("stall_timeout_ms", Some("socket.stall_timeout_ms"));
        check("socket.heartbeat", Some("socket.heartbeat_ms"));
        check("server.stall_timeout_ms", Some("socket.stall_timeout_ms"));
        check("session.tls_certificate", None);
        check("x", None);
    }

    #[test]
    fn a_syntax_error_keeps_place_and_reason_and_not_the_line() {
        let text = "[log]\nurl = \"postgres://ann:s3cret@db\n";
        let err = File::from_str(text, FileFormat::Toml).collect().unwrap_err().to_string();
        assert!(err.contains("s3cret"), "the parser no longer shows the line: {err}");
        let told = syntax_error("config.toml", &err).to_string();
        assert!(!told.contains("s3cret") && !told.contains('\n'), "{told}");
        assert_eq!(
            told,
            "config.toml: not TOML at line 2, column 32: invalid basic string, expected `\"`"
        );
    }
}
