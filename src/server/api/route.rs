//! Paths under `/api`, and the command of each path and method. Pure.
//!
//! A path is split before its pieces are decoded (in `ask`), so a room may be named `a/b`
//! (`a%2Fb`).

use hyper::Method;

use crate::protocol::table::CommandType;

/// Everything under `/api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Rooms,
    Events,
    Stream,
    Members,
    Member,
}

/// A known path, with its names still as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'p> {
    pub route: Route,
    pub room: Option<&'p str>,
    pub user: Option<&'p str>,
}

/// `None`: no such path.
pub fn find(path: &str) -> Option<Target<'_>> {
    let pieces: Vec<&str> = path.strip_prefix("/api/")?.split('/').collect();
    let (route, room, user) = match *pieces {
        ["rooms"] => (Route::Rooms, None, None),
        ["rooms", room, "events"] => (Route::Events, Some(room), None),
        ["rooms", room, "stream"] => (Route::Stream, Some(room), None),
        ["rooms", room, "members"] => (Route::Members, Some(room), None),
        ["rooms", room, "members", user] => (Route::Member, Some(room), Some(user)),
        _ => return None,
    };
    Some(Target { route, room, user })
}

impl Route {
    pub const ALL: [Self; 5] =
        [Self::Rooms, Self::Events, Self::Stream, Self::Members, Self::Member];

    /// As in docs/openapi.yaml and the metrics.
    pub fn template(self) -> &'static str {
        match self {
            Self::Rooms => "/api/rooms",
            Self::Events => "/api/rooms/{room}/events",
            Self::Stream => "/api/rooms/{room}/stream",
            Self::Members => "/api/rooms/{room}/members",
            Self::Member => "/api/rooms/{room}/members/{user}",
        }
    }

    /// The command of a request; `None`: the route does not have the method.
    pub fn command(self, method: &Method) -> Option<CommandType> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match self {
            Self::Rooms if reads => Some(CommandType::Rooms),
            Self::Rooms if *method == Method::POST => Some(CommandType::Create),
            Self::Events if reads => Some(CommandType::History),
            Self::Events if *method == Method::POST => Some(CommandType::Message),
            Self::Stream if reads => Some(CommandType::Stream),
            Self::Members if reads => Some(CommandType::Members),
            Self::Member if *method == Method::PUT => Some(CommandType::Join),
            Self::Member if *method == Method::DELETE => Some(CommandType::Leave),
            _ => None,
        }
    }

    /// The value of `Allow`.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Rooms | Self::Events => "GET, HEAD, POST, OPTIONS",
            Self::Stream | Self::Members => "GET, HEAD, OPTIONS",
            Self::Member => "PUT, DELETE, OPTIONS",
        }
    }
}

/// The method for the metrics. An unknown method must not become a label.
pub fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_template_says() {
        for route in Route::ALL {
            let target = find(route.template()).unwrap();
            let named = |name| Some(name).filter(|name| route.template().contains(name));
            assert_eq!(target, Target { route, room: named("{room}"), user: named("{user}") });
        }
        for nowhere in [
            "/api",
            "/api/",
            "/api/rooms/",
            "/api//rooms",
            "/api/rooms/r",
            "/api/rooms/r/events/",
            "/api/rooms/r/s/events",
            "/api/rooms/r/members/u/",
            "/API/rooms",
            "/rooms",
        ] {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
        assert_eq!(find("/api/rooms/a%2Fb/events").unwrap().room, Some("a%2Fb"));
    }

    #[test]
    fn what_is_allowed_is_what_there_is() {
        for route in Route::ALL {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"] {
                let allowed = route.allow().split(", ").any(|known| known == method);
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                assert_eq!(route.command(&method).is_some(), allowed, "{method} {route:?}");
            }
        }
        assert_eq!(method_name(&Method::PUT), "PUT");
        assert_eq!(method_name(&Method::PATCH), "other");
    }
}
