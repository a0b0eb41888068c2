//! Whether a node is alive at its address, for `verbatim health`. A container's health check runs
//! this, so the image needs no client such as curl.
//!
//! It asks `/healthz`, which only says whether the process serves. A node that cannot reach its log
//! is alive: it says so in `/readyz` and recovers by itself, and killing it would not help.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use crate::config::ServerConfig;

/// For the whole check. A live node answers in less than a millisecond; container engines wait 30
/// s.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The start of a good answer. No more than this is read.
const OK: &[u8] = b"HTTP/1.1 200 ";

/// Why a node is not alive.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    #[error("{0:?} has port 0, and only the node knows which port it got; set a fixed port")]
    AnyPort(String),
    #[error("nothing answers at {0}: {1}")]
    NoAnswer(String, io::Error),
    #[error("no answer from {0} within {seconds} s", seconds = TIMEOUT.as_secs())]
    TooLate(String),
    #[error("{0} did not answer /healthz with 200 OK")]
    NotOk(String),
}

/// Asks the node with these settings on this machine. Prefers the internal listener, which answers
/// whatever happens on the main one.
pub async fn ask(server: &ServerConfig) -> Result<(), Unhealthy> {
    let is_internal = !server.internal_listen.is_empty();
    let listen = if is_internal { &server.internal_listen } else { &server.listen };
    if listen.ends_with(":0") {
        return Err(Unhealthy::AnyPort(listen.to_owned()));
    }
    let introduced = Some(server).filter(|_| !is_internal);
    match tokio::time::timeout(TIMEOUT, status(listen, introduced)).await {
        Ok(Ok(status)) if status == OK => Ok(()),
        Ok(Ok(_)) => Err(Unhealthy::NotOk(listen.to_owned())),
        Ok(Err(err)) => Err(Unhealthy::NoAnswer(listen.to_owned(), err)),
        Err(_) => Err(Unhealthy::TooLate(listen.to_owned())),
    }
}

/// Reads the beginning of the answer. `introduced`: the main listener's settings; it may expect the
/// PROXY protocol first.
async fn status(listen: &str, introduced: Option<&ServerConfig>) -> io::Result<Vec<u8>> {
    let mut addresses = lookup_host(listen).await?;
    let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect(reachable(address)).await?;
    let own = stream.local_addr()?.ip();
    if introduced.is_some_and(|server| server.expects_preamble(own)) {
        stream.write_all(b"PROXY UNKNOWN\r\n").await?;
    }
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(OK.len() as u64).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The address to connect to. A node that listens on all addresses is asked on loopback, because
/// not every system accepts connections to 0.0.0.0.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    async fn ask(listen: &str) -> Result<(), Unhealthy> {
        let mut server = Config::from_defaults().server;
        server.listen = listen.to_owned();
        super::ask(&server).await
    }

    /// The verdict on a server that gives this answer.
    async fn answered(answer: &'static [u8]) -> Result<(), Unhealthy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let asked = ask(&listen).await;
        server.await.unwrap();
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_200_is_well() {
        // While this blocking task runs, paused time does not advance, however slow the machine is.
        let (_end, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        assert!(answered(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok());
        let refused = answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        assert!(matches!(refused, Err(Unhealthy::NotOk(_))), "{refused:?}");
        let cut = answered(b"HTTP/1.1 2").await;
        assert!(matches!(cut, Err(Unhealthy::NotOk(_) | Unhealthy::NoAnswer(..))), "{cut:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = ask(&listener.local_addr().unwrap().to_string()).await;
        assert!(matches!(asked, Err(Unhealthy::TooLate(_))), "{asked:?}");
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_told_with_its_address() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let told = ask(&free.to_string()).await.unwrap_err().to_string();
        assert!(told.starts_with(&format!("nothing answers at {free}: ")), "{told}");
        let told = ask("0.0.0.0:0").await.unwrap_err().to_string();
        assert!(told.contains("port 0"), "{told}");
    }

    #[test]
    fn all_addresses_are_asked_on_loopback() {
        let check = |listen: &str, asked: &str| {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        };
        check("0.0.0.0:8080", "127.0.0.1:8080");
        check("[::]:8080", "[::1]:8080");
        check("10.0.0.7:8080", "10.0.0.7:8080");
    }
}
