//! How what is sent and what comes stands in a transcript: with placeholders, and not too long.

use std::net::SocketAddr;

use crate::harness::http::Reply;
use crate::harness::raw::RawFrame;

/// What stands before a value that differs from run to run, its name, and its characters.
type Varying = (&'static str, &'static str, fn(char) -> bool);

const VARYING: [Varying; 7] = [
    ("\"at\":\"", "at", |c| c.is_ascii_digit() || "-T:.Z".contains(c)),
    ("\"retry_after_ms\":", "ms", |c| c.is_ascii_digit()),
    ("; wait ", "ms", |c| c.is_ascii_digit()),
    ("\"server\":\"verbatim ", "version", |c| c != '"'),
    ("etag: \"", "etag", |c| c.is_ascii_hexdigit()),
    ("\"seal\":\"", "seal", |c| c != '"'),
    ("\"stream_id\":\"", "id", |c| c.is_ascii_digit() || c == '-'),
];
/// What a time is, with zeros for its digits.
const TIME: &str = "0000-00-00T00:00:00.000Z";
/// From that many of one character on they stand as `<x*64>`.
const RUN_LEN: usize = 64;
/// Of a longer text so much is shown at either end, and a hash of all of it.
const SHOWN_LEN: usize = 600;

/// What the text of a line means.
pub fn bytes(text: &str, addr: SocketAddr) -> Vec<u8> {
    let text = text.replace("<addr>", &addr.to_string()).replace("<empty>", "");
    let mut pieces = text.split('<');
    let mut meant = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let run = piece.split_once('>').and_then(|(run, rest)| {
            let (repeated, count) = run.split_once('*')?;
            Some(repeated.repeat(count.parse().ok()?) + rest)
        });
        meant += &run.unwrap_or_else(|| format!("<{piece}"));
    }
    meant.into_bytes()
}

/// The same, with `\r`, `\n` and `\xff` for bytes.
pub fn raw(text: &str, addr: SocketAddr) -> Vec<u8> {
    let text = text.replace("\\r", "\r").replace("\\n", "\n");
    let mut pieces = text.split("\\x");
    let mut meant = bytes(pieces.next().unwrap_or_default(), addr);
    for (hex, rest) in pieces.map(|piece| piece.split_at(2)) {
        meant.push(u8::from_str_radix(hex, 16).expect("not a byte"));
        meant.extend(bytes(rest, addr));
    }
    meant
}

/// A text that came. A line break is `⏎`, and what cannot be seen is its number.
pub fn text(text: &str, addr: SocketAddr) -> String {
    let mut text = text.replace(&addr.to_string(), "<addr>");
    for (before, name, is_value) in VARYING {
        let mut pieces = text.split(before);
        let mut shown = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (value, rest) =
                piece.split_at(piece.len() - piece.trim_start_matches(is_value).len());
            let is_fine = name != "at" || value.replace(|c: char| c.is_ascii_digit(), "0") == TIME;
            let value = if is_fine && !value.is_empty() { &format!("<{name}>") } else { value };
            shown = [&*shown, before, value, rest].concat();
        }
        text = shown;
    }
    let chars: Vec<char> = text.chars().collect();
    let runs = chars.chunk_by(|a, b| a == b).map(|run| match run[0] {
        c if run.len() >= RUN_LEN => format!("<{c}*{}>", run.len()),
        '\n' => "⏎".repeat(run.len()),
        c if c.is_control() || ('\u{2028}'..'\u{202F}').contains(&c) => {
            format!("<U+{:04X}>", u32::from(c)).repeat(run.len())
        }
        _ => run.iter().collect(),
    });
    let chars: Vec<char> = runs.collect::<String>().chars().collect();
    if chars.len() <= 2 * SHOWN_LEN {
        return chars.into_iter().collect();
    }
    // FNV-1a, of characters.
    let hash = chars.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, c| {
        (hash ^ u64::from(u32::from(*c))).wrapping_mul(0x0100_0000_01b3)
    });
    let (begin, end) = (&chars[..SHOWN_LEN], &chars[chars.len() - SHOWN_LEN..]);
    let (begin, end): (String, String) = (begin.iter().collect(), end.iter().collect());
    format!("{begin} <{} characters, hash {hash:016x}> {end}", chars.len())
}

/// A frame of a WebSocket.
pub fn frame(frame: &RawFrame, addr: SocketAddr) -> String {
    let payload = |bytes: &[u8]| text(&String::from_utf8_lossy(bytes), addr);
    let shown = match (frame.first, frame.payload.split_first_chunk()) {
        (0x81, _) => payload(&frame.payload),
        (0x88, Some((code, why))) => {
            format!("close {} {}", u16::from_be_bytes(*code), payload(why))
        }
        (first, _) => format!("{first:02x} {}", payload(&frame.payload)),
    };
    shown.trim_end().to_owned()
}

/// An answer: in one line the status and all headers but the date; and its body. Of the page there
/// is no more than that it has one, and of the metrics the names.
pub fn answer(reply: &Reply, addr: SocketAddr) -> Vec<String> {
    let kind = reply.header("content-type").unwrap_or_default();
    let is_metrics = kind.contains("openmetrics");
    let head = reply.head.lines().filter(|line| !line.is_empty() && !line.starts_with("date: "));
    let head = head.map(|line| match line.strip_prefix("content-length: ") {
        Some(_) if is_metrics || reply.header("etag").is_some() => "content-length: <length>",
        _ => line,
    });
    let mut lines = vec![text(&head.collect::<Vec<_>>().join(" | "), addr)];
    if is_metrics {
        let names = reply.body.lines().filter(|line| line.starts_with("# TYPE "));
        lines.extend(names.map(str::to_owned));
    } else if reply.header("etag").is_some() && !reply.body.is_empty() {
        lines.push("<body>".to_owned());
    } else if !reply.body.is_empty() {
        lines.push(text(&reply.body, addr));
    }
    lines
}
