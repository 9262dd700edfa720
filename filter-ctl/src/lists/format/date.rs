//! Dates as lists write them: `Thu, 08 Oct 2026 12:14:02 GMT`, `Thu Oct  8 12:14:02 UTC 2026`, `2026/10/08`. Pure.

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Seconds since 1970 of a date in UTC, or none where it is no such date.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (mut year, mut month, mut day, mut second_of_day) = (None, None, None, 0);
    for word in text.split([' ', ',', '\t']).filter(|word| !word.is_empty()) {
        let number = word.parse::<i64>().ok();
        let name = word.get(..3).map(str::to_ascii_lowercase).unwrap_or_default();
        if let Some((y, m, d)) = numeric(word) {
            (year, month, day) = (Some(y), Some(m), Some(d));
        } else if word.contains(':') {
            second_of_day = clock(word)?;
        } else if let Some(place) = MONTHS.iter().position(|month| *month == name) {
            month = Some(place as i64 + 1);
        } else if let Some(number) = number {
            *if number > 31 { &mut year } else { &mut day } = Some(number);
        } else if word.starts_with(['+', '-']) {
            return None;
        }
    }
    let (year, month, day) = (year?, month?, day?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    is_date.then(|| days(year, month, day) * 86_400 + second_of_day)
}

fn numeric(word: &str) -> Option<(i64, i64, i64)> {
    let separator = if word.contains('/') { '/' } else { '-' };
    let mut parts = word.split(separator).map(|part| part.parse::<u16>().ok().map(i64::from));
    match [parts.next(), parts.next(), parts.next(), parts.next()] {
        [Some(Some(year)), Some(Some(month)), Some(Some(day)), None] if year > 31 => Some((year, month, day)),
        _ => None,
    }
}

fn clock(word: &str) -> Option<i64> {
    let mut parts =
        word.split(':').map(|part| part.parse::<u8>().ok().filter(|part| *part < 61).map(i64::from));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    (hour < 24 && parts.next().is_none()).then_some(hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 (Howard Hinnant, `days_from_civil`): the year begins in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_several_kinds_are_read() {
        for (text, want) in [
            ("Thu, 08 Oct 2026 12:14:02 GMT", Some(1_791_461_642)),
            ("Thu Oct  8 12:14:02 UTC 2026", Some(1_791_461_642)),
            ("2026/10/08", Some(1_791_417_600)),
            ("2026-10-08 12:14:02", Some(1_791_461_642)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("29 Feb 2000", Some(951_782_400)),
            ("Thu, 08 Oct 2026 12:14:02 +0200", None),
            ("08 Oct 2026 25:00", None),
            ("tomorrow", None),
            ("", None),
            ("Oct 2026", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(seconds(text), want, "{text}");
        }
    }
}
