//! The promise as a person with curl meets it: `curl -N` follows a room through `kill -9` and
//! restarts of the server with `Last-Event-ID`, and misses nothing and sees nothing twice.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::Caller;
use crate::harness::process::{Exit, Process};
use crate::harness::{PATIENCE, World, on_both_logs};

on_both_logs!(curl_resumes_across_kills_and_restarts_without_a_hole_or_a_duplicate);

/// A `curl -N` that runs, and what it has shown.
struct Curl {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Curl {
    fn follow(addr: SocketAddr, last: u64) -> Self {
        let url = format!("http://{addr}/api/rooms/r/stream?user_id=1");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--noproxy", "*"]);
        curl.args(["--header", &format!("Last-Event-ID: {last}"), &url]);
        let mut child = curl.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("no curl");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, last }
    }

    /// The next event's data, if one comes before the end. Its seq is the next one.
    async fn next(&mut self) -> Option<String> {
        let mut id = None;
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("nothing comes");
            let line = line.unwrap()?;
            if let Some(seq) = line.strip_prefix("id: ") {
                id = Some(seq.parse().unwrap());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                assert_eq!(id, Some(self.last + 1), "after {}: {data}", self.last);
                self.last += 1;
                return Some(data.to_owned());
            }
        }
    }

    async fn exit_code(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("curl does not end").unwrap().code()
    }
}

/// Talks until the server is gone, or says that it goes; the events that it was answered with.
async fn talk(addr: SocketAddr, round: usize) -> Vec<String> {
    let mut caller = Caller::new(addr).await;
    let mut answered = Vec::new();
    for n in 0.. {
        let body = json!({"user_id": "1", "message": format!("{round}.{n}")}).to_string();
        let path = "POST /api/rooms/r/events";
        match caller.http.try_ask(path, &[super::JSON], Some(&body)).await {
            Some(said) if said.status == 201 => answered.push(said.body),
            Some(refused) => {
                assert_eq!(refused.status, 503, "{refused:?}");
                break;
            }
            None => break,
        }
    }
    answered
}

async fn curl_resumes_across_kills_and_restarts_without_a_hole_or_a_duplicate(world: World) {
    let mut process = Process::start(world.environment()).await;
    Caller::new(process.addr).await.create().await;
    let (mut seen, mut answered, mut last) = (Vec::new(), Vec::new(), 0);
    for round in 0..6 {
        let mut curl = Curl::follow(process.addr, last);
        let talker = tokio::spawn(talk(process.addr, round));
        // Both are in the middle of it when the server goes.
        for _ in 0..30 {
            seen.push(curl.next().await.expect("it ended by itself"));
        }
        let is_kill = round % 2 == 0;
        if is_kill {
            process.kill9();
            assert_eq!(process.wait_exit().await, Exit::Signal(9));
        } else {
            process.sigterm();
            assert_eq!(process.wait_exit().await, Exit::Code(0), "{}", process.output());
        }
        // What was on the way still comes; half an event does not count.
        while let Some(data) = curl.next().await {
            seen.push(data);
        }
        last = curl.last;
        // Zero: the last chunk has come. 18: the transfer broke off.
        let code = curl.exit_code().await;
        assert_eq!(code, Some(if is_kill { 18 } else { 0 }), "how curl ended");
        answered.extend(talker.await.unwrap());
        process = Process::start(world.environment()).await;
    }
    let mut caller = Caller::new(process.addr).await;
    let end = caller.say("the end").await["seq"].as_u64().unwrap();
    let mut curl = Curl::follow(process.addr, last);
    while curl.last < end {
        seen.push(curl.next().await.expect("it ended by itself"));
    }
    // Each seq once and in order: `next` has seen to that. Of what was answered nothing is missing.
    assert_eq!(seen.len() as u64, end);
    let mut rest = seen.iter();
    for said in &answered {
        assert!(rest.any(|data| data == said), "{said} was answered, and is not there");
    }
    assert!(answered.len() > 100, "only {} messages", answered.len());
}
