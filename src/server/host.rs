//! The host names of this server: the one rule for `Host`, on every path.
//!
//! A web page can send requests to any address that its own name resolves to, and the owner of the
//! name can make it resolve to 127.0.0.1 (DNS rebinding). Page and server then have the same
//! origin, so no rule for origins helps. But the name in `Host` is not one of ours.

use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode, Version};

use super::answer::{Answer, Why, refuse};
use crate::model::{Authority, Host};

/// Needs no listing: nobody can make it resolve to another address.
const LOCALHOST: &str = "localhost";

/// The setting `server.hosts`, ready to compare.
pub struct Hosts {
    any: bool,
    names: Vec<String>,
}

/// Why a request is refused. The `Display` form is the error that the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefused {
    #[error("this request has no Host header; send exactly one")]
    Missing,
    #[error("this request has several Host headers; send exactly one")]
    Several,
    #[error("malformed host; send a name or an IP address, with an optional port")]
    Malformed,
    #[error("unknown host name; to accept it, list it in server.hosts")]
    Foreign,
}

impl Hosts {
    pub fn new(names: &[String]) -> Self {
        let any = names.iter().any(|name| name == "*");
        Self { any, names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// The host that the request names, if it is this server. `None`: it names none, which is legal
    /// in HTTP/1.0.
    pub fn check<B>(&self, request: &Request<B>) -> Result<Option<Authority>, HostRefused> {
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(HostRefused::Several);
        }
        if host.is_none() && request.version() >= Version::HTTP_11 {
            return Err(HostRefused::Missing);
        }
        // The host in the target takes precedence over the header (RFC 9112, section 3.2.2).
        let target = request.uri().authority().map(|authority| authority.as_str());
        let text = match (target, host.map(HeaderValue::to_str)) {
            (Some(target), _) => target,
            (None, Some(Ok(host))) => host,
            (None, Some(Err(_))) => return Err(HostRefused::Malformed),
            (None, None) => return Ok(None),
        };
        let authority = Authority::parse(text).ok_or(HostRefused::Malformed)?;
        if self.is_own(&authority.host) { Ok(Some(authority)) } else { Err(HostRefused::Foreign) }
    }

    fn is_own(&self, host: &Host) -> bool {
        self.any
            // An address resolves only to itself, so it cannot be rebound.
            || matches!(host, Host::Address(_))
            || host.is_named(LOCALHOST)
            || self.names.iter().any(|name| host.is_named(name))
    }
}

/// The answer to a refused request.
pub fn refusal(refused: HostRefused) -> Answer {
    let status = match refused {
        HostRefused::Foreign => StatusCode::MISDIRECTED_REQUEST,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut answer = refuse(status, "host", &refused.to_string());
    answer.extensions_mut().insert(Why("host"));
    answer
}

#[cfg(test)]
mod tests {
    use super::HostRefused::{Foreign, Malformed, Missing, Several};
    use super::*;

    /// The result for a request for `target` with these hosts, to a server with the names `ours`.
    fn check(target: &str, version: Version, hosts: &[&str]) -> Result<bool, HostRefused> {
        let mut request = Request::get(target).version(version).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let ours = ["chat.example".to_owned(), "Node-1".to_owned()];
        Hosts::new(&ours).check(&request).map(|authority| authority.is_some())
    }

    fn host(host: &str) -> Result<bool, HostRefused> {
        check("/ws", Version::HTTP_11, &[host])
    }

    #[test]
    fn a_server_goes_by_addresses_localhost_and_the_names_in_its_settings() {
        for own in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1:8080",
            "10.1.2.3",
            "0.0.0.0",
            "[::1]:8080",
            "[fe80::1]",
            "chat.example",
            "Chat.Example.:443",
            "node-1:8080",
        ] {
            assert_eq!(host(own), Ok(true), "{own}");
        }
        for foreign in [
            "",
            ":8080",
            ".",
            "evil.example",
            "a.localhost",
            "localhost.evil.example",
            "xchat.example",
            "a.chat.example",
            "chat.example.evil",
            "127.0.0.1.evil.example",
            "127.1",
            "2130706433",
            "*",
        ] {
            assert_eq!(host(foreign), Err(Foreign), "{foreign}");
        }
        for malformed in ["localhost/", "user@localhost", "localhost:x", "::1", "localhost ", "é"]
        {
            assert_eq!(host(malformed), Err(Malformed), "{malformed}");
        }
    }

    #[test]
    fn a_request_names_its_host_once() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(check("/", version, &["localhost", "localhost"]), Err(Several));
            assert_eq!(check("/", version, &["evil.example"]), Err(Foreign));
        }
        assert_eq!(check("/", Version::HTTP_11, &[]), Err(Missing));
        assert_eq!(check("/", Version::HTTP_10, &[]), Ok(false));
    }

    #[test]
    fn the_host_of_a_whole_url_goes_before_the_header() {
        let check = |target, hosts| check(target, Version::HTTP_11, hosts);
        assert_eq!(check("http://localhost:8080/ws", &["evil.example"]), Ok(true));
        assert_eq!(check("http://evil.example/ws", &["localhost"]), Err(Foreign));
        assert_eq!(check("http://user@localhost/ws", &["localhost"]), Err(Malformed));
        assert_eq!(check("http://localhost/ws", &[]), Err(Missing));
        assert_eq!(check("*", &["localhost"]), Ok(true));
        assert_eq!(check("*", &["evil.example"]), Err(Foreign));
    }

    #[test]
    fn a_star_stands_for_any_name_but_not_for_none() {
        let hosts = Hosts::new(&["*".to_owned()]);
        let with = |host: &str| {
            hosts.check(&Request::get("/").header(HOST, host).body(()).unwrap()).map(drop)
        };
        assert_eq!(with("evil.example"), Ok(()));
        assert_eq!(with("user@evil.example"), Err(Malformed));
        assert_eq!(hosts.check(&Request::get("/").body(()).unwrap()), Err(Missing));
    }
}
