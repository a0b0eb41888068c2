//! Numbers for texts: a name is kept once, and every record of it is four bytes.
//!
//! It does not know what the names are for.

use std::collections::HashMap;
use std::sync::Arc;

/// Declares a number that stands for something else, with the sentence that says for what.
macro_rules! number {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u32);

        impl $name {
            pub(crate) fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                Self(u32::try_from(index).expect("a history has fewer than 2^32 of anything"))
            }
        }
    )*};
}

number! {
    /// A room, by its name.
    Room
    /// A user, by their id.
    User
    /// A node, by its name.
    Node
    /// A text of a message, or a client's id for a command.
    Text
    /// A command: with an `id` (and not a join) whatever has the same room, user and `id`; else
    /// whatever has the same room, user, type and text.
    Command
    /// The payload of a frame, byte for byte: two frames are equal exactly if their numbers are.
    Frame
    /// One connection of one client to one node.
    Connection
    /// What one client is shown of one room, over all its connections.
    View
}

/// Texts and their numbers.
#[derive(Default)]
pub(crate) struct Names {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, usize>,
}

impl Names {
    /// The number of a text, new or known.
    pub fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let (text, number): (Arc<str>, _) = (text.into(), self.texts.len());
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    pub fn text(&self, number: usize) -> &str {
        &self.texts[number]
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }
}
