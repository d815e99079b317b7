//! Tests of the worker without the other roles: a store outage, a corrupt Page, concurrent workers,
//! lost replies, and messages that arrive after an erasure. Dead letters are in `dead_letters.rs`.

use std::sync::Arc;

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::pages;
use common::queue::Queue;
use common::records::dead_letter::{self, DeadLetter};
use common::store::{
    Changes, Commit, CommitOutcome, PageWrite, Store, StoredPage, Versioned, load_page,
};
use model::id::Subject;
use model::job::{Claim, Job};
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::{TestStorage, worker_context};
use crate::support::faulty_store::FaultyStore;
use crate::support::{eventually, page_id, webhook_job};

/// A queue and a store on which a test runs workers.
pub(crate) struct WorkerFixture {
    /// The storage of the queue and the store, which must live as long as they do.
    pub(crate) storage: TestStorage,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) store: Arc<dyn Store>,
}

impl WorkerFixture {
    /// Creates an empty queue and a store in which these Pages are registered.
    pub(crate) async fn new(pages: &[u64]) -> Self {
        let storage = TestStorage::new(BACKEND).await;
        let (queue, store) = (storage.queue().await, storage.store());
        for page in pages {
            let commit = pages::registration_commit(&page_id(*page), 0, Clock::system().now());
            store.commit(&[commit]).await.unwrap();
        }
        Self {
            storage,
            queue,
            store,
        }
    }

    /// Returns the context of a worker that uses `store`.
    pub(crate) fn context(&self, store: Arc<dyn Store>) -> worker::context::Context {
        worker_context(&self.storage, self.queue.clone(), store)
    }

    /// Starts a worker that uses `store`.
    pub(crate) fn start(&self, store: Arc<dyn Store>) -> Lifecycle {
        start(self.context(store))
    }

    /// Publishes jobs to the queue `webhooks`.
    pub(crate) async fn publish(&self, jobs: &[Job]) {
        self.queue.publish(QueueName::Webhooks, jobs).await.unwrap();
    }

    /// Returns the number of messages in a queue.
    pub(crate) async fn depth(&self, queue_name: QueueName) -> u64 {
        self.queue.depth(queue_name).await.unwrap().messages
    }

    /// Loads a Page.
    async fn load(&self, page: u64) -> Versioned<StoredPage> {
        load_page(&*self.store, &page_id(page)).await.unwrap()
    }

    /// Returns the stored name of a Page, or `None` if it has none.
    pub(crate) async fn name(&self, page: u64) -> Option<Json> {
        let StoredPage::Page(page) = self.load(page).await.value else {
            return None;
        };
        Some(page.registers.values().next()?.value.as_ref()?.to_json())
    }

    /// Waits until a Page has this name.
    pub(crate) async fn wait_for_name(&self, page: u64, name: &str) {
        eventually(&format!("Page {page} to be named {name}"), || async {
            (self.name(page).await == Some(json!(name))).then_some(())
        })
        .await;
    }

    /// Returns every dead letter with its id.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, DeadLetter)> {
        dead_letter::list(&*self.store).await.unwrap()
    }
}

/// Starts a worker with a context.
pub(crate) fn start(context: worker::context::Context) -> Lifecycle {
    let lifecycle = context.lifecycle.clone();
    lifecycle.spawn("worker", worker::run(context));
    lifecycle
}

