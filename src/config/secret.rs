//! A URL that may hold a password, and the form of it that may be shown.
//!
//! Masking does not parse the URL: a URL that no library accepts is just as likely to be printed,
//! by the very error that refuses it. So only what is certainly not secret is kept; in doubt,
//! everything is masked.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Stands in for what must not be shown.
const MASK: &str = "***";

/// A text that must not be shown. `Debug`, `Display` and `Serialize` give its masked form.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl Secret {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps scheme, user, host and database; replaces passwords by `***`. Everything becomes `***`
    /// if there is no scheme, or if what follows the user does not look like a host.
    pub fn masked(&self) -> String {
        if self.0.is_empty() { String::new() } else { mask_url(&self.0) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.masked())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

/// Whether a word of a URL's query may be shown. It may not if it could be part of a password that
/// contains an unencoded `?`.
pub fn may_be_named(word: &str, query: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    word.len() <= 40 && word.chars().all(is_name) && !query.contains('@')
}

fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return MASK.to_owned();
    }
    // A password that was not percent-encoded may contain any of `@ / ? #`, so the credentials end
    // at the last `@`. For a URL with an `@` in its query this masks too much, never too little.
    let (user, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => match credentials.split_once(':') {
            Some((user, _)) => (format!("{user}:{MASK}@"), place),
            None => (format!("{credentials}@"), place),
        },
        None => (String::new(), rest),
    };
    let (place, query) = match place.split_once('?') {
        Some((place, query)) => (place, format!("?{}", mask_query(query))),
        None => (place, String::new()),
    };
    let hosts = place.split(['/', '#']).next().unwrap_or_default();
    // `postgres://user:password`, without a host, reads as a host with an odd port.
    let place = if hosts.split(',').all(is_host) { place } else { MASK };
    format!("{scheme}://{user}{place}{query}")
}

/// `name`, `name:port`, `[v6]:port`, or a percent-encoded path of a Unix socket; empty is the
/// default host.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, port),
        _ => (text, ""),
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
        None => name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b)),
    };
    is_name && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// Parameters may carry credentials too (`?password=`, `sslpassword=`, `sslkey=`).
fn mask_query(query: &str) -> String {
    let mask = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if is_public(name) => format!("{name}={value}"),
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    };
    query.split('&').map(mask).collect::<Vec<_>>().join("&")
}

/// The parameters that help when a connection fails. Not a list of the secret ones, because the
/// parameters of future drivers are unknown.
fn is_public(parameter: &str) -> bool {
    const PUBLIC: [&str; 13] = [
        "host",
        "hostaddr",
        "port",
        "user",
        "dbname",
        "db",
        "sslmode",
        "sslrootcert",
        "application_name",
        "connect_timeout",
        "target_session_attrs",
        "channel_binding",
        "protocol",
    ];
    PUBLIC.contains(&parameter)
}

#[cfg(test)]
mod tests {
    use super::Secret;

    fn check(url: &str, shown: &str) {
        let secret = Secret(url.to_owned());
        assert_eq!(secret.masked(), shown, "masked form of {url}");
        assert_eq!(secret.to_string(), shown);
        assert_eq!(format!("{secret:?}"), format!("Secret({shown})"));
        assert_eq!(serde_json::to_value(&secret).unwrap(), shown);
    }

    #[test]
    fn a_url_shows_all_but_its_password() {
        check("", "");
        check(
            "postgres://ann:s3cret@db.example:5432/chat",
            "postgres://ann:***@db.example:5432/chat",
        );
        check("postgres://ann@db/chat?sslmode=require", "postgres://ann@db/chat?sslmode=require");
        check("redis://:s3cret@[::1]:6379/0", "redis://:***@[::1]:6379/0");
        check("rediss://ann:s3cret@cache/1#insecure", "rediss://ann:***@cache/1#insecure");
        check("postgres://ann:s3cret@a:1,b:2/chat", "postgres://ann:***@a:1,b:2/chat");
        check("postgres:///chat", "postgres:///chat");
        check("postgres://%2Frun%2Fpg/chat", "postgres://%2Frun%2Fpg/chat");
    }

    #[test]
    fn credentials_in_parameters_are_hidden() {
        check(
            "postgres://db/chat?user=ann&password=s3cret&sslpassword=s3cret",
            "postgres://db/chat?user=ann&password=***&sslpassword=***",
        );
        check("redis://cache?PASSWORD=s3cret", "redis://cache?PASSWORD=***");
        check("redis://cache?s3cret", "redis://cache?***");
    }

    #[test]
    fn a_password_with_reserved_characters_does_not_leak() {
        for password in ["a@b", "a/b", "a?b", "a#b", "a:b", "a@b/c?d=e&f#g", "%40", "ü"] {
            let url = format!("postgres://ann:{password}@db:5432/chat");
            check(&url, "postgres://ann:***@db:5432/chat");
        }
    }

    #[test]
    fn a_malformed_url_does_not_leak() {
        check("s3cret", "***");
        check("ann:s3cret@db/chat", "***");
        check("host=db password=s3cret", "***");
        check("postgres:/ann:s3cret@db", "***");
        check("postgres://ann:s3cret", "postgres://***");
        check("postgres://ann:s3cret/db", "postgres://***");
        check("postgres://ann:s3cret@", "postgres://ann:***@");
        check("postgres://ann:s3cret@db:54x32/chat", "postgres://ann:***@***");
        check("postgres://ann:s3\ncret@db/chat", "***");
        check("s3 cret://db", "***");
    }
}
