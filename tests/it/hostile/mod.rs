//! Clients that mean harm, or are badly written: what they cannot take from the others.
//!
//! Each test does one thing that took a node down, or slowed it for everybody, and sees that it
//! does not. All of them together are the hostile crew of `verbatim verify`.

mod costs;
mod memory;
#[cfg(target_os = "linux")]
mod quotas;
