//! What a run comes to, as text for a person.
pub fn progress(){}
pub fn table(){}
