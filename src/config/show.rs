//! The effective settings as text, for `verbatim check`: TOML that can be read back, except
//! secrets.

use serde_json::Value;

use super::Config;
use super::load::{DEFAULTS, setting_lines};

impl Config {
    /// Every setting in the order of `config.toml`, with secrets masked. Those that differ from the
    /// default also show the default.
    pub fn effective(&self) -> String {
        let settings =
            serde_json::to_value(self).expect("settings are texts, numbers, booleans and lists");
        let mut shown = String::new();
        let mut section_before = "";
        for (section, key, default) in setting_lines(DEFAULTS) {
            if section != section_before {
                let gap = if section_before.is_empty() { "" } else { "\n" };
                shown.push_str(&format!("{gap}[{section}]\n"));
                section_before = section;
            }
            // A JSON string, number, boolean or list of strings is also valid TOML.
            let value = settings.get(section).and_then(|s| s.get(key)).unwrap_or(&Value::Null);
            let value = value.to_string();
            shown.push_str(&format!("{key} = {value}"));
            if value != default {
                shown.push_str(&format!("  # default: {default}"));
            }
            shown.push('\n');
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_shown_and_reads_back() {
        let config = Config::from_defaults();
        let shown = config.effective();
        assert!(!shown.contains("null"), "a setting of config.toml has no field: {shown}");
        assert!(!shown.contains("# default"), "{shown}");
        let settings = serde_json::to_value(&config).unwrap();
        let fields: usize =
            settings.as_object().unwrap().values().map(|s| s.as_object().unwrap().len()).sum();
        assert_eq!(setting_lines(&shown).count(), fields, "a field has no line in config.toml");
    }

    #[test]
    fn a_changed_setting_says_what_the_default_is() {
        let mut config = Config::from_defaults();
        config.server.listen = "[::1]:9".to_owned();
        config.server.allowed_origins = vec!["https://a".to_owned(), "https://b".to_owned()];
        let shown = config.effective();
        assert!(shown.contains("listen = \"[::1]:9\"  # default: \"127.0.0.1:8080\"\n"), "{shown}");
        assert!(shown.contains("= [\"https://a\",\"https://b\"]  # default: []\n"), "{shown}");
    }
}
