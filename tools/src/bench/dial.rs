//! Opens a connection without waiting for it.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::plan::Target;

/// The receive buffer of a client that reads nothing. With the default, the kernel would accept
/// megabytes for it.
const SLOW_RECEIVE_BYTES: usize = 4096;

/// `index` is the client's; it decides the source address.
pub fn dial(target: &Target, index: usize, is_slow: bool) -> io::Result<TcpStream> {
    let domain = Domain::for_address(target.address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if is_slow {
        socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
    }
    if let Some(source) = target.source(index) {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    match socket.connect(&SockAddr::from(target.address)) {
        Ok(()) => {}
        Err(err) if is_under_way(&err) => {}
        Err(err) => return Err(err),
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn is_under_way(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::WouldBlock
        || err.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}
