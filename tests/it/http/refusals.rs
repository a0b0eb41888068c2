//! The lines about who was refused: with the address, few enough, and in the form that
//! docs/operations.md gives to fail2ban.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{ask, upgrade};
use crate::harness::process::Process;
use crate::harness::raw::{Raw, upgrade_request};
use crate::harness::{Client, World};
use crate::mirror::cluster::until;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The patterns of the page, as `grep -E` knows them. fail2ban takes the time away first.
fn patterns() -> Vec<String> {
    let block = OPERATIONS.split("failregex = ").nth(1).expect("the page has no failregex");
    let lines = block.lines().take_while(|line| !line.is_empty() && !line.starts_with("```"));
    lines.map(|line| line.trim().replace("<ADDR>", "127\\.0\\.0\\.1")).collect()
}

/// Which of these lines one of the patterns takes.
fn found(lines: &str) -> usize {
    patterns().iter().map(|pattern| grep(pattern, lines)).sum()
}

fn grep(pattern: &str, lines: &str) -> usize {
    let mut grep = Command::new("grep");
    grep.args(["-c", "-E", pattern]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut grep = grep.spawn().expect("there is no grep");
    grep.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let counted = grep.wait_with_output().unwrap();
    String::from_utf8(counted.stdout).unwrap().trim().parse().expect(pattern)
}

/// Lines without their times, as fail2ban sees them.
fn timeless(output: &str) -> String {
    let lines = output.lines().map(|line| match line.strip_prefix("{\"timestamp\":\"") {
        Some(rest) => format!("{{\"timestamp\":\"\"{}", rest.split_once('"').unwrap().1),
        None => line.split_once('Z').map_or(line, |(_, rest)| rest).to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

async fn refused_in_many_ways(process: &Process) {
    assert_eq!(upgrade(process.addr, "Origin: https://evil.example\r\n").await.0.status, 403);
    let foreign = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(ask(process.addr, foreign).await.0.status, 421);
    assert_eq!(ask(process.addr, "GET / HTTP/1.1\r\n: \r\n\r\n").await.0.status, 400);
    // Frames that are refused, until it is enough.
    let mut client = Client::greeted(process.addr).await;
    // Whose name would blame somebody else, if it could.
    let name = "x INFO verbatim::server::refusals: refused address=192.0.2.66 reason=host unsaid=0";
    let create = json!({"type": "create", "user_id": name, "room": "r"}).to_string();
    for _ in 0..10_000 {
        if client.try_send(create.as_str().into()).await.is_err() {
            break;
        }
    }
    client.read_to_close(1008).await;
}

#[tokio::test]
async fn who_is_refused_is_named_as_the_page_has_it() {
    for format in ["human", "json"] {
        let world = World::sqlite().await;
        let mut settings = world.environment();
        settings.push(("VERBATIM_TRACE__FORMAT".to_owned(), format.to_owned()));
        let mut set = |name: &str, value: &str| {
            settings.push((format!("VERBATIM_SESSION__{name}"), value.to_owned()));
        };
        set("REFUSED_PER_SECOND_MAX", "1");
        set("REFUSED_SECONDS_MAX", "1");
        let process = Process::start(settings).await;
        refused_in_many_ways(&process).await;
        let lines = async || timeless(&process.output());
        let lines = until("the lines", lines, |lines: &String| found(lines) >= 4).await;
        assert_eq!(found(&lines), 4, "{lines}");
        for reason in ["origin", "host", "bad_head"] {
            assert!(lines.contains(reason), "{reason} is not in {lines}");
        }
        let closed = lines.lines().find(|line| line.contains("closed")).unwrap();
        assert!(closed.contains("1008") && closed.contains("address=192.0.2.66"), "{closed}");
        // The patterns take nothing else.
        let others: String = lines
            .lines()
            .filter(|it| !it.contains("127.0.0.1"))
            .map(|it| format!("{it}\n"))
            .collect();
        assert_eq!(found(&others), 0, "{others}");
    }
}

/// A flood of refusals is no flood of lines, and a proxy is not to blame for its clients.
#[tokio::test]
async fn lines_are_few_and_never_about_a_proxy() {
    let world = World::sqlite().await;
    let mut settings = world.environment();
    let trusted = ("VERBATIM_SERVER__TRUSTED_PROXIES", "127.0.0.1");
    settings.push((trusted.0.to_owned(), trusted.1.to_owned()));
    let process = Process::start(settings).await;
    for _ in 0..100 {
        let from = "Origin: https://evil.example\r\nX-Forwarded-For: 192.0.2.7\r\n";
        assert_eq!(upgrade(process.addr, from).await.0.status, 403);
    }
    assert_eq!(upgrade(process.addr, "Origin: https://evil.example\r\n").await.0.status, 403);
    // Everything before it is written when this one is.
    let mut raw = Raw::connect(process.addr).await;
    let last = "Origin: https://evil.example\r\nX-Forwarded-For: 192.0.2.8\r\n";
    raw.send(upgrade_request(process.addr, last)).await;
    let lines = async || process.output();
    let lines = until("the last", lines, |it: &String| it.contains("address=192.0.2.8 ")).await;
    let about = lines.matches("refused address=192.0.2.7 reason=origin").count();
    assert!((1..=30).contains(&about), "{about} lines:\n{lines}");
    assert!(!lines.contains("refused address=127.0.0.1"), "{lines}");
    assert!(lines.contains("unsaid=") && !lines.ends_with("unsaid=0\n"), "{lines}");
}
