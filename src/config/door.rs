//! Checks the settings about who may connect.

use std::net::IpAddr;

use super::check::{Warning, wrong};
use super::{Config, ConfigError, ServerConfig};
use crate::model::{Authority, Host, Network, Origin};

/// Allowed values of `server.proxy_header`.
const PROXY_HEADERS: [&str; 3] = ["x-forwarded-for", "forwarded", PREAMBLE];
const PREAMBLE: &str = "proxy-protocol";

impl ServerConfig {
    /// Whether connections from this address begin with the PROXY protocol.
    pub fn expects_preamble(&self, address: IpAddr) -> bool {
        let mut trusted = self.trusted_proxies.iter().filter_map(|text| Network::parse(text));
        self.proxy_header == PREAMBLE && trusted.any(|network| network.contains(address))
    }
}

impl Config {
    pub(super) fn check_door(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        if let Some(bad) = server.hosts.iter().find(|host| !is_name(host)) {
            let allowed = "must be a host name without scheme, port or wildcard, or *; IP \
                           addresses and localhost are always accepted";
            return Err(wrong("server.hosts", format!("{bad:?}"), allowed));
        }
        if let Some(bad) = server.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            let allowed = "must be scheme://host[:port] with http or https, in lower case, \
                           without a path, or *";
            return Err(wrong("server.allowed_origins", format!("{bad:?}"), allowed));
        }
        if let Some(bad) = server.trusted_proxies.iter().find(|it| Network::parse(it).is_none()) {
            let allowed = "must be an address or a network, such as 10.0.0.0/8, with no bits set \
                           after the prefix";
            return Err(wrong("server.trusted_proxies", format!("{bad:?}"), allowed));
        }
        if !PROXY_HEADERS.contains(&server.proxy_header.as_str()) {
            let allowed = format!("must be one of {}", PROXY_HEADERS.join(", "));
            return Err(wrong(
                "server.proxy_header",
                format!("{:?}", server.proxy_header),
                allowed,
            ));
        }
        Ok(())
    }

    pub(super) fn door_warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |setting, text: String| warnings.push(Warning { setting, text });
        if self.server.hosts.iter().any(|host| host == "*") {
            let text = "any host name is accepted: unless a proxy checks Host, a web page can \
                        reach this node through a name of its own (DNS rebinding)";
            warn("server.hosts", text.to_owned());
        }
        if self.server.allowed_origins.iter().any(|origin| origin == "*") {
            let text = "any web page that a user visits can connect through their browser";
            warn("server.allowed_origins", text.to_owned());
        }
        let trusted = self.server.trusted_proxies.iter().filter_map(|it| Network::parse(it));
        if trusted.into_iter().any(Network::is_everything) {
            let text = "every client is trusted to name its own address: limits per address and \
                        log lines can be evaded";
            warn("server.trusted_proxies", text.to_owned());
        }
        warnings
    }
}

/// Whether a `Host` can have this name. Anything else would never match.
fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let host = Authority::parse(text).filter(|it| it.port.is_none()).map(|it| it.host);
    let is_host = matches!(host, Some(Host::Name(_)));
    let is_plain = !text.is_empty() && !text.ends_with('.') && text.bytes().all(is_part);
    text == "*" || (is_host && is_plain)
}

/// Whether browsers can send this as `Origin`. Anything else would never match.
fn is_origin(text: &str) -> bool {
    let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    text == "*" || (is_lower && !text.contains('*') && Origin::parse(text).is_some())
}
