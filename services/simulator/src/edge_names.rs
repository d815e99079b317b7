//! The names under which calls of Graph are counted.

/// The edges that are served. `me/permissions` can also be followed by the name of one permission.
pub(crate) const EDGES: [&str; 15] = [
    "oauth/access_token",
    "debug_token",
    "me",
    "me/permissions",
    "me/accounts",
    "me/businesses",
    "?ids",
    "batch",
    "{id}",
    "{id}/subscriptions",
    "{id}/subscribed_apps",
    "{id}/owned_pages",
    "{id}/client_pages",
    "me/messages",
    "{id}/messages",
];

/// Returns whether calls are counted under this name: a method, a space and one of [`EDGES`].
pub(crate) fn is_counted(name: &str) -> bool {
    name.split_once(' ').is_some_and(|(method, edge)| {
        let is_edge = EDGES.contains(&edge) || edge.starts_with("me/permissions/");
        is_edge && ["GET", "POST", "DELETE"].contains(&method)
    })
}
