//! What the README shows, and docs/http.md, is what the server says.
//!
//! A fenced block with the info string `wscat` is a session: `> ` is typed, `< ` is answered. Each
//! block is a connection of its own, one after the other, all on the same new node. Times differ;
//! everything else must be there to the letter. Of the answers between two typed lines the order is
//! not compared: whether an event or its `ack` comes first is not promised.
//!
//! A block with the info string `console` is a shell: what stands behind `$ ` is run, as it is but
//! for the server's address, and must print what follows. A `curl -N` does not end; it must get
//! that far.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Client, PATIENCE, World};

/// Where a server is in everything that is written for people.
const USUAL_ADDR: &str = "127.0.0.1:8080";

/// What is typed (nothing, at the beginning) and what comes, times left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turn {
    number: usize,
    typed: Option<String>,
    answers: Vec<String>,
}

/// The sessions of a text. Lines of the shell (`$ `) and of wscat itself are for the reader.
fn sessions(text: &str) -> Vec<Vec<Turn>> {
    let mut sessions = Vec::new();
    let mut session = None;
    for (number, line) in text.lines().enumerate().map(|(place, line)| (place + 1, line)) {
        match &mut session {
            None if line == "```wscat" => session = Some((Turn::default(), Vec::new())),
            None => {}
            Some(_) if line == "```" => {
                let (turn, mut turns) = session.take().expect("it was just there");
                turns.push(turn);
                sessions.push(turns);
            }
            Some((turn, turns)) => match line.split_once(' ') {
                Some((">", typed)) => {
                    let typed = Some(typed.to_owned());
                    let next = Turn { number, typed, answers: Vec::new() };
                    turns.push(std::mem::replace(turn, next));
                }
                Some(("<", answer)) => turn.answers.push(without_times(answer)),
                Some(("$", _)) => {}
                _ if line.starts_with("Connected") => {}
                _ => panic!("README.md:{number}: neither typed nor answered: {line}"),
            },
        }
    }
    assert!(session.is_none(), "README.md: a session without an end");
    sessions
}

/// The commands of a text's shells, each with its line and what it prints, times left out.
fn commands(text: &str) -> Vec<(usize, String, Vec<String>)> {
    let mut commands: Vec<(usize, String, Vec<String>)> = Vec::new();
    let mut is_shell = false;
    for (number, line) in text.lines().enumerate().map(|(place, line)| (place + 1, line)) {
        match line {
            "```console" => is_shell = true,
            "```" => is_shell = false,
            _ if !is_shell => {}
            line => match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((number, command.to_owned(), Vec::new())),
                (None, Some((_, _, printed))) => printed.push(without_times(line)),
                (None, None) => panic!("README.md:{number}: printed by nothing"),
            },
        }
    }
    assert!(!is_shell, "README.md: a shell without an end");
    commands
}

/// Runs a command of the text; so many lines of what it prints, or, if it ends, all.
async fn run(command: &str, addr: SocketAddr, lines_max: usize) -> Vec<String> {
    let command = command.replace(USUAL_ADDR, &addr.to_string());
    // curl tells of its progress unless it is told not to, and obeys what a machine has set.
    let command = command.replace("curl ", "curl --silent --show-error --noproxy '*' ");
    let is_endless = command.contains(" -N ");
    let mut child = Command::new("sh")
        .args(["-c", &command])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    while !is_endless || lines.len() < lines_max {
        let line = timeout(PATIENCE, printed.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{command} prints no more than {lines:?}"));
        match line.unwrap() {
            Some(line) => lines.push(without_times(&line)),
            None => break,
        }
    }
    if !is_endless {
        assert!(child.wait().await.unwrap().success(), "{command}: {lines:?}");
    }
    lines
}

/// `"at":"…"` for any time.
fn without_times(frame: &str) -> String {
    const AT: &str = "\"at\":\"";
    let mut parts = frame.split(AT);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('"').expect("a time without an end");
        text.extend([AT, "…\"", rest]);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_in_the_readme_are_real() {
    let text = include_str!("../../README.md");
    let sessions = sessions(text);
    assert!(!sessions.is_empty(), "README.md shows no session");
    let world = World::sqlite().await;
    // The name that the README's own `hello` shows.
    let node = world.node_with(|config| config.node.id = "n1".to_owned()).await;
    for turns in sessions {
        let mut client = Client::connect(node.addr).await;
        for Turn { number, typed, answers: mut wanted } in turns {
            if let Some(typed) = typed {
                client.send_text(&typed).await;
                assert!(!wanted.is_empty(), "README.md:{number}: no answer");
            }
            let mut got = Vec::new();
            for _ in &wanted {
                got.push(without_times(&client.next_text().await));
            }
            wanted.sort();
            got.sort();
            assert_eq!(got, wanted, "README.md:{number}");
        }
        client.expect_nothing().await;
    }
    run_all("README.md", text, node.addr).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_by_hand_over_http_is_real() {
    let world = World::sqlite().await;
    let node = world.node().await;
    run_all("docs/http.md", include_str!("../../docs/http.md"), node.addr).await;
}

/// Each command of a text must print what stands there.
async fn run_all(name: &str, text: &str, addr: SocketAddr) {
    let commands = commands(text);
    assert!(commands.len() > 5, "{name} shows no use of curl");
    for (number, command, wanted) in commands {
        let got = run(&command, addr, wanted.len()).await;
        assert_eq!(got, wanted, "{name}:{number}: {command}");
    }
}

#[test]
fn a_shell_is_read_command_by_command() {
    let text =
        "```console\n$ echo {\"at\":\"2026\"}\n{\"at\":\"2026\"}\n\nx\n$ true\n```\n$ false\n";
    let echoed = vec!["{\"at\":\"…\"}".to_owned(), String::new(), "x".to_owned()];
    let echo = (2, "echo {\"at\":\"2026\"}".to_owned(), echoed);
    assert_eq!(commands(text), [echo, (6, "true".to_owned(), vec![])]);
}

#[test]
fn a_session_is_read_line_by_line_and_without_its_times() {
    let text = "# It\n```wscat\n$ wscat -c x\nConnected (press CTRL+C to quit)\n\
                > {\"a\":1}\n< {\"at\":\"2026\",\"b\":[{\"at\":\"…\"}]}\n```\n```sh\nls\n```\n";
    let typed = Some("{\"a\":1}".to_owned());
    let answers = vec!["{\"at\":\"…\",\"b\":[{\"at\":\"…\"}]}".to_owned()];
    assert_eq!(sessions(text), [[Turn::default(), Turn { number: 5, typed, answers }]]);
}
