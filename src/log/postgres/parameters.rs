//! Which parameters of `log.url` are passed on, ignored or refused.
//!
//! libpq and other drivers know many more parameters than ours does. None is skipped silently: a
//! parameter about encryption that nobody obeys is worse than none. Values are never shown, because
//! they may be secrets.

use super::OpenError;
use crate::config::may_be_named;

/// The URL and what its parameters ask for.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// The URL for the driver, with the parameters that it knows.
    pub url: String,
    /// `sslmode=verify-full`.
    pub verify: bool,
    /// The file that `sslrootcert` names; `None`: the system's authorities.
    pub roots: Option<String>,
    /// Parameters that verbatim sets itself.
    pub ignored: Vec<String>,
}

/// What happens to one parameter.
enum Fate {
    ToDriver,
    /// It asks for what verbatim does anyway.
    Agrees,
    Ignored,
    /// Why, and what to do: the end of a sentence that begins with the parameter's name.
    Refused(&'static str),
}

const UNKNOWN: &str = "verbatim does not support; remove it";
const NO_VALUE: &str = "has a value that verbatim does not support; correct it";

impl Parameters {
    pub fn read(url: &str) -> Result<Self, OpenError> {
        let (base, query) = split(url);
        let mut parameters = Self::default();
        let (mut rest, mut has_roots) = (Vec::new(), false);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            // Without `=` it is more likely part of a password than a parameter.
            let (name, value) = parameter.split_once('=').ok_or(OpenError::Url)?;
            match (name, value) {
                ("sslmode", "verify-full") => {
                    parameters.verify = true;
                    rest.push("sslmode=require");
                }
                // node-postgres's name for `require`.
                ("sslmode", "no-verify") => rest.push("sslmode=require"),
                ("sslmode", "disable" | "prefer" | "require") => rest.push(parameter),
                ("sslmode", _) => return Err(OpenError::SslMode),
                ("sslrootcert", file) => {
                    has_roots = true;
                    parameters.roots = Some(file.to_owned()).filter(|file| file != "system");
                }
                _ => match fate(name, value) {
                    Fate::ToDriver => rest.push(parameter),
                    Fate::Agrees => {}
                    Fate::Ignored => parameters.ignored.push(name.to_owned()),
                    Fate::Refused(advice) => return Err(refused(name, advice, query)),
                },
            }
        }
        if has_roots && !parameters.verify {
            // libpq would then check the certificate in every mode; verbatim would not.
            let advice = "only works with sslmode=verify-full; write that, or remove it";
            return Err(OpenError::Parameter { name: "sslrootcert".to_owned(), advice });
        }
        parameters.url = match rest.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", rest.join("&")),
        };
        Ok(parameters)
    }
}

/// Splits where the driver does: the credentials end at the first `@`, and may contain a `?`.
fn split(url: &str) -> (&str, &str) {
    let credentials = url.find('@').unwrap_or(0);
    match url[credentials..].split_once('?') {
        Some((place, query)) => (&url[..credentials + place.len()], query),
        None => (url, ""),
    }
}

