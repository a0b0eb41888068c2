//! The host that a request is for, and the origin of a web page: the authority of a URL (RFC 3986,
//! section 3.2) and an origin (RFC 6454), as far as a server compares them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host of a URL. Names are in lower case and otherwise unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// May be empty, and may end in a dot.
    Name(String),
    Address(IpAddr),
}

/// `host[:port]`, as in the header `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

/// `scheme://host[:port]` as browsers send it, with the default port filled in, so that equal
/// origins are equal values. Only http and https, because others cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Host {
    /// `None`: not a host by RFC 3986. An IPv6 address is in brackets.
    fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        // unreserved, sub-delims, and the percent sign of pct-encoded.
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
        if !text.bytes().all(is_part) {
            return None;
        }
        let address = text.strip_suffix('.').unwrap_or(text).parse::<Ipv4Addr>();
        Some(match address {
            Ok(address) => Self::Address(address.into()),
            Err(_) => Self::Name(text.to_ascii_lowercase()),
        })
    }

    /// Whether it is this name, given in lower case. A dot at the end only says that the name is
    /// fully qualified.
    pub fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own.strip_suffix('.').unwrap_or(own) == name,
            Self::Address(_) => false,
        }
    }
}

impl Authority {
    /// `None`: not an authority, or it contains a user, which no request may have.
    pub fn parse(text: &str) -> Option<Self> {
        let end = if text.starts_with('[') { text.find(']')? + 1 } else { 0 };
        let colon = text[end..].find(':').map(|at| end + at);
        let (host, port) = match colon {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, ""),
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        Some(Self { host: Host::parse(host)?, port })
    }
}

impl Origin {
    /// `None`: not an origin that can be compared. One of these is `null`, which browsers send for
    /// pages whose origin they hide.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = if scheme.eq_ignore_ascii_case("http") {
            Scheme::Http
        } else if scheme.eq_ignore_ascii_case("https") {
            Scheme::Https
        } else {
            return None;
        };
        let Authority { host, port } = Authority::parse(authority)?;
        let is_somebody = host != Host::Name(String::new());
        is_somebody.then(|| Self { scheme, host, port: port.unwrap_or(scheme.port()) })
    }

    /// Whether a page of this origin came from this authority. Either scheme matches: if a proxy
    /// ends TLS, the page's scheme is https.
    pub fn is_of(&self, authority: &Authority) -> bool {
        let port = authority.port.unwrap_or(self.scheme.port());
        self.host == authority.host && self.port == port
    }
}

impl Scheme {
    /// The default port.
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    fn address(text: &str) -> Host {
        Host::Address(text.parse().unwrap())
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let check = |text: &str, host: Host, port: Option<u16>| {
            assert_eq!(Authority::parse(text), Some(Authority { host, port }), "{text}");
        };
        check("chat.example", name("chat.example"), None);
        check("Chat.EXAMPLE:8443", name("chat.example"), Some(8443));
        check("chat.example.:080", name("chat.example."), Some(80));
        check("chat_1.example:", name("chat_1.example"), None);
        check("127.0.0.1:8080", address("127.0.0.1"), Some(8080));
        check("127.0.0.1.", address("127.0.0.1"), None);
        check("[::1]", address("::1"), None);
        check("[2001:DB8::1]:0", address("2001:db8::1"), Some(0));
        check("[::ffff:10.0.0.1]:1", address("::ffff:10.0.0.1"), Some(1));
        check("", name(""), None);
        check(":80", name(""), Some(80));
        // Other notations of an address are left to name resolution.
        check("127.1", name("127.1"), None);
        check("0x7f000001", name("0x7f000001"), None);
        check("010.0.0.1", name("010.0.0.1"), None);
    }

