//! The configuration: one struct, read once from a snapshot of the environment.
//!
//! Invariants: one report names every problem with its setting and the accepted form; the value of
//! a secret appears neither in a report nor in `config show`. The table in [`settings`] is the only
//! list of settings, and `.env.example` is generated from it.

pub mod alert;
pub mod backend;
pub mod destination;
mod forms;
pub mod forward;
pub mod problem;
mod reader;
mod role;
pub mod settings;
pub mod shown;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use model::field::TrackedFields;
use model::webhook_field::webhook_fields;
use secrecy::SecretString;

use crate::daily_schedule::DailySchedule;
use crate::sealing::{self, PrivateKeys, PublicKey};
use crate::store::redis::durability::Durability;
use alert::AlertConfig;
use backend::Backend;
use destination::DestinationConfig;
use forms::{parse_bool, parse_duration, parse_web_address};
use forward::ForwardConfig;
use problem::Problems;
use reader::SettingsReader;
pub use role::Role;
use settings::Environment;

/// The path to which Facebook's dialog sends people back, below the public address.
pub const CALLBACK_PATH: &str = "/facebook/callback";
/// The path to which Facebook posts webhooks, below the public address.
pub const WEBHOOK_PATH: &str = "/facebook/webhook";
/// The largest number of polls of a queue that a worker makes at a time.
const MAX_POLL_CONCURRENCY: u16 = 256;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object on each line.
    Json,
    /// Text for a person at a terminal.
    Text,
}

/// The people who may log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginPolicy {
    /// Everyone who may use the app.
    Open,
    /// People who have a signed invitation.
    Invited,
}

/// The configuration of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// The backend of the queue and the store.
    pub backend: Backend,
    /// The directory of the embedded database.
    pub data_dir: PathBuf,
    /// The address of RabbitMQ, with its password.
    pub rabbitmq_url: SecretString,
    /// The address of Redis, with its password.
    pub redis_url: SecretString,
    /// When a commit to Redis counts as durable.
    pub redis_durability: Durability,
    /// The address of the public listener.
    pub listen: SocketAddr,
    /// The address of the private listener, which serves health and metrics.
    pub private_listen: SocketAddr,
    /// The address of the token listener; `None` if no program gets tokens.
    pub token_listen: Option<SocketAddr>,
    /// The app secret and, during its rotation, the previous one.
    pub app_secrets: Vec<SecretString>,
    /// The token of the webhook handshake.
    pub verify_token: SecretString,
    /// Whether a webhook with only the legacy signature is accepted.
    pub allow_sha1: bool,
    /// The fields that are stored.
    pub tracked_fields: TrackedFields,
    /// The delay between a notification and its verification read.
    pub verify_after: Duration,
    /// How many polls of each queue a worker makes at a time.
    pub poll_concurrency: u16,
    /// The address on which the simulator listens.
    pub simulator_listen: SocketAddr,
    /// The address to which Facebook posts webhooks.
    pub webhook_address: Option<String>,
    /// The id of the app; empty if it is not set and the role does not need it.
    pub app_id: String,
    /// The address to which Facebook's dialog sends people back; empty if it is not set and the
    /// role does not need it.
    pub redirect_uri: String,
    /// The people who may log in.
    pub login_policy: LoginPolicy,
    /// The secret that signs invitations.
    pub invitation_secret: Option<SecretString>,
    /// The networks of the reverse proxies whose `X-Forwarded-For` is used.
    pub trusted_proxies: Vec<IpNet>,
    /// The permissions that people are asked for.
    pub scopes: Vec<String>,
    /// The name of this deployment, which people see after a login; `None` if it is not set.
    pub deployment_name: Option<String>,
    /// How people reach the operator, which they see after a login; `None` if it is not set.
    pub contact: Option<String>,
    /// The id of the configuration of Facebook Login for Business, which replaces the scopes in the
    /// dialog; `None` if people log in with scopes.
    pub login_config_id: Option<String>,
    /// The key that seals tokens, for a process that must not open them.
    pub token_public_key: Option<PublicKey>,
    /// The keys that open tokens. The embedded backend stores them in a key file instead.
    pub token_private_keys: Option<PrivateKeys>,
    /// The address of the Graph API.
    pub graph_url: String,
    /// The address of Facebook's login dialog.
    pub dialog_url: String,
    /// The requested version of the Graph API.
    pub graph_version: String,
    /// Whether another callback of the app subscription is replaced with the address of this
    /// deployment.
    pub replace_callback: bool,
    /// Whether another program receives the webhooks of the app and passes them on, so that the app
    /// subscription is not changed.
    pub webhooks_passed_on: bool,
    /// The local days and daily slots.
    pub daily_schedule: DailySchedule,
    /// The destinations to which changes are posted.
    pub destinations: Vec<DestinationConfig>,
    /// The program to which deliveries are forwarded; `None` if they are not.
    pub forward: Option<ForwardConfig>,
    /// How the operator is told of problems.
    pub alert: AlertConfig,
    /// The filter of log lines.
    pub log_filter: String,
    /// The form of log lines.
    pub log_format: LogFormat,
}

