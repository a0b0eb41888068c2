//! Valid names: one rule for rooms and users.
//!
//! Two names that look the same must be the same, or one user could pass for another. Logs contain
//! names from before that rule, which are accepted by the older rule (`check`). A new name must
//! pass a stricter one as well (`check_new`). Names that look alike letter by letter (Latin `a`,
//! Cyrillic `а`) are covered by neither.

use std::fmt;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::is_nfc;

use super::Invalid;

/// Longest room name or user id, in bytes of UTF-8.
const NAME_BYTES_MAX: usize = 128;

/// A property that a character of a new name must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Looks like a space, or like nothing at the end of a name.
    Space,
    /// Default_Ignorable_Code_Point: invisible where it is not supported.
    Invisible,
    Private,
    /// A code point that will never be a character.
    Noncharacter,
    /// Not assigned in the Unicode version of this program.
    Unassigned,
}

/// The rule for all names.
pub(super) fn check(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Invalid::TooLong(NAME_BYTES_MAX));
    }
    // Nearly all names are printable ASCII. For those, only the check for white space can fail.
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

/// The additional rule for new members and new rooms.
pub(super) fn check_new(name: &str) -> Result<(), Invalid> {
    if name.starts_with(' ') || name.ends_with(' ') {
        return Err(Invalid::Edge);
    }
    let found = name.chars().find_map(|c| Some(Invalid::Unfit(c, unfit(c)?)));
    found.map_or(Ok(()), Err)
}

fn unfit(c: char) -> Option<Unfit> {
    // Symbols and marks by category, but without ink.
    const BLANK: [char; 5] = [
        '\u{2800}',  // Braille pattern without dots
        '\u{13441}', // Egyptian full blank
        '\u{13442}', // Egyptian half blank
        '\u{16FE4}', // Khitan filler
        '\u{1D159}', // musical null notehead
    ];
    if c.is_ascii() {
        // `check` leaves only visible ASCII characters and the space.
        return None;
    }
    if CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) {
        return Some(Unfit::Invisible);
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::SpaceSeparator => Some(Unfit::Space),
        _ if BLANK.contains(&c) => Some(Unfit::Space),
        GeneralCategory::PrivateUse => Some(Unfit::Private),
        GeneralCategory::Unassigned if is_noncharacter(c) => Some(Unfit::Noncharacter),
        GeneralCategory::Unassigned => Some(Unfit::Unassigned),
        _ => None,
    }
}

/// The last two code points of each plane, and 32 more (Unicode, section 23.7).
fn is_noncharacter(c: char) -> bool {
    matches!(u32::from(c) & 0xFFFF, 0xFFFE..) || matches!(c, '\u{FDD0}'..='\u{FDEF}')
}

/// Completes a sentence: the name contains U+0000, which …
impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Space => "looks like a space: use U+0020",
            Self::Invisible => "is invisible",
            Self::Private => "is a private-use character",
            Self::Noncharacter => "is not a character",
            Self::Unassigned => "is not assigned to a character",
        })
    }
}

