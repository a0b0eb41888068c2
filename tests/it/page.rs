//! The web page and the JavaScript client, against three real nodes: the page in a real browser.
//!
//! The tests themselves are written in JavaScript (`tests/web`), where the page and the client are
//! at home. What they cannot do is start and kill nodes: that they ask for over a socket, a line at
//! a time (`kill n1`, answered with `done`), and here it is done.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::daemon::find_program;
use crate::harness::process::Process;
use crate::mirror::cluster::Cluster;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Several times what they need on two idle cores, for they are not always idle. One that hangs
/// says so much earlier: each test has a limit of its own.
const ALL_TESTS_MAX: Duration = Duration::from_secs(600);

/// Nodes by name. A node that was killed is not there until it is started again.
struct Nodes {
    cluster: Cluster,
    running: BTreeMap<String, Process>,
}

impl Nodes {
    async fn start(&mut self, id: &str) {
        let mut environment = self.cluster.environment(id);
        let more = [
            // A page that is not told of a break notices it after two of these.
            ("VERBATIM_SOCKET__HEARTBEAT_MS", "1000"),
            ("VERBATIM_SERVER__RECONNECT_MS", "200"),
        ];
        environment.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.running.insert(id.to_owned(), Process::start(environment).await);
    }

    /// `n1=127.0.0.1:4711,n2=…`: where the nodes that run are.
    fn addresses(&self) -> String {
        let addresses = self.running.iter().map(|(id, node)| format!("{id}={}", node.addr));
        addresses.collect::<Vec<_>>().join(",")
    }

    async fn carry_out(&mut self, line: &str) -> String {
        let (verb, id) = line.split_once(' ').unwrap_or((line, ""));
        match (verb, self.running.remove(id)) {
            ("start", None) => self.start(id).await,
            ("kill", Some(mut node)) => {
                node.kill9();
                node.wait_exit().await;
            }
            ("stop", Some(mut node)) => {
                node.sigterm();
                node.wait_exit().await;
            }
            (_, node) => {
                self.running.extend(node.map(|node| (id.to_owned(), node)));
                return format!("cannot {line}");
            }
        }
        "done".to_owned()
    }

    /// One connection to the tests. It may ask for `nodes` at any time.
    async fn obey(&mut self, stream: TcpStream) {
        let (from, mut to) = stream.into_split();
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match &*line {
                "nodes" => self.addresses(),
                line => self.carry_out(line).await,
            };
            // Who has gone meanwhile does not wait for it.
            let _ = to.write_all(format!("{answer}\n").as_bytes()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_the_client_keep_their_promises_in_a_browser_and_in_node() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = top.join("tests/web");
    assert!(
        folder.join("node_modules/.package-lock.json").is_file(),
        "what the tests of the page need is not installed: run `make deps`"
    );
    let mut nodes = Nodes { cluster: Cluster::shared().await, running: BTreeMap::new() };
    for id in NODES {
        nodes.start(id).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control = listener.local_addr().unwrap().port().to_string();
    let artefacts = top.join("target/web");
    std::fs::create_dir_all(&artefacts).unwrap();
    // A file, so that what was said is there even if the end never comes.
    let log = artefacts.join("tests.log");
    let said = File::create(&log).unwrap();
    let mut tests = Command::new(find_program("node", &[]))
        .arg("run.mjs")
        .current_dir(&folder)
        .env("VERBATIM_CONTROL", control)
        .env("VERBATIM_ARTEFACTS", &artefacts)
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .kill_on_drop(true)
        .spawn()
        .expect("cannot start node");
    let obeying = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            nodes.obey(stream).await;
        }
    };
    let status = tokio::select! {
        status = timeout(ALL_TESTS_MAX, tests.wait()) => status,
        () = obeying => unreachable!("it ends with the test"),
    };
    let said = || std::fs::read_to_string(&log).unwrap();
    let Ok(status) = status else { panic!("the tests of the page do not end:\n{}", said()) };
    let status = status.unwrap();
    assert!(status.success(), "the tests of the page ({status}):\n{}", said());
}
