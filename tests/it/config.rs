//! Settings: where they come from, which wins, what is refused, and what is never shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use verbatim::config::{Config, Secret, Sources};

use crate::harness::sandbox::sandbox;

const PASSWORD: &str = "s3cret";
const POSTGRES: &str = "postgres://ann:s3cret@127.0.0.1:9/chat?password=s3cret";
const REDIS: &str = "redis://:s3cret@127.0.0.1:9/0";

/// Loads from a `config.toml` (none if empty) and an environment.
fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = sandbox().folder("config");
    if !file.is_empty() {
        std::fs::write(folder.path().join("config.toml"), file).unwrap();
    }
    let environment = environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    let sources = Sources { file: None, folder: Some(folder.path().to_owned()), environment };
    Config::load(sources).map_err(|err| {
        // Where the test's folder is does not matter.
        err.to_string().replace(&format!("{}/", folder.path().display()), "")
    })
}

fn loaded(file: &str, environment: &[(&str, &str)]) -> Config {
    load(file, environment).unwrap()
}

fn refused(file: &str, environment: &[(&str, &str)]) -> String {
    let line = load(file, environment).expect_err("it was accepted");
    assert!(!line.contains(PASSWORD), "a secret is shown: {line}");
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn the_defaults_are_those_of_the_documented_file_and_raise_no_warning() {
    let config = Config::from_defaults();
    assert_eq!(config.server.listen, "127.0.0.1:8080");
    assert_eq!(config.log.path, "data/verbatim.db");
    assert_eq!(config.session.message_bytes_max, 16 * 1024);
    assert_eq!(config.check().unwrap(), []);
    // A node's name has no default that is the same everywhere.
    let effective = |file: &str| {
        let mut config = loaded(file, &[]);
        config.node.id.clear();
        config.effective()
    };
    assert_eq!(config.effective(), effective(""));
    // The file as it is must do as a settings file, which is how most begin to write their own.
    assert_eq!(config.effective(), effective(include_str!("../../config.toml")));
}

#[test]
fn later_sources_win_over_earlier_ones() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nreconnect_ms = 7\n\
                [log]\nurl = \"postgres://file/\"\n[mirror]\nurl = \"redis://file\"\n";
    let config = loaded(file, &[]);
    assert_eq!(config.server.listen, "127.0.0.1:1");
    assert_eq!(config.server.reconnect_ms, 7);
    assert_eq!(config.server.header_bytes_max, 16384, "what the file lacks is the default");
    assert_eq!((&*config.log.url.0, &*config.mirror.url.0), ("postgres://file/", "redis://file"));

    let prefixed = [
        ("VERBATIM_SERVER__LISTEN", "127.0.0.1:2"),
        ("VERBATIM_LOG__URL", "postgres://prefixed/"),
        ("VERBATIM_MIRROR__URL", "redis://prefixed"),
    ];
    let config = loaded(file, &prefixed);
    assert_eq!(config.server.listen, "127.0.0.1:2");
    assert_eq!(config.server.reconnect_ms, 7, "what the environment lacks is the file's");
    assert_eq!(config.log.url.0, "postgres://prefixed/");
    assert_eq!(config.mirror.url.0, "redis://prefixed");

    let plain = [("DATABASE_URL", "postgres://plain/"), ("REDIS_URL", "redis://plain")];
    let config = loaded(file, &[&prefixed[..], &plain[..]].concat());
    assert_eq!(config.log.url.0, "postgres://plain/");
    assert_eq!(config.mirror.url.0, "redis://plain");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let file = "[server]\nreconnect_ms = 7\n[log]\nurl = \"postgres://file/\"\n";
    let empty =
        [("DATABASE_URL", ""), ("VERBATIM_SERVER__RECONNECT_MS", ""), ("VERBATIM_LOG__URL", "")];
    let config = loaded(file, &empty);
    assert_eq!(config.log.url.0, "postgres://file/");
    assert_eq!(config.server.reconnect_ms, 7);
}