/// Control characters, bidirectional controls and zero-width characters.
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
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

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
        for name in [
            "general",
            "café",
            "общий",
            "雑談",
            "हिन्दी",
            "ไทย",
            "العربية",
            "🦀",
            "👍🏽",
            "🇪🇺",
            "a b",
            "q\u{301}",
            "~`!@#$%^&*()",
            &"é".repeat(64),
        ] {
            assert_eq!(RoomName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
            assert_eq!(RoomName::stored(name).check_new(), Ok(()), "{name:?}");
            assert_eq!(UserId::stored(name).check_new(), Ok(()), "{name:?}");
        }
    }

    /// What could follow `admin` to make another user who looks the same.
    const LOOK_ALIKE: [(char, Unfit); 40] = [
        ('\u{A0}', Unfit::Space),
        ('\u{1680}', Unfit::Space),
        ('\u{2002}', Unfit::Space),
        ('\u{2003}', Unfit::Space),
        ('\u{2007}', Unfit::Space),
        ('\u{2009}', Unfit::Space),
        ('\u{200A}', Unfit::Space),
        ('\u{202F}', Unfit::Space),
        ('\u{205F}', Unfit::Space),
        ('\u{3000}', Unfit::Space),
        ('\u{2800}', Unfit::Space),
        ('\u{13441}', Unfit::Space),
        ('\u{16FE4}', Unfit::Space),
        ('\u{1D159}', Unfit::Space),
        ('\u{180B}', Unfit::Invisible),
        ('\u{180C}', Unfit::Invisible),
        ('\u{180F}', Unfit::Invisible),
        ('\u{FE00}', Unfit::Invisible),
        ('\u{FE0E}', Unfit::Invisible),
        ('\u{FE0F}', Unfit::Invisible),
        ('\u{FFF0}', Unfit::Invisible),
        ('\u{1BCA0}', Unfit::Invisible),
        ('\u{1D173}', Unfit::Invisible),
        ('\u{1D17A}', Unfit::Invisible),
        ('\u{E0080}', Unfit::Invisible),
        ('\u{E0100}', Unfit::Invisible),
        ('\u{E01EF}', Unfit::Invisible),
        ('\u{E0FFF}', Unfit::Invisible),
        ('\u{E000}', Unfit::Private),
        ('\u{F8FF}', Unfit::Private),
        ('\u{F0000}', Unfit::Private),
        ('\u{10FFFD}', Unfit::Private),
        ('\u{FDD0}', Unfit::Noncharacter),
        ('\u{FFFE}', Unfit::Noncharacter),
        ('\u{1FFFF}', Unfit::Noncharacter),
        ('\u{10FFFF}', Unfit::Noncharacter),
        ('\u{378}', Unfit::Unassigned),
        ('\u{2E5F}', Unfit::Unassigned),
        ('\u{50000}', Unfit::Unassigned),
        ('\u{E1000}', Unfit::Unassigned),
    ];

    #[test]
    fn new_names_that_look_like_another_are_refused_and_old_ones_are_taken() {
        for (c, why) in LOOK_ALIKE {
            for name in [format!("admin{c}"), format!("{c}admin"), format!("ad{c}min")] {
                let old = UserId::parse(&name).unwrap_or_else(|why| panic!("{name:?} {why}"));
                assert_eq!(old.check_new(), Err(Invalid::Unfit(c, why)), "{name:?}");
                assert_eq!(RoomName::stored(&name).check_new(), old.check_new());
            }
        }
        for name in ["admin ", " admin", "  admin"] {
            assert_eq!(UserId::parse(name).unwrap().check_new(), Err(Invalid::Edge), "{name:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_in_plain_words() {
        for (name, why) in [
            ("a ", "must not begin or end with a space"),
            ("a\u{A0}b", "contains U+00A0, which looks like a space: use U+0020"),
            ("❤\u{FE0F}", "contains U+FE0F, which is invisible"),
            ("\u{E000}", "contains U+E000, which is a private-use character"),
            ("\u{1FFFE}", "contains U+1FFFE, which is not a character"),
            ("a\u{378}", "contains U+0378, which is not assigned to a character"),
        ] {
            assert_eq!(UserId::stored(name).check_new().unwrap_err().to_string(), why);
        }
    }

    /// Any character, including those at the borders of refused ranges.
    fn any_name() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(LOOK_ALIKE.map(|(c, _)| c).to_vec());
        let near = (odd, -2..3_i32).prop_map(|(c, by)| {
            char::from_u32(u32::from(c).saturating_add_signed(by)).unwrap_or(c)
        });
        let c = prop_oneof![2 => "[ -~]", 1 => near.prop_map(String::from), 1 => any::<String>()];
        prop::collection::vec(c, 0..8).prop_map(|parts| parts.concat())
    }

    /// Checked against the standard library and Unicode's range tables.
    fn has_no_ink(c: char) -> bool {
        let ranges: [RangeInclusive<u32>; 8] = [
            0xE000..=0xF8FF,
            0xF0000..=0x10FFFF,
            0xE0000..=0xE0FFF,
            0xFDD0..=0xFDEF,
            0xFE00..=0xFE0F,
            0xFFF0..=0xFFFB,
            0x180B..=0x180F,
            0x1D173..=0x1D17A,
        ];
        let c32 = u32::from(c);
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || c32 & 0xFFFE == 0xFFFE
            || ranges.iter().any(|range| range.contains(&c32))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Removing what is invisible from a name gives the same name, or it was not a name.
        #[test]
        fn no_two_names_differ_only_in_what_cannot_be_seen(name in any_name()) {
            let is_name = UserId::parse(&name).is_ok_and(|id| id.check_new().is_ok());
            let seen: String = name.chars().filter(|c| !has_no_ink(*c)).collect();
            prop_assert!(!is_name || seen.trim_matches(' ') == name, "{:?}", name);
            let is_refused = |c: char| is_deceptive(c) || unfit(c).is_some();
            let seen: String = name.chars().filter(|c| !is_refused(*c)).collect();
            prop_assert!(!is_name || seen.trim_matches(' ') == name, "{:?}", name);
        }

        /// No input makes it panic.
        #[test]
        fn any_text_is_a_name_or_is_refused_in_a_sentence(text: String) {
            let refused = RoomName::parse(&text).and_then(|name| name.check_new());
            prop_assert!(refused.is_ok() || refused.unwrap_err().to_string().len() > 10);
        }
    }
}
