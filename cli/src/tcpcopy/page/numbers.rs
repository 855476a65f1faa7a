//! Numbers as people read them.

use std::time::Duration;

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count, with a unit for thousands: `0.25`, `12.5`, `1,234`, `56.7k`, `1.2M`.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{}G", digits(v / 1e9)),
        v if v >= 1e6 => format!("{}M", digits(v / 1e6)),
        v if v >= 1e4 => format!("{}k", digits(v / 1e3)),
        v if v >= 999.5 => count(v.round() as u64),
        v => digits(v),
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    let text = match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `850 µs`, `12.5 ms`, `1.2 s`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 0.9995 => format!("{} s", short(s)),
        s if s >= 0.000_999_5 => format!("{} ms", digits(s * 1e3)),
        s => format!("{} µs", digits(s * 1e6)),
    }
}

/// The length of a run: `45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let two = |large: u64, unit: &str, small: u64, part: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {part}") }
    };
    match whole {
        0..10 => format!("{} s", digits(seconds)),
        10..60 => format!("{whole} s"),
        60..3_600 => two(whole / 60, "min", whole % 60, "s"),
        3_600..86_400 => two(whole / 3_600, "h", whole % 3_600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3_600, "h"),
    }
}

/// `1.5 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{} GB", digits(b / 1e9)),
        b if b >= 1e6 => format!("{} MB", digits(b / 1e6)),
        b if b >= 1e4 => format!("{} kB", digits(b / 1e3)),
        _ => format!("{} bytes", count(bytes)),
    }
}

/// `99.98 %`; all and nothing only where it is all and nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    match share {
        _ if part == 0 => "0 %".to_owned(),
        s if part < whole && s > 99.99 => "> 99.99 %".to_owned(),
        s if s < 0.01 => "< 0.01 %".to_owned(),
        s if part >= whole && s < 100.01 => "100 %".to_owned(),
        s => format!("{} %", digits_of_share(s)),
    }
}

fn digits_of_share(share: f64) -> String {
    if (10.0..=99.0).contains(&share) { format!("{share:.1}") } else { format!("{share:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_say_what_is_so() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.256, 12.34, 999.7, 1_234.0, 56_700.0, 1.23e6].map(short).join(" "),
            "0 0.26 12.3 1,000 1,234 56.7k 1.23M"
        );
        let times = [7, 850, 12_500, 999_800, 61_000_000].map(|us| time(Duration::from_micros(us)));
        assert_eq!(times, ["7 µs", "850 µs", "12.5 ms", "1 s", "61 s"]);
        assert_eq!(
            [2.5, 45.0, 60.0, 725.0, 12_000.0, 187_200.0].map(span),
            ["2.5 s", "45 s", "1 min", "12 min 5 s", "3 h 20 min", "2 d 4 h"]
        );
        assert_eq!([9_999, 1_500_000].map(bytes), ["9,999 bytes", "1.5 MB"]);
        let shares = [(0, 5), (1, 1_000_000), (1, 40), (1, 3), (9_998, 10_000), (999_999, 1_000_000), (5, 5), (0, 0)];
        assert_eq!(
            shares.map(|(part, whole)| percent(part, whole)),
            ["0 %", "< 0.01 %", "2.50 %", "33.3 %", "99.98 %", "> 99.99 %", "100 %", "–"]
        );
    }
}
