//! Logs and metrics of a process.
//!
//! Logs go to standard error. [`Metrics`] is a value and not a global, so that each role or test in
//! one process can have metrics of its own. Invariant: no log line and no metric contains a request
//! body, a token, a signature or the value of a field.

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

/// Starts logging to standard error with an [`EnvFilter`] directive. Has no effect if logging has
/// already started.
pub fn init_logs(filter: &str, format: LogFormat) {
    // lapin logs each lost connection several times. pagesync logs it once, with the consequence.
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

/// The metrics of one process. The constructor is the table of all metrics: their names, labels and
/// help texts.
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
    pub unknown_subjects: LabeledCounter,
    pub processing_paused: Gauge,
    pub store_clock_difference_seconds: Gauge,
    pub graph_replies: LabeledCounter,
    pub logins: LabeledCounter,
    pub erasure_requests: LabeledCounter,
    pub change_findings: LabeledCounter,
    pub connections: LabeledGauge,
    pub pages: LabeledGauge,
    pub connections_expiring: LabeledGauge,
    pub webhook_commit_seconds: Histogram,
    pub queue_messages: LabeledGauge,
    pub api_refusals: LabeledCounter,
    pub page_tokens: LabeledCounter,
    pub change_posts: LabeledCounter,
    pub forwarded_deliveries: LabeledCounter,
    pub open_alerts: LabeledGauge,
    pub alert_messages: LabeledCounter,
    registry: Arc<Mutex<Registry>>,
}

/// The upper bounds of the buckets of `webhook_commit_seconds`, in seconds.
const COMMIT_SECONDS_BUCKETS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];

/// Registers a metric and returns it.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    /// Creates metrics that start at zero. Names begin with `pagesync_`; counters end in `_total`.
    #[expect(
        clippy::too_many_lines,
        reason = "the constructor is the table of metrics"
    )]
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pagesync");
        let r = &mut registry;
        let counter = |r: &mut Registry, name, help| register(r, name, help, Counter::default());
        let labeled_counter = |r: &mut Registry, name, key, help| LabeledCounter {
            key,
            family: register(r, name, help, Family::default()),
        };
        let labeled_gauge = |r: &mut Registry, name, key, help| LabeledGauge {
            key,
            family: register(r, name, help, Family::default()),
        };
        let histogram = |r: &mut Registry, name, help| {
            register(r, name, help, Histogram::new(COMMIT_SECONDS_BUCKETS))
        };
        Self {
            webhook_answers: labeled_counter(
                r,
                "webhook_answers",
                "status",
                "Answers to webhook requests, by HTTP status",
            ),
            webhook_parts_ignored: labeled_counter(
                r,
                "webhook_parts_ignored",
                "part",
                "Parts of webhooks that were parsed and not stored, by name",
            ),
            jobs_published: counter(r, "jobs_published", "Jobs that the queue made durable"),
            jobs_acknowledged: counter(
                r,
                "jobs_acknowledged",
                "Jobs whose message was acknowledged",
            ),
            jobs_done: labeled_counter(
                r,
                "jobs_done",
                "result",
                "Webhook and erasure jobs, by result; the webhooks of one Page in one message count once",
            ),
            page_commits: labeled_counter(
                r,
                "page_commits",
                "outcome",
                "Commits that apply webhooks to Pages, by outcome",
            ),
            dead_letters: labeled_counter(
                r,
                "dead_letters",
                "reason",
                "Jobs that failed for good, by reason; not_stored counts those of them that got no dead letter",
            ),
            polls: labeled_counter(r, "polls", "subject", "Polls started, by kind of subject"),
            polls_published: labeled_counter(
                r,
                "polls_published",
                "queue",
                "Polls published by the scheduler, by queue",
            ),
            unknown_subjects: labeled_counter(
                r,
                "unknown_subjects",
                "queue",
                "Claims of due subjects that this version does not know, by queue",
            ),
            processing_paused: register(
                r,
                "processing_paused",
                "1 while the worker applies no jobs because the store does not accept writes, otherwise 0",
                Gauge::default(),
            ),
            store_clock_difference_seconds: register(
                r,
                "store_clock_difference_seconds",
                "Seconds by which this host's clock is ahead of the clock of the store; negative if it is behind",
                Gauge::default(),
            ),
            graph_replies: labeled_counter(
                r,
                "graph_replies",
                "result",
                "Results of reads, connection polls, logins and subscriptions at Graph",
            ),
            logins: labeled_counter(r, "logins", "result", "Logins, by result"),
            erasure_requests: labeled_counter(
                r,
                "erasure_requests",
                "result",
                "Posts of signed requests to erase data, by result: valid, of_page, invalid_signature or unreadable",
            ),
            change_findings: labeled_counter(
                r,
                "change_findings",
                "finding",
                "Fields compared by reads and webhooks, by finding: captured, late, unannounced, initial or unannounceable",
            ),
            connections: labeled_gauge(
                r,
                "connections",
                "status",
                "Connections, by status; set when the metrics of a worker or scheduler are read",
            ),
            pages: labeled_gauge(
                r,
                "pages",
                "status",
                "Pages, by status; set when the metrics of a worker or scheduler are read",
            ),
            connections_expiring: labeled_gauge(
                r,
                "connections_expiring",
                "within_days",
                "Connections whose token or data access ends within this number of days; set at the start of a worker and daily",
            ),
            webhook_commit_seconds: histogram(
                r,
                "webhook_commit_seconds",
                "Seconds from receiving a webhook to its commit",
            ),
            queue_messages: labeled_gauge(
                r,
                "queue_messages",
                "queue",
                "Messages ready to be delivered, by queue; set when the metrics are read",
            ),
            api_refusals: labeled_counter(
                r,
                "api_refusals",
                "code",
                "Requests of the API that were refused before a handler ran, by code of the problem",
            ),
            page_tokens: labeled_counter(
                r,
                "page_tokens",
                "outcome",
                "Requests of a program for the token of a Page, by outcome: done, or the code of the problem",
            ),
            change_posts: labeled_counter(
                r,
                "change_posts",
                "outcome",
                "Posts of changes to destinations, by outcome: accepted, refused or not_answered",
            ),
            forwarded_deliveries: labeled_counter(
                r,
                "forwarded_deliveries",
                "outcome",
                "Deliveries to forward, by outcome: accepted, refused or not_answered for each attempt; stored when they are sent again from a record; too_old and unopenable when they became dead letters; erased and expired when they were deleted",
            ),
            open_alerts: labeled_gauge(
                r,
                "open_alerts",
                "kind",
                "Problems of which the operator was told and that are not resolved, by kind; set by the process that tells",
            ),
            alert_messages: labeled_counter(
                r,
                "alert_messages",
                "outcome",
                "Messages about problems, by outcome: accepted, refused or not_answered",
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
