//! Which Redis this is, and whether it is new enough, by its answer to INFO.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, cmd};

/// Since this version streams count their entries (`entries-added`), and groups those they read.
const MAJOR_MIN: u32 = 7;

/// What the server says it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    name: &'static str,
    version: String,
    /// Of the Redis version that it emulates.
    major: u32,
}

impl Server {
    /// Asks. `None`: it does not say.
    pub async fn ask(redis: &mut MultiplexedConnection) -> Result<Option<Self>, RedisError> {
        let info: String = cmd("INFO").arg("server").query_async(redis).await?;
        Ok(Self::read(&info))
    }

    /// An error if it is too old; `too_old` recognizes it.
    pub fn check(&self) -> Result<(), RedisError> {
        match self.major >= MAJOR_MIN {
            true => Ok(()),
            false => Err((ErrorKind::RESP3NotSupported, "too old", self.to_string()).into()),
        }
    }

    /// Forks say which Redis version they emulate, and their own version beside it.
    fn read(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
            info.lines().find_map(|line| value(line.trim_end()))
        };
        let redis_version = field("redis_version")?;
        let major = redis_version.split('.').next()?.parse().ok()?;
        let (name, version) = match (field("valkey_version"), field("dragonfly_version")) {
            (Some(version), _) => ("Valkey", version),
            (None, Some(version)) => ("Dragonfly", version),
            (None, None) => ("Redis", redis_version),
        };
        Some(Self { name, version, major })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The version found, if the error is that it is too old.
pub(super) fn too_old(err: &RedisError) -> Option<&str> {
    let is_it = err.kind() == ErrorKind::RESP3NotSupported;
    // The driver uses the same kind for a server without HELLO, and then knows no version.
    is_it.then(|| err.detail().unwrap_or("this Redis"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(info: &str) -> (String, bool) {
        let server = Server::read(info).unwrap();
        (server.to_string(), server.check().is_ok())
    }

    #[test]
    fn versions_from_seven_on_are_accepted_of_any_fork() {
        let redis = |version: &str| {
            is_taken(&format!("# Server\r\nredis_version:{version}\r\nredis_git_sha1:0\r\n"))
        };
        for (version, good) in [
            ("2.8.24", false),
            ("5.0.14", false),
            ("6.2.14", false),
            // KeyDB has no field of its own.
            ("6.3.4", false),
            ("6.999.999", false),
            ("7.0.0", true),
            ("7.0.15", true),
            ("8.2.1", true),
            ("10.0.0", true),
            ("255.255.255", true),
        ] {
            assert_eq!(redis(version), (format!("Redis {version}"), good));
        }
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n";
        assert_eq!(is_taken(valkey), ("Valkey 8.1.0".to_owned(), true));
        let old = "redis_version:6.2.11\r\ndragonfly_version:df-v1.14.0\r\n";
        assert_eq!(is_taken(old), ("Dragonfly df-v1.14.0".to_owned(), false));
        let new = "redis_version:7.4.0\r\ndragonfly_version:df-v1.31.0\r\n";
        assert_eq!(is_taken(new), ("Dragonfly df-v1.31.0".to_owned(), true));
    }

    #[test]
    fn a_server_without_a_version_is_unknown() {
        for info in
            ["", "# Server\r\n", "redis_version:\r\n", "redis_version:new\r\n", "x_redis_version:7"]
        {
            assert_eq!(Server::read(info), None, "{info:?}");
        }
    }

    #[test]
    fn only_an_old_version_is_reported_as_too_old() {
        let server = Server::read("redis_version:6.2.14").unwrap();
        assert_eq!(too_old(&server.check().unwrap_err()), Some("Redis 6.2.14"));
        let other = RedisError::from((ErrorKind::InvalidClientConfig, "x", "y".to_owned()));
        assert_eq!(too_old(&other), None);
    }
}
