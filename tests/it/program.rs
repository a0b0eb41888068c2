//! The program as an operator meets it: arguments, exit codes, what it prints and what never.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::json;

use crate::harness::process::{Exit, Process, run, run_with};
use crate::harness::{Client, World, services};

const PASSWORD: &str = "s3cret";
const POSTGRES: &str = "postgres://ann:s3cret@127.0.0.1:9/chat?password=s3cret";
const POSTGRES_MASKED: &str = "postgres://ann:***@127.0.0.1:9/chat?password=***";
const REDIS: &str = "redis://:s3cret@127.0.0.1:9/0";
const REDIS_MASKED: &str = "redis://:***@127.0.0.1:9/0";

/// Exit 64, nothing on stdout, and one line on stderr that has `line` in it.
async fn usage_error(
    arguments: &[&str],
    environment: &[(&str, &str)],
    files: &[(&str, &str)],
    line: &str,
) {
    for command in [&["check"][..], &[]] {
        let run = run(&[arguments, command].concat(), environment, files).await;
        assert_eq!(run.exit, Exit::Code(64), "{run:?}");
        assert_eq!(run.stdout, "");
        assert!(run.stderr.contains(line), "wanted {line:?} in {:?}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        assert!(!run.stderr.contains(PASSWORD), "{}", run.stderr);
    }
}

#[tokio::test]
async fn the_program_ends_with_64_and_one_line_on_bad_settings_and_arguments() {
    let toml = |text| [("config.toml", text)];
    usage_error(
        &[],
        &[],
        &toml("[server]\nlisen = \"x\"\n"),
        "verbatim: unknown setting server.lisen: did you mean server.listen? (config.toml)\n",
    )
    .await;
    usage_error(
        &[],
        &[("VERBATIM_SERVER__LISTEN", "nonsense")],
        &[],
        "verbatim: server.listen = \"nonsense\": must be address:port",
    )
    .await;
    usage_error(&[], &[("DATABASE_URL", "ann:s3cret@db")], &[], "log.url = \"***\"").await;
    usage_error(&[], &[("REDIS_URL", REDIS)], &[], "mirror.url (REDIS_URL) is set but").await;
    usage_error(&[], &[], &toml("[log]\nurl = \"s3cret"), "config.toml: not TOML at line 2").await;
    usage_error(&["--config", "missing.toml"], &[], &[], "missing.toml: cannot read: ").await;
    usage_error(&["--verbose"], &[], &[], "unexpected argument '--verbose' found").await;
    usage_error(&["serve"], &[], &[], "unrecognized subcommand 'serve'").await;
}

/// As in a container of Kubernetes beside a service called `verbatim`, whose operator has slipped.
#[tokio::test]
async fn a_service_named_verbatim_keeps_no_program_from_starting() {
    let own = |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
    let environment = vec![
        own("VERBATIM_PORT", b"tcp://10.0.0.11:8080"),
        own("VERBATIM_PORT_8080_TCP_ADDR", b"10.0.0.11"),
        own("VERBATIM_SERVICE_HOST", b"10.0.0.11"),
        own("VERBATIM_SERVER_LISTEN", b"0.0.0.0:80"),
        own("VERBATIM_NOTE", b"\xff is not UTF-8"),
        own("OTHER", b"\xff"),
    ];
    let check = run_with(&["check"], environment.clone()).await;
    assert_eq!(check.exit, Exit::Code(0), "{check:?}");
    let warnings: Vec<_> =
        check.stdout.lines().filter(|line| line.starts_with("warning")).collect();
    let told = "warning: environment: ignored, because settings are named \
                VERBATIM_SECTION__KEY: VERBATIM_NOTE, VERBATIM_SERVER_LISTEN (did you mean \
                VERBATIM_SERVER__LISTEN?)";
    assert_eq!(warnings, [told]);
    let mut process = Process::start_with(environment.clone()).await;
    let mut asking = environment.clone();
    asking.push(own("VERBATIM_SERVER__LISTEN", process.addr.to_string().as_bytes()));
    let health = run_with(&["health"], asking).await;
    assert_eq!((health.exit, &*health.stdout), (Exit::Code(0), "healthy\n"), "{health:?}");
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0));
    let warned = process.output().lines().filter(|line| line.contains("ignored, because")).count();
    assert_eq!(warned, 1, "{}", process.output());
    let mut wrong = environment;
    wrong.push(own("VERBATIM_NODE__ID", b"\xff"));
    let wrong = run_with(&["check"], wrong).await;
    assert_eq!(wrong.exit, Exit::Code(64), "{wrong:?}");
    assert!(
        wrong.stderr.contains("VERBATIM_NODE__ID = … (environment): must be UTF-8"),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn the_program_reads_the_file_it_is_told_to() {
    let files = [("a.toml", "[hub]\nhold_ms = 5\n"), ("config.toml", "[hub]\nhold_ms = 6\n")];
    let run_a = run(&["check", "--config", "a.toml"], &[], &files).await;
    assert!(run_a.stdout.contains("hold_ms = 5  # default: 20\n"), "{run_a:?}");
    let run_default = run(&["check"], &[], &files).await;
    assert!(run_default.stdout.contains("hold_ms = 6  # default: 20\n"), "{run_default:?}");
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    let help = run(&["--help"], &[], &[]).await;
    assert_eq!((help.exit, &*help.stderr), (Exit::Code(0), ""));
    for wanted in ["--config", "check", "VERBATIM_SERVER__LISTEN", "DATABASE_URL", "wscat -c", "64"]
    {
        assert!(help.stdout.contains(wanted), "no {wanted} in the help");
    }
    let long = help.stdout.lines().find(|line| line.chars().count() > 100);
    assert_eq!(long, None, "a line too long for a terminal");
    let version = run(&["--version"], &[], &[]).await;
    assert_eq!(version.stdout, format!("verbatim {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn check_shows_every_setting_and_no_secret() {
    let environment =
        [("DATABASE_URL", POSTGRES), ("REDIS_URL", REDIS), ("VERBATIM_TRACE__LEVEL", "debug")];
    let run = run(&["check"], &environment, &[]).await;
    assert!(!run.stdout.contains(PASSWORD) && !run.stderr.contains(PASSWORD), "{run:?}");
    for wanted in [
        "[server]\nlisten = \"127.0.0.1:0\"  # default: \"127.0.0.1:8080\"\n".to_owned(),
        format!("url = \"{POSTGRES_MASKED}\"  # default: \"\"\n"),
        format!("url = \"{REDIS_MASKED}\"  # default: \"\"\n"),
        "level = \"debug\"  # default: \"info\"\n".to_owned(),
    ] {
        assert!(run.stdout.contains(&wanted), "no {wanted:?} in {}", run.stdout);
    }
}

#[tokio::test]
async fn the_program_warns_and_serves_and_logs_json_when_asked() {
    let environment = [
        ("VERBATIM_SERVER__LISTEN", "0.0.0.0:0"),
        ("VERBATIM_TRACE__FORMAT", "json"),
        ("VERBATIM_TRACE__LEVEL", "debug"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut process = Process::start(environment.to_vec()).await;
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0));
    let output = process.output();
    let logs: Vec<serde_json::Value> = output
        .lines()
        .filter(|line| !line.starts_with("listening on "))
        .map(|line| serde_json::from_str(line).expect("a log line that is not JSON"))
        .collect();
    let warned = |log: &&serde_json::Value| log["setting"] == "server.listen";
    let warning = logs.iter().find(warned).expect("no warning about the address");
    assert_eq!(warning["level"], "WARN");
    assert!(logs.iter().any(|log| log["message"] == "stopped"), "{output}");
}

/// URLs made for other drivers have them, and what they ask for is decided here.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_a_node_sets_itself_are_named_in_one_warning() {
    let url = services::database().await + "?connect_timeout=9&application_name=s3cret";
    let mut process = Process::start(vec![("DATABASE_URL".to_owned(), url)]).await;
    process.sigterm();
    assert_eq!(process.wait_exit().await, Exit::Code(0));
    let output = process.output();
    let warned: Vec<_> = output.lines().filter(|line| line.contains("sets them itself")).collect();
    assert_eq!(warned.len(), 1, "{output}");
    assert!(warned[0].contains("connect_timeout, application_name"), "{output}");
    assert!(warned[0].contains("log.connect_timeout_ms") && !output.contains(PASSWORD), "{output}");
}

/// Not even at the most talkative level, which an operator sets who looks for something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_body_is_never_logged() {
    const BODY: &str = "my PIN is 4711";
    for world in [World::sqlite().await, World::postgres().await] {
        let mut environment = world.environment();
        environment.push(("VERBATIM_TRACE__LEVEL".to_owned(), "trace".to_owned()));
        let mut process = Process::start(environment).await;
        let mut client = Client::greeted(process.addr).await;
        for kind in ["create", "join", "message"] {
            let command = json!({"type": kind, "user_id": "1", "room": "r", "message": BODY});
            client.send(command).await;
        }
        client.read_until(json!({"type": "message", "message": BODY})).await;
        client.send(json!({"type": "history", "user_id": "1", "room": "r"})).await;
        client.read_until(json!({"type": "history"})).await;
        process.sigterm();
        assert_eq!(process.wait_exit().await, Exit::Code(0));
        let output = process.output();
        assert!(output.contains("TRACE") || output.contains("DEBUG"), "nothing is logged");
        assert!(!output.contains("4711"), "{output}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_one_sentence_and_exit_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let run = run(&[], &[("VERBATIM_SERVER__LISTEN", &addr)], &[]).await;
    assert_eq!(run.exit, Exit::Code(1));
    let line = run.stderr.lines().last().unwrap_or_default();
    assert!(
        line.starts_with(&format!("verbatim: cannot listen on {addr} (server.listen): Address")),
        "{line}"
    );
}
