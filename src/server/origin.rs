//! Which web pages may ask this server: the one rule for `Origin`, on the WebSocket and under
//! `/api`.
//!
//! Browsers send `Origin` and let any page ask anywhere, so the server must choose. Other clients
//! send none and are always let in: this is no authentication.

use hyper::StatusCode;
use hyper::header::{HOST, HeaderMap, ORIGIN};

use super::answer::{Answer, refuse};

/// `allowed` is the setting `server.allowed_origins`; the server's own host is allowed anyway.
pub fn is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if allowed.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// The answer to all others.
pub fn refusal() -> Answer {
    refuse(
        StatusCode::FORBIDDEN,
        "origin",
        "this origin may not connect: list it in server.allowed_origins",
    )
}