fn fate(name: &str, value: &str) -> Fate {
    let one_of = |values: &[&str]| match values.contains(&value) {
        true => Fate::ToDriver,
        false => Fate::Refused(NO_VALUE),
    };
    match name {
        "user" | "password" | "dbname" | "host" | "hostaddr" | "port" | "options" => Fate::ToDriver,
        "channel_binding" => one_of(&["disable", "prefer", "require"]),
        "sslnegotiation" => one_of(&["postgres", "direct"]),
        "load_balance_hosts" => one_of(&["disable", "random"]),
        "gssencmode" if ["disable", "prefer"].contains(&value) => Fate::Agrees,
        "target_session_attrs" if ["primary", "read-write", "any"].contains(&value) => Fate::Agrees,
        "client_encoding" if ["utf8", "utf-8"].contains(&&*value.to_lowercase()) => Fate::Agrees,
        "connect_timeout"
        | "application_name"
        | "fallback_application_name"
        | "keepalives"
        | "keepalives_idle"
        | "keepalives_interval"
        | "keepalives_count"
        | "keepalives_retries"
        | "tcp_user_timeout" => Fate::Ignored,
        "gssencmode" => {
            Fate::Refused("verbatim does not support; write gssencmode=disable, or remove it")
        }
        "target_session_attrs" => Fate::Refused(
            "must be read-write, because a standby lags behind; write that, or remove it",
        ),
        "sslcert" | "sslkey" | "sslpassword" | "sslcertmode" => Fate::Refused(
            "verbatim does not support (client certificates); remove it and use a password",
        ),
        "ssl" => Fate::Refused(
            "is for another driver; write sslmode=require, or sslmode=verify-full to check the \
             certificate",
        ),
        "pgbouncer" => {
            Fate::Refused("is for a pooler; remove it and write the address of PostgreSQL itself")
        }
        "schema" | "search_path" | "currentSchema" => {
            Fate::Refused("is for another driver; write options=-c%20search_path%3DNAME")
        }
        _ => Fate::Refused(UNKNOWN),
    }
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

    fn read(query: &str) -> Result<Parameters, String> {
        let url = format!("postgres://ann:s3cret?sslmode=x@db:5432/chat?{query}");
        Parameters::read(&url).map_err(|error| {
            let said = error.to_string();
            assert!(!said.contains("s3cret") && !said.contains("db:5432"), "{said}");
            said
        })
    }

    /// What is passed on to the driver.
    fn left(query: &str) -> String {
        let url = read(query).unwrap().url;
        url.strip_prefix("postgres://ann:s3cret?sslmode=x@db:5432/chat").unwrap().to_owned()
    }

    fn refusal(query: &str) -> String {
        read(query).expect_err(query)
    }

    #[test]
    fn parameters_that_agree_are_accepted_and_not_passed_on() {
        assert_eq!(left(""), "");
        for parameter in [
            "gssencmode=disable",
            "gssencmode=prefer",
            "target_session_attrs=primary",
            "target_session_attrs=read-write",
            "target_session_attrs=any",
            "client_encoding=UTF8",
        ] {
            assert_eq!(left(parameter), "", "{parameter}");
            assert_eq!(read(parameter).unwrap().ignored, [""; 0], "{parameter}");
        }
        for parameter in [
            "sslmode=disable",
            "sslmode=prefer",
            "sslmode=require",
            "channel_binding=require",
            "sslnegotiation=direct",
            "load_balance_hosts=random",
            "options=-c%20search_path%3Dchat",
            "host=a,b&port=1,2",
        ] {
            assert_eq!(left(parameter), format!("?{parameter}"));
        }
        assert_eq!(left("sslmode=no-verify"), "?sslmode=require");
        assert!(!read("sslmode=no-verify").unwrap().verify);
        assert_eq!(left("user=bob&gssencmode=disable&dbname=x"), "?user=bob&dbname=x");
    }

    #[test]
    fn parameters_name_the_certificate_authorities() {
        let parameters = read("sslmode=verify-full&sslrootcert=/ours.pem").unwrap();
        assert!(
            parameters.verify && parameters.url.ends_with("chat?sslmode=require"),
            "{parameters:?}"
        );
        assert_eq!(parameters.roots.as_deref(), Some("/ours.pem"));
        let parameters = read("sslrootcert=system&sslmode=verify-full").unwrap();
        assert!(parameters.verify && parameters.roots.is_none(), "{parameters:?}");
        for weak in ["", "&sslmode=require", "&sslmode=no-verify"] {
            let said = refusal(&format!("sslrootcert=/ours.pem{weak}"));
            assert!(
                said.contains("sslrootcert, which only works with sslmode=verify-full;"),
                "{said}"
            );
        }
    }

    #[test]
    fn parameters_that_verbatim_sets_are_ignored_and_named() {
        let parameters = read("connect_timeout=10&keepalives_count=3&application_name=x").unwrap();
        assert_eq!(parameters.ignored, ["connect_timeout", "keepalives_count", "application_name"]);
        assert!(parameters.url.ends_with("/chat"), "{parameters:?}");
    }

    #[test]
    fn unsupported_parameters_are_refused_by_name_without_their_value() {
        for parameter in ["allow", "verify-ca", "verify_full", ""] {
            let said = refusal(&format!("sslmode={parameter}"));
            assert!(said.contains("sslmode that is not one of disable, prefer"), "{said}");
        }
        for (parameter, advice) in [
            ("gssencmode=require", "write gssencmode=disable"),
            ("target_session_attrs=standby", "must be read-write"),
            ("target_session_attrs=prefer-standby", "must be read-write"),
            ("target_session_attrs=read-only", "must be read-write"),
            ("channel_binding=s3cret", "has a value that verbatim does not support"),
            ("sslcert=s3cret", "use a password"),
            ("sslkey=s3cret", "use a password"),
            ("sslpassword=s3cret", "use a password"),
            ("sslcrl=s3cret", UNKNOWN),
            ("ssl=true", "write sslmode=require"),
            ("pgbouncer=true", "PostgreSQL itself"),
            ("schema=chat", "search_path"),
            ("passfile=s3cret", UNKNOWN),
            ("service=s3cret", UNKNOWN),
            ("nonsense=s3cret", UNKNOWN),
        ] {
            let (name, _) = parameter.split_once('=').unwrap();
            let said = refusal(&format!("dbname=x&{parameter}"));
            assert!(said.starts_with(&format!("log.url has {name}, which ")), "{said}");
            assert!(said.contains(advice), "{said}");
        }
    }

    /// `postgres://ann:pw@1?s3cret=more@db/chat`: the password is not percent-encoded.
    #[test]
    fn a_possible_part_of_a_password_is_not_named() {
        for query in ["s3cret=more@db/chat", "s3cret%20x=1", "s3cret/x=1", "sslmode=require&s3cret"]
        {
            refusal(query);
        }
        assert!(refusal("word=more@db/chat").contains("%40"));
    }
}
