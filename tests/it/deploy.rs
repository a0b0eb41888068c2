//! That everything which describes a deployment says the same: docker-compose.yml, Dockerfile,
//! nginx's configuration, `scripts/cluster`, config.toml, and the pages that people read.
//!
//! It reads them as the text that they are; they are ours, and simple. It runs none of them.

use std::collections::{BTreeMap, BTreeSet};

use verbatim::config::{Config, Sources};
use verbatim::metrics::{
    CodeLabel, CommandLabel, Metrics, ReasonLabel, RequestLabel, SignalLabel, SourceLabel,
};

use crate::harness::process::{Exit, Process, run};

const COMPOSE: &str = include_str!("../../docker-compose.yml");
const DOCKERFILE: &str = include_str!("../../Dockerfile");
const DOCKERIGNORE: &str = include_str!("../../.dockerignore");
const NGINX: &str = include_str!("../../deploy/nginx.conf");
const MAKEFILE: &str = include_str!("../../Makefile");
const CARGO: &str = include_str!("../../Cargo.toml");
const CLUSTER: &str = include_str!("../../scripts/cluster");
const CLUSTER_PARTS: &str = include_str!("../../scripts/cluster-parts");
const CLUSTER_PROCESSES: &str = include_str!("../../scripts/cluster-processes");
/// What people read.
const PAGES: [(&str, &str); 2] = [
    ("README.md", include_str!("../../README.md")),
    ("docs/operations.md", include_str!("../../docs/operations.md")),
];

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The port of a container's node and of the load balancer, and the default of `server.listen`.
const PORT: u16 = 8080;

/// The lines of a block of YAML by its path, such as `services` / `n1`, less indented by two each.
fn block(path: &[&str]) -> String {
    path.iter().fold(COMPOSE.to_owned(), |text, name| {
        let head = format!("{name}:");
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
        assert!(lines.next().is_some(), "docker-compose.yml has no {path:?}");
        let inner = lines.take_while(|line| line.starts_with(' ') || line.is_empty());
        inner.map(|line| line.get(2..).unwrap_or_default().to_owned() + "\n").collect()
    })
}

/// `key: value` lines of a block.
fn pairs(block: &str) -> BTreeMap<String, String> {
    let lines = block.lines().filter(|line| !line.starts_with([' ', '#']));
    lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// `${NAME:-default}` is its default.
fn with_defaults(value: &str) -> String {
    let Some((before, rest)) = value.split_once("${") else { return value.to_owned() };
    let (name, after) = rest.split_once('}').expect("a variable without an end");
    let (_, default) = name.split_once(":-").expect("a variable without a default");
    format!("{before}{default}{}", with_defaults(after))
}

/// What a node of the compose file is told.
fn environment(node: &str) -> BTreeMap<String, String> {
    let mut all = pairs(&block(&["x-environment"]));
    all.extend(pairs(&block(&["services", node, "environment"])));
    all.remove("<<");
    all.into_iter().map(|(name, value)| (name, with_defaults(&value))).collect()
}

/// The settings with that environment; a name that is no setting fails.
fn settings(environment: BTreeMap<String, String>) -> Config {
    let config = Config::load(Sources { environment, ..Sources::default() });
    let config = config.unwrap_or_else(|err| panic!("a deployment sets: {err}"));
    config.check().unwrap_or_else(|err| panic!("a deployment sets: {err}"));
    config
}

/// Every word of the text that begins so and goes on with these characters.
fn words<'a>(text: &'a str, begin: &str, more: fn(char) -> bool) -> BTreeSet<&'a str> {
    let found = text.match_indices(begin).map(|(at, _)| {
        let end = text[at + begin.len()..].find(|c| !more(c));
        &text[at..end.map_or(text.len(), |end| at + begin.len() + end)]
    });
    found.collect()
}

/// The milliseconds of a directive of nginx.
fn nginx_ms(directive: &str) -> u64 {
    let line =
        NGINX.lines().find_map(|line| line.trim().strip_prefix(directive)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("nginx.conf has no {directive}"));
    let seconds = value.strip_suffix("s;").and_then(|seconds| seconds.parse::<u64>().ok());
    seconds.unwrap_or_else(|| panic!("{directive} {value} is not in seconds")) * 1000
}

