//! The overload of a run: Redis is slow for a while under load, and then every worker is restarted
//! three times while a backlog waits.
//!
//! The backlog has its own Pages, each with many webhooks. Their names must be those of the last
//! webhooks.

use std::ops::Range;
use std::time::{Duration, Instant};

use common::clock::Clock;
use common::pages::registration_commit;
use common::queue::Queue;
use common::store::{Commit, StoredPage, Versioned};
use model::id::PageId;
use model::job::Job;
use model::queue_name::QueueName;
use model::webhook::parse_webhook;
use serde_json::{Value as Json, json};
use simulator::delivery::delivery_body;

use crate::load::{CONNECTIONS, Load, wait};
use crate::rounds::{Deployment, SLOW_CALL, TIMEOUT};
use crate::support::process::Process;
use crate::support::{page_id, within};
use crate::{Options, Totals};

/// The Pages of the backlog.
const PAGES: u64 = 500;
const FIRST_PAGE: u64 = 5_000_000;
/// How many workers run, and how often each is restarted.
const WORKERS: usize = 2;
const RESTARTS: usize = 3;
/// How many jobs a message contains.
const MESSAGE_JOBS: usize = 10;
/// How many messages must be left for a meaningful ratio.
const MIN_MESSAGES: u64 = 500;
/// The longest time in which a backlog is processed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(900);

/// Returns the name that the webhook of this time contains.
fn name_at(time: u64) -> String {
    format!("n{time}")
}

/// Returns the job of the webhook of this time.
fn job(time: u64) -> Job {
    let page = FIRST_PAGE + time % PAGES;
    let entry = json!({"id": page.to_string(), "time": time, "changes": [{"field": "name", "value": name_at(time)}]});
    let entry = parse_webhook(delivery_body(&[entry]).as_bytes())
        .entries
        .remove(0);
    Job::Webhook {
        entry,
        received_at: Clock::system().now(),
    }
}

impl Deployment {
    /// Processes one backlog undisturbed and one with an overload. Prints how fast the rest of the
    /// second one was processed, compared with the first one. Panics if a webhook is missing.
    pub(crate) async fn overload_round(&mut self, options: &Options, totals: &mut Totals) {
        let backlog = options.backlog.max(PAGES);
        self.register_backlog_pages().await;
        let queue = self.queue().await;
        let mut workers = vec![self.processes.remove(1)];
        while workers.len() < WORKERS {
            workers.push(self.start_worker().await);
        }
        let first = 1_700_000_000..1_700_000_000 + backlog;
        let second = first.end..first.end + backlog;
        publish(&*queue, &mut workers, first.clone()).await;
        let undisturbed = self.drain(&*queue, depth(&*queue).await, first).await;

        publish(&*queue, &mut workers, second.clone()).await;
        let pages = self.register_next().await;
        self.proxy().set_delay(SLOW_CALL);
        let load = Load::start(&self.processes[0].webhook_url(), pages.clone(), CONNECTIONS);
        wait(Duration::from_secs(options.slow_seconds)).await;
        self.proxy().set_delay(Duration::ZERO);
        for _ in 0..RESTARTS {
            for worker in &mut workers {
                worker.terminate().await;
                worker.start_again().await;
            }
        }
        let rest = depth(&*queue).await;
        let afterwards = self.drain(&*queue, rest, second).await;
        let counts = load.finish().await;
        self.count(&counts, &pages, totals).await;
        let ratio = afterwards / undisturbed;
        println!(
            "overload: backlogs of {backlog} jobs, {undisturbed:.0} messages a second undisturbed; after a slow Redis and {RESTARTS} restarts of {WORKERS} workers {afterwards:.0} with {rest} messages left, ratio {ratio:.2}"
        );
        // A worker that executes each job alone is forty times slower.
        assert!(rest < MIN_MESSAGES || ratio > 0.2, "the overload lasts");
        self.processes.insert(1, workers.remove(0));
        for mut worker in workers {
            worker.terminate().await;
        }
    }

    async fn start_worker(&self) -> Process {
        Process::start("worker", self.environment(common::config::Role::Worker)).await
    }

    async fn register_backlog_pages(&self) {
        // The first reads are due, so that polls run, too. Repeated registrations are stale.
        let register = |n| registration_commit(&page_id(FIRST_PAGE + n), 0, Clock::system().now());
        let commits: Vec<Commit> = (0..PAGES).map(register).collect();
        within(
            TIMEOUT,
            "the Pages of the backlog to be registered",
            || async { self.store.commit(&commits).await.ok() },
        )
        .await;
    }

    /// Waits until `messages` messages with the webhooks of these times are processed. Returns how
    /// many this were in a second.
    async fn drain(&self, queue: &dyn Queue, messages: u64, times: Range<u64>) -> f64 {
        let last_names = (times.end - PAGES..times.end).map(|time| {
            let id = page_id(FIRST_PAGE + time % PAGES);
            (id, Json::from(name_at(time)))
        });
        let (ids, names): (Vec<PageId>, Vec<Json>) = last_names.unzip();
        let began = Instant::now();
        while depth(queue).await > 0 || !self.have_names(&ids, &names).await {
            wait(Duration::from_millis(100)).await;
            assert!(
                began.elapsed() < DRAIN_TIMEOUT,
                "the backlog is not processed"
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let messages = messages as f64;
        messages / began.elapsed().as_secs_f64()
    }

    /// Returns whether these Pages have these names.
    async fn have_names(&self, ids: &[PageId], names: &[Json]) -> bool {
        let Ok(stored) = self.store.load_pages(ids).await else {
            return false;
        };
        let has_name = |(stored, name): (&Versioned<StoredPage>, &Json)| {
            let StoredPage::Page(page) = &stored.value else {
                return false;
            };
            let mut values = page.registers.values().map(|register| &register.value);
            values.any(|value| value.as_ref().is_some_and(|value| value.to_json() == *name))
        };
        stored.iter().zip(names).all(has_name)
    }
}

/// Stops the workers, publishes the webhooks of these times, and starts the workers again.
async fn publish(queue: &dyn Queue, workers: &mut [Process], times: Range<u64>) {
    for worker in &mut *workers {
        worker.terminate().await;
    }
    let mut times = times.peekable();
    while times.peek().is_some() {
        let jobs: Vec<Job> = times.by_ref().take(MESSAGE_JOBS).map(job).collect();
        within(TIMEOUT, "the broker to accept a message", || async {
            queue.publish(QueueName::Webhooks, &jobs).await.ok()
        })
        .await;
    }
    for worker in workers {
        worker.start_again().await;
    }
}

/// Returns the number of messages that wait. RabbitMQ reports 0 messages of a quorum queue whose leader
/// does not answer within 250 ms (`rabbit_quorum_queue:stat/2`), so the largest of several numbers
/// counts.
async fn depth(queue: &dyn Queue) -> u64 {
    let mut largest = 0;
    for _ in 0..5 {
        let depth = queue.depth(QueueName::Webhooks).await;
        largest = largest.max(depth.map_or(1, |depth| depth.messages));
    }
    largest
}
