//! The beginning of a connection, as a node reads it: a preamble of the PROXY protocol, request
//! heads, and what follows them.
//!
//! Two real nodes on SQLite serve, one of them behind a balancer that speaks the PROXY protocol.
//! The first byte of the input says which one gets the rest. Every answer must be HTTP, and the
//! connection must end when the client has said all.
#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use verbatim::config::Config;
use verbatim::metrics::Metrics;
use verbatim::node::Node;

/// How long an answer, or the end, may take. A node that needs longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

struct Site {
    runtime: Runtime,
    /// The one, and the one behind a balancer.
    nodes: [Node; 2],
    _folder: TempDir,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let start = |name: &str, is_behind: bool| {
        let mut config = Config::from_defaults();
        config.node.id = name.to_owned();
        config.log.path = folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
        let server = &mut config.server;
        (server.connects_per_second, server.connects_burst) = (10_000_000, 10_000_000);
        if is_behind {
            server.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
            server.proxy_header = "proxy-protocol".to_owned();
        }
        config.check().expect("settings that work");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let metrics = Metrics::new().into();
            Node::start(config, listener, metrics).await.expect("a node")
        })
    };
    let nodes = [start("plain", false), start("behind", true)];
    Site { runtime, nodes, _folder: folder }
});

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else { return };
    let _guard = SITE.runtime.enter();
    let answer = ask(SITE.nodes[usize::from(which % 2)].addr(), bytes);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
});

/// What a client is told that says this and nothing more.
fn ask(node: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(node);
    stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
    // An error: it was refused before it had said all.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(err) = stream.read_to_end(&mut answer) {
        assert!(
            !matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "neither an answer nor an end"
        );
    }
    answer
}

/// Each time from another address of this machine: a port is not free again for a minute.
fn connect(node: SocketAddr) -> TcpStream {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = (next % 60_000 + 256).to_be_bytes();
    let from = SocketAddr::from((Ipv4Addr::new(127, 7, high, low), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // Elsewhere than on Linux there is one such address.
    if cfg!(target_os = "linux") {
        socket.bind(&from.into()).expect("an address of this machine");
    }
    socket.connect(&node.into()).expect("a node that listens");
    socket.into()
}
