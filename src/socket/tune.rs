//! The kernel's settings for a client's connection, for the accept loop, before the upgrade.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::config::SocketConfig;

/// Unsent bytes that the kernel keeps per socket. Everything else stays with us, where it is
/// counted, shared between recipients, and dropped for a catch-up; the kernel would copy up to 4
/// MiB of it for every slow reader. Bytes in flight do not count, so fast clients are not slowed
/// down.
#[cfg(target_os = "linux")]
const KERNEL_UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// How much longer than our own deadlines the kernel waits. Ours send a close code, so they must be
/// first; this one is for what is left in the kernel after the socket is dropped.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// The first keepalive probe after a minute without traffic, then every 10 s. The heartbeat does
/// better; this covers the times when it does not apply.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Frames leave at once (the link joins them, not Nagle's algorithm), a slow reader's backlog does
/// not move into the kernel, and a dead peer's connection ends.
pub fn tune(stream: &TcpStream, config: &SocketConfig) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    {
        // Since Linux 5.11 this also ends connections whose peer is alive but takes nothing. So it
        // must not be shorter than the stall rule, or the kernel would reset what we want to close.
        let ours = Duration::from_millis(config.stall_timeout_ms + config.close_timeout_ms);
        socket.set_tcp_user_timeout(Some(ours + USER_TIMEOUT_MARGIN))?;
        socket.set_tcp_notsent_lowat(KERNEL_UNSENT_BYTES_MAX)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = config; // Only Linux has settings that depend on ours.
    Ok(())
}
