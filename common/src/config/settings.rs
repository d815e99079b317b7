//! The table of all settings. `.env.example`, `config show` and error reports come from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::field::DEFAULT_TRACKED;

/// The environment variables: each name with its value.
pub type Environment = BTreeMap<String, String>;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment variable.
    pub key: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
    /// The value if the setting is unset; `None` if there is no default.
    pub default: Option<&'static str>,
    /// The accepted form of values.
    pub accepted: &'static str,
    /// A value in the accepted form.
    pub example: &'static str,
    /// The purpose of the setting.
    pub about: &'static str,
}

const fn with_default(
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

const fn without_default(
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

/// The permissions that people are asked for by default.
pub const DEFAULT_SCOPES: &str =
    "pages_show_list,pages_read_engagement,pages_manage_metadata,business_management";

/// All settings, in the order of `.env.example`.
pub const SETTINGS: [Setting; 52] = [
    without_default(
        "FACEBOOK_APP_ID",
        "5 to 20 digits",
        "100200300400500",
        "The id of the app, from its dashboard. One deployment serves one app. Required by up, ingress, worker and simulator.",
    ),
    secret(
        "FACEBOOK_APP_SECRET",
        None,
        "16 characters or more, from the app's dashboard",
        "replace_with_the_app_secret",
        "The app secret, which signs webhooks and calls of Graph. Required by up, ingress, worker and simulator.",
    ),
    secret(
        "PAGESYNC_APP_SECRET_PREVIOUS",
        None,
        "16 characters or more, from the app's dashboard",
        "replace_with_the_previous_app_secret",
        "The previous app secret. Signatures made with it are accepted while the app secret is rotated.",
    ),
    secret(
        "FACEBOOK_VERIFY_TOKEN",
        None,
        "8 characters or more, the same as in the app's dashboard",
        "replace_with_a_long_random_text",
        "The token that Facebook sends to verify the webhook address. Required by up, ingress and worker.",
    ),
    without_default(
        "PAGESYNC_PUBLIC_URL",
        "an https:// address (http:// only for a loopback address or a host without a dot), with or without a path",
        "https://your-app.example",
        "The address at which Facebook and people's browsers reach this deployment. The next two settings follow from it if they are not set.",
    ),
    without_default(
        "FACEBOOK_WEBHOOK_ADDRESS",
        "an https:// address (http:// only for a loopback address or a host without a dot) that ends with /facebook/webhook",
        "https://your-app.example/facebook/webhook",
        "The address to which Facebook posts webhooks. Facebook must be able to reach it. Required by up and worker without PAGESYNC_PUBLIC_URL.",
    ),
    without_default(
        "FACEBOOK_REDIRECT_URI",
        "an https:// address (http:// only for a loopback address or a host without a dot) that ends with /facebook/callback",
        "https://your-app.example/facebook/callback",
        "The address to which Facebook's dialog sends people back, exactly as in the app's dashboard. Required by up and ingress without PAGESYNC_PUBLIC_URL.",
    ),
    with_default(
        "PAGESYNC_LOGIN",
        "open",
        "open or invited",
        "open: everyone who may use the app can connect Pages. invited: only people with a link from `pagesync connection invite` can.",
    ),
    secret(
        "STATE_TOKEN_SECRET",
        None,
        "16 characters or more",
        "replace_with_secure_token",
        "The secret that signs invitations and, if it is set, the state of a login. Required if PAGESYNC_LOGIN=invited.",
    ),
    without_default(
        "PAGESYNC_TRUSTED_PROXIES",
        "addresses and networks, separated by commas",
        "127.0.0.1,10.0.0.7",
        "The reverse proxies in front of ingress, and nothing else: their X-Forwarded-For names the client. Limits of logins count for each client.",
    ),
    with_default(
        "PAGESYNC_SCOPES",
        DEFAULT_SCOPES,
        "permission names, separated by commas",
        "The permissions that people are asked for. Messages need pages_messaging as well.",
    ),
    without_default(
        "PAGESYNC_NAME",
        "a line of 1 to 200 characters",
        "Example Agency",
        "The name of this deployment, which people see after a login.",
    ),
    without_default(
        "PAGESYNC_CONTACT",
        "a line of 1 to 200 characters",
        "pages@agency.example",
        "How people reach the operator, which they see after a login.",
    ),
    without_default(
        "PAGESYNC_LOGIN_CONFIG_ID",
        "a number of 5 to 20 digits",
        "1234567890123456",
        "The configuration of Facebook Login for Business, for apps of type Business. It replaces the permissions in the dialog; PAGESYNC_SCOPES still names those that pagesync expects.",
    ),
    secret(
        "PAGESYNC_TOKEN_PUBLIC_KEY",
        None,
        "a key that begins with pagesync-public-, made by `pagesync keys generate`",
        "pagesync-public-...",
        "The key that seals tokens. Required by ingress; up creates a key file instead.",
    ),
    secret(
        "PAGESYNC_TOKEN_PRIVATE_KEYS",
        None,
        "keys that begin with pagesync-private-, separated by commas, the current one first",
        "pagesync-private-...",
        "The keys that open tokens. Required by worker; refused by ingress and scheduler.",
    ),
    with_default(
        "PAGESYNC_GRAPH_URL",
        "https://graph.facebook.com",
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "The address of the Graph API.",
    ),
    with_default(
        "PAGESYNC_DIALOG_URL",
        "https://www.facebook.com",
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "The address of Facebook's login dialog. People's browsers must be able to reach it.",
    ),
    with_default(
        "PAGESYNC_GRAPH_VERSION",
        "v25.0",
        "a version of the Graph API, such as v25.0",
        "The version of the Graph API that is requested.",
    ),
    with_default(
        "PAGESYNC_REPLACE_CALLBACK",
        "false",
        "true or false",
        "Facebook posts the webhooks of an app to one address. true: a different address is replaced with FACEBOOK_WEBHOOK_ADDRESS, unless the program there receives fields that pagesync does not handle, such as messages. false: it is reported and not changed.",
    ),
    with_default(
        "PAGESYNC_WEBHOOKS_PASSED_ON",
        "false",
        "true or false",
        "true: another program with the same app, such as a bot, receives the webhooks and posts them on to /facebook/webhook with their bytes and signature headers. The app subscription is then checked and not changed.",
    ),
    Setting {
        key: "PAGESYNC_BACKEND",
        secret: false,
        default: None,
        accepted: "embedded or distributed",
        example: "embedded",
        about: "embedded: one process and one database file. distributed: RabbitMQ and Redis. If it is unset, the backend is distributed for ingress, worker and scheduler, and for commands if the address of RabbitMQ or Redis is set; otherwise it is embedded.",
    },
    with_default(
        "PAGESYNC_DATA_DIR",
        "pagesync-data",
        "a directory",
        "The directory of the embedded database. A relative path is relative to the directory in which pagesync is started.",
    ),
    secret(
        "PAGESYNC_RABBITMQ_URL",
        Some("amqp://guest:guest@127.0.0.1:5672/%2f"),
        "amqp://user:password@host:5672/vhost (without TLS: keep RabbitMQ on a private network)",
        "amqp://pagesync:password@rabbitmq:5672/%2f",
        "The address of RabbitMQ, for the distributed backend.",
    ),
    secret(
        "PAGESYNC_REDIS_URL",
        Some("redis://127.0.0.1:6379/0"),
        "redis://user:password@host:6379/0 (without TLS: keep Redis on a private network)",
        "redis://:password@redis:6379/0",
        "The address of Redis, for the distributed backend.",
    ),
    with_default(
        "PAGESYNC_REDIS_DURABILITY",
        "fsync",
        "relaxed, fsync, or replicated:<number of replicas>",
        "When a job is acknowledged. fsync: after its changes are on the disk of Redis, which should have appendfsync always. replicated:2: after two replicas have them. relaxed: at once; a crash of Redis loses the changes of its last second, and polls restore only the values of connected Pages.",
    ),
    with_default(
        "PAGESYNC_LISTEN",
        "0.0.0.0:5000",
        "address:port",
        "The address of the public listener, for webhooks and logins.",
    ),
    with_default(
        "PAGESYNC_PRIVATE_LISTEN",
        "127.0.0.1:5001",
        "address:port",
        "The address of the private listener, for health and metrics, and for the API in up and api.",
    ),
    without_default(
        "PAGESYNC_TOKEN_LISTEN",
        "address:port",
        "127.0.0.1:5002",
        "The address at which the worker gives the tokens of Pages to programs with a key of the scope token. If it is unset, no program gets tokens. Keep it on a private network.",
    ),
    with_default(
        "PAGESYNC_SIMULATOR_LISTEN",
        "127.0.0.1:5100",
        "address:port",
        "The address on which the simulator listens.",
    ),
    with_default(
        "PAGESYNC_ALLOW_SHA1",
        "false",
        "true or false",
        "Whether the legacy signature is accepted if a webhook has no X-Hub-Signature-256.",
    ),
    with_default(
        "PAGESYNC_FIELDS",
        DEFAULT_TRACKED,
        "Graph field names, separated by commas",
        "The fields of Pages that are stored. A field that is taken out disappears from a Page with its next read.",
    ),
    with_default(
        "PAGESYNC_VERIFY_AFTER",
        "10s",
        "a whole number followed by s, m or h, at most 24h",
        "The delay between a notification and the read that verifies it. Verification reads of one Page begin at least a minute apart.",
    ),
    with_default(
        "PAGESYNC_POLL_CONCURRENCY",
        "8",
        "a whole number from 1 to 256",
        "How many polls of each queue a worker makes at a time: polls of logins, polls on request and daily polls. Use the same number for all workers and schedulers.",
    ),
    with_default(
        "PAGESYNC_TIME_ZONE",
        "UTC",
        "the name of a time zone, such as Europe/Berlin",
        "The time zone in which daily polls begin at midnight.",
    ),
    with_default(
        "PAGESYNC_POLL_SPREAD",
        "1h",
        "a whole number followed by s, m or h, at most 23h",
        "The length of the time after midnight over which the daily polls of connections are spread.",
    ),
    secret(
        "PAGESYNC_CHANGES_URL",
        None,
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "https://bot.example/changes",
        "The address to which api and up post each change of a Page, signed by the Standard Webhooks specification.",
    ),
    secret(
        "PAGESYNC_CHANGES_SECRET",
        None,
        "whsec_ and the Base64 of 24 to 64 random bytes: echo whsec_$(openssl rand -base64 32)",
        "whsec_...",
        "The secret that signs these posts. Required with PAGESYNC_CHANGES_URL.",
    ),
    secret(
        "PAGESYNC_CHANGES_AUTHORIZATION",
        None,
        "the value of a header",
        "Bearer ...",
        "The header Authorization of these posts.",
    ),
    with_default(
        "PAGESYNC_CHANGES_THIN",
        "false",
        "true or false",
        "true: the posts have no values, only the names of the fields that changed.",
    ),
    secret(
        "PAGESYNC_DESTINATIONS",
        None,
        "a JSON list of objects with name, url, secret and, if wanted, authorization and thin; names have letters, digits, - and _",
        r#"[{"name":"crm","url":"https://crm.example/hook","secret":"whsec_..."}]"#,
        "Further addresses to which changes are posted, usually as a file: PAGESYNC_DESTINATIONS_FILE.",
    ),
    secret(
        "PAGESYNC_FORWARD_URL",
        None,
        "an https:// address (http:// only for a loopback address or a host without a dot), or none",
        "http://bot:8000/webhook",
        "The address to which the worker forwards deliveries of Facebook as they arrived, such as messages to a bot. Set it for up, ingress, worker and scheduler. If it is unset or none, these parts of deliveries are dropped.",
    ),
    with_default(
        "PAGESYNC_FORWARD_DELIVERIES",
        "unhandled",
        "unhandled or all",
        "unhandled: the deliveries with a part that is not about the profile of a Page are forwarded. all: every delivery is.",
    ),
    with_default(
        "PAGESYNC_FORWARD_FIELDS",
        "messages,messaging_postbacks",
        "names of webhook fields, separated by commas",
        "The webhook fields that the program at PAGESYNC_FORWARD_URL needs. The app and each Page are subscribed to them as well.",
    ),
    with_default(
        "PAGESYNC_FORWARD_MAX_AGE",
        "24h",
        "a whole number followed by s, m or h, from 1m to 168h",
        "Deliveries that are older are not forwarded. They become dead letters, which an operator can replay. Facebook lets a Page answer a message within 24 hours.",
    ),
    secret(
        "PAGESYNC_ALERT_URL",
        None,
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "https://hooks.slack.com/services/...",
        "The address to which scheduler and up post each problem, as JSON whose text Slack, Mattermost and Discord (with /slack at the end) show.",
    ),
    without_default(
        "PAGESYNC_ALERT_EMAIL",
        "addresses such as name@example.com without names of people, separated by commas",
        "ops@example.com",
        "The recipients of messages about problems. Set PAGESYNC_SMTP_URL as well.",
    ),
    without_default(
        "PAGESYNC_ALERT_FROM",
        "an address such as name@example.com",
        "pagesync@example.com",
        "The sender of these messages. If it is unset, the first recipient is the sender.",
    ),
    secret(
        "PAGESYNC_SMTP_URL",
        None,
        "smtps://user:password@host:465, smtp://user:password@host:587?tls=required, or smtp:// alone for a loopback address or a host without a dot; special characters of the password are percent-encoded",
        "smtps://user:password@mail.example:465",
        "The mail server for these messages.",
    ),
    secret(
        "PAGESYNC_HEARTBEAT_URL",
        None,
        "an https:// address (http:// only for a loopback address or a host without a dot)",
        "https://hc-ping.com/...",
        "The address that scheduler and up call each minute while all is well, for a service that tells you when the calls stop.",
    ),
    with_default(
        "PAGESYNC_LOG",
        "info",
        "a level or a tracing filter",
        "The lowest level of log lines that are written (error, warn, info or debug), or a filter such as info,worker=debug.",
    ),
    with_default(
        "PAGESYNC_LOG_FORMAT",
        "json",
        "json or text",
        "The form of log lines.",
    ),
];

/// Returns the setting with this key, which must be in the table.
pub(super) fn find(key: &str) -> Setting {
    let found = SETTINGS.iter().find(|setting| setting.key == key);
    *found.unwrap_or_else(|| unreachable!("{key} is read but is not in the table"))
}

/// Returns the text of `.env.example`.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every setting of pagesync. Copy this file to .env and fill it in. pagesync reads .env from the\n\
         # directory in which it is started; environment variables override it.\n\
         # Put a value with spaces, quotes or $ into '...': without the quotes, $NAME is replaced.\n\
         # Every setting can also be read from a file: KEY_FILE=/path instead of KEY=value.\n\
         # Generated by `pagesync config example`; a test compares the two.\n",
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
