//! Configuration: one struct, read once from a snapshot of the environment.
//!
//! Invariants: every problem is in one report, each with its key, the accepted form and an example;
//! no value is ever repeated, in an error or in `config show`, if it is a secret. The table in
//! [`settings`] is the only list of settings: `.env.example` is made from it.

mod reader;
pub mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use model::field::{FieldName, TrackedFields};
use secrecy::SecretString;

use crate::store::redis::Durability;
use reader::Reader;

/// Environment variables, name to value.
pub type Environment = BTreeMap<String, String>;

/// Where queue and store are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file, one process.
    Embedded,
    /// RabbitMQ and Redis.
    Distributed,
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "distributed" => Ok(Self::Distributed),
            _ => Err(()),
        }
    }
}

/// Who reads the configuration: it decides what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Up,
    /// The public face.
    Ingress,
    /// Applies jobs.
    Worker,
    /// The Facebook simulator.
    Simulator,
    /// An operator's command.
    Command,
}

impl Role {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ingress => "ingress",
            Self::Worker => "worker",
            Self::Simulator => "simulator",
            Self::Command => "command",
        }
    }

    fn takes_webhooks(self) -> bool {
        matches!(self, Self::Up | Self::Ingress)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where queue and store are.
    pub backend: Backend,
    /// Directory of the embedded database.
    pub data_dir: PathBuf,
    /// The broker; holds its password.
    pub rabbitmq_url: SecretString,
    /// The store; holds its password.
    pub redis_url: SecretString,
    /// When a commit to Redis counts as durable.
    pub redis_durability: Durability,
    /// The public listener.
    pub listen: SocketAddr,
    /// The private listener: health and metrics.
    pub operator_listen: SocketAddr,
    /// Facebook's app secret, and during a rotation the previous one.
    pub app_secrets: Vec<SecretString>,
    /// The token of the webhook handshake.
    pub verify_token: SecretString,
    /// Whether a webhook with only the legacy signature is accepted.
    pub allow_sha1: bool,
    /// Which fields are kept.
    pub tracked: TrackedFields,
    /// How long after a notice a Page is verified.
    pub verify_after: Duration,
    /// Where the simulator listens.
    pub simulator_listen: SocketAddr,
    /// Where Facebook posts to: our public address, as the simulator must know it.
    pub webhook_address: Option<String>,
    /// Which log lines.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub key: String,
    /// What is wrong with it; never its value.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

/// All that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        for Problem { key, what, remedy } in &self.0 {
            writeln!(f, "  {key} {what}\n      {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads what `role` needs from a snapshot of the environment and the files it names.
    pub fn read(environment: &Environment, role: Role) -> Result<Self, Problems> {
        let mut reader = Reader::new(environment);
        reader.refuse_unknown();
        let given = reader.optional("PAGESYNC_BACKEND", |text| text.parse().ok());
        let backend = given.unwrap_or(match role {
            Role::Ingress | Role::Worker => Backend::Distributed,
            // A command beside services that are told where their servers are means these.
            Role::Command if reader.names_servers() => Backend::Distributed,
            Role::Up | Role::Simulator | Role::Command => Backend::Embedded,
        });
        if backend == Backend::Embedded && matches!(role, Role::Ingress | Role::Worker) {
            let what = "is embedded, and the embedded backend is one process";
            reader.problem("PAGESYNC_BACKEND", what.to_owned());
        }
        if given.is_none() && role == Role::Up && reader.names_servers() {
            let what = "is not set while a broker or a Redis is named: commands would use these";
            reader.problem("PAGESYNC_BACKEND", what.to_owned());
        }
        let needs_secret = role.takes_webhooks() || role == Role::Simulator;
        let app_secret = reader.secret("FACEBOOK_APP_SECRET", 16, needs_secret);
        let previous = reader.secret("PAGESYNC_APP_SECRET_PREVIOUS", 16, false);
        let webhook_address = reader.optional("FACEBOOK_WEBHOOK_ADDRESS", web_address);
        if role == Role::Simulator && webhook_address.is_none() {
            reader.problem("FACEBOOK_WEBHOOK_ADDRESS", "is missing".to_owned());
        }
        let config = Self {
            backend,
            data_dir: reader.value("PAGESYNC_DATA_DIR", |text| Some(text.into())),
            rabbitmq_url: reader.secret_url("PAGESYNC_RABBITMQ_URL", "amqp://", backend),
            redis_url: reader.secret_url("PAGESYNC_REDIS_URL", "redis://", backend),
            redis_durability: reader.value("PAGESYNC_REDIS_DURABILITY", durability),
            listen: reader.value("PAGESYNC_LISTEN", |text| text.parse().ok()),
            operator_listen: reader.value("PAGESYNC_OPERATOR_LISTEN", |text| text.parse().ok()),
            app_secrets: app_secret.into_iter().chain(previous).collect(),
            verify_token: reader
                .secret("FACEBOOK_VERIFY_TOKEN", 8, role.takes_webhooks())
                .unwrap_or_default(),
            allow_sha1: reader.value("PAGESYNC_ALLOW_SHA1", |text| text.parse().ok()),
            tracked: reader.value("PAGESYNC_FIELDS", tracked),
            verify_after: reader.value("PAGESYNC_VERIFY_AFTER", seconds),
            simulator_listen: reader.value("PAGESYNC_SIMULATOR_LISTEN", |text| text.parse().ok()),
            webhook_address,
            log: reader.value("PAGESYNC_LOG", log_filter),
            log_format: reader.value("PAGESYNC_LOG_FORMAT", log_format),
        };
        reader.finish(config)
    }
}

fn durability(text: &str) -> Option<Durability> {
    match text {
        "relaxed" => Some(Durability::Relaxed),
        "fsync" => Some(Durability::Fsync),
        _ => None,
    }
}

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    }
}

