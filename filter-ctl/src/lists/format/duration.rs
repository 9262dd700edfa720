//! Times of life as CrowdSec (Go) and nft write them: `3h59m55.756182786s`, `58m59s996ms`, `-1h2m`. Pure.

/// Nanoseconds of a unit. `d` is nft's; the micro sign and the Greek letter are both Go's.
fn unit_ns(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    })
}

/// Whole seconds of a duration, rounded up so that nothing ends before its time: `Some(None)` where it is zero or
/// negative, hence over, and `None` where the text is none. What is too long for 32 bits is as long as these hold.
pub(super) fn seconds(text: &str) -> Option<Option<u32>> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let ns = if digits == "0" { 0 } else { nanoseconds(digits)? };
    if is_negative || ns == 0 {
        return Some(None);
    }
    Some(Some(u32::try_from(ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)))
}

fn nanoseconds(mut rest: &str) -> Option<u128> {
    let mut sum = 0u128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let unit = unit_ns(unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Below a nanosecond of an hour nothing changes a second that is rounded up, but for the digits being there.
        let fraction = &fraction[..fraction.len().min(15)];
        let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
        let part = part.checked_mul(unit)?.div_ceil(scale);
        sum = sum.saturating_add(whole.saturating_mul(unit)).saturating_add(part);
        rest = after;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_rounded_up_to_seconds() {
        for (text, want) in [
            ("3h59m55.756182786s", Some(Some(4 * 3600 - 4))),
            ("58m59s996ms", Some(Some(3540))),
            ("1d", Some(Some(86_400))),
            ("1ns", Some(Some(1))),
            ("1.5h", Some(Some(5400))),
            (".5m", Some(Some(30))),
            ("1\u{b5}s", Some(Some(1))),
            ("0", Some(None)),
            ("0s", Some(None)),
            ("-1h2m", Some(None)),
            ("+1s", Some(Some(1))),
            ("9999999999h", Some(Some(u32::MAX))),
            ("", None),
            ("-", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1x", None),
            ("1h 2m", None),
            ("99999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(seconds(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_none(text in "[-+0-9.dhmsnu\u{b5}]{0,50}") {
            let _ = seconds(&text);
        }

        #[test]
        fn parts_add_up(hours in 0u32..10_000, minutes in 0u32..60, seconds_of in 1u32..60) {
            let text = format!("{hours}h{minutes}m{seconds_of}s");
            prop_assert_eq!(seconds(&text), Some(Some(hours * 3600 + minutes * 60 + seconds_of)));
        }
    }
}
