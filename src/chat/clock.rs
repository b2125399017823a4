//! `strftime_now`, which templates use to tell a model the date.

use minijinja::{Error, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time in UTC, as RFC 3339 writes it: `2026-11-25T23:15:58Z`.
pub fn utc_now() -> String {
    strftime("%FT%H:%M:%SZ", now()).unwrap_or_default()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The time `seconds` after 1970, in UTC, in C's `strftime` format.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let hour = second / 3600;
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text += &match chars.next() {
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => MONTHS[month as usize - 1].into(),
            Some('b' | 'h') => MONTHS[month as usize - 1][..3].into(),
            Some('A') => DAYS[(days + 4) as usize % 7].into(),
            Some('a') => DAYS[(days + 4) as usize % 7][..3].into(),
            Some('j') => format!("{:03}", days - days_before(year) + 1),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).into(),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('%') => "%".into(),
            other => {
                let what = format!("strftime_now does not know %{}", other.map_or(String::new(), String::from));
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        };
    }
    Ok(text)
}

/// Days from 1970 to the start of `year`.
fn days_before(year: u64) -> u64 {
    let past = year - 1;
    year * 365 + past / 4 - past / 100 + past / 400 - (1970 * 365 + 477)
}

/// Year, month and day, `days` after 1 January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = days_before(year + 1) - days_before(year) - 365;
    let mut day = days - days_before(year);
    let mut month = 1;
    for length in [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let format = "%Y-%m-%d %e %B %b %A %a %j %H %I %p %M %S %y %%";
        assert_eq!(strftime(format, 0).unwrap(), "1970-01-01  1 January Jan Thursday Thu 001 00 12 AM 00 00 70 %");
        assert_eq!(strftime("%F %j %A %I%p:%M:%S", 1_709_211_907).unwrap(), "2024-02-29 060 Thursday 01PM:05:07");
        assert_eq!(strftime("%d %B %Y", 4_102_444_799).unwrap(), "31 December 2099");
        assert_eq!(strftime("%F", 4_107_542_400).unwrap(), "2100-03-01");
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
        assert!(strftime("%", 0).is_err());
    }
}
