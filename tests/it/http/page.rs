//! How the page is served: what each file is, what a browser may do with it, and what it need not
//! ask for again. What the page does is tested in `page`.

use super::{ask, assert_refusal, header};
use crate::harness::World;
use crate::harness::raw::{Raw, get};

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_the_page_says_what_it_is_and_what_it_may_do() {
    let node = World::sqlite().await.node().await;
    for (path, kind, opening) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/?from=elsewhere", "text/html; charset=utf-8", "<!doctype html>"),
        ("/style.css", "text/css; charset=utf-8", "/* "),
        ("/icon.svg", "image/svg+xml", "<svg "),
        ("/app.js", "text/javascript; charset=utf-8", "/**"),
        ("/verbatim.js", "text/javascript; charset=utf-8", "/**"),
        ("/verbatim/line.js", "text/javascript; charset=utf-8", "/**"),
        ("/verbatim.d.ts", "text/plain; charset=utf-8", "/**"),
    ] {
        let (head, body) = get(node.addr, path).await;
        assert_eq!(head.status, 200, "{path}");
        assert!(body.starts_with(opening), "{path}: {body}");
        let header = |name| header(&head, name).unwrap_or_else(|| panic!("{path}: no {name}"));
        assert_eq!(header("content-type"), kind, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|part| part == rule), "{rule} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_browser_has_it_is_not_sent_again() {
    let node = World::sqlite().await.node().await;
    let (head, body) = get(node.addr, "/app.js").await;
    let tag = header(&head, "etag").expect("no tag").to_owned();
    let ask_with = async |tag: &str| {
        let condition = format!("If-None-Match: {tag}\r\n");
        ask(node.addr, &format!("GET /app.js HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n")).await
    };
    let (head, nothing) = ask_with(&tag).await;
    assert_eq!((head.status, &*nothing), (304, ""));
    assert_eq!(header(&head, "etag"), Some(&*tag));
    let (head, again) = ask_with("\"0000000000000000\"").await;
    assert_eq!((head.status, again), (200, body.clone()));
    // Another file has another.
    assert_ne!(header(&get(node.addr, "/").await.0, "etag"), Some(&*tag));

    let mut raw = Raw::connect(node.addr).await;
    raw.send("HEAD /app.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let head = raw.read_head().await;
    let len = header(&head, "content-length").map(str::to_owned);
    assert_eq!((head.status, len), (200, Some(body.len().to_string())));
    raw.expect_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_is_served_and_nothing_without_the_setting() {
    let world = World::sqlite().await;
    let node = world.node().await;
    for path in ["/index.html", "/web/app.js", "/app.js/", "/APP.JS", "/verbatim", "/../Cargo.toml"]
    {
        assert_refusal(&get(node.addr, path).await, 404, "not_found");
    }
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_refusal(&ask(node.addr, post).await, 405, "method_not_allowed");
    node.stop().await;

    let node = world.node_with(|config| config.server.page = false).await;
    for path in ["/", "/app.js", "/verbatim.js"] {
        assert_refusal(&get(node.addr, path).await, 404, "not_found");
    }
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
}

/// Pages of other origins may build on the library. The page itself is not theirs to load.
#[tokio::test(flavor = "multi_thread")]
async fn the_library_is_for_the_pages_of_everybody() {
    let node = World::sqlite().await.node().await;
    for (path, is_library) in [
        ("/verbatim.js", true),
        ("/verbatim/line.js", true),
        ("/verbatim/outbox.js", true),
        ("/verbatim.d.ts", true),
        ("/app.js", false),
        ("/", false),
        ("/style.css", false),
    ] {
        let (head, _) = get(node.addr, path).await;
        let policy = if is_library { "cross-origin" } else { "same-origin" };
        assert_eq!(header(&head, "cross-origin-resource-policy"), Some(policy), "{path}");
        let origin = is_library.then_some("*");
        assert_eq!(header(&head, "access-control-allow-origin"), origin, "{path}");
    }
}

/// Also of refusals, whoever gets them.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_of_no_other_kind_than_it_says() {
    let world = World::sqlite().await;
    let node = world.node().await;
    let host = format!("Host: {}\r\n", node.addr);
    let proper = crate::harness::raw::upgrade_request(node.addr, "");
    for (request, status) in [
        (proper.clone(), 101),
        (proper.replace("GET", "POST"), 405),
        (format!("GET /healthz HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("GET /metrics HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("GET /style.css HTTP/1.1\r\n{host}If-None-Match: *\r\n\r\n"), 304),
        (format!("GET /nothing HTTP/1.1\r\n{host}\r\n"), 404),
        (format!("GET /api/rooms HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("OPTIONS /api/rooms HTTP/1.1\r\n{host}\r\n"), 204),
        (format!("GET /api/rooms HTTP/1.1\r\n{host}Origin: https://e.example\r\n\r\n"), 403),
        (format!("PATCH /api/rooms HTTP/1.1\r\n{host}\r\n"), 405),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421),
    ] {
        let mut raw = Raw::connect(node.addr).await;
        raw.send(&request).await;
        let head = raw.read_head().await;
        assert_eq!(head.status, status, "{request}");
        assert_eq!(header(&head, "x-content-type-options"), Some("nosniff"), "{request}");
        let policy = header(&head, "cross-origin-resource-policy");
        assert_eq!(policy, Some("same-origin"), "{request}");
    }
}
