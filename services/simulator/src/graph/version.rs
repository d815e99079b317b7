//! The versions of Graph.

use super::refusal::ErrorReply;

/// The versions that are served. The first one also serves expired versions.
const SERVED: [&str; 6] = ["v21.0", "v22.0", "v23.0", "v24.0", "v25.0", "v26.0"];
/// The version of calls that name no version.
pub(super) const DEFAULT_VERSION: &str = "v25.0";
/// The highest major version that exists.
const NEWEST_MAJOR: u32 = 26;
/// The highest minor version that ever existed.
const HIGHEST_MINOR: u32 = 3;

/// Removes the version from the beginning of a path. Returns the version that serves the call.
///
/// Fails if the path names a version that never existed.
pub(super) fn take_version(path: &mut Vec<String>) -> Result<String, ErrorReply> {
    let Some(first) = path.first().cloned() else {
        return Ok(DEFAULT_VERSION.to_owned());
    };
    let number = |part: &str| part.parse::<u32>().ok();
    let parsed = first
        .strip_prefix('v')
        .and_then(|version| version.split_once('.'))
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match parsed {
        Some((major, minor)) if (1..=NEWEST_MAJOR).contains(&major) && minor <= HIGHEST_MINOR => {
            path.remove(0);
            let is_served = SERVED.contains(&first.as_str());
            Ok(if is_served {
                first
            } else {
                SERVED[0].to_owned()
            })
        }
        None if !first.contains('.') => Ok(DEFAULT_VERSION.to_owned()),
        Some(_) | None => {
            let rest = path.get(1..).unwrap_or_default().join("/");
            Err(ErrorReply::unknown_path(&rest))
        }
    }
}
