//! Logs and metrics. Logs are lines of JSON with dotted fields; metrics live in a registry that is a
//! value, so several roles and tests share a process without sharing numbers.
//!
//! Must not: carry a body, a token, a signature or a value of a field.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
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

/// One label: its key and its value.
type Label = [(&'static str, &'static str); 1];

/// A counter for each value of one label.
#[derive(Debug, Clone)]
pub struct LabeledCounter {
    key: &'static str,
    family: Family<Label, Counter>,
}

impl LabeledCounter {
    /// Adds one to the counter with the label value `value`.
    pub fn count(&self, value: &'static str) {
        self.add(value, 1);
    }

    /// Adds `n` to the counter with the label value `value`.
    pub fn add(&self, value: &'static str, n: u64) {
        self.family.get_or_create(&[(self.key, value)]).inc_by(n);
    }

    /// Returns the counter with the label value `value`.
    pub fn get(&self, value: &'static str) -> u64 {
        self.family.get_or_create(&[(self.key, value)]).get()
    }
}

/// A gauge for each value of one label.
#[derive(Debug, Clone)]
pub struct LabeledGauge {
    key: &'static str,
    family: Family<Label, Gauge>,
}

impl LabeledGauge {
    /// Sets the gauge with the label value `value`.
    pub fn set(&self, value: &'static str, n: i64) {
        self.family.get_or_create(&[(self.key, value)]).set(n);
    }
}

/// The metrics of one process. The constructor is the table: it gives each metric its name, its
/// label and its help text.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "the help texts in `Metrics::default` document the fields"
)]
pub struct Metrics {
    pub webhook_answers: LabeledCounter,
    pub webhook_parts_ignored: LabeledCounter,
    pub jobs_published: Counter,
    pub jobs_acknowledged: Counter,
    pub jobs_done: LabeledCounter,
    pub page_commits: LabeledCounter,
    pub dead_letters: LabeledCounter,
    pub polls: LabeledCounter,
    pub polls_published: LabeledCounter,
    pub graph_replies: LabeledCounter,
    pub logins: LabeledCounter,
    pub change_findings: LabeledCounter,
    pub connections_expiring: LabeledGauge,
    pub webhook_visible_seconds: Histogram,
    pub queue_messages: LabeledGauge,
    registry: Arc<Mutex<Registry>>,
}

const VISIBLE_SECONDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];

/// Registers a metric and returns it.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    /// Creates metrics that start at zero. Names begin with `pagesync_`; counters end in `_total`.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pagesync");
        let r = &mut registry;
        let counter = |r: &mut Registry, name, help| register(r, name, help, Counter::default());
        let counters = |r: &mut Registry, name, key, help| LabeledCounter {
            key,
            family: register(r, name, help, Family::default()),
        };
        let gauges = |r: &mut Registry, name, key, help| LabeledGauge {
            key,
            family: register(r, name, help, Family::default()),
        };
        let seconds =
            |r: &mut Registry, name, help| register(r, name, help, Histogram::new(VISIBLE_SECONDS));
        Self {
            webhook_answers: counters(
                r,
                "webhook_answers",
                "status",
                "Webhook requests answered, by HTTP status",
            ),
            webhook_parts_ignored: counters(
                r,
                "webhook_parts_ignored",
                "part",
                "Parts of webhooks that are understood and not stored, by name",
            ),
            jobs_published: counter(r, "jobs_published", "Jobs that the queue made durable"),
            jobs_acknowledged: counter(
                r,
                "jobs_acknowledged",
                "Jobs whose message was acknowledged",
            ),
            jobs_done: counters(r, "jobs_done", "result", "Jobs done, by result"),
            page_commits: counters(
                r,
                "page_commits",
                "outcome",
                "Commits of Pages by webhooks, by outcome",
            ),
            dead_letters: counters(
                r,
                "dead_letters",
                "reason",
                "Dead letters stored, by reason",
            ),
            polls: counters(r, "polls", "subject", "Polls begun, by kind of subject"),
            polls_published: counters(
                r,
                "polls_published",
                "queue",
                "Polls that the scheduler published, by queue",
            ),
            graph_replies: counters(
                r,
                "graph_replies",
                "result",
                "Results of reads, connection polls, logins and subscriptions at Graph",
            ),
            logins: counters(r, "logins", "result", "Logins, by result"),
            change_findings: counters(
                r,
                "change_findings",
                "finding",
                "Changes that reads found, by whether a webhook announced them",
            ),
            connections_expiring: gauges(
                r,
                "connections_expiring",
                "within_days",
                "Connections whose token or data access ends within so many days; the worker sets it at its start and daily",
            ),
            webhook_visible_seconds: seconds(
                r,
                "webhook_visible_seconds",
                "Seconds from receiving a webhook to its commit",
            ),
            queue_messages: gauges(
                r,
                "queue_messages",
                "queue",
                "Messages that wait, by queue; set when the metrics are read",
            ),
            registry: Arc::new(Mutex::new(registry)),
        }
    }
}

impl Metrics {
    /// Returns the metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
