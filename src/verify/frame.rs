//! What a client reads of a frame, and the commands it sends: the protocol from the other side.
//!
//! It shares nothing with the server's own code but the page that describes both.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Of any frame from a server, what one of its kind has.
#[derive(Deserialize)]
pub struct Frame<'a> {
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    #[serde(borrow)]
    pub room: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    pub seq: Option<u64>,
    #[serde(borrow)]
    pub at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub re: Option<Cow<'a, str>>,
    pub duplicate: Option<bool>,
    #[serde(borrow)]
    pub code: Option<Cow<'a, str>>,
    pub last_seq: Option<u64>,
    #[serde(borrow)]
    pub node: Option<Cow<'a, str>>,
}

/// A page of history, its events as the bytes they are.
#[derive(Deserialize)]
pub struct History<'a> {
    #[serde(borrow)]
    pub events: Vec<&'a RawValue>,
    pub last: Option<u64>,
    pub more: bool,
}

/// Any command; what it does not need is `None`.
#[derive(Default, Serialize)]
pub struct Command<'a> {
    pub r#type: &'static str,
    pub user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Positions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

/// Rooms with the highest seq seen of each.
pub type Positions<'a> = std::collections::BTreeMap<&'a str, u64>;

impl Command<'_> {
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers only")
    }
}

impl Frame<'_> {
    /// Whatever its type: a newer server may have more of them.
    pub fn is_event(&self) -> bool {
        self.seq.is_some() && self.at.is_some() && self.re.is_none()
    }
}
