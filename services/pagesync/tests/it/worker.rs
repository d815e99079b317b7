//! The worker against its own bad days: messages that come too often, jobs that panic or are not
//! ours, a store that goes away, a Page that cannot be read.

use std::sync::Arc;

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::pages;
use common::queue::Queue;
use common::records::dead_letter::{self, RetryState};
use common::store::{Changes, Commit, CommitOutcome, Store, StoredPage};
use model::id::Subject;
use model::job::{Claim, Job, NEWER_VERSION, Unreadable};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::{Place, worker_context};
use crate::support::faulty_store::FaultyStore;
use crate::support::{eventually, page_id, webhook_job};

/// A worker over a queue and a store of a place of their own.
struct Bench {
    /// Lives as long as the queue and the store in it.
    place: Place,
    queue: Arc<dyn Queue>,
    store: Arc<dyn Store>,
}

impl Bench {
    async fn new(pages: &[u64]) -> Self {
        let place = Place::new(BACKEND).await;
        let (queue, store) = (place.queue().await, place.store());
        for page in pages {
            let commit = pages::registration_commit(&page_id(*page), 0, Clock::system().now());
            store.commit(&[commit]).await.unwrap();
        }
        Self {
            place,
            queue,
            store,
        }
    }

    fn parts(&self, store: Arc<dyn Store>) -> worker::context::Context {
        worker_context(&self.place, self.queue.clone(), store)
    }

    fn start(&self, store: Arc<dyn Store>) -> Lifecycle {
        let lifecycle = Lifecycle::default();
        let parts = worker::context::Context {
            lifecycle: lifecycle.clone(),
            ..self.parts(store)
        };
        lifecycle.spawn("worker", worker::run(parts));
        lifecycle
    }

    async fn name(&self, page: u64) -> Option<Json> {
        let stored = self
            .store
            .load_pages(&[page_id(page)])
            .await
            .unwrap()
            .pop()
            .unwrap();
        let StoredPage::Page(page) = stored.value else {
            return None;
        };
        Some(page.registers.values().next()?.value.as_ref()?.to_json())
    }

    async fn wait_for_name(&self, page: u64, name: &str) {
        eventually(&format!("Page {page} to be named {name}"), || async {
            (self.name(page).await == Some(json!(name))).then_some(())
        })
        .await;
    }

    async fn letters(&self) -> Vec<(String, dead_letter::DeadLetter)> {
        dead_letter::all(&*self.store).await.unwrap()
    }
}

