//! The client's address behind proxies: the one rule for `server.trusted_proxies`.
//!
//! A proxy names the client of a request, but anybody can send such a header. So only proxies in
//! the settings are trusted, and in a list of addresses only those that they added: the list is
//! read from the end, where the nearest proxy wrote, up to the first address that is not a trusted
//! proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::preamble::Malformed;
use crate::config::ServerConfig;
use crate::model::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Pause between log lines about proxies that do not name their client.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// One per node.
pub struct Proxies {
    trusted: Vec<Network>,
    says: Says,
    /// The last log line about a proxy that did not name the client of a connection.
    complained: Mutex<Option<Instant>>,
}

/// The setting `server.proxy_header`: how a proxy names the client. Nothing else is read, because a
/// proxy passes on other headers as the client sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    XForwardedFor,
    Forwarded,
    /// Before everything else on a connection: see `preamble`.
    Preamble,
}

impl Proxies {
    pub fn new(config: &ServerConfig) -> Self {
        let trusted = config.trusted_proxies.iter().filter_map(|text| Network::parse(text));
        let says = match config.proxy_header.as_str() {
            "forwarded" => Says::Forwarded,
            "proxy-protocol" => Says::Preamble,
            _ => Says::XForwardedFor,
        };
        Self { trusted: trusted.collect(), says, complained: Mutex::default() }
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Whether connections from this address begin with the PROXY protocol.
    pub fn introduces(&self, address: IpAddr) -> bool {
        self.says == Says::Preamble && self.trusts(address)
    }

    /// Logs that a proxy's connection does not begin with the PROXY protocol. This is for the
    /// person who configured the proxy, and not a refusal: its health checks may look like this,
    /// and tools that read refusals would block the proxy and everybody behind it.
    pub fn is_not_introduced(&self, from: IpAddr, err: &Malformed) {
        if self.may_complain(Instant::now()) {
            tracing::warn!(proxy = %from, %err, "closed a connection from a trusted proxy");
        }
    }

    fn may_complain(&self, now: Instant) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_PAUSE);
        if is_due {
            *last = Some(now);
        }
        is_due
    }

    /// The client of a request that came from this address.
    pub fn client(&self, from: IpAddr, headers: &HeaderMap) -> IpAddr {
        match self.says {
            Says::XForwardedFor => self.last_stranger(from, hops(headers, &X_FORWARDED_FOR), node),
            Says::Forwarded => self.last_stranger(from, hops(headers, &FORWARDED), forwarded_for),
            Says::Preamble => from,
        }
    }

    /// Goes back through the hops while they are trusted proxies with a readable predecessor.
    fn last_stranger<'a>(
        &self,
        mut from: IpAddr,
        mut hops: impl Iterator<Item = &'a str>,
        read: impl Fn(&str) -> Option<IpAddr>,
    ) -> IpAddr {
        while self.trusts(from) {
            match hops.next().and_then(&read) {
                Some(before) => from = before,
                None => break,
            }
        }
        from
    }
}

/// The parts of a list that may span several headers, from the end.
fn hops<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    // An unreadable part is kept as such, not skipped.
    let text = |value: &'a HeaderValue| value.to_str().unwrap_or("?");
    let values = headers.get_all(name).iter().rev().map(text);
    values.flat_map(|value| value.rsplit(',')).map(str::trim)
}

/// An address, perhaps with a port (IPv6 then in brackets).
fn node(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    Some(address.or_else(bare)?.to_canonical())
}

