//! Turns a request (its path, query, headers and body) into the fields of one command.
//!
//! Everything else is checked by the protocol's parser, so rules and refusals are the same as over
//! a WebSocket.

use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;

use super::reply::Refusal;
use super::route::{Route, Target};
use crate::model::RoomName;
use crate::protocol::error::{Code, Problem};
use crate::protocol::fields::{Fields, Key, must};
use crate::protocol::table::{self, CommandType};

/// The idempotency key of a write: a frame's `id`.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The position of a stream that reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

/// The query parameters that are read. Others are ignored, like unknown fields of a frame.
const QUERY_KEYS: [Key; 4] = [Key::UserId, Key::After, Key::Before, Key::Limit];

/// The fields given outside the body, as JSON texts.
pub struct Said {
    texts: Vec<(Key, String)>,
}

impl Said {
    /// `command` is what the route makes of the method.
    pub fn of(command: CommandType, target: &Target<'_>, parts: &Parts) -> Result<Self, Problem> {
        let mut said = Self { texts: vec![(Key::Type, quoted(command.name()))] };
        for (key, piece) in [(Key::Room, target.room), (Key::UserId, target.user)] {
            if let Some(piece) = piece {
                said.texts.push((key, quoted(&decoded(key, piece, false)?)));
            }
        }
        if command.writes()
            && let Some(id) = header(parts, IDEMPOTENCY_KEY, Key::Id)?
        {
            let id = unquoted(id).ok_or_else(|| must(Key::Id, "be a well-formed string"))?;
            said.texts.push((Key::Id, quoted(&id)));
        }
        // The fields of a POST are in its body, not in the query.
        if parts.method != Method::POST {
            said.add_query(target.route, parts)?;
        }
        Ok(said)
    }

    fn add_query(&mut self, route: Route, parts: &Parts) -> Result<(), Problem> {
        // A browser that reconnects requests the same URL and adds this header, so it is newer.
        let last_event_id = match route {
            Route::Stream => header(parts, LAST_EVENT_ID, Key::After)?.filter(|id| !id.is_empty()),
            _ => None,
        };
        self.texts.extend(last_event_id.map(|id| (Key::After, number(id))));
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(key) = QUERY_KEYS.into_iter().find(|key| key.name() == name) else { continue };
            if key == Key::After && last_event_id.is_some() {
                continue;
            }
            let value = decoded(key, value, true)?;
            let is_name = match key {
                Key::After => matches!(route, Route::Rooms | Route::Members),
                key => key == Key::UserId,
            };
            self.texts.push((key, if is_name { quoted(&value) } else { number(&value) }));
        }
        Ok(())
    }

    /// All fields, with those of the body.
    pub fn fields<'a>(&'a self, mut fields: Fields<'a>) -> Result<Fields<'a>, Problem> {
        for (key, text) in &self.texts {
            fields.put(*key, text)?;
        }
        Ok(fields)
    }
}

/// The command that the body of an event names by its `type`; `None`: no `type`. Types that do not
/// exist are left to the parser.
pub fn named(fields: &Fields<'_>) -> Result<Option<CommandType>, Problem> {
    if fields.raw(Key::Type).is_none() {
        return Ok(None);
    }
    let name = fields.string(Key::Type)?;
    let named = CommandType::named(&name).filter(|command| command.writes());
    named.map(Some).ok_or_else(|| {
        let writing = table::of_socket().iter().filter(|row| row.command.writes());
        let names: Vec<_> = writing.map(|row| row.name).collect();
        must(Key::Type, &format!("be one of {}", names.join(", ")))
    })
}

/// The room in a path, if it is a valid name.
pub fn room(target: &Target<'_>) -> Option<RoomName> {
    RoomName::parse(&decoded(Key::Room, target.room?, false).ok()?).ok()
}

/// The fields of a body; `None`: there is no body.
pub fn body_of(body: Option<&Bytes>) -> Result<Fields<'_>, Problem> {
    let Some(body) = body else { return Ok(Fields::default()) };
    let wrong = |why: String| {
        let error = format!("the body must be one JSON object, such as {{\"user_id\":\"1\"}}{why}");
        Problem::new(Code::BadJson, error)
    };
    let text = std::str::from_utf8(body).map_err(|_| wrong(", in UTF-8".to_owned()))?;
    Fields::parse(text).map_err(|err| {
        // A type error's text would quote the value, however long it is.
        wrong(if err.is_data() { String::new() } else { format!(": {err}") })
    })
}