async fn end(lifecycle: Lifecycle) {
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_came_too_often_is_taken_apart_and_its_good_jobs_done() {
    let bench = Bench::new(&[1, 2]).await;
    let bad = Job::Unreadable(Unreadable {
        body: b"?".to_vec(),
        reason: "odd".to_owned(),
        received_at: HostTime(1),
    });
    let jobs = [webhook_job(1, "one"), bad, webhook_job(2, "two")];
    bench
        .queue
        .publish(QueueName::Webhooks, &jobs)
        .await
        .unwrap();
    for attempt in 1..worker::POISON_THRESHOLD {
        let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
        assert_eq!(delivery.attempt, attempt);
        drop(delivery);
    }
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "one").await;
    bench.wait_for_name(2, "two").await;
    let letters = eventually("one letter", || async {
        let letters = bench.letters().await;
        (letters.len() == 1 && letters[0].1.retry == RetryState::Finished).then_some(letters)
    })
    .await;
    assert_eq!(letters[0].0, dead_letter::id(&jobs[1]));
    end(running).await;
    assert_eq!(
        bench
            .queue
            .depth(QueueName::Webhooks)
            .await
            .unwrap()
            .messages,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_panics_the_worker_ends_alone_as_a_dead_letter() {
    let bench = Bench::new(&[1, 2, 3]).await;
    let poison = webhook_job(2, "poison");
    let jobs = [
        webhook_job(1, "one"),
        poison.clone(),
        webhook_job(3, "three"),
    ];
    bench
        .queue
        .publish(QueueName::Webhooks, &jobs)
        .await
        .unwrap();
    let running = bench.start(FaultyStore::poisoned(bench.store.clone(), page_id(2)));
    bench.wait_for_name(1, "one").await;
    bench.wait_for_name(3, "three").await;
    eventually("the poison to be a tried letter", || async {
        let letters = bench.letters().await;
        (letters.len() == 1
            && letters[0].0 == dead_letter::id(&poison)
            && letters[0].1.retry == RetryState::Finished)
            .then_some(())
    })
    .await;
    end(running).await;
    // Once the cause is gone, an operator replays it.
    dead_letter::replay(&*bench.store, &*bench.queue, &dead_letter::id(&poison))
        .await
        .unwrap();
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(2, "poison").await;
    assert_eq!(bench.letters().await, []);
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_an_earlier_process_left_untried_are_tried_at_the_next_start() {
    let bench = Bench::new(&[1, 2]).await;
    let now = Clock::system().now();
    let keep = |job, trial| Commit {
        records: vec![dead_letter::dead_letter_write(
            job,
            "delivered 3 times",
            now,
            trial,
        )],
        ..Commit::default()
    };
    let (left, tried) = (webhook_job(1, "left"), webhook_job(2, "killer"));
    bench
        .store
        .commit(&[
            keep(&left, RetryState::Pending),
            keep(&tried, RetryState::InProgress("a dead process".to_owned())),
        ])
        .await
        .unwrap();
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "left").await;
    eventually("the letter of the good job to go", || async {
        let letters = bench.letters().await;
        (letters.len() == 1 && letters[0].0 == dead_letter::id(&tried)).then_some(())
    })
    .await;
    assert_eq!(
        bench.name(2).await,
        None,
        "what killed a process is not tried again by itself"
    );
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_nothing_is_lost_and_nothing_becomes_a_dead_letter() {
    let bench = Bench::new(&(1..=50).collect::<Vec<_>>()).await;
    let publish = async |page: u64, name: &str| {
        let jobs = [webhook_job(page, name)];
        bench
            .queue
            .publish(QueueName::Webhooks, &jobs)
            .await
            .unwrap();
    };
    let moody = FaultyStore::away(bench.store.clone(), 0, 0);
    let running = bench.start(moody.clone());
    publish(1, "at work").await;
    bench.wait_for_name(1, "at work").await;
    moody.go_away(6);
    for page in 1..=50 {
        publish(page, "kept").await;
    }
    for page in 1..=50 {
        bench.wait_for_name(page, "kept").await;
    }
    eventually("no letters", || async {
        bench.letters().await.is_empty().then_some(())
    })
    .await;
    end(running).await;
    assert_eq!(
        bench
            .queue
            .depth(QueueName::Webhooks)
            .await
            .unwrap()
            .messages,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_an_outage_cut_short_is_taken_up_again() {
    let bench = Bench::new(&[1]).await;
    bench
        .queue
        .publish(QueueName::Webhooks, &[webhook_job(1, "tried")])
        .await
        .unwrap();
    for _ in 1..worker::POISON_THRESHOLD {
        drop(bench.queue.receive(QueueName::Webhooks).await.unwrap());
    }
    let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    // The letter and the trial are written; then the store is away, with the job in hand.
    let away = bench.parts(FaultyStore::away(bench.store.clone(), 2, 1000));
    worker::handle_delivery(&away, delivery).await.unwrap_err();
    assert_eq!(
        (bench.name(1).await, bench.letters().await.len()),
        (None, 1)
    );
    // The same process, as soon as the store is back.
    let parts = worker::context::Context {
        store: bench.store.clone(),
        ..away
    };
    worker::poison_messages::retry_pending(&parts)
        .await
        .unwrap();
    assert_eq!(bench.name(1).await, Some(json!("tried")));
    assert_eq!(bench.letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_becomes_a_dead_letter_and_a_newer_job_waits_for_a_newer_worker() {
    let bench = Bench::new(&[1]).await;
    let strange = [
        "",
        "hello",
        "{}",
        "[7]",
        r#"[{"v":1}]"#,
        r#"[{"v":"abc","webhook":{}}]"#,
        r#"[{"v":9223372036854775808,"later":{"x":1}}]"#,
    ];
    match &bench.place {
        Place::Distributed { vhost, .. } => {
            for payload in strange {
                vhost.publish_raw("pagesync.v1.webhooks", payload).await;
            }
        }
        Place::Embedded(directory) => {
            let file = rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
            for payload in strange {
                let insert =
                    "INSERT INTO messages (queue, attempt, body) VALUES ('webhooks', 0, ?1)";
                file.execute(insert, [payload.as_bytes()]).unwrap();
            }
        }
    }
    bench
        .queue
        .publish(QueueName::Webhooks, &[webhook_job(1, "good")])
        .await
        .unwrap();
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "good").await;
    let letters = eventually("seven letters", || async {
        let letters = bench.letters().await;
        (letters.len() == strange.len()).then_some(letters)
    })
    .await;
    assert_eq!(
        letters
            .iter()
            .filter(|(_, letter)| letter.reason.starts_with(NEWER_VERSION))
            .count(),
        1
    );
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_version_that_is_no_longer_newer_is_done_at_the_start() {
    let bench = Bench::new(&[1]).await;
    let body = model::job::encode_job(&webhook_job(1, "understood")).into_bytes();
    let reason = format!("{NEWER_VERSION}: 2, this build knows 1");
    let job = Job::Unreadable(Unreadable {
        body,
        reason: reason.clone(),
        received_at: HostTime(1),
    });
    let letter =
        dead_letter::dead_letter_write(&job, &reason, Clock::system().now(), RetryState::Finished);
    bench
        .store
        .commit(&[Commit {
            records: vec![letter],
            ..Commit::default()
        }])
        .await
        .unwrap();
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "understood").await;
    eventually("no letters", || async {
        bench.letters().await.is_empty().then_some(())
    })
    .await;
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_is_kept_as_a_letter_and_starts_again() {
    // No scheduler here: nobody reads the Page before we look at it.
    let bench = Bench::new(&[1, 2]).await;
    let lifecycle = bench.start(bench.store.clone());
    let rename = async |page: u64, name: &str| {
        let jobs = [webhook_job(page, name)];
        bench
            .queue
            .publish(QueueName::Webhooks, &jobs)
            .await
            .unwrap();
        bench.wait_for_name(page, name).await;
    };
    rename(1, "before").await;
    bench.place.corrupt(&page_id(1)).await;
    // The same second, and by text the smaller: nothing is left of what stood there.
    rename(1, "after").await;
    rename(2, "after").await;
    let stored = bench
        .store
        .load_pages(&[page_id(1)])
        .await
        .unwrap()
        .remove(0);
    let StoredPage::Page(page) = stored.value else {
        panic!("a Page: {:?}", stored.value)
    };
    assert_eq!(
        page.status,
        model::page::Status::Corrupt,
        "until a read proves it"
    );
    assert!(stored.version == 3 && page.polling.is_read_requested());
    let letters = bench.letters().await;
    assert!(
        letters.len() == 1 && letters[0].1.reason.contains("Page 1 could not be read"),
        "{letters:?}"
    );
    end(lifecycle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_on_few_pages_end_with_the_newest_values_and_no_effect_twice() {
    let bench = Bench::new(&[1, 2]).await;
    for round in 0..40u64 {
        let jobs: Vec<Job> = (1..=2).flat_map(|page| {
            let body = format!(
                r#"{{"object":"page","entry":[{{"id":"{page}","time":{},"changes":[{{"field":"name","value":"n{round:02}"}}]}}]}}"#,
                1_750_000_000 + round
            );
            let entry = model::webhook::parse_delivery(body.as_bytes()).entries.remove(0);
            let job = Job::Webhook { entry, received_at: HostTime(1_750_000_100_000) };
            [job.clone(), job]
        }).collect();
        bench
            .queue
            .publish(QueueName::Webhooks, &jobs)
            .await
            .unwrap();
    }
    let workers: Vec<Lifecycle> = (0..3).map(|_| bench.start(bench.store.clone())).collect();
    for page in 1..=2 {
        bench.wait_for_name(page, "n39").await;
    }
    eventually("the queue to be empty", || async {
        (bench
            .queue
            .depth(QueueName::Webhooks)
            .await
            .unwrap()
            .messages
            == 0)
            .then_some(())
    })
    .await;
    for running in workers {
        end(running).await;
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
async fn nothing_that_comes_late_revives_a_forgotten_page() {
    let bench = Bench::new(&[1]).await;
    let lifecycle = bench.start(bench.store.clone());
    bench
        .queue
        .publish(QueueName::Webhooks, &[webhook_job(1, "before")])
        .await
        .unwrap();
    bench.wait_for_name(1, "before").await;
    let stored = bench
        .store
        .load_pages(&[page_id(1)])
        .await
        .unwrap()
        .pop()
        .unwrap();
    let forget = Commit {
        page: Some(common::store::PageWrite {
            id: page_id(1),
            expected: stored.version,
            page: model::page::Page {
                status: model::page::Status::Erased,
                ..model::page::Page::default()
            },
            changes: Vec::new(),
            received_at: Clock::system().now(),
        }),
        ..Commit::default()
    };
    assert_eq!(
        bench.store.commit(&[forget]).await.unwrap(),
        [CommitOutcome::Applied]
    );
    // The same delivery again, a newer one, and a poll that was claimed before.
    let claim = Claim {
        subject: Subject::Page(page_id(1)),
        queue: QueueName::PollsNow,
        due_at: Clock::system().now(),
    };
    let late = [webhook_job(1, "before"), webhook_job(1, "after")];
    bench
        .queue
        .publish(QueueName::Webhooks, &late)
        .await
        .unwrap();
    bench
        .queue
        .publish(QueueName::PollsNow, &[Job::Poll(claim)])
        .await
        .unwrap();
    bench
        .queue
        .publish(QueueName::Webhooks, &[webhook_job(2, "unknown")])
        .await
        .unwrap();
    eventually("the queues to be empty", || async {
        let webhooks = bench
            .queue
            .depth(QueueName::Webhooks)
            .await
            .unwrap()
            .messages;
        let polls = bench
            .queue
            .depth(QueueName::PollsNow)
            .await
            .unwrap()
            .messages;
        (webhooks + polls == 0).then_some(())
    })
    .await;
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
    let after = bench
        .store
        .load_pages(&[page_id(1)])
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(after.version, stored.version + 1, "nothing was written");
    assert!(
        matches!(after.value, StoredPage::Page(page) if page.status == model::page::Status::Erased && page.registers.is_empty())
    );
}

/// I4 and I10: the store did the commit and went away before it could say so, and the delivery comes
/// again after a later webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_has_no_second_effect() {
    let bench = Bench::new(&[1]).await;
    let publish = async |name: &str| {
        let job = webhook_job(1, name);
        bench
            .queue
            .publish(QueueName::Webhooks, &[job])
            .await
            .unwrap();
        let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
        assert_eq!(delivery.jobs, [webhook_job(1, name)]);
        delivery
    };
    let first = publish("a").await;
    let later = publish("b").await;
    let going = bench.parts(FaultyStore::unanswered(bench.store.clone(), 1));
    worker::handle_delivery(&going, first).await.unwrap_err();
    assert_eq!(bench.name(1).await, Some(json!("a")), "it was committed");
    let parts = bench.parts(bench.store.clone());
    worker::handle_delivery(&parts, later).await.unwrap();
    let version = async || bench.store.load_pages(&[page_id(1)]).await.unwrap()[0].version;
    let before = version().await;
    let again = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    assert_eq!(
        (again.attempt, &*again.jobs),
        (2, &[webhook_job(1, "a")][..])
    );
    worker::handle_delivery(&parts, again).await.unwrap();
    assert_eq!(bench.name(1).await, Some(json!("b")));
    assert_eq!(version().await, before, "nothing was written");
    let Changes::Entries(feed) = bench.store.changes_after(None, 100).await.unwrap() else {
        panic!("entries")
    };
    assert_eq!(feed.len(), 2, "one entry for each change: {feed:?}");
    let left = bench
        .queue
        .depth(QueueName::Webhooks)
        .await
        .unwrap()
        .messages;
    assert_eq!(left, 0);
}
