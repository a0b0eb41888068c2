//! The time in a frame: RFC 3339 in UTC with milliseconds, and nothing else.
//!
//! It is for comparing what two places say of the same event; the order of events is their seq.

/// `2026-01-02T03:04:05.678Z` as milliseconds since 1970. `None`: it is not of this form, to the
/// last character, or not a time.
pub(crate) fn parse(text: &str) -> Option<i64> {
    const FORM: &[u8; 24] = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let bytes = text.as_bytes();
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        _ => byte == form,
    };
    if bytes.len() != FORM.len() || !bytes.iter().zip(FORM).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let ms = (((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000;
    let ms = ms + number(20, 23)?;
    // A 30th of February or a 25th hour would come back as another text.
    (render(ms) == text).then_some(ms)
}

/// The other way round, for years from 0 to 9999.
pub(crate) fn render(at_ms: i64) -> String {
    let (days, ms) = (at_ms.div_euclid(DAY_MS), at_ms.rem_euclid(DAY_MS));
    let (year, month, day) = date(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

const DAY_MS: i64 = 86_400_000;

/// Days of 400 years, after which the calendar repeats itself.
const ERA_DAYS: i64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01. Years here begin in March, so that the leap day is the last
/// one of its year and needs no case of its own.
const EPOCH_DAYS: i64 = 719_468;

/// Days since 1970 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - EPOCH_DAYS
}

/// The date of so many days since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_are_read_and_written() {
        let known = [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2026-01-02T03:04:05.678Z", 1_767_323_045_678),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("1969-12-31T23:59:59.999Z", -1),
        ];
        for (text, ms) in known {
            assert_eq!(parse(text), Some(ms), "{text}");
            assert_eq!(render(ms), text);
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_not_a_time() {
        let wrong = [
            "",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.678+00:00",
            "2026-01-02 03:04:05.678Z",
            "2026-02-30T03:04:05.678Z",
            "2026-13-02T03:04:05.678Z",
            "2026-00-02T03:04:05.678Z",
            "2026-01-02T25:04:05.678Z",
            "2026-01-02T03:04:60.678Z",
            "2026-01-02T03:04:05.6789Z",
            "2026-01-0éT03:04:05.67Z",
        ];
        for text in wrong {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(ms in -62_000_000_000_000i64..250_000_000_000_000) {
            prop_assert_eq!(parse(&render(ms)), Some(ms));
        }
    }
}
