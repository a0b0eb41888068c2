//! Texts of messages: mostly short and plain, now and then such that somebody on the way would
//! have to be careful with them.
//!
//! They are valid messages, whatever is in them: 1 byte or more, and no NUL.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What JSON, SQL, Lua, Redis' protocol and UTF-8 have trouble with if one is careless.
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

/// Words of a usual message.
const WORDS_MAX: usize = 24;

/// One of so many is as long as a message may be.
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
    // At the end there is a space now and then, which must not be lost either.
    if rng.random() {
        text.pop();
    }
    if text.is_empty() { "?".to_owned() } else { text }
}
