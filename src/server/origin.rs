//! Which web pages may send requests to this server: the one rule for `Origin`, for the WebSocket
//! and `/api`, and the headers that let a page read the answer.
//!
//! Browsers let any page send requests anywhere and add `Origin`, so the server must decide. Other
//! clients send none and are always allowed: this is not authentication.

use hyper::StatusCode;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};

use super::answer::{Answer, Why, refuse, set};
use crate::model::{Authority, Origin};

/// The setting `server.allowed_origins`. The server's own host is always allowed.
pub struct Origins {
    any: bool,
    listed: Vec<Origin>,
}

/// The source of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// No web page, or one that need not send an `Origin`.
    Unsaid,
    /// A page that is allowed. `by_name`: its origin is listed.
    Page {
        origin: HeaderValue,
        by_name: bool,
    },
    Foreign,
    /// Several `Origin` headers, none of which can be trusted.
    Several,
}

impl Origins {
    pub fn new(allowed: &[String]) -> Self {
        let any = allowed.iter().any(|origin| origin == "*");
        Self { any, listed: allowed.iter().filter_map(|origin| Origin::parse(origin)).collect() }
    }

    /// `own` is the host that the request is for.
    pub fn source(&self, headers: &HeaderMap, own: Option<&Authority>) -> Source {
        let mut values = headers.get_all(ORIGIN).iter();
        let Some(value) = values.next() else { return Source::Unsaid };
        if values.next().is_some() {
            return Source::Several;
        }
        let origin = value.to_str().ok().and_then(Origin::parse);
        let by_name = origin.as_ref().is_some_and(|origin| self.listed.contains(origin));
        let is_own = origin.zip(own).is_some_and(|(origin, own)| origin.is_of(own));
        if by_name || is_own || self.any {
            Source::Page { origin: value.clone(), by_name }
        } else {
            Source::Foreign
        }
    }
}

impl Source {
    /// Lets the page read the answer, even if it is a refusal.
    pub fn admit(self, answer: &mut Answer) {
        set(answer, VARY, "Origin");
        let Self::Page { origin, by_name } = self else { return };
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(answer, ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After");
        // With `*`, the operator has not considered each page that could use a user's cookies.
        if by_name {
            set(answer, ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
    }
}

/// The answer to a page that is not allowed.
pub fn refusal() -> Answer {
    let error = "this origin is not allowed; to allow it, list it in server.allowed_origins";
    let mut answer = refuse(StatusCode::FORBIDDEN, "origin", error);
    answer.extensions_mut().insert(Why("origin"));
    answer
}

/// The answer to a request with several `Origin` headers.
pub fn refusal_of_several() -> Answer {
    let error = "this request has several Origin headers; send at most one";
    refuse(StatusCode::BAD_REQUEST, "origin", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source of a request with these origins for `host`.
    fn source(allowed: &[&str], host: &str, origins: &[&[u8]]) -> Source {
        let allowed: Vec<_> = allowed.iter().map(|&origin| origin.to_owned()).collect();
        let values = origins.iter().map(|&origin| HeaderValue::from_bytes(origin).unwrap());
        let mut headers = HeaderMap::new();
        headers.extend(values.map(|value| (ORIGIN, value)));
        Origins::new(&allowed).source(&headers, Authority::parse(host).as_ref())
    }

    fn page(origin: &str, by_name: bool) -> Source {
        Source::Page { origin: origin.parse().unwrap(), by_name }
    }

    #[test]
    fn own_and_listed_pages_may_ask_and_no_other() {
        const LISTED: &str = "https://chat.example";
        let check = |origin: &str| source(&[LISTED], "127.0.0.1:8080", &[origin.as_bytes()]);
        for listed in [LISTED, "https://chat.example:443", "HTTPS://Chat.Example"] {
            assert_eq!(check(listed), page(listed, true));
        }
        for own in ["http://127.0.0.1:8080", "https://127.0.0.1:8080"] {
            assert_eq!(check(own), page(own, false));
        }
        for foreign in [
            "http://chat.example",
            "https://chat.example:8443",
            "https://chat.example.",
            "https://chat.example.evil",
            "https://evil.chat.example",
            "http://127.0.0.1",
            "http://localhost:8080",
            "chat.example",
            "null",
            "*",
            "",
            "https://chat.example, https://chat.example",
        ] {
            assert_eq!(check(foreign), Source::Foreign, "{foreign}");
        }
        for hostile in [&b"https://chat.example\xff"[..], b"\xff", b"https://\xc3\xa9"] {
            assert_eq!(source(&[LISTED], "", &[hostile]), Source::Foreign, "{hostile:?}");
        }
    }

    #[test]
    fn one_origin_is_believed_and_two_are_none() {
        let [a, b]: [&[u8]; 2] = [b"https://a.example", b"http://b.example"];
        assert_eq!(source(&["*"], "b.example", &[]), Source::Unsaid);
        assert_eq!(source(&["*"], "b.example", &[a, b]), Source::Several);
        assert_eq!(source(&["https://a.example"], "b.example", &[a, a]), Source::Several);
    }

    #[test]
    fn a_star_lets_all_in_and_names_nobody() {
        for origin in ["https://any.example", "null", "\"", "chrome-extension://x"] {
            let found = source(&["*"], "b.example", &[origin.as_bytes()]);
            assert_eq!(found, page(origin, false), "{origin}");
        }
        let both = ["*", "https://a.example"];
        let found = source(&both, "b.example", &[b"https://a.example"]);
        assert_eq!(found, page("https://a.example", true));
    }
}
