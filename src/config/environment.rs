//! Variables of the environment that look like settings but are not.
//!
//! A setting has `__` in its name. A variable that begins with `VERBATIM_` and has no `__` may
//! belong to something else: for a service called `verbatim`, Kubernetes puts a dozen such
//! variables into every container of its namespace. So they are ignored, never refused.

use std::collections::BTreeMap;

use super::check::Warning;
use super::load::{PREFIX, nearest, variable_of};

/// Separates section and key.
pub(super) const SEPARATOR: &str = "__";

/// One warning that names all ignored variables, with what each was probably meant to be.
pub(super) fn ignored(environment: &BTreeMap<String, String>) -> Option<Warning> {
    let ignored: Vec<String> = environment
        .iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .filter(|(name, value)| !name.contains(SEPARATOR) && !is_orchestrators(name, value))
        .map(|(name, _)| {
            let meant = nearest(&name[PREFIX.len()..].to_lowercase());
            let hint = meant.map(|known| format!(" (did you mean {}?)", variable_of(&known)));
            format!("{}{}", name.escape_debug(), hint.unwrap_or_default())
        })
        .collect();
    (!ignored.is_empty()).then(|| Warning {
        setting: "environment",
        text: format!(
            "ignored, because settings are named VERBATIM_SECTION__KEY: {}",
            ignored.join(", ")
        ),
    })
}

/// Whether Kubernetes sets such a variable for a service named `verbatim` or `verbatim-…`.
fn is_orchestrators(name: &str, value: &str) -> bool {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let is_protocol = |text: &str| ["TCP", "UDP", "SCTP"].contains(&text);
    let words: Vec<&str> = name.split('_').collect();
    match words[..] {
        [.., "SERVICE", "HOST" | "PORT"] => true,
        [.., "PORT", port, protocol] | [.., "PORT", port, protocol, "PROTO" | "PORT" | "ADDR"]
            if is_number(port) && is_protocol(protocol) =>
        {
            true
        }
        [.., "PORT"] => value.contains("://"),
        // …_SERVICE_PORT_ and the name of a port.
        _ => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_is_told_from_what_a_person_sets() {
        let check = |name: &str, value: &str, expected: bool| {
            assert_eq!(is_orchestrators(name, value), expected, "{name}={value}");
        };
        for service in ["VERBATIM", "VERBATIM_NODES", "VERBATIM_2"] {
            for (name, value) in [
                ("SERVICE_HOST", "10.0.0.11"),
                ("SERVICE_PORT", "8080"),
                ("SERVICE_PORT_WEB", "8080"),
                ("SERVICE_PORT_WEB_2", "8080"),
                ("PORT", "tcp://10.0.0.11:8080"),
                ("PORT_8080_TCP", "tcp://10.0.0.11:8080"),
                ("PORT_8080_TCP_PROTO", "tcp"),
                ("PORT_8080_TCP_PORT", "8080"),
                ("PORT_8080_TCP_ADDR", "10.0.0.11"),
                ("PORT_53_UDP_ADDR", "10.0.0.11"),
            ] {
                check(&format!("{service}_{name}"), value, true);
            }
        }
        for (name, value) in [
            ("VERBATIM_PORT", "8080"),
            ("VERBATIM_LISTEN", "127.0.0.1:8080"),
            ("VERBATIM_PORT_8080", "tcp"),
            ("VERBATIM_PORT_WEB_TCP", "tcp"),
            ("VERBATIM_SERVICE", "x"),
            ("VERBATIM_LOG_URL", "postgres://db/chat"),
            ("VERBATIM_", "x"),
        ] {
            check(name, value, false);
        }
    }
}
