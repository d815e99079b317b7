//! The settings as `config show` prints them.
//!
//! Invariant: the value of a secret is never shown.

use std::collections::BTreeSet;

use serde::Serialize;

use super::settings::{Environment, SETTINGS, Setting};

/// A setting in a form that can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    /// The environment variable.
    pub setting: &'static str,
    /// The value, or a note in parentheses if the value is secret or in a file.
    pub value: String,
    /// The origin of the value: `environment`, `file`, `default` or `unset`.
    pub origin: &'static str,
}

/// Returns every setting in a form that can be shown. `dotenv_keys` are the variables of the
/// environment that come from `.env`.
pub fn shown(environment: &Environment, dotenv_keys: &BTreeSet<String>) -> Vec<ShownSetting> {
    SETTINGS
        .iter()
        .map(|setting| {
            let (value, origin) = shown_value(setting, environment, dotenv_keys);
            ShownSetting {
                setting: setting.key,
                value,
                origin,
            }
        })
        .collect()
}

fn shown_value(
    setting: &Setting,
    environment: &Environment,
    dotenv_keys: &BTreeSet<String>,
) -> (String, &'static str) {
    let variable = if dotenv_keys.contains(setting.key) {
        ".env"
    } else {
        "environment"
    };
    let given = |key: &str| environment.get(key).filter(|text| !text.is_empty());
    let secret = || "(secret)".to_owned();
    match (given(setting.key), given(&format!("{}_FILE", setting.key))) {
        (Some(_), _) if setting.secret => (secret(), variable),
        (Some(text), _) => (text.clone(), variable),
        (None, Some(path)) if setting.secret => (format!("(secret in {path})"), "file"),
        (None, Some(path)) => (format!("(in {path})"), "file"),
        (None, None) if setting.secret && setting.default.is_some() => (secret(), "default"),
        (None, None) => match setting.default {
            None | Some("") => ("-".to_owned(), "unset"),
            Some(default) => (default.to_owned(), "default"),
        },
    }
}
