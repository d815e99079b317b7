//! Configuration: one struct, read once from a snapshot of the environment.
//!
//! Invariants: every problem is in one report, each with its key, the accepted form and an example;
//! no value is ever repeated, in an error or in `config show`, if it is a secret. The table in
//! [`settings`] is the only list of settings: `.env.example` is made from it.

pub mod backend;
pub mod problem;
mod reader;
pub mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use model::field::TrackedFields;
use secrecy::SecretString;

use crate::daily_schedule::DailySchedule;
use crate::sealing::{self, PrivateKeys, PublicKey};
use crate::store::redis::durability::Durability;
use backend::Backend;
use problem::Problems;
use reader::SettingsReader;
use settings::Environment;

/// Who reads the configuration: it decides what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Up,
    /// The public face.
    Ingress,
    /// Applies jobs.
    Worker,
    /// Publishes what is due.
    Scheduler,
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
            Self::Scheduler => "scheduler",
            Self::Simulator => "simulator",
            Self::Command => "command",
        }
    }

    /// Whether it takes webhooks and logins.
    fn is_public(self) -> bool {
        matches!(self, Self::Up | Self::Ingress)
    }

    /// Whether it asks Graph as the app and for people.
    fn calls_graph(self) -> bool {
        matches!(self, Self::Up | Self::Worker)
    }

    /// Whether it is one of several services on servers.
    fn is_service(self) -> bool {
        matches!(self, Self::Ingress | Self::Worker | Self::Scheduler)
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

/// Who may log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginPolicy {
    /// Whoever may use the app.
    Open,
    /// Who has a signed link.
    Invited,
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
    pub tracked_fields: TrackedFields,
    /// How long after a notice a Page is verified.
    pub verify_after: Duration,
    /// Where the simulator listens.
    pub simulator_listen: SocketAddr,
    /// Where Facebook posts to: our public address as Facebook reaches it.
    pub webhook_address: Option<String>,
    /// The app's id at Facebook; empty where it is not needed.
    pub app_id: String,
    /// Where the dialog sends people back to; empty where it is not needed.
    pub redirect_uri: String,
    /// Who may log in.
    pub login: LoginPolicy,
    /// Signs invitations.
    pub state_secret: Option<SecretString>,
    /// What people are asked to allow.
    pub scopes: Vec<String>,
    /// Seals tokens, where only that is allowed.
    pub token_public_key: Option<PublicKey>,
    /// Opens tokens. The embedded backend has a file beside its database instead.
    pub token_private_keys: Option<PrivateKeys>,
    /// The Graph API.
    pub graph_url: String,
    /// Where people log in.
    pub dialog_url: String,
    /// Which version of Graph is asked for.
    pub graph_version: String,
    /// Whether another callback than ours is replaced.
    pub replace_callback: bool,
    /// Local days and their slots.
    pub daily_schedule: DailySchedule,
    /// Which log lines.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
}

impl Config {
    /// Where people see this deployment, without a path; empty if `FACEBOOK_REDIRECT_URI` is not set.
    pub fn origin(&self) -> &str {
        let origin = self.redirect_uri.strip_suffix("/facebook/callback");
        origin.unwrap_or_default()
    }

