//! The rules about the sources by themselves, for `make check`: the program with all the other
//! tests takes longer to build than anybody waits.

#[path = "it/tidy.rs"]
mod tidy;
