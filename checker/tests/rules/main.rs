//! The checker is checked: what is well is let through, and each kind of wrong is called by its
//! name. A line per module.

mod chat;
mod planted;
mod tale;
mod valid;
