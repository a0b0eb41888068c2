//! The web page at `/`: the files of `web/`, compiled in, and what browsers may do with them.
//!
//! It knows no rooms or messages: the page talks over `/ws` like every client.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY,
};
use hyper::{Response, StatusCode};

use super::answer::{Answer, CROSS_ORIGIN_RESOURCE_POLICY, Content, set};

/// Path, content and content type.
type File = (&'static str, &'static [u8], &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
/// Types are for people and editors. No browser runs them, and TypeScript has no media type.
const TEXT: &str = "text/plain; charset=utf-8";

/// Only files named here are served; there are no directory listings.
const FILES: [File; 35] = [
    ("/", include_bytes!("../../web/index.html"), HTML),
    ("/style.css", include_bytes!("../../web/style.css"), CSS),
    ("/frame.css", include_bytes!("../../web/frame.css"), CSS),
    ("/conversation.css", include_bytes!("../../web/conversation.css"), CSS),
    ("/icon.svg", include_bytes!("../../web/icon.svg"), SVG),
    ("/address.js", include_bytes!("../../web/address.js"), SCRIPT),
    ("/app.js", include_bytes!("../../web/app.js"), SCRIPT),
    ("/composer.js", include_bytes!("../../web/composer.js"), SCRIPT),
    ("/dom.js", include_bytes!("../../web/dom.js"), SCRIPT),
    ("/head.js", include_bytes!("../../web/head.js"), SCRIPT),
    ("/lines.js", include_bytes!("../../web/lines.js"), SCRIPT),
    ("/marks.js", include_bytes!("../../web/marks.js"), SCRIPT),
    ("/memory.js", include_bytes!("../../web/memory.js"), SCRIPT),
    ("/outgoing.js", include_bytes!("../../web/outgoing.js"), SCRIPT),
    ("/pages.js", include_bytes!("../../web/pages.js"), SCRIPT),
    ("/people.js", include_bytes!("../../web/people.js"), SCRIPT),
    ("/room.js", include_bytes!("../../web/room.js"), SCRIPT),
    ("/rooms.js", include_bytes!("../../web/rooms.js"), SCRIPT),
    ("/row.js", include_bytes!("../../web/row.js"), SCRIPT),
    ("/sidebar.js", include_bytes!("../../web/sidebar.js"), SCRIPT),
    ("/signs.js", include_bytes!("../../web/signs.js"), SCRIPT),
    ("/status.js", include_bytes!("../../web/status.js"), SCRIPT),
    ("/storage.js", include_bytes!("../../web/storage.js"), SCRIPT),
    ("/text.js", include_bytes!("../../web/text.js"), SCRIPT),
    ("/timeline.js", include_bytes!("../../web/timeline.js"), SCRIPT),
    ("/toast.js", include_bytes!("../../web/toast.js"), SCRIPT),
    ("/welcome.js", include_bytes!("../../web/welcome.js"), SCRIPT),
    ("/words.js", include_bytes!("../../web/words.js"), SCRIPT),
    ("/verbatim.js", include_bytes!("../../web/verbatim.js"), SCRIPT),
    ("/verbatim/failure.js", include_bytes!("../../web/verbatim/failure.js"), SCRIPT),
    ("/verbatim/id.js", include_bytes!("../../web/verbatim/id.js"), SCRIPT),
    ("/verbatim/line.js", include_bytes!("../../web/verbatim/line.js"), SCRIPT),
    ("/verbatim/outbox.js", include_bytes!("../../web/verbatim/outbox.js"), SCRIPT),
    ("/verbatim/questions.js", include_bytes!("../../web/verbatim/questions.js"), SCRIPT),
    ("/verbatim.d.ts", include_bytes!("../../web/verbatim.d.ts"), TEXT),
];

/// What the page may load and do: only its own files and its own server, and nothing inserted as
/// text. `'self'` in `connect-src` covers `ws:` and `wss:` of the same host. With trusted types, no
/// string can become markup or code, so a message cannot either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// File names carry no version, so browsers ask each time whether a file has changed. The answer is
/// a 304 of a few bytes, and an upgraded node serves the new page at once.
const CACHING: &str = "no-cache";

const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");

/// One per node.
pub struct WebPage {
    /// Each file with its tag; empty if the page is switched off (`server.page`).
    files: Vec<(File, HeaderValue)>,
}

impl WebPage {
    pub fn new(is_on: bool) -> Self {
        let files = FILES.iter().filter(|_| is_on);
        Self { files: files.map(|file| (*file, tag(file.1))).collect() }
    }

    pub fn has(&self, path: &str) -> bool {
        self.files.iter().any(|(file, _)| file.0 == path)
    }

    /// `None`: there is no such file.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Answer> {
        let ((_, bytes, kind), tag) = self.files.iter().find(|(file, _)| file.0 == path)?;
        let mut answer = if has(headers, tag) {
            let mut answer = Response::new(Content::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        } else {
            let mut answer = Response::new(Content::Static(bytes));
            set(&mut answer, CONTENT_TYPE, kind);
            answer
        };
        answer.headers_mut().insert(ETAG, tag.clone());
        set(&mut answer, CACHE_CONTROL, CACHING);
        set(&mut answer, CONTENT_SECURITY_POLICY, POLICY);
        set(&mut answer, REFERRER_POLICY, "no-referrer");
        set(&mut answer, CROSS_ORIGIN_OPENER_POLICY, "same-origin");
        if is_library(path) {
            set(&mut answer, ACCESS_CONTROL_ALLOW_ORIGIN, "*");
            set(&mut answer, CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin");
        }
        Some(answer)
    }
}

/// Whether a file belongs to the client library, which any page may load: `/verbatim.js`, its
/// types, and its modules.
fn is_library(path: &str) -> bool {
    path.strip_prefix("/verbatim").is_some_and(|rest| rest.starts_with(['.', '/']))
}

/// Whether the browser has the file with this tag. Proxies that compress make tags weak (`W/`).
fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(','));
    tags.any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

/// FNV-1a of the file. It distinguishes versions of our own files and is the same on all nodes of a
/// build. Nothing is gained by forging one.
fn tag(bytes: &[u8]) -> HeaderValue {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let hash = bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    HeaderValue::try_from(format!("\"{hash:016x}\"")).expect("hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_tag_is_that_of_the_fnv_authors() {
        for (text, hash) in [("", "cbf29ce484222325"), ("foobar", "85944171f73967e8")] {
            assert_eq!(tag(text.as_bytes()), &*format!("\"{hash}\""));
        }
    }

    #[test]
    fn a_known_tag_is_found_in_every_form() {
        let tag = tag(b"");
        let known = |list: &str| {
            let list = HeaderValue::try_from(list).unwrap();
            has(&HeaderMap::from_iter([(IF_NONE_MATCH, list)]), &tag)
        };
        for list in ["*", "\"cbf29ce484222325\"", "\"a\", W/\"cbf29ce484222325\""] {
            assert!(known(list), "{list}");
        }
        for list in ["", "\"\"", "cbf29ce484222325", "\"cbf29ce484222326\""] {
            assert!(!known(list), "{list}");
        }
        assert!(!has(&HeaderMap::new(), &tag));
    }

    /// Only browsers would notice a file that is added to the folder and forgotten here.
    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut there = Vec::new();
        // What Node reads about the client is of no use to a browser.
        let is_for_node = |path: &Path| path.ends_with("package.json");
        let mut folders = vec![folder.clone()];
        while let Some(inner) = folders.pop() {
            for entry in std::fs::read_dir(inner).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !is_for_node(&path) {
                    there.push(path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let mut served: Vec<_> =
            FILES.iter().map(|file| file.0.trim_start_matches('/').to_owned()).collect();
        served[0] = "index.html".to_owned();
        there.sort();
        served.sort();
        assert_eq!(there, served);
    }
}