#[test]
fn every_image_is_pinned_to_a_version() {
    let composed = COMPOSE.lines().filter_map(|line| line.trim().strip_prefix("image: "));
    let based = DOCKERFILE.lines().filter_map(|line| line.strip_prefix("FROM "));
    let mut images = 0;
    for image in composed.chain(based.map(|from| from.split(' ').next().unwrap())) {
        let tag = image.split_once(':').map_or("", |(_, tag)| tag);
        assert!(tag.starts_with(|c: char| c.is_ascii_digit()), "{image} is not pinned");
        images += 1;
    }
    assert!(images >= 7, "{images} images");
    let own = concat!("image: verbatim:", env!("CARGO_PKG_VERSION"), "\n");
    assert!(COMPOSE.contains(own), "docker-compose.yml has no {own}");
    let rust = words(CARGO, "rust-version = \"", |c| c != '"').pop_first().unwrap();
    let rust = rust.rsplit('"').next().unwrap();
    assert!(DOCKERFILE.contains(&format!("FROM rust:{rust}-")), "Dockerfile is not of Rust {rust}");
}

#[test]
fn nodes_of_the_compose_file_agree_with_the_stores_and_the_load_balancer() {
    let postgres = pairs(&block(&["services", "postgres", "environment"]));
    let of = |name: &str| with_defaults(&postgres[name]);
    let (user, password) = (of("POSTGRES_USER"), of("POSTGRES_PASSWORD"));
    let log = format!("postgres://{user}:{password}@postgres:5432/{}", of("POSTGRES_DB"));
    let balancer = block(&["services", "nginx"]);
    for (number, node) in (1..).zip(NODES) {
        let config = settings(environment(node));
        assert_eq!(config.node.id, node);
        assert_eq!(config.server.listen, format!("0.0.0.0:{PORT}"));
        assert_eq!(config.log.url.0, log);
        assert_eq!(config.mirror.url.0, "redis://redis:6379/0");
        // Behind the balancer a client is known by what it says, and by nothing else.
        assert!(!config.server.trusted_proxies.is_empty());
        assert_eq!(config.server.proxy_header, "x-forwarded-for");
        let published = format!("- 127.0.0.1:{}:{PORT}\n", PORT + number);
        assert!(block(&["services", node, "ports"]).contains(&published), "{published}");
        assert!(balancer.contains(&format!("server {node}:{PORT} ")), "{node} is not behind nginx");
        assert!(balancer.contains(&format!("{node}: {{ condition: service_healthy }}\n")));
    }
    let services = block(&["services"]);
    let named = services.lines().filter(|line| line.starts_with('n') && *line != "nginx:");
    assert_eq!(named.count(), NODES.len(), "nodes that this test does not know");
    assert!(balancer.contains(&format!("BALANCER_LISTEN: {PORT}\n")));
    assert!(balancer.contains(&format!("- 127.0.0.1:{PORT}:{PORT}\n")));
    assert!(DOCKERFILE.contains(&format!("EXPOSE {PORT}\n")));
    assert_eq!(Config::from_defaults().server.listen, format!("127.0.0.1:{PORT}"));
}

#[test]
fn nobody_but_this_machine_is_let_into_the_compose_file() {
    for line in COMPOSE.lines().filter(|line| line.trim().starts_with("- ") && line.contains(':')) {
        let published = line.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        assert!(!published || line.trim().starts_with("- 127.0.0.1:"), "{line}");
    }
}

#[test]
fn what_deployments_set_are_settings() {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    for (file, text) in [
        ("Dockerfile", DOCKERFILE),
        ("scripts/cluster-parts", CLUSTER_PARTS),
        ("docker-compose.yml", COMPOSE),
        PAGES[0],
        PAGES[1],
    ] {
        for name in words(text, "VERBATIM_", is_name).into_iter().filter(|name| {
            // The README explains the scheme itself.
            *name != "VERBATIM_SECTION__KEY"
        }) {
            let environment = BTreeMap::from([(name.to_owned(), String::from("?"))]);
            let wrong = Config::load(Sources { environment, ..Sources::default() }).err();
            let wrong = wrong.map(|err| err.to_string()).unwrap_or_default();
            assert!(!wrong.starts_with("unknown setting"), "{file}: {wrong}");
        }
    }
    let words = words(NGINX, "${", |c| c != '}');
    assert_eq!(words, BTreeSet::from(["${BALANCER_LISTEN", "${BALANCER_NODES"]));
    for word in words.iter().map(|word| word.trim_start_matches("${")) {
        assert!(CLUSTER_PARTS.contains(&format!("\\${{{word}}}")), "scripts/cluster: {word}");
        assert!(COMPOSE.contains(&format!("{word}: ")), "docker-compose.yml: {word}");
    }
}