#[test]
fn the_environment_keeps_texts_as_they_are_and_splits_lists_at_commas() {
    let config = loaded(
        "",
        &[
            ("VERBATIM_NODE__ID", "007"),
            ("VERBATIM_LOG__PATH", "1e5"),
            ("VERBATIM_MIRROR__PREFIX", "true"),
            ("VERBATIM_LANE__COUNT", "2"),
            ("VERBATIM_SERVER__PAGE", "false"),
            ("VERBATIM_SERVER__ALLOWED_ORIGINS", "https://a.example, https://b.example:8443,"),
            ("PATH", "/bin"),
            ("verbatim_nonsense", "is not ours"),
        ],
    );
    assert_eq!(config.node.id, "007");
    assert_eq!(config.log.path, "1e5");
    assert_eq!(config.mirror.prefix, "true");
    assert_eq!(config.lane.count, 2);
    assert!(!config.server.page);
    assert_eq!(config.server.allowed_origins, ["https://a.example", "https://b.example:8443"]);

    let file = "[server]\nallowed_origins = [\"https://a.example\"]\n";
    assert_eq!(loaded(file, &[]).server.allowed_origins, ["https://a.example"]);
}

#[test]
fn a_named_file_must_exist_and_replaces_the_one_in_the_folder() {
    let folder = sandbox().folder("config");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("config.toml"), "[hub]\nhold_ms = 1\n").unwrap();
    std::fs::write(path("other.toml"), "[hub]\npage_len = 9\n").unwrap();
    let sources = |file: PathBuf| Sources {
        file: Some(file),
        folder: Some(folder.path().to_owned()),
        environment: BTreeMap::new(),
    };
    let config = Config::load(sources(path("other.toml"))).unwrap();
    assert_eq!((config.hub.page_len, config.hub.hold_ms), (9, 20));
    let missing = path("missing.toml");
    let err = Config::load(sources(missing.clone())).unwrap_err().to_string();
    assert!(err.starts_with(&format!("{}: cannot read: ", missing.display())), "{err}");
    assert!(Config::load(sources(folder.path().to_owned())).is_err(), "a folder is not a file");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let file = |text: &str, line: &str| assert_eq!(refused(text, &[]), line);
    file(
        "[server]\nlisen = \"127.0.0.1:1\"\n",
        "unknown setting server.lisen: did you mean server.listen? (config.toml)",
    );
    file(
        "[sever]\nlisten = \"127.0.0.1:1\"\n",
        "unknown setting sever.listen: did you mean server.listen? (config.toml)",
    );
    file("listen = \"x\"\n", "unknown setting listen: did you mean server.listen? (config.toml)");
    file("[log.url]\npassword = \"s3cret\"\n", "unknown setting log.url.password (config.toml)");
    file("server = 5\n", "unknown setting server (config.toml)");
    file("\"a\\nb\" = 1\n", "unknown setting a\\nb (config.toml)");

    let variable = |name: &str, line: &str| assert_eq!(refused("", &[(name, PASSWORD)]), line);
    variable(
        "VERBATIM_SERVER__LISEN",
        "unknown setting VERBATIM_SERVER__LISEN: did you mean VERBATIM_SERVER__LISTEN? \
         (environment)",
    );
    variable(
        "VERBATIM_X__LISTEN",
        "unknown setting VERBATIM_X__LISTEN: did you mean \
         VERBATIM_SERVER__LISTEN? (environment)",
    );
    variable(
        "VERBATIM__URL",
        "unknown setting VERBATIM__URL: did you mean VERBATIM_LOG__URL? \
         (environment)",
    );
    variable(
        "VERBATIM_server__listen",
        "unknown setting VERBATIM_server__listen: did you mean VERBATIM_SERVER__LISTEN? \
         (environment)",
    );
    variable("VERBATIM_TLS__KEY", "unknown setting VERBATIM_TLS__KEY (environment)");
}