    #[test]
    fn what_is_no_authority_is_none() {
        for text in [
            "a b",
            " a",
            "a ",
            "a\t",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "user:pass@a",
            "a:b",
            "a:80:80",
            "a:+80",
            "a:-1",
            "a:65536",
            "a:99999999999999999999",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]:x",
            "[]",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "é.example",
            "a\0",
            "a,b:c",
            "http://a",
        ] {
            assert_eq!(Authority::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_dot_at_the_end_changes_no_name() {
        let is_named =
            |text: &str, known: &str| Authority::parse(text).unwrap().host.is_named(known);
        assert!(is_named("localhost", "localhost"));
        assert!(is_named("LocalHost.:8080", "localhost"));
        for other in ["localhost..", "a.localhost", "localhost.a", "", ".", "127.0.0.1"] {
            assert!(!is_named(other, "localhost"), "{other:?}");
        }
    }

    #[test]
    fn origins_are_compared_as_origins() {
        let same = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| Origin::parse(text).unwrap_or_else(|| panic!("{text}")));
            a == b
        };
        for (a, b) in [
            ("http://a.example", "http://a.example:80"),
            ("https://a.example:443", "https://a.example"),
            ("HTTPS://A.Example", "https://a.example:443"),
            ("http://[::1]:80", "http://[0:0::1]"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("http://a.example", "https://a.example"),
            ("http://a.example:443", "https://a.example:443"),
            ("http://a.example", "http://a.example."),
            ("http://a.example", "http://b.a.example"),
            ("http://a.example", "http://a.example.b"),
            ("http://a.example:8080", "http://a.example:8081"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        for wrong in [
            "null",
            "",
            "*",
            "a.example",
            "//a.example",
            "http:a.example",
            "http:/a.example",
            "http://",
            "http://:80",
            "http://a.example/",
            "http://a.example?",
            "http://a.example#",
            "http://u@a.example",
            "http://a.example http://b.example",
            "http://a.example,http://b.example",
            "http://http://a.example",
            "ws://a.example",
            "wss://a.example",
            "file://a.example",
            "chrome-extension://a",
            "httpss://a.example",
            " http://a.example",
            "http://a.example\0",
            "http://\u{430}.example",
        ] {
            assert_eq!(Origin::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_page_of_the_same_host_is_the_servers_own_by_either_scheme() {
        let own = |origin: &str, host: &str| {
            Origin::parse(origin).unwrap().is_of(&Authority::parse(host).unwrap())
        };
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://a.example", "a.example"),
            ("https://a.example", "A.example:443"),
            ("http://a.example:80", "a.example"),
            ("http://a.example", "a.example:80"),
            ("https://a.example:8443", "a.example:8443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "[0::1]:8080"),
            ("http://a.example.", "a.example."),
        ] {
            assert!(own(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://a.example", "a.example:443"),
            ("https://a.example", "a.example:80"),
            ("http://a.example:8080", "a.example"),
            ("http://a.example", "a.example:8080"),
            ("http://127.0.0.1:8081", "127.0.0.1:8080"),
            ("http://localhost:8080", "127.0.0.1:8080"),
            ("http://a.example.", "a.example"),
            ("http://a.example", ""),
        ] {
            assert!(!own(origin, host), "{origin} {host}");
        }
    }

    proptest! {
        /// Any input ends, and a parsed origin has only one way to write it.
        #[test]
        fn an_origin_is_equal_to_one_that_is_written_anew(
            text in "\\PC{0,40}|https?://[\\w.:\\[\\]@/-]{0,30}",
        ) {
            let Some(Origin { scheme, host, port }) = Origin::parse(&text) else { return Ok(()) };
            let scheme = if scheme == Scheme::Http { "http" } else { "https" };
            let host = match host {
                Host::Name(name) => name,
                Host::Address(IpAddr::V4(v4)) => v4.to_string(),
                Host::Address(IpAddr::V6(v6)) => format!("[{v6}]"),
            };
            let written = format!("{scheme}://{host}:{port}");
            prop_assert_eq!(Origin::parse(&written), Origin::parse(&text));
            prop_assert!(!host.contains(['/', '@', '#', '?', ' ', '\\']));
        }

        /// One foreign character anywhere makes it a different name, or none.
        #[test]
        fn a_changed_name_is_another(at in 0..9_usize, c in any::<char>()) {
            let mut text = "localhost".to_owned();
            text.replace_range(at..=at, c.encode_utf8(&mut [0; 4]));
            let is_same = text.eq_ignore_ascii_case("localhost");
            let is_named = Authority::parse(&text).is_some_and(|it| it.host.is_named("localhost"));
            prop_assert_eq!(is_named, is_same);
        }
    }
}
