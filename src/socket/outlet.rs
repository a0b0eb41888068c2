//! Where a link's bytes go: to the kernel; in tests also into a pipe.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use tokio::net::tcp::OwnedWriteHalf;

#[cfg(test)]
use super::pipe::Pipe;

#[derive(Debug)]
pub(super) enum Outlet {
    Tcp(OwnedWriteHalf),
    #[cfg(test)]
    Pipe(Pipe),
}

impl Outlet {
    /// Takes what there is space for; `WouldBlock` if there is none.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => writer.try_write(bytes),
            #[cfg(test)]
            Self::Pipe(pipe) => pipe.try_write(&[IoSlice::new(bytes)]),
        }
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => writer.try_write_vectored(slices),
            #[cfg(test)]
            Self::Pipe(pipe) => pipe.try_write(slices),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(writer) => writer.as_ref().poll_write_ready(cx),
            #[cfg(test)]
            Self::Pipe(pipe) => pipe.poll_write_ready(cx),
        }
    }
}