#[test]
fn a_proxy_and_a_supervisor_have_more_patience_than_a_node() {
    let config = Config::from_defaults();
    for directive in ["proxy_read_timeout", "proxy_send_timeout", "send_timeout"] {
        let timeout = nginx_ms(directive);
        assert!(timeout > 2 * config.socket.heartbeat_ms, "{directive} cuts a silent client");
        assert!(timeout > config.socket.stall_timeout_ms, "{directive} cuts a slow client");
    }
    assert!(nginx_ms("client_header_timeout") <= config.server.header_timeout_ms);
    let stop_s = config.server.shutdown_timeout_ms / 1000;
    let seconds = |text: &str, begin: &str| -> u64 {
        let word = words(text, begin, |c| c.is_ascii_digit()).pop_first().unwrap();
        word[begin.len()..].parse().unwrap()
    };
    assert!(seconds(&block(&["x-node"]), "stop_grace_period: ") > stop_s);
    assert!(seconds(CLUSTER_PROCESSES, "stop_within=") > stop_s);
}

#[test]
fn pages_name_ports_that_there_are_and_targets_that_work() {
    let default = |name: &str| -> u16 {
        let begin = format!("{{{name}:-");
        let word = words(CLUSTER, &begin, |c| c.is_ascii_digit()).pop_first().unwrap();
        word[begin.len()..].parse().unwrap()
    };
    assert_eq!(default("PORT"), PORT);
    let mut ports = BTreeSet::from([PORT, default("PG_PORT"), default("REDIS_PORT"), 5540]);
    ports.extend((1..).zip(NODES).map(|(number, _)| PORT + number));
    let mut targets = BTreeSet::new();
    for (page, text) in PAGES.into_iter().chain([("docker-compose.yml", COMPOSE)]) {
        for begin in ["127.0.0.1:", "localhost:", "redis-cli -p ", "127.0.0.1 -p "] {
            for word in words(text, begin, |c| c.is_ascii_digit()) {
                let port = word[begin.len()..].parse().unwrap_or(PORT);
                assert!(ports.contains(&port), "{page} says {word}");
            }
        }
        targets.extend(words(text, "`make ", |c| c.is_ascii_lowercase() || c == '-'));
    }
    for target in targets {
        let target = target.trim_start_matches("`make ");
        assert!(MAKEFILE.contains(&format!("\n{target}: ##")), "there is no make {target}");
    }
    let begin = "@scripts/cluster ";
    for call in words(MAKEFILE, begin, |c| c.is_ascii_lowercase() || c == '-') {
        let documented = format!("\nscripts/cluster {} ", &call[begin.len()..]);
        assert!(CLUSTER.contains(&documented), "scripts/cluster help is silent on{documented}");
    }
}

#[test]
fn an_image_is_built_from_all_that_the_sources_include() {
    let kept: Vec<_> = DOCKERIGNORE.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in &kept {
        assert!(top.join(name).exists(), ".dockerignore keeps {name}, which is not there");
    }
    let mut needed = BTreeSet::from(["Cargo.toml".to_owned(), "Cargo.lock".to_owned()]);
    let mut folders = vec![top.join("src")];
    while let Some(folder) = folders.pop() {
        needed.insert("src".to_owned());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let included = |with: &'static str| {
                let named = words(&text, with, |c| c != '"').into_iter();
                named.map(move |word| word.trim_start_matches(with).to_owned())
            };
            for name in included("include_str!(\"").chain(included("include_bytes!(\"")) {
                let file = path.parent().unwrap().join(name);
                let file = file.canonicalize().unwrap_or(file);
                let name = file.strip_prefix(top.canonicalize().unwrap()).unwrap().iter().next();
                needed.insert(name.unwrap().to_string_lossy().into_owned());
            }
        }
    }
    // Cargo looks for what the manifest names whether or not it builds it: benches and tests, and
    // packages beside this one.
    needed.extend(CARGO.contains("[[bench]]").then(|| "benches".to_owned()));
    needed.extend(CARGO.contains("[[test]]").then(|| "tests/verify".to_owned()));
    let packages = CARGO.lines().filter_map(|line| line.split_once("{ path = \""));
    needed.extend(packages.filter_map(|(_, path)| Some(path.split_once('"')?.0.to_owned())));
    assert_eq!(kept.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>(), needed);
}

