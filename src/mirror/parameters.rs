//! The parameters of `mirror.url`: those that would have no effect are refused, by name.
//!
//! The driver skips parameters that it does not know, and other clients use them differently:
//! `?db=3`, `?ssl_cert_reqs=none`. Values are never shown, because they may be secrets.

use super::OpenError;
use crate::config::may_be_named;

const UNKNOWN: &str = "verbatim does not support; remove it";

pub(super) fn check(url: &str) -> Result<(), OpenError> {
    let (rest, fragment) = url.split_once('#').map_or((url, None), |(a, b)| (a, Some(b)));
    match fragment {
        None => {}
        Some("insecure") => {
            return Err(OpenError::Parameter {
                name: "#insecure".to_owned(),
                advice: "would trust any server; remove it, and let SSL_CERT_FILE name a file with \
                         the certificate of Redis's CA",
            });
        }
        Some(_) => return Err(OpenError::Fragment),
    }
    let is_socket = rest.split_once("://").is_some_and(|(scheme, _)| scheme.contains("unix"));
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let advice = match name {
            "db" | "user" | "pass" if is_socket => continue,
            "protocol" if ["3", "resp3"].contains(&value) => continue,
            "protocol" => "must be 3; write that, or remove it",
            "db" => "is for another driver; write the number after the host: redis://host:6379/1",
            "user" | "username" | "pass" | "password" => {
                "is for another driver; write redis://user:password@host:6379/0"
            }
            name if name.starts_with("ssl") || name.starts_with("tls") => {
                "is for another driver; write rediss:// to encrypt and check the certificate \
                 (SSL_CERT_FILE may name a file with its CA's)"
            }
            _ => UNKNOWN,
        };
        return Err(refused(name, advice, query));
    }
    Ok(())
}

fn refused(name: &str, advice: &'static str, query: &str) -> OpenError {
    match may_be_named(name, query) {
        true => OpenError::Parameter { name: name.to_owned(), advice },
        false => OpenError::UnnamedParameter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        let said = check(url).expect_err(url).to_string();
        assert!(!said.contains("s3cret") && !said.contains("cache"), "{said}");
        said
    }

    #[test]
    fn parameters_that_the_driver_obeys_are_accepted() {
        for url in [
            "redis://cache",
            "redis://ann:s3cret@cache:6379/3?",
            "rediss://ann:s3cret@cache:6379/3?protocol=resp3",
            "unix:///run/redis.sock?db=3&user=ann&pass=s3cret&protocol=3",
        ] {
            assert!(check(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn parameters_without_effect_are_refused_with_advice() {
        for (end, name, advice) in [
            ("#insecure", "#insecure", "SSL_CERT_FILE"),
            ("?db=3", "db", "redis://host:6379/1"),
            ("?password=s3cret", "password", "redis://user:password@host"),
            ("?ssl_cert_reqs=none", "ssl_cert_reqs", "rediss://"),
            ("?protocol=2", "protocol", "must be 3"),
            ("?protocol=3&socket_timeout=5", "socket_timeout", UNKNOWN),
            ("?timeout", "timeout", UNKNOWN),
        ] {
            for scheme in ["redis", "rediss"] {
                let said = refusal(&format!("{scheme}://ann:s3cret@cache:6379/0{end}"));
                assert!(said.starts_with(&format!("mirror.url has {name}, which ")), "{said}");
                assert!(said.contains(advice), "{said}");
            }
        }
    }

    #[test]
    fn a_possible_part_of_a_password_is_not_named() {
        for url in [
            "redis://ann:1#s3cret@cache:6379/0",
            "redis://ann:1?s3cret@cache:6379/0",
            "redis://ann:1?s3cret=2@cache:6379/0",
            "redis://cache:6379/0#s3cret",
        ] {
            refusal(url);
        }
    }
}
