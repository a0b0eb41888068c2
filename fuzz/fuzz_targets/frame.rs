//! What a WebSocket client sends, as the server's socket reads it: headers, lengths, masks,
//! fragments, pings, closes.
//!
//! Two sockets get the same bytes, cut into reads in different places, and must read the same from
//! them. The first byte of the input says where the cut is.
#![no_main]

use std::future::pending;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use verbatim::config::{Config, SocketConfig};
use verbatim::socket::{Incoming, Queues, Socket};

struct Site {
    runtime: Runtime,
    listener: TcpListener,
    config: SocketConfig,
    queues: Arc<Queues>,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let (config, queues) = (Config::from_defaults().socket, Arc::default());
    Site { runtime, listener, config, queues }
});

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let cut = bytes.len() * usize::from(cut) / 255;
    let whole = SITE.runtime.block_on(SITE.read(&[], bytes));
    let (before, after) = bytes.split_at(cut);
    let in_two = SITE.runtime.block_on(SITE.read(before, after));
    assert_eq!(whole, in_two);
});

impl Site {
    /// All that a socket has for its session until it is over. `before` came with the request,
    /// `after` by the connection.
    async fn read(&self, before: &[u8], after: &[u8]) -> Vec<Incoming> {
        let (mut client, server) = self.pair().await;
        let before = Bytes::copy_from_slice(before);
        let mut socket = Socket::new(server, before, &self.config, &self.queues);
        let read = async {
            let mut all = Vec::new();
            loop {
                match socket.next(true).await {
                    Incoming::Text(text) => {
                        assert!(text.len() <= self.config.frame_bytes_max);
                        all.push(Incoming::Text(text));
                    }
                    Incoming::Binary(bytes) => {
                        assert!(bytes.len() <= self.config.frame_bytes_max);
                        all.push(Incoming::Binary(bytes));
                    }
                    // When these are said depends on the reads.
                    Incoming::Drained | Incoming::Frames(_) => {}
                    closed @ Incoming::Closed(_) => {
                        all.push(closed);
                        return all;
                    }
                }
            }
        };
        let write = async {
            // An error: the socket refused what came before.
            let _ = client.write_all(after).await;
            let _ = client.shutdown().await;
            pending::<()>().await;
        };
        let all = tokio::select! {
            all = read => all,
            () = write => unreachable!("it never ends"),
        };
        // Closed by a reset, so that no port stays in TIME_WAIT.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an open socket");
        all
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let address = self.listener.local_addr().expect("it listens");
        let (client, server) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        (client.expect("a connection"), server.expect("a connection").0)
    }
}
