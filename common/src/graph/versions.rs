//! How long versions of Graph live. Source: "Versions" of the Graph API changelog, November 2026. A call
//! to an expired version is served by the oldest that lives, without an error.

/// A version, and the day until which it is served; `None`: not announced yet.
const CALENDAR: [(&str, Option<&str>); 9] = [
    ("v18.0", Some("2026-01-26")),
    ("v19.0", Some("2026-05-21")),
    ("v20.0", Some("2026-09-24")),
    ("v21.0", Some("2027-01-21")),
    ("v22.0", Some("2027-05-20")),
    ("v23.0", Some("2027-10-08")),
    ("v24.0", Some("2028-02-18")),
    ("v25.0", Some("2028-07-29")),
    ("v26.0", None),
];

/// What is known of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Served until this day.
    Until(&'static str),
    /// Served, and its end is not announced.
    Open,
    /// Older than every version in the calendar: long over.
    Over,
    /// Newer than this build.
    Unknown,
}

/// How long `version` lives.
pub fn life(version: &str) -> Life {
    if let Some((_, end)) = CALENDAR.iter().find(|(name, _)| *name == version) {
        return end.map_or(Life::Open, Life::Until);
    }
    let major = |version: &str| {
        version
            .strip_prefix('v')?
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    };
    if major(version) < major(CALENDAR[0].0) {
        Life::Over
    } else {
        Life::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_lives_as_long_as_its_calendar_says() {
        assert_eq!(life("v25.0"), Life::Until("2028-07-29"));
        assert_eq!(life("v26.0"), Life::Open);
        assert_eq!(life("v3.1"), Life::Over);
        assert_eq!(life("v40.0"), Life::Unknown);
        let ends: Vec<_> = CALENDAR.iter().filter_map(|(_, end)| *end).collect();
        assert!(ends.is_sorted());
    }
}
