//! How long versions of Graph live. Source: "Versions" of the Graph API changelog, November 2026. A call
//! to an expired version is served by the oldest that lives, without an error.

/// A version, and the day until which it is served; `None`: not announced yet.
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

/// What is known of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionStatus {
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
pub fn version_status(version: &str) -> VersionStatus {
    if let Some((_, end)) = VERSIONS.iter().find(|(name, _)| *name == version) {
        return end.map_or(VersionStatus::Open, VersionStatus::Until);
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
        VersionStatus::Over
    } else {
        VersionStatus::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_lives_as_long_as_its_calendar_says() {
        assert_eq!(version_status("v25.0"), VersionStatus::Until("2028-07-29"));
        assert_eq!(version_status("v26.0"), VersionStatus::Open);
        assert_eq!(version_status("v3.1"), VersionStatus::Over);
        assert_eq!(version_status("v40.0"), VersionStatus::Unknown);
        let ends: Vec<_> = VERSIONS.iter().filter_map(|(_, end)| *end).collect();
        assert!(ends.is_sorted());
    }
}
