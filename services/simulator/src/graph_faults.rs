//! The faults and app-dependent settings of the simulated Graph API.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The faults and settings of Graph. The default has no faults and the default settings of an app.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphFaults {
    /// Whether calls without `appsecret_proof` are refused ("Require App Secret").
    pub require_proof: bool,
    /// The largest `limit` of a list. A larger one is refused as too much data.
    pub max_limit: usize,
    /// Whether every list begins with an empty result page.
    pub empty_first_page: bool,
    /// A text at the end of every new token, for tests of escaping.
    pub token_suffix: String,
    /// Headers of every answer, such as usage headers.
    pub headers: BTreeMap<String, String>,
    /// How long after a change reads still return the old state, in seconds.
    pub stale_read_seconds: u64,
    /// The id of the app that new tokens belong to; `None` for the simulated app.
    pub token_app_id: Option<String>,
    /// Whether a new app subscription keeps the fields of the previous one. Sources disagree about
    /// the real Facebook.
    pub merge_app_fields: bool,
    /// The probability of each answer fault by its name, such as `{"2": 0.1, "html": 0.05}`.
    pub errors: BTreeMap<String, f64>,
    /// The fields that calls about Pages may not request, with the name of the error that a call with
    /// one of them gets, such as `{"emails": "12", "phone": "200/2069031"}`.
    pub refused_fields: BTreeMap<String, String>,
    /// The webhook fields that a Page subscription may not have. The error names none of them.
    pub unnamed_refusals: BTreeSet<String>,
    /// How long a slow answer takes, in seconds.
    pub slow_answer_seconds: u64,
    /// The part of the app's rate limit that each call uses, in percent. Once 100 percent are used,
    /// calls are refused with code 4 until the window of an hour ends.
    pub usage_percent_per_call: u64,
}

impl Default for GraphFaults {
    fn default() -> Self {
        Self {
            require_proof: true,
            max_limit: 1000,
            empty_first_page: false,
            token_suffix: String::new(),
            headers: BTreeMap::new(),
            stale_read_seconds: 0,
            token_app_id: None,
            merge_app_fields: false,
            errors: BTreeMap::new(),
            refused_fields: BTreeMap::new(),
            unnamed_refusals: BTreeSet::new(),
            slow_answer_seconds: 20,
            usage_percent_per_call: 0,
        }
    }
}
