//! Reads settings from a snapshot of the environment: from the variable, its file, or its default.
//!
//! Invariant: reading continues after a problem, so that one report names all problems.

use secrecy::SecretString;

use super::backend::Backend;
use super::problem::{Problem, Problems};
use super::settings::{self, Environment, SETTINGS, Setting};

/// Reads settings one by one and collects their problems.
pub(super) struct SettingsReader<'a> {
    environment: &'a Environment,
    problems: Vec<Problem>,
}

impl<'a> SettingsReader<'a> {
    pub(super) fn new(environment: &'a Environment) -> Self {
        Self {
            environment,
            problems: Vec::new(),
        }
    }

    /// Returns `config`, or every problem that was found.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(self.problems))
        }
    }

    /// Records a problem of a setting.
    pub(super) fn problem(&mut self, key: &str, problem: String) {
        let Setting {
            accepted, example, ..
        } = settings::find(key);
        let remedy = if settings::find(key).secret {
            format!("accepted: {accepted}")
        } else {
            format!("accepted: {accepted}; for example {key}={example}")
        };
        self.problems.push(Problem {
            setting: key.to_owned(),
            problem,
            remedy,
        });
    }

    /// Records a problem for each variable that has pagesync's prefix and is not a setting.
    pub(super) fn refuse_unknown(&mut self) {
        let known = |key: &str| {
            SETTINGS
                .iter()
                .any(|setting| setting.key == key || key.strip_suffix("_FILE") == Some(setting.key))
        };
        let unknown: Vec<&String> = self
            .environment
            .keys()
            .filter(|key| key.starts_with("PAGESYNC_") && !known(key))
            .collect();
        for key in unknown {
            let nearest = SETTINGS
                .iter()
                .min_by_key(|setting| strsim::levenshtein(setting.key, key));
            let remedy = nearest.map_or(String::new(), |setting| {
                format!("did you mean {}?", setting.key)
            });
            self.problems.push(Problem {
                setting: key.clone(),
                problem: "is not a setting of pagesync".to_owned(),
                remedy,
            });
        }
    }

    /// Returns the text of a setting from the variable, its file, or its default. An empty variable
    /// counts as unset, because a compose file passes an unset variable on as an empty one.
    fn text(&mut self, key: &str) -> Option<String> {
        let setting = settings::find(key);
        let value = self.environment.get(key).filter(|text| !text.is_empty());
        let file_key = format!("{key}_FILE");
        let file = self
            .environment
            .get(&file_key)
            .filter(|path| !path.is_empty());
        match (value, file) {
            (Some(_), Some(_)) => {
                self.problem(key, format!("is given twice: here and in {file_key}"));
                None
            }
            (Some(text), None) => Some(text.clone()),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                    self.problem(
                        key,
                        format!("is empty: the file that {file_key} names contains nothing"),
                    );
                    None
                }
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    self.problem(
                        key,
                        format!("cannot be read from the file that {file_key} names: {error}"),
                    );
                    None
                }
            },
            (None, None) => setting
                .default
                .filter(|text| !text.is_empty())
                .map(ToOwned::to_owned),
        }
    }

    /// Returns whether the environment has the address of RabbitMQ or Redis.
    pub(super) fn names_servers(&self) -> bool {
        let urls = ["PAGESYNC_RABBITMQ_URL", "PAGESYNC_REDIS_URL"];
        let given = |key: &str| {
            self.environment
                .get(key)
                .is_some_and(|text| !text.is_empty())
        };
        urls.iter()
            .any(|url| given(url) || given(&format!("{url}_FILE")))
    }

    /// Returns a setting that may be unset, or `None` if it is unset or has a problem.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.problem(
                key,
                format!(
                    "does not have the accepted form ({} characters given)",
                    text.chars().count()
                ),
            );
        }
        parsed
    }

    /// Returns a setting that has no default, or `None` if it is unset or has a problem. It is a
    /// problem if the setting is `required` and unset.
    pub(super) fn required_by_role<T>(
        &mut self,
        key: &str,
        required: bool,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let problems_before = self.problems.len();
        let given = self.optional(key, parse);
        if given.is_none() && required && self.problems.len() == problems_before {
            self.problem(key, "is missing".to_owned());
        }
        given
    }

    /// Returns a setting that has a default. After a problem it returns the default.
    pub(super) fn value<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let given = self.optional(key, &parse);
        let default = || settings::find(key).default.and_then(&parse);
        given
            .or_else(default)
            .unwrap_or_else(|| unreachable!("the default of {key} has the accepted form"))
    }

    /// Returns a secret, or `None` if it is unset. It is a problem if the secret is `required` and
    /// unset, is shorter than `min` characters, or is a placeholder from an example.
    pub(super) fn secret(&mut self, key: &str, min: usize, required: bool) -> Option<SecretString> {
        let problems_before = self.problems.len();
        let Some(text) = self.text(key) else {
            if required && self.problems.len() == problems_before {
                self.problem(key, "is missing".to_owned());
            }
            return None;
        };
        let placeholder_starts = [
            "your_",
            "default_",
            "replace_with_",
            "my_secure_",
            "changeme",
        ];
        if placeholder_starts
            .iter()
            .any(|start| text.to_ascii_lowercase().starts_with(start))
        {
            self.problem(key, "is a placeholder from an example".to_owned());
        } else if text.len() < min {
            self.problem(
                key,
                format!("is too short ({} of at least {min} characters)", text.len()),
            );
        }
        Some(SecretString::from(text))
    }

    /// Returns the address of a server with its password; empty on the embedded backend, which uses
    /// no server. It is a problem if the address does not begin with `scheme`.
    pub(super) fn secret_url(&mut self, key: &str, scheme: &str, backend: Backend) -> SecretString {
        if backend == Backend::Embedded {
            return SecretString::default();
        }
        let Some(text) = self.text(key) else {
            return SecretString::default();
        };
        if !text.starts_with(scheme) {
            self.problem(
                key,
                format!(
                    "does not begin with {scheme} ({} characters given)",
                    text.len()
                ),
            );
        }
        SecretString::from(text)
    }
}
