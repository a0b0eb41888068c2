//! Which texts name a room or a user: one rule for both.

use unicode_normalization::is_nfc;

use super::Invalid;

/// Longest room name or user id, in bytes of UTF-8.
const NAME_BYTES_MAX: usize = 128;

/// The rule for every name.
pub(super) fn check(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Invalid::TooLong(NAME_BYTES_MAX));
    }
    // Nearly every name is printable ASCII, for which the rest cannot fail except for white space.
    if let Some(bad) = text.chars().find(|c| is_deceptive(*c)) {
        return Err(Invalid::Character(bad));
    }
    if text.chars().all(char::is_whitespace) {
        return Err(Invalid::Blank);
    }
    if !text.is_ascii() && !is_nfc(text) {
        return Err(Invalid::NotNfc);
    }
    Ok(())
}

/// Control characters, bidirectional controls and characters of no width: two names that look the
/// same on a screen must be the same. Variation selectors stay, because emoji need them.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}'                  // soft hyphen
            | '\u{034F}'                // combining grapheme joiner
            | '\u{061C}'                // Arabic letter mark
            | '\u{115F}'..='\u{1160}'   // Hangul fillers
            | '\u{17B4}'..='\u{17B5}'   // Khmer inherent vowels
            | '\u{180E}'                // Mongolian vowel separator
            | '\u{200B}'..='\u{200F}'   // zero-width space, joiners, LRM, RLM
            | '\u{2028}'..='\u{202E}'   // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206F}'   // word joiner, invisible operators, isolates
            | '\u{3164}'                // Hangul filler
            | '\u{FEFF}'                // byte order mark
            | '\u{FFA0}'                // half-width Hangul filler
            | '\u{FFF9}'..='\u{FFFB}'   // interlinear annotation
            | '\u{E0000}'..='\u{E007F}' // tags
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RoomName, UserId};

    #[test]
    fn names_that_could_deceive_are_refused() {
        for (name, why) in [
            ("", Invalid::Empty),
            (" \u{3000}", Invalid::Blank),
            ("a\0b", Invalid::Character('\0')),
            ("a\nb", Invalid::Character('\n')),
            ("a\u{202E}b", Invalid::Character('\u{202E}')),
            ("a\u{2067}b", Invalid::Character('\u{2067}')),
            ("a\u{200B}b", Invalid::Character('\u{200B}')),
            ("\u{FEFF}a", Invalid::Character('\u{FEFF}')),
            ("e\u{301}", Invalid::NotNfc),
            (&"x".repeat(129), Invalid::TooLong(128)),
        ] {
            assert_eq!(RoomName::parse(name), Err(why), "{name:?}");
            assert_eq!(UserId::parse(name), Err(why), "{name:?}");
        }
    }

    #[test]
    fn names_of_every_language_are_welcome() {
        for name in ["general", "café", "общий", "雑談", "🦀", "❤\u{FE0F}", "a b", &"é".repeat(64)]
        {
            assert_eq!(RoomName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }
}