/// One use of each that has labels, because those appear with their first event.
fn metrics_in_use() -> Metrics {
    let metrics = Metrics::new();
    metrics.connections_refused.get_or_create(&ReasonLabel { reason: "origin" }).inc();
    metrics.sockets_closed.get_or_create(&CodeLabel { code: 1000 }).inc();
    let (route, method) = ("/api/rooms", "GET");
    metrics.requests.get_or_create(&RequestLabel { route, method, status: 200 }).inc();
    metrics.commands.get_or_create(&CommandLabel { r#type: "message", result: "ok" }).inc();
    metrics.catch_ups.get_or_create(&SourceLabel { source: "log" }).inc();
    metrics.signals.get_or_create(&SignalLabel { r#type: "typing" }).inc();
    metrics.log_error("refused");
    metrics.budget("unsent", 0, 1);
    metrics.evicted("unsent").inc();
    let shown = metrics.render().matches("# TYPE ").count();
    assert_eq!(shown, Metrics::NAMES.len(), "a metric with labels was not used here");
    metrics
}

#[test]
fn every_metric_is_in_the_table_of_operations() {
    let rendered = metrics_in_use().render();
    let types = rendered.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let suffix = |kind: &str| if kind == "counter" { "_total" } else { "" };
    let there: BTreeSet<_> =
        types.map(|(name, kind)| format!("| `{name}{}` | {kind} |", suffix(kind))).collect();
    let (_, operations) = PAGES[1];
    let rows = operations.lines().filter(|line| line.starts_with("| `verbatim_"));
    let told: BTreeSet<_> =
        rows.map(|row| row.splitn(4, '|').take(3).collect::<Vec<_>>().join("|") + "|").collect();
    assert_eq!(told, there);
}

#[tokio::test]
async fn health_is_0_of_a_node_that_serves_and_1_of_one_that_does_not() {
    let mut node = Process::start(Vec::new()).await;
    let listen = node.addr.to_string();
    let environment = [("VERBATIM_SERVER__LISTEN", &*listen)];
    let asked = run(&["health"], &environment, &[]).await;
    assert_eq!((asked.exit, &*asked.stdout, &*asked.stderr), (Exit::Code(0), "healthy\n", ""));
    node.kill9();
    node.wait_exit().await;
    let asked = run(&["health"], &environment, &[]).await;
    assert_eq!(asked.exit, Exit::Code(1));
    assert!(asked.stdout.starts_with(&format!("nothing answers at {listen}: ")), "{asked:?}");
    assert_eq!(asked.stdout.lines().count(), 1);
}

/// A client's own word for who it is must not get through to a node that believes the balancer.
#[test]
fn the_balancer_says_who_asks_and_limits_each() {
    for line in [
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header Forwarded \"\";",
        "limit_conn connections ",
        "limit_req zone=requests ",
        "limit_conn_status 429;",
        "limit_req_status 429;",
    ] {
        let there = NGINX.lines().filter(|it| it.trim().starts_with(line)).count();
        assert_eq!(there, 1, "nginx.conf: {line}");
    }
    for path in ["/metrics", "/readyz"] {
        let closed = format!("location = {path} {{\n            return 404;\n");
        assert!(NGINX.contains(&closed), "nginx.conf lets {path} through");
    }
    let trusts = "VERBATIM_SERVER__TRUSTED_PROXIES=127.0.0.1 ";
    assert!(CLUSTER_PARTS.contains(trusts), "scripts/cluster: {trusts}");
}