impl Config {
    /// Returns the public address of this deployment, such as `https://bot.example/app`: the
    /// address of the callback without `/facebook/callback`. It is empty if neither
    /// `FACEBOOK_REDIRECT_URI` nor `PAGESYNC_PUBLIC_URL` is set.
    pub fn public_url(&self) -> &str {
        let address = self.redirect_uri.strip_suffix(CALLBACK_PATH);
        address.unwrap_or_default()
    }

    /// Returns the path of the public address, such as `/app`. It is empty if the address has no
    /// path. It has only letters, digits, `/`, `-`, `.`, `_` and `~`, and does not end with `/`.
    pub fn public_path(&self) -> &str {
        path_of(self.public_url())
    }

    /// Returns the path before `/facebook/webhook` in the address to which Facebook posts webhooks, in
    /// the same form.
    pub fn webhook_path(&self) -> &str {
        let address = self.webhook_address.as_deref().unwrap_or_default();
        path_of(address.strip_suffix(WEBHOOK_PATH).unwrap_or_default())
    }

    /// Returns the webhook fields that the app and each Page are subscribed to: those that announce a
    /// tracked field, and those of `PAGESYNC_FORWARD_FIELDS`.
    pub fn webhook_fields(&self) -> Vec<String> {
        let forwarded = self.forward.iter().flat_map(|forward| &forward.fields);
        let tracked = webhook_fields(&self.tracked_fields);
        let tracked = tracked.into_iter().map(ToOwned::to_owned);
        let all: BTreeSet<String> = tracked.chain(forwarded.cloned()).collect();
        all.into_iter().collect()
    }

