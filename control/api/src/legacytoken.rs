//! How the use of tokens of Secrets (`kubernetes.io/service-account-token`) is noted: by the API server, which sees it, and for the controller
//! that makes unused ones invalid. Follows
//! <https://kubernetes.io/docs/concepts/security/service-accounts/#auto-generated-legacy-serviceaccount-token-clean-up>.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The label of a Secret with the day on which its token was last used.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a Secret with the day since which its token is not accepted.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// The ConfigMap in `kube-system` that says, by `since`, from which day on use is noted.
pub const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// The day of a time.
pub fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// A day as labels say it; `None` for another text.
pub fn parse_day(text: &str) -> Option<Date> {
    Date::strptime("%Y-%m-%d", text).ok().filter(|day| day.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_in_one_way() {
        let noon = "2026-11-30T23:59:59Z".parse().expect("a time");
        assert_eq!(day(noon).to_string(), "2026-11-30");
        assert_eq!(parse_day("2026-11-30"), Some(day(noon)));
        for other in ["", "yesterday", "2026-11-31", "2026-1-3", " 2026-11-30", "2026-11-30T00:00:00Z"] {
            assert_eq!(parse_day(other), None, "{other}");
        }
    }
}