/// A service of that name, and Kubernetes puts what looks like settings into every container.
#[test]
fn variables_without_two_underscores_are_no_settings_and_are_named_in_one_warning() {
    let ignored = |environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let sources = Sources { environment, ..Sources::default() };
        let warning = sources.ignored().map(|warning| warning.to_string());
        assert_eq!(Config::load(sources).unwrap().server.listen, "127.0.0.1:8080");
        warning
    };
    let kubernetes =
        [("VERBATIM_PORT", "tcp://10.0.0.11:80"), ("VERBATIM_SERVICE_HOST", "10.0.0.11")];
    let harmless = [("VERBATIM_EMPTY", ""), ("VERBATIM", "x"), ("verbatim_x", "x"), ("PORT", "80")];
    let settings = [("VERBATIM_NODE__ID", "n1"), ("DATABASE_URL", POSTGRES)];
    assert_eq!(ignored(&[&kubernetes[..], &harmless, &settings].concat()), None);
    let wrong = [
        ("VERBATIM_SERVER_LISTEN", "0.0.0.0:1"),
        ("VERBATIM_LOG_URL", PASSWORD),
        ("VERBATIM_TLS_KEY", PASSWORD),
        ("VERBATIM_", "x"),
    ];
    assert_eq!(
        ignored(&[&kubernetes[..], &wrong].concat()).as_deref(),
        Some(
            "environment: ignored, because settings are named VERBATIM_SECTION__KEY: \
             VERBATIM_, VERBATIM_LOG_URL (did you mean VERBATIM_LOG__URL?), \
             VERBATIM_SERVER_LISTEN (did you mean VERBATIM_SERVER__LISTEN?), VERBATIM_TLS_KEY"
        )
    );
}

#[test]
fn values_of_the_wrong_type_are_refused_in_one_line() {
    let file = |text: &str, line: &str| assert_eq!(refused(text, &[]), line);
    let whole = "must be a whole number from 0 to 4294967295";
    file("[lane]\ncount = \"4\"\n", &format!("lane.count = \"4\" (config.toml): {whole}"));
    file("[lane]\ncount = true\n", &format!("lane.count = \"true\" (config.toml): {whole}"));
    file("[lane]\ncount = 1.5\n", &format!("lane.count = \"1.5\" (config.toml): {whole}"));
    file("[lane]\ncount = -1\n", &format!("lane.count = \"-1\" (config.toml): {whole}"));
    file(
        "[lane]\ncount = 1979-05-27\n",
        &format!("lane.count = \"1979-05-27\" (config.toml): {whole}"),
    );
    file("[server]\npage = 1\n", "server.page = \"1\" (config.toml): must be true or false");
    file("[node]\nid = 7\n", "node.id = \"7\" (config.toml): must be a string in quotes");
    file(
        "[server]\nallowed_origins = \"*\"\n",
        "server.allowed_origins = \"*\" (config.toml): must be a list of strings in quotes",
    );
    file(
        "[log]\nurl = [\"postgres://ann:s3cret@db\"]\n",
        "log.url = \"***\" (config.toml): must be a string in quotes",
    );
    file(
        "[log]\nurl = postgres://ann:s3cret@db\n",
        "config.toml: not TOML at line 2, column 7: string values must be quoted, expected \
         literal string",
    );
    for count in ["four", "-1", "1.5", "true", " 4", "99999999999999999999999"] {
        assert_eq!(
            refused("", &[("VERBATIM_LANE__COUNT", count)]),
            format!("lane.count = {count:?} (environment variable VERBATIM_LANE__COUNT): {whole}")
        );
    }
    for page in ["1", "on", "TRUE", " true"] {
        assert_eq!(
            refused("", &[("VERBATIM_SERVER__PAGE", page)]),
            format!(
                "server.page = {page:?} (environment variable VERBATIM_SERVER__PAGE): must be true \
                 or false"
            )
        );
    }
    let long = "9".repeat(10_000);
    assert!(refused("", &[("VERBATIM_LANE__COUNT", &long)]).len() < 250);
    for broken in
        ["[", "x", "[lane]\ncount = 1\ncount = 2\n", "a = \"\u{1}\"", "[log]\nurl = \"s3cret"]
    {
        assert!(refused(broken, &[]).starts_with("config.toml: not TOML at line "), "{broken:?}");
    }
}

