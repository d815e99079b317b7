//! Every setting there is, with what `.env.example`, `config show` and error reports say of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::field::DEFAULT_TRACKED;
use serde::Serialize;

/// Environment variables, name to value.
pub type Environment = BTreeMap<String, String>;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment variable.
    pub key: &'static str,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// What it is if it is not given.
    pub default: Option<&'static str>,
    /// What it may be.
    pub accepted: &'static str,
    /// A value of the right form.
    pub example: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn plain(
    key: &'static str,
    default: &'static str,
    accepted: &'static str,
    about: &'static str,
) -> Setting {
    Setting {
        key,
        secret: false,
        default: Some(default),
        accepted,
        example: default,
        about,
    }
}

const fn needed(
    key: &'static str,
    accepted: &'static str,
    example: &'static str,
    about: &'static str,
) -> Setting {
    Setting {
        key,
        secret: false,
        default: None,
        accepted,
        example,
        about,
    }
}

const fn secret(
    key: &'static str,
    default: Option<&'static str>,
    accepted: &'static str,
    example: &'static str,
    about: &'static str,
) -> Setting {
    Setting {
        key,
        secret: true,
        default,
        accepted,
        example,
        about,
    }
}

/// All of them, in the order of `.env.example`.
pub const SETTINGS: [Setting; 30] = [
    needed(
        "FACEBOOK_APP_ID",
        "15 to 20 digits",
        "100200300400500",
        "The app, from its dashboard. One deployment serves one app. Needed by up, ingress, worker and simulator.",
    ),
    secret(
        "FACEBOOK_APP_SECRET",
        None,
        "the app secret from the app's dashboard, 16 characters or more",
        "replace_with_the_app_secret",
        "Signs webhooks and proves calls to Graph. Needed by up, ingress, worker and simulator.",
    ),
    secret(
        "PAGESYNC_APP_SECRET_PREVIOUS",
        None,
        "an app secret, 16 characters or more",
        "replace_with_the_previous_app_secret",
        "Accepted beside the current one while the app secret is being rotated.",
    ),
    secret(
        "FACEBOOK_VERIFY_TOKEN",
        None,
        "8 characters or more, the same as in the app's dashboard",
        "replace_with_a_long_random_text",
        "Proves to Facebook that the callback is ours. Needed by up, ingress and worker.",
    ),
    needed(
        "FACEBOOK_WEBHOOK_ADDRESS",
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "https://your-app.example/facebook/webhook",
        "Where Facebook posts webhooks: this deployment as Facebook reaches it. Needed by up and worker.",
    ),
    needed(
        "FACEBOOK_REDIRECT_URI",
        "an https:// address (http:// only for a loopback address or a host without a dot) that ends with /facebook/callback",
        "https://your-app.example/facebook/callback",
        "Where the dialog sends people back to, exactly as in the app's dashboard. Needed by up and ingress.",
    ),
    plain(
        "PAGESYNC_LOGIN",
        "open",
        "open or invited",
        "open: whoever may use the app may connect Pages. invited: only through a link that `pagesync connection invite` signs.",
    ),
    secret(
        "STATE_TOKEN_SECRET",
        None,
        "16 characters or more",
        "replace_with_secure_token",
        "Signs invitations. Needed with PAGESYNC_LOGIN=invited.",
    ),
    plain(
        "PAGESYNC_SCOPES",
        "pages_show_list,pages_read_engagement,pages_manage_metadata,business_management",
        "permission names, separated by commas",
        "What people are asked to allow.",
    ),
    secret(
        "PAGESYNC_TOKEN_PUBLIC_KEY",
        None,
        "a key that begins with pagesync-public-, made by pagesync keys generate",
        "pagesync-public-...",
        "Seals tokens. Needed by ingress. up makes a key file of its own.",
    ),
    secret(
        "PAGESYNC_TOKEN_PRIVATE_KEYS",
        None,
        "keys that begin with pagesync-private-, separated by commas, the current one first",
        "pagesync-private-...",
        "Open tokens. Needed by worker, refused by ingress and scheduler.",
    ),
    plain(
        "PAGESYNC_GRAPH_URL",
        "https://graph.facebook.com",
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "The Graph API.",
    ),
    plain(
        "PAGESYNC_DIALOG_URL",
        "https://www.facebook.com",
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "Where people log in, as their browsers reach it.",
    ),
    plain(
        "PAGESYNC_GRAPH_VERSION",
        "v25.0",
        "a version of the Graph API, such as v25.0",
        "Which version is asked for.",
    ),
    plain(
        "PAGESYNC_REPLACE_CALLBACK",
        "false",
        "true or false",
        "Facebook posts the webhooks of an app to one address. true: replace another address than ours. false: say so and leave it.",
    ),
    Setting {
        key: "PAGESYNC_BACKEND",
        secret: false,
        default: None,
        accepted: "embedded or distributed",
        example: "embedded",
        about: "embedded: one process, one file. distributed: RabbitMQ and Redis. Unset: distributed for ingress, worker and scheduler, and for commands where a broker or Redis is named; else embedded.",
    },
    plain(
        "PAGESYNC_DATA_DIR",
        "pagesync-data",
        "a directory",
        "Where the embedded database is, relative to where pagesync is started; better absolute.",
    ),
    secret(
        "PAGESYNC_RABBITMQ_URL",
        Some("amqp://guest:guest@127.0.0.1:5672/%2f"),
        "amqp://user:password@host:5672/vhost (no TLS: keep the broker on a private network)",
        "amqp://pagesync:password@rabbitmq:5672/%2f",
        "The broker of the distributed backend.",
    ),
    secret(
        "PAGESYNC_REDIS_URL",
        Some("redis://127.0.0.1:6379/0"),
        "redis://user:password@host:6379/0 (no TLS: keep Redis on a private network)",
        "redis://:password@redis:6379/0",
        "The store of the distributed backend.",
    ),
    plain(
        "PAGESYNC_REDIS_DURABILITY",
        "relaxed",
        "relaxed or fsync",
        "relaxed: Redis' log reaches the disk within a second, polls heal what a crash takes. fsync: every commit waits for the disk.",
    ),
    plain(
        "PAGESYNC_LISTEN",
        "0.0.0.0:5000",
        "address:port",
        "The public listener: Facebook's webhooks and logins.",
    ),
    plain(
        "PAGESYNC_OPERATOR_LISTEN",
        "127.0.0.1:5001",
        "address:port",
        "The private listener: health and metrics.",
    ),
    plain(
        "PAGESYNC_SIMULATOR_LISTEN",
        "127.0.0.1:5100",
        "address:port",
        "Where the simulator listens.",
    ),
    plain(
        "PAGESYNC_ALLOW_SHA1",
        "false",
        "true or false",
        "Accept the legacy signature when a webhook has no X-Hub-Signature-256.",
    ),
    plain(
        "PAGESYNC_FIELDS",
        DEFAULT_TRACKED,
        "Graph field names, separated by commas",
        "The fields that are kept.",
    ),
    plain(
        "PAGESYNC_VERIFY_AFTER",
        "10s",
        "a number with s, m or h",
        "How long after a webhook its Page is read, to have the last word; a Page is read at most once a minute.",
    ),
    plain(
        "PAGESYNC_TIME_ZONE",
        "UTC",
        "the name of a time zone, such as Europe/Berlin",
        "The daily poll begins at midnight there.",
    ),
    plain(
        "PAGESYNC_POLL_SPREAD",
        "1h",
        "a number with s, m or h, at most 23h",
        "How long after midnight the last daily poll begins.",
    ),
    plain(
        "PAGESYNC_LOG",
        "info",
        "a tracing filter",
        "Which log lines: error, warn, info, debug, or a filter like worker=debug.",
    ),
    plain(
        "PAGESYNC_LOG_FORMAT",
        "json",
        "json or text",
        "How log lines look.",
    ),
];

