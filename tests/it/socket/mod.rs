//! One WebSocket against clients that speak raw bytes: what it reads, what it writes, how it ends.

mod closing;
mod deadlines;
mod delivery;
mod echo;
mod reading;
mod wire;
