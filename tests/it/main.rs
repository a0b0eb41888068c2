//! All tests that need more than one module: one binary, so that one PostgreSQL and one Redis serve
//! them all. A line per behaviour; `harness` is what they stand on.

mod harness;
mod held;

mod crowd;
mod lossy;
mod stored;

mod api;
mod bench;
mod client;
mod clock;
mod config;
mod crash;
mod deploy;
#[cfg(target_os = "linux")]
mod disk_faults;
#[cfg(target_os = "linux")]
mod disk_full;
mod faults;
mod guarantees;
mod hostile;
mod http;
mod idle;
mod lanes;
mod log;
mod log_lines;
mod mirror;
mod newer;
mod page;
mod pipelined;
mod postgres_down;
mod program;
mod protocol;
mod readme;
mod replay;
mod sabotage;
mod shutdown;
mod sick;
mod signals;
mod slow_reader;
mod socket;
mod tidy;
mod tls;
mod transcripts;
mod verify;
mod went_back;
mod without_redis;
mod writes;
