//! Whether a request may be answered at all, by its `Host` and `Origin`.

use hyper::Request;

use super::answer::Answer;
use super::host::{self, HostRefused, Hosts};
use super::origin::{self, Origins, Source};
use crate::config::ServerConfig;

/// One per node.
pub struct Door {
    hosts: Hosts,
    origins: Origins,
}

/// Why a request is refused, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorRefused {
    Host(HostRefused),
    /// Several `Origin` headers.
    Origins,
}

impl Door {
    pub fn new(config: &ServerConfig) -> Self {
        let (hosts, origins) = (Hosts::new(&config.hosts), Origins::new(&config.allowed_origins));
        Self { hosts, origins }
    }

    /// The source of a request that is for this server. A request from a foreign page passes here;
    /// the routes decide whether to answer it.
    pub fn check<B>(&self, request: &Request<B>) -> Result<Source, DoorRefused> {
        let own = self.hosts.check(request).map_err(DoorRefused::Host)?;
        match self.origins.source(request.headers(), own.as_ref()) {
            Source::Several => Err(DoorRefused::Origins),
            source => Ok(source),
        }
    }
}

impl DoorRefused {
    /// Its name in the metrics.
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
