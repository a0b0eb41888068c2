//! HTTP on a connection: hyper, from the first byte of a request until all requests are answered,
//! the connection has become a WebSocket, or it has ended.
//!
//! It knows no routes. hyper holds some 20 KB per connection, even if that only waits for the next
//! request. So it is created anew whenever data arrives, and dropped afterwards.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::LAST_REQUEST;
use super::admission::Wait;
use super::answer::{Body, finish, refuse};
use super::routes::Visit;
use super::transport::{Peer, Progress, Transport, join};
use crate::config::ServerConfig;

/// Smallest buffer that hyper accepts.
const HEADER_BYTES_MIN: usize = 8192;
/// How much is still read from a client whose request could not be parsed: a few times the size of
/// the largest request.
const DRAINED_BYTES_MAX: usize = 128 * 1024;
/// Time for that.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// A valid request, fed to hyper to make it answer one that it could not read: hyper answers only
/// requests.
const ANY_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";

type Served = Result<Response<Body>, Infallible>;
type Serving = Pin<Box<dyn Future<Output = Served> + Send>>;
type Http = http1::Connection<TokioIo<Transport>, Speaker>;

/// Answers requests.
struct Speaker(Box<dyn Fn(Request<Incoming>) -> Serving + Send>);

impl Service<Request<Incoming>> for Speaker {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        self.0(request)
    }
}

/// How the exchange ended.
enum Outcome {
    Idle,
    Ended(hyper::Result<()>),
}

/// Serves until all requests are answered, then gives the connection back. `None`: it has ended.
/// The head of the first request must arrive within `head_time`.
pub async fn serve(
    visit: &Arc<Visit>,
    transport: Transport,
    head_time: Duration,
) -> Option<Transport> {
    let (peer, evicted) = (transport.peer(), transport.evicted());
    let (permit, tasks) = (visit.permit(), visit.tasks());
    let own = visit.clone();
    let speaker = Speaker(Box::new(move |request| own.clone().serve(request)));
    let mut http = begin(visit.config(), transport, head_time, speaker);
    let mut stopped = pin!(tasks.sessions_ended());
    let mut stuck = None;
    let outcome = loop {
        tokio::select! {
            outcome = proceed(&mut http, &peer, |progress| {
                // It is the client's turn to take what was sent. Checked each time, not only on
                // changes: behind a stuck answer, what the connection waited for may have arrived.
                let is_news = std::mem::replace(&mut stuck, progress.stuck) != stuck;
                match progress.stuck {
                    Some(_) => permit.takes_nothing(is_news),
                    None if is_news => permit.takes(),
                    None => {}
                }
            }) => break outcome,
            // Otherwise the client took everything just now.
            () = evicted.notified() => if peer.is_owed() {
                visit.note_closed("it accepts no data, and others need the memory");
                return None;
            },
            // Not if a request arrived at the same moment: that is answered.
            () = permit.called() => return None,
            // Only after the last session has ended: until then, a load balancer that keeps a
            // connection open to ask `/readyz` learns that this node is stopping.
            () = &mut stopped => {
                Pin::new(&mut http).graceful_shutdown();
                // A request that is not complete by now does not get the rest of the shutdown time.
                let last = timeout(LAST_REQUEST, proceed(&mut http, &peer, |_| ())).await;
                break last.unwrap_or(Outcome::Ended(Ok(())));
            }
        }
    };
    let parts = http.into_parts();
    let mut transport = parts.io.into_inner();
    match outcome {
        Outcome::Idle => {
            transport.begin_anew(parts.read_buf);
            return Some(transport);
        }
        Outcome::Ended(Ok(())) => {
            if let Some((stream, rest)) =
                visit.has_upgraded().then(|| transport.into_stream()).flatten()
            {
                visit.hand_over(stream, join(parts.read_buf, rest));
            }
        }
        Outcome::Ended(Err(err)) => {
            tracing::debug!(%err, "a connection ended with an error");
            if let Some(status) = status_of(&err, peer.progress().refused) {
                refuse_unread(visit, transport, status).await;
            }
        }
    }
    None
}

fn begin(
    config: &ServerConfig,
    transport: Transport,
    head_time: Duration,
    speaker: Speaker,
) -> Http {
    let mut http = http1::Builder::new();
    // hyper ignores the timeout unless it has a timer.
    http.timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_headers(config.headers_max)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .keep_alive(true)
        // A client that closes its sending side still gets its answers: its commands are carried
        // out.
        .half_close(true);
    http.serve_connection(TokioIo::new(transport), speaker)
}

/// Drives HTTP until it is idle or has ended. Cancel-safe.
async fn proceed(http: &mut Http, peer: &Peer, mut look: impl FnMut(Progress)) -> Outcome {
    poll_fn(|cx| {
        if let Poll::Ready(ended) = http.poll_without_shutdown(cx) {
            return Poll::Ready(Outcome::Ended(ended));
        }
        let progress = peer.progress();
        look(progress);
        if progress.is_idle { Poll::Ready(Outcome::Idle) } else { Poll::Pending }
    })
    .await
}

/// The status for a client whose request could not be read; `None`: no answer.
fn status_of(err: &hyper::Error, refused: Option<u16>) -> Option<StatusCode> {
    match refused {
        Some(status) => StatusCode::from_u16(status).ok(),
        None if err.is_timeout() => Some(StatusCode::REQUEST_TIMEOUT),
        None if err.is_parse() => Some(StatusCode::BAD_REQUEST),
        None => None,
    }
}

/// Sends the refusal that hyper would have sent with an empty body.
async fn refuse_unread(visit: &Arc<Visit>, mut transport: Transport, status: StatusCode) {
    let (code, error) = match status {
        StatusCode::REQUEST_TIMEOUT => {
            ("request_timeout", "the request head was not complete in time")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "head_too_large",
            "the request head has more than server.header_bytes_max bytes or \
             server.headers_max fields",
        ),
        StatusCode::URI_TOO_LONG => ("head_too_large", "the request target is too long"),
        _ => ("bad_head", "this is not an HTTP/1.1 or HTTP/1.0 request"),
    };
    visit.note_refused(code);
    // From here on it is up to the client to read the answer, and the file may be needed.
    visit.permit().waits(Wait::Body);
    transport.read_only(ANY_REQUEST);
    let (own, peer) = (visit.clone(), transport.peer());
    let speaker = Speaker(Box::new(move |_| {
        let answering = peer.answering();
        let mut answer = refuse(status, code, error);
        finish(&mut answer);
        let answer = answer.map(|content| own.body(&Method::GET, content, answering));
        Box::pin(ready(Ok(answer)))
    }));
    let mut http = begin(visit.config(), transport, DRAIN_TIME, speaker);
    let told = async {
        // The client may be gone.
        let _ = poll_fn(|cx| http.poll_without_shutdown(cx)).await;
        http.into_parts().io.into_inner().drain(DRAINED_BYTES_MAX).await;
    };
    tokio::select! {
        // What can be sent at once is sent, whatever else happens.
        biased;
        // A client that does not take it in that time does not want it.
        _ = timeout(DRAIN_TIME, told) => {}
        () = visit.permit().called() => {}
        () = visit.tasks().sessions_ended() => {}
    }
}
