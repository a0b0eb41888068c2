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
        ask(node.addr, &format!("GET /app.js HTTP/1.1\r\nHost: x\r\n{condition}\r\n")).await
    };
    let (head, nothing) = ask_with(&tag).await;
    assert_eq!((head.status, &*nothing), (304, ""));
    assert_eq!(header(&head, "etag"), Some(&*tag));
    let (head, again) = ask_with("\"0000000000000000\"").await;
    assert_eq!((head.status, again), (200, body.clone()));
    // Another file has another.
    assert_ne!(header(&get(node.addr, "/").await.0, "etag"), Some(&*tag));

    let mut raw = Raw::connect(node.addr).await;
    raw.send("HEAD /app.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
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
    let post = "POST / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_refusal(&ask(node.addr, post).await, 404, "not_found");
    node.stop().await;

    let node = world.node_with(|config| config.server.page = false).await;
    for path in ["/", "/app.js", "/verbatim.js"] {
        assert_refusal(&get(node.addr, path).await, 404, "not_found");
    }
    assert_eq!(get(node.addr, "/healthz").await.0.status, 200);
}