    /// Reads the configuration of `role` from a snapshot of the environment and the files that it
    /// names. Fails with every problem that it finds.
    pub fn read(environment: &Environment, role: Role) -> Result<Self, Problems> {
        let mut reader = SettingsReader::new(environment);
        reader.refuse_unknown();
        let backend = read_backend(&mut reader, role);
        let needs_app = role.is_public() || role.calls_graph() || role == Role::Simulator;
        let app_secret = reader.secret("FACEBOOK_APP_SECRET", 16, needs_app);
        let previous = reader.secret("PAGESYNC_APP_SECRET_PREVIOUS", 16, false);
        let public_url = reader.optional("PAGESYNC_PUBLIC_URL", parse_public_url);
        let webhook_address = read_own_address(
            &mut reader,
            "FACEBOOK_WEBHOOK_ADDRESS",
            (public_url.as_deref(), WEBHOOK_PATH),
            role.calls_graph(),
        );
        let redirect_uri = read_own_address(
            &mut reader,
            "FACEBOOK_REDIRECT_URI",
            (public_url.as_deref(), CALLBACK_PATH),
            role.is_public(),
        );
        let needs_token = role.is_public() || role.calls_graph();
        let login = reader.value("PAGESYNC_LOGIN", parse_login_policy);
        let invites = login == LoginPolicy::Invited && role.is_public();
        let (token_public, token_keys) = read_token_keys(&mut reader, role, backend);
        let config = Self {
            backend,
            data_dir: reader.value("PAGESYNC_DATA_DIR", |text| Some(text.into())),
            rabbitmq_url: reader.secret_url("PAGESYNC_RABBITMQ_URL", "amqp://", backend),
            redis_url: reader.secret_url("PAGESYNC_REDIS_URL", "redis://", backend),
            redis_durability: reader.value("PAGESYNC_REDIS_DURABILITY", Durability::parse),
            listen: reader.value("PAGESYNC_LISTEN", |text| text.parse().ok()),
            private_listen: reader.value("PAGESYNC_PRIVATE_LISTEN", |text| text.parse().ok()),
            token_listen: reader.optional("PAGESYNC_TOKEN_LISTEN", |text| text.parse().ok()),
            app_secrets: app_secret.into_iter().chain(previous).collect(),
            verify_token: reader
                .secret("FACEBOOK_VERIFY_TOKEN", 8, needs_token)
                .unwrap_or_default(),
            allow_sha1: reader.value("PAGESYNC_ALLOW_SHA1", parse_bool),
            tracked_fields: reader.value("PAGESYNC_FIELDS", TrackedFields::parse),
            verify_after: reader.value("PAGESYNC_VERIFY_AFTER", parse_verify_after),
            poll_concurrency: reader.value("PAGESYNC_POLL_CONCURRENCY", parse_poll_concurrency),
            simulator_listen: reader.value("PAGESYNC_SIMULATOR_LISTEN", |text| text.parse().ok()),
            webhook_address,
            app_id: reader
                .required_by_role("FACEBOOK_APP_ID", needs_app, parse_app_id)
                .unwrap_or_default(),
            redirect_uri: redirect_uri.unwrap_or_default(),
            login_policy: login,
            invitation_secret: reader.secret("STATE_TOKEN_SECRET", 16, invites),
            trusted_proxies: reader
                .optional("PAGESYNC_TRUSTED_PROXIES", parse_networks)
                .unwrap_or_default(),
            scopes: reader.value("PAGESYNC_SCOPES", parse_scopes),
            deployment_name: reader.optional("PAGESYNC_NAME", parse_line),
            contact: reader.optional("PAGESYNC_CONTACT", parse_line),
            login_config_id: reader.optional("PAGESYNC_LOGIN_CONFIG_ID", parse_app_id),
            token_public_key: token_public,
            token_private_keys: token_keys,
            graph_url: reader.value("PAGESYNC_GRAPH_URL", parse_web_address),
            dialog_url: reader.value("PAGESYNC_DIALOG_URL", parse_web_address),
            graph_version: reader.value("PAGESYNC_GRAPH_VERSION", parse_graph_version),
            webhooks_passed_on: reader.value("PAGESYNC_WEBHOOKS_PASSED_ON", parse_bool),
            replace_callback: reader.value("PAGESYNC_REPLACE_CALLBACK", parse_bool),
            daily_schedule: read_schedule(&mut reader),
            destinations: destination::read(&mut reader),
            forward: forward::read(&mut reader),
            alert: alert::read(&mut reader),
            log_filter: reader.value("PAGESYNC_LOG", parse_log_filter),
            log_format: reader.value("PAGESYNC_LOG_FORMAT", parse_log_format),
        };
        reader.finish(config)
    }
}

/// Returns the local days and daily slots.
fn read_schedule(reader: &mut SettingsReader<'_>) -> DailySchedule {
    let zone = reader.value("PAGESYNC_TIME_ZONE", |name| TimeZone::get(name).ok());
    let spread = reader.value("PAGESYNC_POLL_SPREAD", |text| {
        parse_duration(text).filter(|spread| *spread <= Duration::from_secs(23 * 3600))
    });
    DailySchedule::new(zone, spread)
}

/// Returns the backend of `role`. Reports a backend that the role cannot use.
fn read_backend(reader: &mut SettingsReader<'_>, role: Role) -> Backend {
    let given = reader.optional("PAGESYNC_BACKEND", |text| text.parse().ok());
    let backend = given.unwrap_or(match role {
        Role::Ingress | Role::Worker | Role::Scheduler | Role::Api => Backend::Distributed,
        // If the environment names servers, a command must work on the data of the services.
        Role::Command if reader.names_servers() => Backend::Distributed,
        Role::Up | Role::Simulator | Role::Command => Backend::Embedded,
    });
    if backend == Backend::Embedded && role.is_service() {
        let problem = "is embedded, but only one process can use the embedded backend";
        reader.problem("PAGESYNC_BACKEND", problem.to_owned());
    }
    if given.is_none() && role == Role::Up && reader.names_servers() {
        let problem = "is not set, but the address of RabbitMQ or Redis is: commands would use \
                       these servers";
        reader.problem("PAGESYNC_BACKEND", problem.to_owned());
    }
    backend
}

fn parse_log_format(text: &str) -> Option<LogFormat> {
    match text {
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    }
}

fn parse_log_filter(text: &str) -> Option<String> {
    let parsed: Result<tracing_subscriber::EnvFilter, _> = text.parse();
    // A filter without a level is valid, but it is the name of a target and hides all other lines.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let names_level = levels.iter().any(|level| text.contains(level));
    (parsed.is_ok() && names_level).then(|| text.to_owned())
}

