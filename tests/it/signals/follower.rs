//! The rule by which a follower is given a sign of life, on a socket whose other end does not read.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use verbatim::config::Config;
use verbatim::hub::{Door, Follower, Inbox};
use verbatim::model::{RoomName, Seq, UserId};
use verbatim::socket::{Link, Queues, Socket};

/// The writing half of a socket, and all that must live as long as it.
async fn link() -> (Arc<Link>, Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let stream = accepted.unwrap().0;
    stream.writable().await.unwrap();
    let socket = Socket::new(
        stream,
        Bytes::new(),
        &Config::from_defaults().socket,
        &Arc::new(Queues::default()),
    );
    (socket.link().clone(), socket, client.unwrap())
}

fn follower(link: &Arc<Link>, last: u64) -> Follower {
    let door = Arc::new(Door::new(RoomName::parse("r").unwrap()));
    let user = (UserId::parse("1").unwrap(), Seq(1));
    Follower::new(door, link.clone(), Arc::new(Inbox::default()), Seq(last), user, &[])
}

/// Fills what the kernel takes, so that something waits.
fn clog(link: &Link) {
    let piece = Bytes::from(vec![0; 1 << 20]);
    while link.queued_bytes() == 0 {
        link.push(&piece);
    }
}

fn whole() -> Bytes {
    Bytes::from_static(b"whole")
}

fn sign() -> Bytes {
    Bytes::from_static(b"sign")
}

#[tokio::test]
async fn a_sign_is_for_those_who_are_live_and_wait_for_nothing() {
    let (link, _socket, _client) = link().await;
    let follower = follower(&link, 5);
    assert_eq!(follower.signal(&sign(), Seq(5)), Some(false), "it is catching up");
    follower.go_live(Seq(5));
    assert_eq!(follower.signal(&sign(), Seq(4)), None, "it has what the sign may announce");
    assert_eq!(follower.signal(&sign(), Seq(5)), Some(true));
    clog(&link);
    let queued = link.queued_bytes();
    assert_eq!(follower.signal(&sign(), Seq(9)), Some(false), "something waits");
    assert_eq!(link.queued_bytes(), queued);
    follower.stop();
    assert_eq!(follower.signal(&sign(), Seq(9)), Some(false));
}

/// Of many marks one may name an event that is on its way to this socket still.
#[tokio::test]
async fn of_signs_that_name_events_a_follower_takes_those_that_it_has() {
    let (link, _socket, mut client) = link().await;
    let follower = follower(&link, 5);
    let signs = Bytes::from_static(b"foursixseven");
    let names = [(Seq(4), 4), (Seq(6), 7), (Seq(7), 12)];
    assert!(!follower.signal_named(&signs, &names), "it is catching up");
    follower.go_live(Seq(5));
    assert!(!follower.signal_named(&signs, &names[1..]), "it would take 6 for seen");
    assert!(follower.signal_named(&signs, &names));
    assert_eq!(follower.signal(&sign(), Seq(5)), Some(true));
    let mut read = [0; 8];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"foursign");
}

#[tokio::test]
async fn who_asked_is_told_the_difference_and_who_missed_one_the_whole() {
    let (link, _socket, _client) = link().await;
    let follower = follower(&link, 5);
    follower.go_live(Seq(5));
    let no_whole = || -> Bytes { panic!("it missed nothing") };
    assert_eq!(follower.tell(Some(&sign()), no_whole), None, "it did not ask");
    follower.watch();
    assert_eq!(follower.tell(Some(&sign()), no_whole), Some(true));
    assert_eq!(follower.tell(None, no_whole), None, "there is nothing new");
    clog(&link);
    assert_eq!(follower.tell(Some(&sign()), no_whole), Some(false));
    assert_eq!(follower.tell(None, whole), Some(false), "it still cannot");
    // Asking is as good as being told the whole.
    follower.watch();
    assert_eq!(follower.tell(None, no_whole), None);
}

#[tokio::test]
async fn who_catches_up_is_told_the_whole_when_they_have() {
    let (link, _socket, _client) = link().await;
    let follower = follower(&link, 5);
    follower.watch();
    let no_whole = || -> Bytes { panic!("it missed nothing") };
    assert_eq!(follower.tell(Some(&sign()), no_whole), Some(false));
    follower.go_live(Seq(5));
    assert_eq!(follower.tell(None, whole), Some(true));
    assert_eq!(follower.tell(Some(&sign()), no_whole), Some(true), "differences again");
}