/// Checks that the body is declared as JSON. Requiring this also keeps foreign web pages out: a
/// browser sends a preflight (`OPTIONS`) before it sends such a body to another origin.
pub fn check_content(parts: &Parts) -> Result<(), Refusal> {
    // Several lines of a header equal one line with commas.
    let values = |name| {
        let lines = parts.headers.get_all(name).iter();
        lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).map(str::trim)
    };
    if !values("content-encoding").all(|coding| coding.eq_ignore_ascii_case("identity")) {
        return Err(Refusal::Coding);
    }
    let mut kinds = values("content-type").map(|kind| kind.split(';').next().unwrap_or_default());
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) if kind.trim().eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Refusal::MediaType),
    }
}

/// A header that may occur once.
fn header<'p>(parts: &'p Parts, name: &str, key: Key) -> Result<Option<&'p str>, Problem> {
    let mut values = parts.headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(must(key, &format!("not be given twice (header {name})")));
    }
    let text = value.to_str().map_err(|_| must(key, "be printable ASCII"))?;
    Ok(Some(text.trim()))
}

/// Strips quotes: `"c1"` is `c1`. The draft standard for `Idempotency-Key` uses a structured-field
/// string (RFC 8941, section 3.3.3), and people write it bare. `None`: malformed quoting.
fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let mut value = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(value),
            '\\' => value.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => value.push(c),
        }
    }
}

