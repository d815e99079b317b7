//! Logs and metrics. Logs are lines of JSON with dotted fields; metrics live in a registry that is a
//! value, so several roles and tests share a process without sharing numbers.
//!
//! Must not: carry a body, a token, a signature or a value of a field.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging to standard error. Does nothing if somebody already has.
pub fn init_logs(filter: &str, format: LogFormat) {
    // lapin reports every lost connection several times; we report it once, with the consequence.
    let filter = EnvFilter::builder().parse_lossy(format!("lapin=off,{filter}"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.compact().with_target(false).try_init(),
    };
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Label {
    /// Its value; the metric says of what.
    pub name: &'static str,
}

/// Everything that is counted. Names begin with `pagesync_`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Answers to webhooks, by status.
    pub answers: Family<Label, Counter>,
    /// Parts of webhooks that are understood and not kept, by name.
    pub counted: Family<Label, Counter>,
    /// Jobs made durable.
    pub jobs_published: Counter,
    /// Jobs whose message was acknowledged.
    pub jobs_acknowledged: Counter,
    /// Jobs done, by what became of them.
    pub jobs_done: Family<Label, Counter>,
    /// Commits of Pages, by outcome.
    pub commits: Family<Label, Counter>,
    /// Dead letters kept, by why.
    pub dead_letters: Family<Label, Counter>,
    /// Polls begun, by the kind of their subject.
    pub polls: Family<Label, Counter>,
    /// What answers of Graph came to.
    pub graph: Family<Label, Counter>,
    /// Polls published, by lane.
    pub polls_published: Family<Label, Counter>,
    /// Logins, by what became of them.
    pub logins: Family<Label, Counter>,
    /// What the drift meter found.
    pub drift: Family<Label, Counter>,
    /// Connections whose token or data access ends within so many days; set at each start and daily by
    /// the worker that looked.
    pub tokens_ending: Family<Label, Gauge>,
    /// From receiving a webhook to its commit.
    pub visible_seconds: Histogram,
    /// Messages waiting, by lane; set when the metrics are read.
    pub lane_messages: Family<Label, Gauge>,
    registry: Arc<Mutex<Registry>>,
}

const VISIBLE_SECONDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self::unregistered();
        let mut registry = Registry::with_prefix("pagesync");
        for (name, help, family) in [
            (
                "webhook_answers",
                "Answers to webhooks, by status",
                &metrics.answers,
            ),
            (
                "webhook_parts_counted",
                "Parts of webhooks not kept, by name",
                &metrics.counted,
            ),
            ("jobs_done", "Jobs done, by result", &metrics.jobs_done),
            ("commits", "Commits of Pages, by outcome", &metrics.commits),
            (
                "dead_letters",
                "Dead letters kept, by why",
                &metrics.dead_letters,
            ),
            ("polls", "Polls begun, by subject", &metrics.polls),
            (
                "graph_answers",
                "What reads, walks, logins and subscriptions came to at Graph",
                &metrics.graph,
            ),
            (
                "polls_published",
                "Polls published, by lane",
                &metrics.polls_published,
            ),
            ("logins", "Logins, by what became of them", &metrics.logins),
            (
                "drift_findings",
                "What the drift meter found",
                &metrics.drift,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "jobs_published",
            "Jobs made durable",
            metrics.jobs_published.clone(),
        );
        registry.register(
            "jobs_acknowledged",
            "Jobs acknowledged",
            metrics.jobs_acknowledged.clone(),
        );
        registry.register(
            "webhook_visible_seconds",
            "From receiving a webhook to its commit",
            metrics.visible_seconds.clone(),
        );
        registry.register(
            "tokens_ending",
            "Connections that end within so many days",
            metrics.tokens_ending.clone(),
        );
        registry.register(
            "lane_messages",
            "Messages waiting, by lane",
            metrics.lane_messages.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            ..metrics
        }
    }
}

impl Metrics {
    fn unregistered() -> Self {
        Self {
            answers: Family::default(),
            counted: Family::default(),
            jobs_published: Counter::default(),
            jobs_acknowledged: Counter::default(),
            jobs_done: Family::default(),
            commits: Family::default(),
            dead_letters: Family::default(),
            polls: Family::default(),
            graph: Family::default(),
            polls_published: Family::default(),
            logins: Family::default(),
            drift: Family::default(),
            tokens_ending: Family::default(),
            visible_seconds: Histogram::new(VISIBLE_SECONDS),
            lane_messages: Family::default(),
            registry: Arc::default(),
        }
    }

    /// Counts one more of `name`.
    pub fn count(family: &Family<Label, Counter>, name: &'static str) {
        family.get_or_create(&Label { name }).inc();
    }

    /// The metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
