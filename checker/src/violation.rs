//! Every promise that can be broken: one variant each, with its name and its sentence.

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two seqs of a room with nothing between them in the log.
    #[error("{room}: the log has a hole at {seq}")]
    HoleInLog { room: String, seq: u64 },
}

impl Violation {
    /// Short, and the same for ever: by it a planted fault says what it expects.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HoleInLog { .. } => "hole-in-log",
        }
    }
}