    /// Reads what `role` needs from a snapshot of the environment and the files it names.
    pub fn read(environment: &Environment, role: Role) -> Result<Self, Problems> {
        let mut reader = SettingsReader::new(environment);
        reader.refuse_unknown();
        let given = reader.optional("PAGESYNC_BACKEND", |text| text.parse().ok());
        let backend = given.unwrap_or(match role {
            Role::Ingress | Role::Worker | Role::Scheduler => Backend::Distributed,
            // A command beside services that are told where their servers are means these.
            Role::Command if reader.names_servers() => Backend::Distributed,
            Role::Up | Role::Simulator | Role::Command => Backend::Embedded,
        });
        if backend == Backend::Embedded && role.is_service() {
            let what = "is embedded, and the embedded backend is one process";
            reader.problem("PAGESYNC_BACKEND", what.to_owned());
        }
        if given.is_none() && role == Role::Up && reader.names_servers() {
            let what = "is not set while a broker or a Redis is named: commands would use these";
            reader.problem("PAGESYNC_BACKEND", what.to_owned());
        }
        let needs_app = role.is_public() || role.calls_graph() || role == Role::Simulator;
        let app_secret = reader.secret("FACEBOOK_APP_SECRET", 16, needs_app);
        let previous = reader.secret("PAGESYNC_APP_SECRET_PREVIOUS", 16, false);
        let webhook_address =
            reader.required_by_role("FACEBOOK_WEBHOOK_ADDRESS", role.calls_graph(), web_address);
        let needs_token = role.is_public() || role.calls_graph();
        let login = reader.value("PAGESYNC_LOGIN", login);
        let invites = login == LoginPolicy::Invited && role.is_public();
        let (token_public, token_keys) = read_token_keys(&mut reader, role, backend);
        let zone = reader.value("PAGESYNC_TIME_ZONE", |name| TimeZone::get(name).ok());
        let spread = reader.value("PAGESYNC_POLL_SPREAD", |text| {
            parse_duration(text).filter(|spread| *spread <= Duration::from_secs(23 * 3600))
        });
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
                .secret("FACEBOOK_VERIFY_TOKEN", 8, needs_token)
                .unwrap_or_default(),
            allow_sha1: reader.value("PAGESYNC_ALLOW_SHA1", |text| text.parse().ok()),
            tracked_fields: reader.value("PAGESYNC_FIELDS", TrackedFields::parse),
            verify_after: reader.value("PAGESYNC_VERIFY_AFTER", parse_duration),
            simulator_listen: reader.value("PAGESYNC_SIMULATOR_LISTEN", |text| text.parse().ok()),
            webhook_address,
            app_id: reader
                .required_by_role("FACEBOOK_APP_ID", needs_app, app_id)
                .unwrap_or_default(),
            redirect_uri: reader
                .required_by_role("FACEBOOK_REDIRECT_URI", role.is_public(), redirect_uri)
                .unwrap_or_default(),
            login,
            state_secret: reader.secret("STATE_TOKEN_SECRET", 16, invites),
            scopes: reader.value("PAGESYNC_SCOPES", scopes),
            token_public_key: token_public,
            token_private_keys: token_keys,
            graph_url: reader.value("PAGESYNC_GRAPH_URL", web_address),
            dialog_url: reader.value("PAGESYNC_DIALOG_URL", web_address),
            graph_version: reader.value("PAGESYNC_GRAPH_VERSION", graph_version),
            replace_callback: reader.value("PAGESYNC_REPLACE_CALLBACK", |text| text.parse().ok()),
            daily_schedule: DailySchedule::new(zone, spread),
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

/// The keys a role may have. Who must not open tokens refuses what opens them.
fn read_token_keys(
    reader: &mut SettingsReader<'_>,
    role: Role,
    backend: Backend,
) -> (Option<PublicKey>, Option<PrivateKeys>) {
    const PUBLIC: &str = "PAGESYNC_TOKEN_PUBLIC_KEY";
    const PRIVATE: &str = "PAGESYNC_TOKEN_PRIVATE_KEYS";
    use secrecy::ExposeSecret as _;
    let required = backend == Backend::Distributed;
    let public = reader.secret(PUBLIC, 1, required && role == Role::Ingress);
    let private = reader.secret(PRIVATE, 1, required && role == Role::Worker);
    let mut parsed = (None, None);
    if let Some(text) = public {
        if sealing::contains_private_key(text.expose_secret()) {
            reader.problem(PUBLIC, "is a private key".to_owned());
        } else {
            match PublicKey::parse(text.expose_secret()) {
                Ok(key) => parsed.0 = Some(key),
                Err(error) => reader.problem(PUBLIC, format!("cannot be used: {error}")),
            }
        }
    }
    if let Some(text) = private {
        if matches!(role, Role::Ingress | Role::Scheduler) {
            let what = "is given, and this role must not be able to open tokens";
            reader.problem(PRIVATE, what.to_owned());
            return parsed;
        }
        match PrivateKeys::parse(text.expose_secret()) {
            Ok(keys) => parsed.1 = Some(keys),
            Err(error) => reader.problem(PRIVATE, format!("cannot be used: {error}")),
        }
    }
    parsed
}

fn login(text: &str) -> Option<LoginPolicy> {
    match text {
        "open" => Some(LoginPolicy::Open),
        "invited" => Some(LoginPolicy::Invited),
        _ => None,
    }
}

fn app_id(text: &str) -> Option<String> {
    let digits = (15..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.to_owned())
}

fn scopes(text: &str) -> Option<Vec<String>> {
    let scopes = text.split(',').map(|scope| scope.trim().to_owned());
    let named = |scope: &String| {
        !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let scopes: Vec<String> = scopes.collect();
    scopes.iter().all(named).then_some(scopes)
}

fn graph_version(text: &str) -> Option<String> {
    let (major, minor) = text.strip_prefix('v')?.split_once('.')?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (number(major) && number(minor)).then(|| text.to_owned())
}

fn redirect_uri(text: &str) -> Option<String> {
    web_address(text).filter(|text| text.ends_with("/facebook/callback"))
}

/// Tokens and people pass through these addresses: without TLS only on this host or in a private
/// network of containers, whose names have no dot.
fn web_address(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let host = url.host_str()?;
    let is_private = !host.contains('.') || host.starts_with("127.");
    let is_fit = match url.scheme() {
        "https" => true,
        "http" => is_private,
        _ => false,
    };
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (is_fit && is_bare).then(|| text.to_owned())
}

/// `10s`, `5m`, `1h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let units = [("s", 1_u64), ("m", 60), ("h", 3600)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(Duration::from_secs(
        number.parse::<u64>().ok()?.checked_mul(*factor)?,
    ))
}

#[cfg(test)]
mod tests;
