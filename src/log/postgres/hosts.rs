//! The servers that a URL names, and how much of the connect timeout each gets.
//!
//! It makes no connections itself. The driver could try the hosts in turn, but its timeout ends
//! with the TCP connection: a server that accepts and then says nothing, as a frozen machine does,
//! would use up the time of all others.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

use super::connect::ConnectError;

/// The port of a URL that names none.
const PORT: u16 = 5432;

/// All of a URL's hosts.
pub(super) struct Hosts {
    /// In the order of the URL; never empty.
    list: Vec<One>,
    /// Whether the URL asks to start with a random host.
    at_random: bool,
    /// The host of the last connection. It is tried first, so that a dead host costs its share
    /// once, and not on every connection.
    last: AtomicUsize,
}

/// One host of a URL.
struct One {
    /// The name that the certificate must have; `None`: only the address is known.
    host: Option<Host>,
    /// `None`: look the name up, or it is a Unix socket.
    address: Option<IpAddr>,
    port: u16,
}

impl Hosts {
    /// Takes a URL apart. `None`: it is unclear which port belongs to which host, for the driver
    /// too.
    pub fn of(config: &Config) -> Option<Self> {
        let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
        let (ports, len) = (config.get_ports(), hosts.len().max(addresses.len()));
        let is_one_each = |given: usize| given == 0 || given == len;
        let is_clear = is_one_each(hosts.len())
            && is_one_each(addresses.len())
            && (ports.len() == 1 || is_one_each(ports.len()));
        if len == 0 || !is_clear {
            return None;
        }
        let one = |index: usize| One {
            host: hosts.get(index).cloned(),
            address: addresses.get(index).copied(),
            port: ports.get(index).or(ports.first()).copied().unwrap_or(PORT),
        };
        Some(Self {
            list: (0..len).map(one).collect(),
            at_random: config.get_load_balance_hosts() == LoadBalanceHosts::Random,
            last: AtomicUsize::new(0),
        })
    }

    /// Tries one server after another with `common` plus that server's address, until one succeeds.
    /// Each gets an equal share of the remaining time.
    pub async fn first<T, F>(
        &self,
        common: &Config,
        time: Duration,
        connect: impl Fn(Config) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let until = Instant::now() + time;
        let len = self.list.len();
        let begin = match self.at_random {
            true => rand::rng().random_range(0..len),
            false => self.last.load(Ordering::Relaxed),
        };
        let mut failed = ConnectError::nowhere();
        for step in 0..len {
            let index = (begin + step) % len;
            let share = share(until, len - step);
            let turn = Turn { last: &self.last, index, next: (index + 1) % len };
            match within(share, self.list[index].first(common, share, &connect)).await {
                Ok(connected) => {
                    drop(turn);
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(connected);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    pub fn is_one(&self) -> bool {
        self.list.len() == 1
    }

    /// The hosts, as an operator would write them.
    pub fn shown(&self) -> String {
        let shown = |one: &One| match (&one.host, one.address) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            #[cfg(unix)]
            (Some(Host::Unix(path)), _) => path.display().to_string(),
            (None, address) => address.map(|it| it.to_string()).unwrap_or_default(),
        };
        self.list.iter().map(shown).collect::<Vec<_>>().join(", ")
    }
}

/// One server's turn. If it ends without a connection, the next server is tried first from then on,
/// also if the caller gave up before all were tried: it would do the same the next time.
struct Turn<'a> {
    last: &'a AtomicUsize,
    index: usize,
    next: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (index, next) = (self.index, self.next);
        // Another caller may have found a working host meanwhile.
        let _ = self.last.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl One {
    /// Does the same with the addresses of one host. A name may have several, some unreachable from
    /// here: IPv6 behind a router that drops it.
    async fn first<T, F>(
        &self,
        common: &Config,
        time: Duration,
        connect: &impl Fn(Config) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let until = Instant::now() + time;
        let addresses = self.addresses().await?;
        let mut failed = ConnectError::nowhere();
        for (index, address) in addresses.iter().enumerate() {
            let share = share(until, addresses.len() - index);
            // Boxed: it is large, and would be part of every future that may connect.
            let connect = Box::pin(connect(self.alone(common.clone(), *address)));
            match within(share, async { Ok(connect.await?) }).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// `None`: the driver needs no address.
    async fn addresses(&self) -> Result<Vec<Option<IpAddr>>, ConnectError> {
        match &self.host {
            Some(Host::Tcp(name)) if self.address.is_none() => {
                let found = lookup_host((name.as_str(), self.port)).await;
                Ok(found.map_err(ConnectError::Name)?.map(|it| Some(it.ip())).collect())
            }
            _ => Ok(vec![self.address]),
        }
    }

    fn alone(&self, mut config: Config, address: Option<IpAddr>) -> Config {
        match &self.host {
            Some(Host::Tcp(name)) => drop(config.host(name)),
            #[cfg(unix)]
            Some(Host::Unix(path)) => drop(config.host_path(path)),
            None => {}
        }
        if let Some(address) = address {
            config.hostaddr(address);
        }
        config.port(self.port);
        config
    }
}

fn share(until: Instant, parts: usize) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    left / u32::try_from(parts).unwrap_or(u32::MAX)
}

async fn within<T>(
    time: Duration,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(time, attempt).await.unwrap_or(Err(ConnectError::TooSlow(time)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_caller_that_gives_up_on_the_first_host_reaches_the_second_next_time() {
        let config: Config = "host=127.0.0.1,127.0.0.2 user=u".parse().unwrap();
        let hosts = Hosts::of(&config).unwrap();
        let asked = Mutex::new(Vec::new());
        let connect = |config: Config| {
            let is_first = config.get_hosts() == [Host::Tcp("127.0.0.1".to_owned())];
            asked.lock().unwrap().push(is_first);
            async move { if is_first { std::future::pending().await } else { Ok(()) } }
        };
        let (common, time) = (Config::new(), Duration::from_secs(60));
        let attempt = hosts.first(&common, time, connect);
        assert!(timeout(Duration::from_millis(1), attempt).await.is_err());
        hosts.first(&common, time, connect).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), [true, false]);
        assert_eq!(hosts.last.load(Ordering::Relaxed), 1);
    }
}