fn log_filter(text: &str) -> Option<String> {
    let parsed: Result<tracing_subscriber::EnvFilter, _> = text.parse();
    // A bare word is a target that nobody has: it would silence everything.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let names_level = levels.iter().any(|level| text.contains(level));
    (parsed.is_ok() && names_level).then(|| text.to_owned())
}

fn tracked(text: &str) -> Option<TrackedFields> {
    let fields: Option<Vec<FieldName>> = text
        .split(',')
        .map(|name| FieldName::parse(name.trim()))
        .collect();
    fields.map(TrackedFields::new)
}

fn web_address(text: &str) -> Option<String> {
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    is_web.then(|| text.to_owned())
}

/// `10s`, `5m`, `1h`.
fn seconds(text: &str) -> Option<Duration> {
    let units = [("s", 1_u64), ("m", 60), ("h", 3600)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(Duration::from_secs(
        number.parse::<u64>().ok()?.checked_mul(*factor)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let good = [
            ("FACEBOOK_APP_SECRET", "0123456789abcdef0123456789abcdef"),
            ("FACEBOOK_VERIFY_TOKEN", "verify-me-please"),
        ];
        good.iter()
            .chain(pairs)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn problems(pairs: &[(&str, &str)], role: Role) -> Vec<(String, String)> {
        let Problems(problems) = Config::read(&environment(pairs), role).unwrap_err();
        problems
            .into_iter()
            .map(|problem| (problem.key, problem.what))
            .collect()
    }

    #[test]
    fn defaults_are_enough_but_for_the_two_secrets() {
        let config = Config::read(&environment(&[]), Role::Up).unwrap();
        assert_eq!(config.backend, Backend::Embedded);
        assert_eq!(config.listen.to_string(), "0.0.0.0:5000");
        assert_eq!(config.verify_after, Duration::from_secs(10));
        assert_eq!(config.tracked, TrackedFields::default());
        assert!(Config::read(&Environment::new(), Role::Worker).is_ok());
    }

    #[test]
    fn every_problem_is_in_one_report_and_no_value_is() {
        let secret = "hunter2-hunter2";
        let bad = [
            ("PAGESYNC_LISTEN", secret),
            ("PAGESYNC_VERIFY_AFTER", secret),
            ("PAGESYNC_REDIS_URL", "rediss://x"),
            ("PAGESYNC_LISTN", secret),
            ("FACEBOOK_APP_SECRET", secret),
            ("FACEBOOK_VERIFY_TOKEN", "default_verify_token"),
            ("PAGESYNC_BACKEND", "distributed"),
            ("PAGESYNC_LOG", "loud"),
        ];
        let report = Config::read(&environment(&bad), Role::Up).unwrap_err();
        assert_eq!(report.0.len(), 7, "{report}");
        assert!(!report.to_string().contains("hunter2"), "{report}");
        let unknown = report
            .0
            .iter()
            .find(|problem| problem.key == "PAGESYNC_LISTN")
            .unwrap();
        assert_eq!(unknown.remedy, "did you mean PAGESYNC_LISTEN?");
    }

    #[test]
    fn a_secret_may_come_from_a_file_but_not_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "fedcba9876543210fedcba9876543210\n").unwrap();
        let path = path.to_str().unwrap();
        let config = Config::read(
            &environment(&[
                ("FACEBOOK_APP_SECRET", ""),
                ("FACEBOOK_APP_SECRET_FILE", path),
            ]),
            Role::Up,
        );
        assert_eq!(
            config.unwrap().app_secrets[0].expose_secret(),
            "fedcba9876543210fedcba9876543210"
        );
        let twice = problems(&[("FACEBOOK_APP_SECRET_FILE", path)], Role::Up);
        assert_eq!(
            twice,
            [(
                "FACEBOOK_APP_SECRET".to_owned(),
                "is given twice: here and in FACEBOOK_APP_SECRET_FILE".to_owned()
            )]
        );
        std::fs::write(path, "\n").unwrap();
        let empty = problems(
            &[
                ("FACEBOOK_APP_SECRET", ""),
                ("FACEBOOK_APP_SECRET_FILE", path),
            ],
            Role::Up,
        );
        assert!(empty[0].1.starts_with("is empty"), "{empty:?}");
    }

    #[test]
    fn a_single_role_cannot_use_the_embedded_backend() {
        let found = problems(&[("PAGESYNC_BACKEND", "embedded")], Role::Worker);
        assert_eq!(found[0].0, "PAGESYNC_BACKEND");
    }

    #[test]
    fn up_and_the_commands_beside_it_cannot_mean_different_backends() {
        let url = ("PAGESYNC_REDIS_URL", "redis://127.0.0.1/0");
        assert_eq!(problems(&[url], Role::Up)[0].0, "PAGESYNC_BACKEND");
        let command = Config::read(&environment(&[url]), Role::Command).unwrap();
        assert_eq!(command.backend, Backend::Distributed);
        let said = [url, ("PAGESYNC_BACKEND", "embedded")];
        for role in [Role::Up, Role::Command] {
            let config = Config::read(&environment(&said), role).unwrap();
            assert_eq!(config.backend, Backend::Embedded);
        }
    }
}