/// Reads the keys of a role. A private key is a problem for a role that must not open tokens.
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
        if matches!(role, Role::Ingress | Role::Scheduler | Role::Api) {
            let problem = "is given, but this role must not be able to open tokens";
            reader.problem(PRIVATE, problem.to_owned());
            return parsed;
        }
        match PrivateKeys::parse(text.expose_secret()) {
            Ok(keys) => parsed.1 = Some(keys),
            Err(error) => reader.problem(PRIVATE, format!("cannot be used: {error}")),
        }
    }
    parsed
}

fn parse_login_policy(text: &str) -> Option<LoginPolicy> {
    match text {
        "open" => Some(LoginPolicy::Open),
        "invited" => Some(LoginPolicy::Invited),
        _ => None,
    }
}

fn parse_app_id(text: &str) -> Option<String> {
    let is_valid = (5..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_valid.then(|| text.to_owned())
}

/// Parses networks. An address is the network of this address alone.
fn parse_networks(text: &str) -> Option<Vec<IpNet>> {
    let parse = |text: &str| {
        let network = text.parse::<IpNet>().ok();
        network.or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))
    };
    text.split(',').map(|text| parse(text.trim())).collect()
}

/// Returns a text of one line, without the spaces around it.
fn parse_line(text: &str) -> Option<String> {
    let line = text.trim();
    let is_line = (1..=200).contains(&line.chars().count()) && !line.chars().any(char::is_control);
    is_line.then(|| line.to_owned())
}

fn parse_scopes(text: &str) -> Option<Vec<String>> {
    let scopes = text.split(',').map(|scope| scope.trim().to_owned());
    let is_valid = |scope: &String| {
        !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let scopes: Vec<String> = scopes.collect();
    scopes.iter().all(is_valid).then_some(scopes)
}

fn parse_graph_version(text: &str) -> Option<String> {
    let (major, minor) = text.strip_prefix('v')?.split_once('.')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (is_number(major) && is_number(minor)).then(|| text.to_owned())
}

/// Returns the path of a public address.
fn path_of(address: &str) -> &str {
    let after_scheme = address.split_once("://");
    let path = after_scheme.and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    path.unwrap_or_default()
}

/// Reads the address of an endpoint of this deployment. If it is not set, it is `path` below
/// `public_url`. It is a problem if it is `required` and neither of the two is set.
fn read_own_address(
    reader: &mut SettingsReader<'_>,
    key: &str,
    (public_url, path): (Option<&str>, &str),
    required: bool,
) -> Option<String> {
    let is_below_public_url = |text: &str| text.strip_suffix(path).is_some_and(is_public_url);
    let parse = |text: &str| is_below_public_url(text).then(|| text.to_owned());
    match public_url {
        Some(public_url) => {
            let given = reader.optional(key, parse);
            given.or_else(|| Some(format!("{public_url}{path}")))
        }
        None => reader.required_by_role(key, required, parse),
    }
}

/// Parses the public address of a deployment, as `PAGESYNC_PUBLIC_URL` has it. Returns it without a
/// slash at the end.
pub fn parse_public_url(text: &str) -> Option<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_endpoint = text.ends_with(CALLBACK_PATH) || text.ends_with(WEBHOOK_PATH);
    (is_public_url(text) && !is_endpoint).then(|| text.to_owned())
}

/// Returns whether `text` is a public address without a slash at the end. Its path may have only
/// characters that a cookie and HTML need not escape.
fn is_public_url(text: &str) -> bool {
    let Some(rest) = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
    else {
        return false;
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
    let is_normal = !path.ends_with('/') && !path.contains("//") && !path.contains("/.");
    let is_plain_host = !rest.contains('\\');
    is_normal && is_plain_host && path.chars().all(is_plain) && parse_web_address(text).is_some()
}

/// Parses the delay of verification reads, at most a day.
fn parse_verify_after(text: &str) -> Option<Duration> {
    let longest = Duration::from_secs(24 * 3600);
    parse_duration(text).filter(|delay| *delay <= longest)
}

/// Parses the number of polls that a worker makes at a time.
fn parse_poll_concurrency(text: &str) -> Option<u16> {
    let number = text.parse().ok()?;
    (1..=MAX_POLL_CONCURRENCY)
        .contains(&number)
        .then_some(number)
}

#[cfg(test)]
mod tests;
