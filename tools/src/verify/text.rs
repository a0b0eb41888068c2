//! Texts of messages: mostly short and plain, sometimes with contents that need careful encoding.
//!
//! All are valid messages: at least 1 byte, and no NUL.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Texts that careless code for JSON, SQL, Lua, Redis' protocol or UTF-8 breaks.
const CAREFUL: [&str; 14] = [
    "\"quoted\"",
    "back\\slash",
    "tab\tand\nline\r\n",
    "\u{1}\u{1f}\u{7f}",
    "'; drop table events; --",
    "{\"type\":\"message\",\"seq\":1}",
    "$5\r\nhello\r\n*1\r\n",
    "commit",
    "\u{feff}\u{200b}\u{202e}",
    "é e\u{301} ß ﬁ",
    "日本語",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u{10ffff}\u{ffff}\u{d7ff}\u{e000}",
    "%s %n {} \\u0041 &lt;",
];
const PLAIN: [&str; 8] = ["hello", "world", "exactly", "once", "in", "order", "every", "node"];

/// Most words of a usual message.
const WORDS_MAX: usize = 24;

/// One in this many messages is as long as possible.
const LONG: u32 = 400;

pub fn random(rng: &mut StdRng, bytes_max: usize) -> String {
    let is_long = rng.random_ratio(1, LONG);
    let words = if is_long { bytes_max } else { rng.random_range(1..=WORDS_MAX) };
    let mut text = String::new();
    for _ in 0..words {
        let set: &[&str] = if rng.random_ratio(1, 8) { &CAREFUL } else { &PLAIN };
        let word = set.choose(rng).copied().unwrap_or("hello");
        if text.len() + word.len() + 1 > bytes_max {
            break;
        }
        text.push_str(word);
        text.push(' ');
    }
    // Some texts end with a space, which must not be lost either.
    if rng.random() {
        text.pop();
    }
    if text.is_empty() { "?".to_owned() } else { text }
}