/// The `for` of one part of `Forwarded` (RFC 7239). Commas and semicolons in quotes are not
/// supported: the cut pieces have no `for` with an address.
fn forwarded_for(part: &str) -> Option<IpAddr> {
    let mut said = part.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let (value, None) = (said.next()?, said.next()) else { return None };
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    node(quoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn proxies(header: &str) -> Proxies {
        let mut config = Config::from_defaults().server;
        config.trusted_proxies = ["10.0.0.0/8", "::1"].map(str::to_owned).to_vec();
        config.proxy_header = header.to_owned();
        Proxies::new(&config)
    }

    /// The client of a request with these headers from this address.
    fn client(proxies: &Proxies, from: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        proxies.client(from.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn the_rightmost_that_is_no_proxy_of_ours_is_the_client() {
        let proxies = proxies("x-forwarded-for");
        let check = |from: &str, list: &[&str], wanted: &str| {
            let headers: Vec<_> = list.iter().map(|text| ("x-forwarded-for", *text)).collect();
            assert_eq!(client(&proxies, from, &headers), wanted, "{from} {list:?}");
        };
        check("10.0.0.1", &["192.0.2.7"], "192.0.2.7");
        // What the client claims is to the left of what the proxies added.
        check("10.0.0.1", &["127.0.0.1, 198.51.100.1, 192.0.2.7"], "192.0.2.7");
        check("10.0.0.1", &["198.51.100.1, 192.0.2.7, 10.0.0.2 ,10.0.0.3"], "192.0.2.7");
        check("10.0.0.1", &["198.51.100.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7");
        check("::1", &["192.0.2.7"], "192.0.2.7");
        // All are proxies: the farthest one.
        check("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9");
        // Nobody else is trusted.
        check("192.0.2.1", &["198.51.100.1"], "192.0.2.1");
        check("192.0.2.1", &["10.0.0.1"], "192.0.2.1");
        // Nothing before an unreadable part is known.
        check("10.0.0.1", &[], "10.0.0.1");
        for unreadable in ["", "unknown", "192.0.2", "\u{e9}", "192.0.2.7,", "192.0.2.7, x"] {
            check("10.0.0.1", &[unreadable], "10.0.0.1");
        }
        check("10.0.0.1", &["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2");
        for (form, address) in [
            ("192.0.2.7:4711", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:10.0.0.2", "10.0.0.2"),
        ] {
            check("10.0.0.1", &[form], address);
        }
    }

    #[test]
    fn forwarded_is_read_where_it_is_what_the_proxy_writes() {
        let proxies = proxies("forwarded");
        let check = |value: &str, wanted: &str| {
            // The client sent the other header.
            let headers = [("x-forwarded-for", "198.51.100.66"), ("forwarded", value)];
            assert_eq!(client(&proxies, "10.0.0.1", &headers), wanted, "{value}");
        };
        check("for=192.0.2.7", "192.0.2.7");
        check("For=\"192.0.2.7:80\";proto=https;by=10.0.0.1", "192.0.2.7");
        check("proto=http ; for=\"[2001:db8::7]:4711\"", "2001:db8::7");
        check("for=198.51.100.1, for=192.0.2.7, for=10.0.0.2", "192.0.2.7");
        for unknown in
            ["for=unknown", "for=_x", "by=192.0.2.7", "for=192.0.2.7;for=192.0.2.8", "192.0.2.7"]
        {
            check(unknown, "10.0.0.1");
        }
    }

    #[test]
    fn only_what_the_settings_say_is_read() {
        let headers = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.8")];
        let asked = |header| client(&proxies(header), "10.0.0.1", &headers);
        assert_eq!(asked("x-forwarded-for"), "192.0.2.7");
        assert_eq!(asked("forwarded"), "192.0.2.8");
        assert_eq!(asked("proxy-protocol"), "10.0.0.1");
        let address = |text: &str| text.parse().unwrap();
        assert!(proxies("proxy-protocol").introduces(address("10.0.0.1")));
        assert!(!proxies("proxy-protocol").introduces(address("192.0.2.1")));
        assert!(!proxies("forwarded").introduces(address("10.0.0.1")));
    }

    #[test]
    fn a_proxy_is_complained_of_once_a_minute() {
        let (proxies, begin) = (proxies("proxy-protocol"), Instant::now());
        let said = (0..600).filter(|s| proxies.may_complain(begin + Duration::from_secs(*s)));
        assert_eq!(said.count(), 10);
    }
}
