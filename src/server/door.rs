//! Who may ask, by what the head of a request says: the rules for `Host` and `Origin` together.

use hyper::Request;

use super::answer::Answer;
use super::host::{self, HostRefused, Hosts};
use super::origin::{self, Origins, Source};
use crate::config::ServerConfig;

/// One to a node.
pub struct Door {
    hosts: Hosts,
    origins: Origins,
}

/// Why a request is not answered, whatever it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorRefused {
    Host(HostRefused),
    /// It has several `Origin`s.
    Origins,
}

impl Door {
    pub fn new(config: &ServerConfig) -> Self {
        let (hosts, origins) = (Hosts::new(&config.hosts), Origins::new(&config.allowed_origins));
        Self { hosts, origins }
    }

    /// Where a request comes from that is for this server. A foreign page's may be answered all the
    /// same: that is for the routes to say.
    pub fn check<B>(&self, request: &Request<B>) -> Result<Source, DoorRefused> {
        let own = self.hosts.check(request).map_err(DoorRefused::Host)?;
        match self.origins.source(request.headers(), own.as_ref()) {
            Source::Several => Err(DoorRefused::Origins),
            source => Ok(source),
        }
    }
}

impl DoorRefused {
    /// The word for it in the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Origins => "origin",
        }
    }

    pub fn answer(self) -> Answer {
        match self {
            Self::Host(refused) => host::refusal(refused),
            Self::Origins => origin::refusal_of_several(),
        }
    }
}
