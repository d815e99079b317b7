//! The calendar of the versions of Graph, and the status of each.
//!
//! A call to an expired version is served by the oldest version that has not expired, without an
//! error. Source: "Versions" of the Graph API changelog, November 2026.

/// Each version with the day until which it is served; `None` if the day is not announced.
const VERSIONS: [(&str, Option<&str>); 9] = [
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

/// The status of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionStatus {
    /// In the calendar, with this last day (`YYYY-MM-DD`), which may be past.
    Until(&'static str),
    /// Served; its end is not announced.
    NoEndAnnounced,
    /// Older than every version in the calendar, and therefore expired.
    Expired,
    /// Newer than every version in the calendar.
    Unknown,
}

/// Returns the status of `version`, such as `v25.0`.
pub fn version_status(version: &str) -> VersionStatus {
    if let Some((_, end)) = VERSIONS.iter().find(|(name, _)| *name == version) {
        return end.map_or(VersionStatus::NoEndAnnounced, VersionStatus::Until);
    }
    let major = |version: &str| {
        version
            .strip_prefix('v')?
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    };
    if major(version) < major(VERSIONS[0].0) {
        VersionStatus::Expired
    } else {
        VersionStatus::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_gives_the_status_of_a_version() {
        assert_eq!(version_status("v25.0"), VersionStatus::Until("2028-07-29"));
        assert_eq!(version_status("v26.0"), VersionStatus::NoEndAnnounced);
        assert_eq!(version_status("v3.1"), VersionStatus::Expired);
        assert_eq!(version_status("v40.0"), VersionStatus::Unknown);
        let ends: Vec<_> = VERSIONS.iter().filter_map(|(_, end)| *end).collect();
        assert!(ends.is_sorted());
    }
}