/// The setting with this key, which must be in the table.
pub(super) fn find(key: &str) -> Setting {
    let found = SETTINGS.iter().find(|setting| setting.key == key);
    *found.unwrap_or_else(|| unreachable!("{key} is read and not in the table"))
}

/// The text of `.env.example`.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every setting of pagesync. Copy to .env and fill in. .env is read from the directory pagesync is\n\
         # started in; the real environment wins over it.\n\
         # A value with spaces, quotes or $ stands in '...': a bare $NAME is replaced.\n\
         # Any setting may also be read from a file: KEY_FILE=/path instead of KEY=.\n\
         # Made by `pagesync config example`; a test keeps it so.\n",
    );
    for Setting {
        key,
        secret,
        default,
        accepted,
        example,
        about,
    } in SETTINGS
    {
        let default = default.unwrap_or_default();
        let shown = if secret || default.is_empty() {
            example
        } else {
            default
        };
        let _ = write!(
            text,
            "\n# {about}\n# Accepted: {accepted}.\n#{key}={shown}\n"
        );
    }
    text
}

/// A setting as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    /// The environment variable.
    pub setting: &'static str,
    /// Its value, or a note in parentheses where the value is secret or in a file.
    pub value: String,
    /// Where the value comes from: `environment`, `file`, `default` or `unset`.
    pub origin: &'static str,
}

/// Returns every setting as it may be shown.
pub fn shown(environment: &Environment) -> Vec<ShownSetting> {
    SETTINGS
        .iter()
        .map(|setting| {
            let (value, origin) = shown_value(setting, environment);
            ShownSetting {
                setting: setting.key,
                value,
                origin,
            }
        })
        .collect()
}

fn shown_value(setting: &Setting, environment: &Environment) -> (String, &'static str) {
    let given = |key: &str| environment.get(key).filter(|text| !text.is_empty());
    let secret = || "(secret)".to_owned();
    match (given(setting.key), given(&format!("{}_FILE", setting.key))) {
        (Some(_), _) if setting.secret => (secret(), "environment"),
        (Some(text), _) => (text.clone(), "environment"),
        (None, Some(path)) if setting.secret => (format!("(secret in {path})"), "file"),
        (None, Some(path)) => (format!("(in {path})"), "file"),
        (None, None) if setting.secret && setting.default.is_some() => (secret(), "default"),
        (None, None) => match setting.default {
            None | Some("") => ("-".to_owned(), "unset"),
            Some(default) => (default.to_owned(), "default"),
        },
    }
}
