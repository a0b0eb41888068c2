//! What the README shows is what the server says.
//!
//! A fenced block with the info string `wscat` is a session: `> ` is typed, `< ` is answered. Each
//! block is a connection of its own, one after the other, all on the same new node. Times differ;
//! everything else must be there to the letter. Of the answers between two typed lines the order is
//! not compared: whether an event or its `ack` comes first is not promised.

use crate::harness::{Client, World};

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
}

#[test]
fn a_session_is_read_line_by_line_and_without_its_times() {
    let text = "# It\n```wscat\n$ wscat -c x\nConnected (press CTRL+C to quit)\n\
                > {\"a\":1}\n< {\"at\":\"2026\",\"b\":[{\"at\":\"…\"}]}\n```\n```sh\nls\n```\n";
    let typed = Some("{\"a\":1}".to_owned());
    let answers = vec!["{\"at\":\"…\",\"b\":[{\"at\":\"…\"}]}".to_owned()];
    assert_eq!(sessions(text), [[Turn::default(), Turn { number: 5, typed, answers }]]);
}
