//! The WebSocket handshake (RFC 6455, section 4.2): whether a request is a valid upgrade, and the
//! answer.
//!
//! Routes, origins and limits are checked elsewhere.

use hyper::header::{
    ALLOW, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::answer::{Answer, Content, refuse};

/// The only version of the protocol that exists.
const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// Subprotocol of `/ws`, for clients that offer it.
const PROTOCOL: &str = "verbatim.v1";

/// What the answer to a valid upgrade contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Proves that the server read the request's key.
    proof: String,
    /// The client offered our subprotocol by name. A client that offers only others is let in as
    /// well, without any: it can decide whether it minds.
    named: bool,
}

/// Why a request is not a valid upgrade. The `Display` form is the error that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRefused {
    #[error("method not allowed; use GET to open a WebSocket")]
    Method,
    #[error("this is a WebSocket endpoint; connect with a WebSocket client over HTTP/1.1")]
    NotAnUpgrade,
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
}

/// Checks that the request is a valid upgrade.
pub fn check<B>(request: &Request<B>) -> Result<Accept, UpgradeRefused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(UpgradeRefused::Method);
    }
    let asks =
        has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket");
    if !asks || request.version() != Version::HTTP_11 {
        return Err(UpgradeRefused::NotAnUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(UpgradeRefused::Version);
    }
    match headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes) {
        Some(key) if is_key(key) => {
            let named = has_name(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
            Ok(Accept { proof: derive_accept_key(key), named })
        }
        _ => Err(UpgradeRefused::Key),
    }
}

/// The answer to a valid upgrade: 101.
pub fn response(accept: &Accept) -> Answer {
    let mut response = Response::new(Content::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
    let value = HeaderValue::from_str(&accept.proof).expect("base64 is visible ASCII");
    headers.insert(SEC_WEBSOCKET_ACCEPT, value);
    if accept.named {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    response
}

/// The answer to an invalid one, with a header that says what is needed.
pub fn refusal(refused: UpgradeRefused) -> Answer {
    let (status, hint) = match refused {
        UpgradeRefused::Method => {
            (StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, HeaderValue::from_static("GET"))))
        }
        UpgradeRefused::NotAnUpgrade => (StatusCode::UPGRADE_REQUIRED, Some((UPGRADE, WEBSOCKET))),
        UpgradeRefused::Version => {
            (StatusCode::UPGRADE_REQUIRED, Some((SEC_WEBSOCKET_VERSION, VERSION)))
        }
        UpgradeRefused::Key => (StatusCode::BAD_REQUEST, None),
    };
    let mut answer = refuse(status, "bad_upgrade", &refused.to_string());
    if let Some((name, value)) = hint {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Whether a comma-separated header, perhaps in several lines, contains the token.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    parts(headers, name).any(|part| part.eq_ignore_ascii_case(token))
}

/// As `has_token`, but case-sensitive.
fn has_name(headers: &HeaderMap, header: &HeaderName, name: &str) -> bool {
    parts(headers, header).any(|part| part == name)
}

fn parts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// 16 bytes in base64: 22 characters of its alphabet and two of padding.
fn is_key(key: &[u8]) -> bool {
    let Some((text, b"==")) = key.split_last_chunk::<2>() else { return false };
    text.len() == 22 && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3, with one header replaced.
    fn check_with(name: &str, value: &str) -> Result<Accept, UpgradeRefused> {
        let mut request = Request::get("/ws").body(()).unwrap();
        for (header, usual) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            let value = if header == name { value } else { usual };
            let header = HeaderName::from_static(header);
            request.headers_mut().insert(header, value.parse().unwrap());
        }
        if name == "sec-websocket-protocol" {
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
        }
        if name == "method" {
            *request.method_mut() = value.parse().unwrap();
        }
        if name == "version" {
            *request.version_mut() = Version::HTTP_10;
        }
        check(&request)
    }

    #[test]
    fn a_proper_upgrade_gets_the_answer_of_the_rfc() {
        let accept = check_with("", "").unwrap();
        assert_eq!(accept.proof, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let response = response(&accept);
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], accept.proof);
    }

    #[test]
    fn our_protocol_is_answered_where_it_is_offered_and_no_other_ever() {
        for (offered, is_ours) in [
            ("verbatim.v1", true),
            ("chat, verbatim.v1 ,verbatim.token.abc", true),
            ("verbatim.v2", false),
            ("VERBATIM.V1", false),
            ("verbatim.v1x, xverbatim.v1", false),
            ("", false),
        ] {
            let accept = check_with("sec-websocket-protocol", offered).unwrap();
            let response = response(&accept);
            let answered = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(answered.map(|it| it == PROTOCOL), is_ours.then_some(true), "{offered:?}");
        }
    }

    #[test]
    fn an_improper_upgrade_is_told_what_would_do() {
        use UpgradeRefused::{Key, Method, NotAnUpgrade, Version};
        for (name, value, why, status, hint) in [
            ("method", "POST", Method, 405, "allow"),
            ("connection", "keep-alive", NotAnUpgrade, 426, "upgrade"),
            ("upgrade", "h2c", NotAnUpgrade, 426, "upgrade"),
            ("version", "1.0", NotAnUpgrade, 426, "upgrade"),
            ("sec-websocket-version", "8", Version, 426, "sec-websocket-version"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", Key, 400, "content-type"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZ===", Key, 400, "content-type"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZ!==", Key, 400, "content-type"),
        ] {
            assert_eq!(check_with(name, value), Err(why), "{name}: {value}");
            let response = refusal(why);
            assert_eq!(response.status(), status, "{name}: {value}");
            assert!(response.headers().contains_key(hint), "{name}: {value}");
        }
    }
}