/// Stops a worker and waits until it has ended.
pub(crate) async fn stop(lifecycle: Lifecycle) {
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_outage_loses_no_webhook_and_makes_no_dead_letter() {
    let bench = WorkerFixture::new(&(1..=50).collect::<Vec<_>>()).await;
    let store = FaultyStore::unavailable(bench.store.clone(), 0, 0);
    let running = bench.start(store.clone());
    bench.publish(&[webhook_job(1, "before")]).await;
    bench.wait_for_name(1, "before").await;
    store.fail_commits(6);
    for page in 1..=50 {
        bench.publish(&[webhook_job(page, "during")]).await;
    }
    for page in 1..=50 {
        bench.wait_for_name(page, "during").await;
    }
    eventually("every dead letter to be removed", || async {
        bench.dead_letters().await.is_empty().then_some(())
    })
    .await;
    stop(running).await;
    assert_eq!(bench.depth(QueueName::Webhooks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_page_starts_again_empty_and_its_former_content_becomes_a_dead_letter() {
    // No scheduler runs here, so no read changes the Page before the test loads it.
    let bench = WorkerFixture::new(&[1, 2]).await;
    let running = bench.start(bench.store.clone());
    let rename = async |page: u64, name: &str| {
        bench.publish(&[webhook_job(page, name)]).await;
        bench.wait_for_name(page, name).await;
    };
    rename(1, "before").await;
    bench.storage.corrupt(&page_id(1)).await;
    // This name has the same stamp as the former value and sorts below it. It is stored only if
    // nothing of the former value is left.
    rename(1, "after").await;
    rename(2, "after").await;
    let stored = bench.load(1).await;
    let StoredPage::Page(page) = stored.value else {
        panic!("a Page: {:?}", stored.value)
    };
    assert_eq!(
        page.status,
        Status::Corrupt,
        "the status is kept until a read succeeds"
    );
    assert!(stored.version == 3 && page.polling.has_open_notification_or_request());
    let dead_letters = bench.dead_letters().await;
    assert!(
        dead_letters.len() == 1
            && dead_letters[0]
                .1
                .reason
                .contains("Page 1 could not be read"),
        "{dead_letters:?}"
    );
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pages_with_the_same_damage_are_replaced_at_once_and_have_two_dead_letters() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    for page in [1, 2] {
        bench.storage.corrupt(&page_id(page)).await;
    }
    let jobs = [webhook_job(1, "one"), webhook_job(2, "two")];
    // The clock stands still, so the two former contents are replaced at the same time.
    let mut context = bench.context(bench.store.clone());
    context.clock = Clock::manual(Clock::system().now());
    worker::apply_jobs(&context, &jobs).await.unwrap();
    assert_eq!(bench.name(1).await, Some(json!("one")));
    assert_eq!(bench.name(2).await, Some(json!("two")));
    assert_eq!(bench.dead_letters().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_workers_end_with_the_newest_values_and_apply_no_webhook_twice() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    for round in 0..40u64 {
        let jobs: Vec<Job> = (1..=2).flat_map(|page| {
            let body = format!(
                r#"{{"object":"page","entry":[{{"id":"{page}","time":{},"changes":[{{"field":"name","value":"n{round:02}"}}]}}]}}"#,
                1_750_000_000 + round
            );
            let entry = model::webhook::parse_webhook(body.as_bytes()).entries.remove(0);
            let job = Job::Webhook { entry, received_at: HostTime(1_750_000_100_000) };
            [job.clone(), job]
        }).collect();
        bench.publish(&jobs).await;
    }
    let workers: Vec<Lifecycle> = (0..3).map(|_| bench.start(bench.store.clone())).collect();
    for page in 1..=2 {
        bench.wait_for_name(page, "n39").await;
    }
    eventually("the queue to be empty", || async {
        (bench.depth(QueueName::Webhooks).await == 0).then_some(())
    })
    .await;
    for running in workers {
        stop(running).await;
    }
    let Changes::Entries(feed) = bench.store.changes_after(None, 1000).await.unwrap() else {
        panic!("entries")
    };
    for page in 1..=2 {
        let versions: Vec<u64> = feed
            .iter()
            .filter(|(_, entry)| entry.page == page_id(page))
            .map(|(_, entry)| entry.version)
            .collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_late_message_restores_an_erased_page() {
    let bench = WorkerFixture::new(&[1]).await;
    let running = bench.start(bench.store.clone());
    bench.publish(&[webhook_job(1, "before")]).await;
    bench.wait_for_name(1, "before").await;
    let stored = bench.load(1).await;
    let erasure = Commit {
        page: Some(PageWrite {
            id: page_id(1),
            expected: stored.version,
            page: Page {
                status: Status::Erased,
                ..Page::default()
            },
            changes: Vec::new(),
            received_at: Clock::system().now(),
        }),
        ..Commit::default()
    };
    assert_eq!(
        bench.store.commit(&[erasure]).await.unwrap(),
        [CommitOutcome::Applied]
    );
    // These messages arrive late: a repeated webhook, another webhook, and a poll that was claimed
    // before the erasure.
    let claim = Claim {
        subject: Subject::Page(page_id(1)),
        queue: QueueName::PollsNow,
        due_at: Clock::system().now(),
    };
    let late = [webhook_job(1, "before"), webhook_job(1, "after")];
    bench.publish(&late).await;
    bench
        .queue
        .publish(QueueName::PollsNow, &[Job::Poll(claim)])
        .await
        .unwrap();
    bench.publish(&[webhook_job(2, "unknown")]).await;
    eventually("the queues to be empty", || async {
        let webhooks = bench.depth(QueueName::Webhooks).await;
        let polls = bench.depth(QueueName::PollsNow).await;
        (webhooks + polls == 0).then_some(())
    })
    .await;
    stop(running).await;
    let after = bench.load(1).await;
    assert_eq!(after.version, stored.version + 1, "nothing was written");
    assert!(
        matches!(after.value, StoredPage::Page(page) if page.status == Status::Erased && page.registers.is_empty())
    );
}

/// The store makes a commit, but its reply is lost. The message is redelivered after a later
/// webhook has been applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_was_lost_has_no_second_effect() {
    let bench = WorkerFixture::new(&[1]).await;
    let publish = async |name: &str| {
        bench.publish(&[webhook_job(1, name)]).await;
        let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
        assert_eq!(delivery.jobs, [webhook_job(1, name)]);
        delivery
    };
    let first = publish("a").await;
    let later = publish("b").await;
    let without_reply = bench.context(FaultyStore::losing_replies(bench.store.clone(), 1));
    // A process that stops does not repeat the delivery in place.
    without_reply.lifecycle.stop();
    worker::handle_delivery(&without_reply, first)
        .await
        .unwrap_err();
    assert_eq!(bench.name(1).await, Some(json!("a")), "the commit was made");
    let context = bench.context(bench.store.clone());
    worker::handle_delivery(&context, later).await.unwrap();
    let before = bench.load(1).await.version;
    let redelivered = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    assert_eq!(
        (redelivered.attempt, &*redelivered.jobs),
        (2, &[webhook_job(1, "a")][..])
    );
    worker::handle_delivery(&context, redelivered)
        .await
        .unwrap();
    assert_eq!(bench.name(1).await, Some(json!("b")));
    assert_eq!(bench.load(1).await.version, before, "nothing was written");
    let Changes::Entries(feed) = bench.store.changes_after(None, 100).await.unwrap() else {
        panic!("entries")
    };
    assert_eq!(
        feed.len(),
        2,
        "the feed has one entry for each change: {feed:?}"
    );
    assert_eq!(bench.depth(QueueName::Webhooks).await, 0);
}