/// Percent-decodes: `%2F` is `/`, and in a query `+` is a space.
fn decoded(key: Key, text: &str, is_query: bool) -> Result<String, Problem> {
    let wrong = || must(key, "be percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(match byte {
            b'%' => {
                let (high, low) = digit().zip(digit()).ok_or_else(wrong)?;
                (high * 16 + low) as u8
            }
            b'+' if is_query => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Digits become a number. Anything else becomes a string, which the parser refuses.
fn number(text: &str) -> String {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Seq;
    use crate::protocol::command::{Command, Deed, HistoryPage, Request};
    use crate::server::api::route;

    /// Reads a request with this method, path and headers as the API does.
    fn read(line: &str, headers: &[(&str, &str)], body: &str) -> Result<Request, Problem> {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = hyper::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = route::find(parts.uri.path()).unwrap();
        let mut command = target.route.command(&parts.method).unwrap();
        let text = Bytes::copy_from_slice(body.as_bytes());
        let body = Some(&text).filter(|text| parts.method == "POST" || !text.is_empty());
        let said = body_of(body)?;
        if command == CommandType::Message {
            command = named(&said)?.unwrap_or(command);
        }
        Request::of(command, &Said::of(command, &target, &parts)?.fields(said)?, 100)
    }

    /// It is the same as the frame.
    fn same(line: &str, headers: &[(&str, &str)], body: &str, frame: &str) {
        assert_eq!(read(line, headers, body), Request::parse(frame, 100), "{line} {headers:?}");
    }

    #[test]
    fn a_request_is_the_command_that_it_looks_like() {
        same("GET /api/rooms", &[], "", r#"{"type":"rooms"}"#);
        same(
            "GET /api/rooms?after=a%2Fb+c%2B&limit=7&x=%zz",
            &[],
            "",
            r#"{"type":"rooms","after":"a/b c+","limit":7}"#,
        );
        same(
            "POST /api/rooms?room=x",
            &[("idempotency-key", "c1")],
            r#"{"user_id":1,"room":"general"}"#,
            r#"{"type":"create","user_id":"1","room":"general","id":"c1"}"#,
        );
        same(
            "POST /api/rooms/caf%C3%A9/events",
            &[("idempotency-key", r#""c \"1\\""#)],
            r#"{"user_id":"1","message":"hi"}"#,
            r#"{"type":"message","room":"café","user_id":"1","message":"hi","id":"c \"1\\"}"#,
        );
        // Every write can be given by its type.
        for name in ["create", "join", "leave"] {
            let body = format!(r#"{{"user_id":"1","type":"{name}"}}"#);
            let frame = format!(r#"{{"user_id":"1","type":"{name}","room":"r","id":"c1"}}"#);
            same("POST /api/rooms/r/events", &[("idempotency-key", "c1")], &body, &frame);
        }
        // A frame as sent over the WebSocket works as well.
        let frame = r#"{"user_id":"1","type":"message","room":"r","message":"hi","id":"c1"}"#;
        same("POST /api/rooms/r/events", &[("idempotency-key", "c1")], frame, frame);
        same(
            "PUT /api/rooms/r/members/1?user_id=1",
            &[],
            "",
            r#"{"type":"join","room":"r","user_id":1}"#,
        );
        same(
            "DELETE /api/rooms/r/members/a%20b",
            &[("idempotency-key", "c2")],
            "",
            r#"{"type":"leave","room":"r","user_id":"a b","id":"c2"}"#,
        );
        same(
            "GET /api/rooms/r/members?user_id=1&after=9",
            &[("idempotency-key", "ignored")],
            "",
            r#"{"type":"members","room":"r","user_id":"1","after":"9"}"#,
        );
        let history = read("GET /api/rooms/r/events?user_id=1&before=007", &[], "").unwrap();
        let deed = Deed::History { page: HistoryPage::Before(Seq(7)), limit: 50 };
        let Command::InRoom { deed: read, .. } = history.command else { panic!("{history:?}") };
        assert_eq!(read, deed);
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_name_of_the_field() {
        for (line, headers, body, field) in [
            ("GET /api/rooms?limit=0", &[][..], "", "limit"),
            ("GET /api/rooms?limit=+5", &[], "", "limit"),
            ("GET /api/rooms?limit=%2B5", &[], "", "limit"),
            ("GET /api/rooms?limit=1&limit=2", &[], "", "limit"),
            ("GET /api/rooms?after=%zz", &[], "", "after"),
            ("GET /api/rooms?after=%F", &[], "", "after"),
            ("GET /api/rooms?after=%ff", &[], "", "after"),
            ("GET /api/rooms?after=", &[], "", "after"),
            ("GET /api/rooms/r/events", &[], "", "user_id"),
            ("GET /api/rooms/r/events?user_id=1&after=-1", &[], "", "after"),
            ("GET /api/rooms/r/events?user_id=1&after=1&before=9", &[], "", "after"),
            ("GET /api/rooms//events?user_id=1", &[], "", "room"),
            ("GET /api/rooms/%00/events?user_id=1", &[], "", "room"),
            ("GET /api/rooms/e%CC%81/events?user_id=1", &[], "", "room"),
            ("GET /api/rooms/%/events?user_id=1", &[], "", "room"),
            ("PUT /api/rooms/r/members/1?user_id=2", &[], "", "user_id"),
            ("PUT /api/rooms/r/members/%E2%80%AE", &[], "", "user_id"),
            ("PUT /api/rooms/r/members/1", &[], r#"{"user_id":"2"}"#, "user_id"),
            ("DELETE /api/rooms/r/members/1", &[], r#"{"room":"s"}"#, "room"),
            ("DELETE /api/rooms/r/members/1", &[], r#"{"type":"join"}"#, "type"),
            ("POST /api/rooms", &[], r#"{"user_id":"1"}"#, "room"),
            ("POST /api/rooms?user_id=1", &[], r#"{"room":"r"}"#, "user_id"),
            ("POST /api/rooms/r/events", &[], r#"{"room":"s","user_id":"1"}"#, "room"),
            ("POST /api/rooms/r/events", &[], r#"{"type":"history","user_id":"1"}"#, "type"),
            ("POST /api/rooms/r/events", &[], r#"{"type":"ping"}"#, "type"),
            ("POST /api/rooms/r/events", &[], r#"{"type":7,"user_id":"1"}"#, "type"),
            ("POST /api/rooms", &[], r#"{"type":"message","user_id":"1"}"#, "type"),
            ("POST /api/rooms", &[("idempotency-key", "")], r#"{"user_id":1}"#, "id"),
            ("POST /api/rooms", &[("idempotency-key", "\"a")], r#"{"user_id":1}"#, "id"),
            ("POST /api/rooms", &[("idempotency-key", "\"a\"b")], r#"{"user_id":1}"#, "id"),
            ("POST /api/rooms", &[("idempotency-key", "a")], r#"{"id":"b"}"#, "id"),
        ] {
            let refused = read(line, headers, body).unwrap_err();
            let told = (refused.code, refused.field);
            assert_eq!(told, (Code::BadRequest, Some(field)), "{line} {body} {refused:?}");
        }
        let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
        assert_eq!(read("POST /api/rooms", &twice, "{}").unwrap_err().field, Some("id"));
        for body in ["", "[]", "{", "{} {}", "null", "\"x\""] {
            let refused = read("POST /api/rooms", &[], body).unwrap_err();
            assert_eq!(refused.code, Code::BadJson, "{body}");
        }
    }

    #[test]
    fn a_stream_that_comes_back_goes_on_where_it_was() {
        let after = |headers: &[(&str, &str)]| {
            let mut request = hyper::Request::get("/api/rooms/r/stream?user_id=1&after=3");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let target = route::find(parts.uri.path()).unwrap();
            let said = Said::of(CommandType::Stream, &target, &parts).unwrap();
            said.fields(Fields::default()).unwrap().raw(Key::After).unwrap().to_owned()
        };
        assert_eq!(after(&[]), "3");
        assert_eq!(after(&[("last-event-id", "41")]), "41");
        assert_eq!(after(&[("last-event-id", "")]), "3");
        assert_eq!(after(&[("last-event-id", "x")]), "\"x\"");
    }
}
