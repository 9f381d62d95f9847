//! Times, sizes and rates as people read them: three digits, and the unit that leaves those.

use std::time::Duration;

/// A time with the two units that matter, or a small one with one.
pub(crate) fn span(seconds: f64) -> String {
    if seconds < 1.0 {
        return small(seconds);
    }
    if seconds < 60.0 {
        return format!("{}s", short(seconds));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no daemon runs for longer, and no time is negative"
    )]
    let whole = Duration::from_secs(seconds as u64).as_secs();
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match (days, hours) {
        (0, 0) => format!("{minutes}m{}s", whole % 60),
        (0, _) => format!("{hours}h{}m", minutes % 60),
        (_, _) => format!("{days}d{}h", hours % 24),
    }
}

fn small(seconds: f64) -> String {
    match seconds * 1e6 {
        micros if micros < 1000.0 => format!("{}us", short(micros)),
        micros => format!("{}ms", short(micros / 1000.0)),
    }
}

/// Bytes with the unit that leaves at most four digits.
pub(crate) fn size(mut bytes: f64) -> String {
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if bytes < 1024.0 {
            return format!("{} {unit}", short(bytes));
        }
        bytes /= 1024.0;
    }
    format!("{} TiB", short(bytes))
}

/// So many per second.
pub(crate) fn rate(per_second: f64) -> String {
    short(per_second)
}

/// About three digits, and no more than it needs.
fn short(number: f64) -> String {
    let text = match number {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => return format!("{n:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        for (seconds, text) in [
            (0.0, "0us"),
            (0.00005, "50us"),
            (0.0025, "2.5ms"),
            (1.0, "1s"),
            (59.96, "60s"),
            (61.0, "1m1s"),
            (90_000.0, "1d1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        for (bytes, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1536.0, "1.5 KiB"),
            (5e15, "4547 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