/// What `check` says of the defaults with one change.
fn judged(change: impl FnOnce(&mut Config)) -> Result<Vec<String>, String> {
    let mut config = Config::from_defaults();
    change(&mut config);
    let warnings = config.check().map_err(|err| err.to_string())?;
    Ok(warnings.iter().map(ToString::to_string).collect())
}

fn unfit(change: impl FnOnce(&mut Config), line: &str) {
    let refused = judged(change).expect_err("it was accepted");
    assert!(!refused.contains('\n') && !refused.contains(PASSWORD), "{refused}");
    assert!(refused.contains(line), "wanted {line:?} in {refused:?}");
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    unfit(|c| c.server.connections_max = 0, "server.connections_max = 0: must be from 1 to ");
    unfit(|c| c.socket.heartbeat_ms = 0, "socket.heartbeat_ms = 0: must be from 10 to 86400000");
    unfit(|c| c.lane.inbox_len_max = 0, "lane.inbox_len_max = 0: must be from 1 ");
    unfit(|c| c.hub.page_len = 0, "hub.page_len = 0: must be from 1 ");
    unfit(|c| c.log.readers = 1_000_000, "log.readers = 1000000: must be from 1 to 256");
    unfit(|c| c.server.header_bytes_max = 100, "must be from 8192 to ");
}

#[test]
fn texts_that_cannot_work_are_refused() {
    for listen in ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:http", "::1:8080", "http://a:1"] {
        unfit(
            |c| c.server.listen = listen.to_owned(),
            &format!("server.listen = {listen:?}: must be address:port"),
        );
    }
    for id in [" ", "a\nb", "a\u{202e}b", &"x".repeat(129)] {
        unfit(|c| c.node.id = id.to_owned(), "node.id = ");
    }
    for host in ["", "a.example:80", "https://a.example", "*.a.example", "127.0.0.1", "a ", "a."] {
        unfit(
            |c| c.server.hosts = vec![host.to_owned()],
            &format!("server.hosts = {host:?}: must be a host name without scheme"),
        );
    }
    for origin in [
        "a.example",
        "https://a.example/",
        "HTTPS://a.example",
        "https://*.a.example",
        "null",
        "file://a",
        "",
    ] {
        unfit(
            |c| c.server.allowed_origins = vec![origin.to_owned()],
            &format!("server.allowed_origins = {origin:?}: must be scheme://host"),
        );
    }
    for proxy in ["", "localhost", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.1", "*", "10.0.0"] {
        unfit(
            |c| c.server.trusted_proxies = vec![proxy.to_owned()],
            &format!("server.trusted_proxies = {proxy:?}: must be an address or a network"),
        );
    }
    for header in ["", "X-Forwarded-For", "x-real-ip"] {
        unfit(|c| c.server.proxy_header = header.to_owned(), "server.proxy_header = ");
    }
    for listen in ["9090", "127.0.0.1", "127.0.0.1:8080"] {
        unfit(|c| c.server.internal_listen = listen.to_owned(), "server.internal_listen = ");
    }
    for prefix in ["", "a b", "{a}", "a\n", "é"] {
        unfit(|c| c.mirror.prefix = prefix.to_owned(), "mirror.prefix = ");
    }
    for level in ["", "verbose", "info,", "a=b", "=info", "info debug"] {
        unfit(|c| c.trace.level = level.to_owned(), "trace.level = ");
    }
    unfit(
        |c| c.trace.format = "xml".to_owned(),
        "trace.format = \"xml\": must be auto, human or json",
    );
    unfit(|c| c.log.path = String::new(), "log.path = \"\": must name a file");
    for (url, shown) in [
        ("mysql://ann:s3cret@db/chat", "\"mysql://ann:***@db/chat\""),
        ("ann:s3cret@db", "\"***\""),
        ("host=db password=s3cret", "\"***\""),
    ] {
        unfit(
            |c| c.log.url = Secret(url.to_owned()),
            &format!("log.url = {shown}: must be empty or begin with postgres:// or postgresql://"),
        );
        unfit(|c| c.mirror.url = Secret(url.to_owned()), &format!("mirror.url = {shown}: must be"));
    }
}

