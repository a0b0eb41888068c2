//! The shortest excerpt of a history that shows what went wrong.

use crate::history::History;
use crate::violation::Violation;

impl Violation {
    /// The rows, frames and moments around it, as lines for a person.
    pub fn context(&self, _history: &History) -> String {
        String::new()
    }
}