#[test]
fn settings_that_cannot_work_together_are_refused() {
    unfit(
        |c| c.session.message_bytes_max = 32 * 1024,
        "socket.frame_bytes_max = 65536: must be at least 99328, so that a message of \
         session.message_bytes_max = 32768 fits",
    );
    unfit(|c| c.api.body_bytes_max = 50_000, "api.body_bytes_max = 50000: must be at least 50176");
    unfit(|c| c.socket.queue_bytes_max = 65536, "socket.queue_bytes_max = 65536: must be at least");
    unfit(|c| c.hub.ring_bytes_max = 65536, "hub.ring_bytes_max = 65536: must be at least");
    unfit(
        |c| c.lane.batch_len_max = 4096,
        "lane.batch_len_max = 4096: must not be above lane.inbox_len_max = 2048",
    );
    unfit(
        |c| c.lane.answer_timeout_ms = 1000,
        "lane.answer_timeout_ms = 1000: must be at least log.append_timeout_ms = 1500",
    );
    unfit(
        |c| (c.mirror.heartbeat_ms, c.mirror.forget_after_s) = (500, 4),
        "mirror.forget_after_s = 4: must be at least 10 times mirror.heartbeat_ms = 500",
    );
    unfit(
        |c| c.mirror.url = Secret(REDIS.to_owned()),
        "mirror.url (REDIS_URL) is set but log.url (DATABASE_URL) is not: the mirror connects \
         nodes that share PostgreSQL",
    );
}

#[test]
fn what_is_legal_and_dangerous_is_warned_about() {
    let warned = |change: fn(&mut Config), line: &str| {
        let warnings = judged(change).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(line), "wanted {line:?} in {warnings:?}");
    };
    warned(|c| c.server.listen = "0.0.0.0:8080".to_owned(), "server.listen: 0.0.0.0:8080 can be");
    warned(|c| c.server.listen = "chat.example:80".to_owned(), "server.listen: chat.example:80 ");
    warned(
        |c| c.server.allowed_origins = vec!["*".to_owned()],
        "server.allowed_origins: any web page",
    );
    warned(|c| c.server.hosts = vec!["*".to_owned()], "server.hosts: any host name is accepted");
    warned(
        |c| c.server.trusted_proxies = vec!["::1".to_owned(), "0.0.0.0/0".to_owned()],
        "server.trusted_proxies: every client is trusted",
    );
    warned(|c| c.socket.heartbeat_ms = 60_000, "socket.heartbeat_ms: 60000 is not below 60000");
    warned(
        |c| c.server.connections_max = 100,
        "server.connections_per_address_max: 20000 is above server.connections_max = 100",
    );
    warned(
        |c| c.server.shutdown_timeout_ms = 1000,
        "server.shutdown_timeout_ms: 1000 is below lane.answer_timeout_ms = 1900",
    );

    let quiet = |change: fn(&mut Config)| assert_eq!(judged(change), Ok(Vec::new()));
    quiet(|c| c.server.listen = "[::1]:0".to_owned());
    quiet(|c| c.server.listen = "localhost:8080".to_owned());
    quiet(|c| c.server.hosts = vec!["a.example".to_owned(), "node_1".to_owned()]);
    quiet(|c| c.server.allowed_origins = vec!["https://a.example:8443".to_owned()]);
    quiet(|c| c.server.trusted_proxies = vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()]);
    quiet(|c| c.server.internal_listen = "0.0.0.0:9090".to_owned());
    quiet(|c| c.trace.level = "warn,verbatim::lane=debug,hyper=off".to_owned());
    quiet(|c| c.log.url = Secret(POSTGRES.to_owned()));
}

#[test]
fn a_node_without_a_name_goes_by_the_hosts() {
    assert!(!Config::load(Sources::default()).unwrap().node.id.is_empty());
    let environment = BTreeMap::from([("VERBATIM_NODE__ID".to_owned(), "n1".to_owned())]);
    let config = Config::load(Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(config.node.id, "n1");
}
