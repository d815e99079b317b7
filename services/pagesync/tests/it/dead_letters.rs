//! Dead letters and their retries: poison messages, jobs that make the worker panic, and jobs of
//! an unknown kind or a newer version.

use common::clock::Clock;
use common::queue::delivery::Delivery;
use common::records::dead_letter::usage::Usage;
use common::records::dead_letter::{self, RetryState};
use common::records::{load_record, trial};
use model::job::{Job, NEWER_VERSION_PREFIX, Unreadable};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::json;

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::faulty_store::FaultyStore;
use crate::support::{TestBackend, eventually, page_id, webhook_job};
use crate::worker::{WorkerFixture, start, stop};

/// Stores the dead letter of a job.
async fn save(bench: &WorkerFixture, job: &Job, reason: &str) {
    let (store, now) = (&*bench.store, Clock::system().now());
    let mut usage = Usage::load(store, now).await.unwrap();
    let saved = dead_letter::save(store, &mut usage, job, reason, now, &[]).await;
    assert!(saved.unwrap());
}

/// Replays the dead letter of a job.
async fn replay(bench: &WorkerFixture, job: &Job) {
    let ids = [dead_letter::id(job)];
    let found = dead_letter::load_chosen(&*bench.store, &ids).await.unwrap();
    let now = Clock::system().now();
    dead_letter::replay(&*bench.store, &*bench.queue, now, &found)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_is_split_and_its_valid_jobs_are_done() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    let bad = Job::Unreadable(Unreadable {
        body: b"?".to_vec(),
        reason: "not a webhook".to_owned(),
        received_at: HostTime(1),
    });
    let jobs = [webhook_job(1, "one"), bad, webhook_job(2, "two")];
    bench.publish(&jobs).await;
    for attempt in 1..worker::POISON_THRESHOLD {
        let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
        assert_eq!(delivery.attempt, attempt);
        drop(delivery);
    }
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "one").await;
    bench.wait_for_name(2, "two").await;
    let dead_letters = eventually("one dead letter", || async {
        let found = bench.dead_letters().await;
        (found.len() == 1 && found[0].1.retry == RetryState::Final).then_some(found)
    })
    .await;
    assert_eq!(dead_letters[0].0, dead_letter::id(&jobs[1]));
    stop(running).await;
    assert_eq!(bench.depth(QueueName::Webhooks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_makes_the_worker_panic_becomes_a_dead_letter_and_the_other_jobs_are_done() {
    let bench = WorkerFixture::new(&[1, 2, 3]).await;
    let poison = webhook_job(2, "poison");
    let jobs = [
        webhook_job(1, "one"),
        poison.clone(),
        webhook_job(3, "three"),
    ];
    bench.publish(&jobs).await;
    let running = bench.start(FaultyStore::poisoned(bench.store.clone(), page_id(2)));
    bench.wait_for_name(1, "one").await;
    bench.wait_for_name(3, "three").await;
    eventually("the retry of the dead letter to end", || async {
        let found = bench.dead_letters().await;
        (found.len() == 1
            && found[0].0 == dead_letter::id(&poison)
            && found[0].1.retry == RetryState::Final)
            .then_some(())
    })
    .await;
    stop(running).await;
    // An operator replays the job after the cause of the panic has been fixed.
    replay(&bench, &poison).await;
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(2, "poison").await;
    assert_eq!(bench.dead_letters().await, []);
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_a_process_left_without_a_retry_are_retried_at_the_next_start() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    let now = Clock::system().now();
    let (pending, in_progress) = (webhook_job(1, "pending"), webhook_job(2, "in progress"));
    let ended_process = RetryState::InProgress("a process that has ended".to_owned());
    for (job, state) in [
        (&pending, RetryState::Pending),
        (&in_progress, ended_process),
    ] {
        save(&bench, job, "delivered 3 times").await;
        let id = dead_letter::id(job);
        dead_letter::set_retry_state(&*bench.store, &id, state, now)
            .await
            .unwrap();
    }
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "pending").await;
    eventually("the pending dead letter to be removed", || async {
        let found = bench.dead_letters().await;
        (found.len() == 1 && found[0].0 == dead_letter::id(&in_progress)).then_some(())
    })
    .await;
    assert_eq!(
        bench.name(2).await,
        None,
        "a job that was in progress when its process ended is not retried automatically"
    );
    stop(running).await;
}

/// Receives the message of `job` until its jobs are executed one at a time.
async fn deliver_until_trial(bench: &WorkerFixture, job: &Job) -> Delivery {
    bench.publish(std::slice::from_ref(job)).await;
    for _ in 1..worker::POISON_THRESHOLD {
        drop(bench.queue.receive(QueueName::Webhooks).await.unwrap());
    }
    bench.queue.receive(QueueName::Webhooks).await.unwrap()
}

/// Returns the names of the processes whose trials of a job have not ended.
async fn trials(bench: &WorkerFixture, job: &Job) -> Vec<String> {
    let key = trial::key(&dead_letter::id(job));
    let stored = load_record::<trial::Trials>(&*bench.store, &key)
        .await
        .unwrap();
    stored.map_or(Vec::new(), |stored| stored.value.processes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_a_store_outage_interrupts_makes_no_dead_letter() {
    let bench = WorkerFixture::new(&[1]).await;
    let job = webhook_job(1, "tried again");
    let delivery = deliver_until_trial(&bench, &job).await;
    // One commit succeeds, that of the trial; all later commits fail.
    let during_outage = bench.context(FaultyStore::unavailable(bench.store.clone(), 1, 1000));
    worker::handle_delivery(&during_outage, delivery)
        .await
        .unwrap_err();
    assert_eq!(bench.name(1).await, None);
    assert_eq!(trials(&bench, &job).await.len(), 1);
    // The message is delivered again, to the same process, which still runs.
    let after_outage = worker::context::Context {
        store: bench.store.clone(),
        ..during_outage
    };
    let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    worker::handle_delivery(&after_outage, delivery)
        .await
        .unwrap();
    assert_eq!(bench.name(1).await, Some(json!("tried again")));
    assert_eq!(bench.dead_letters().await, []);
    assert_eq!(trials(&bench, &job).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_a_store_outage_interrupts_leaves_those_of_ended_processes() {
    let bench = WorkerFixture::new(&[1]).await;
    let job = webhook_job(1, "tried again");
    let id = dead_letter::id(&job);
    let ended = "a process that has ended";
    assert!(trial::begin(&*bench.store, &id, ended).await.unwrap());
    let delivery = deliver_until_trial(&bench, &job).await;
    // The trial is recorded, the commit of the job fails, and the store answers again.
    let context = bench.context(FaultyStore::unavailable(bench.store.clone(), 1, 1));
    // A process that stops does not repeat the delivery in place.
    context.lifecycle.stop();
    worker::handle_delivery(&context, delivery)
        .await
        .unwrap_err();
    assert_eq!(trials(&bench, &job).await, [ended]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_becomes_a_dead_letter_only_after_two_processes_ended_during_its_trial() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    let (once, twice) = (webhook_job(1, "once"), webhook_job(2, "twice"));
    for (job, ended) in [(&once, 1), (&twice, 2)] {
        let id = dead_letter::id(job);
        for process in 0..ended {
            let process = format!("a process that has ended {process}");
            assert!(trial::begin(&*bench.store, &id, &process).await.unwrap());
        }
    }
    let context = bench.context(bench.store.clone());
    for job in [&once, &twice] {
        let delivery = deliver_until_trial(&bench, job).await;
        worker::handle_delivery(&context, delivery).await.unwrap();
        assert_eq!(trials(&bench, job).await.len(), 0);
    }
    assert_eq!(bench.name(1).await, Some(json!("once")));
    assert_eq!(bench.name(2).await, None);
    let dead_letters = bench.dead_letters().await;
    assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
    assert_eq!(dead_letters[0].0, dead_letter::id(&twice));
    assert_eq!(bench.depth(QueueName::Webhooks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trials_that_the_store_made_and_did_not_confirm_count_for_no_process() {
    let bench = WorkerFixture::new(&[1]).await;
    let job = webhook_job(1, "harmless");
    let mut delivery = deliver_until_trial(&bench, &job).await;
    for _ in 0..worker::POISON_THRESHOLD {
        let store = FaultyStore::losing_replies(bench.store.clone(), 1000);
        let context = bench.context(store);
        // A process that stops does not repeat the delivery in place.
        context.lifecycle.stop();
        worker::handle_delivery(&context, delivery)
            .await
            .unwrap_err();
        delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    }
    let context = bench.context(bench.store.clone());
    worker::handle_delivery(&context, delivery).await.unwrap();
    assert_eq!(bench.name(1).await, Some(json!("harmless")));
    assert_eq!(bench.dead_letters().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_leaves_no_trial_behind() {
    let bench = WorkerFixture::new(&[1]).await;
    let context = bench.context(bench.store.clone());
    let process = context.process.clone();
    let running = start(context);
    let (own, other) = (webhook_job(1, "own"), webhook_job(1, "other"));
    for (job, process) in [(&own, &*process), (&other, "another process")] {
        let id = dead_letter::id(job);
        assert!(trial::begin(&*bench.store, &id, process).await.unwrap());
    }
    stop(running).await;
    assert_eq!(trials(&bench, &own).await.len(), 0);
    assert_eq!(trials(&bench, &other).await, ["another process"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_a_moment_gets_the_same_delivery_again() {
    let bench = WorkerFixture::new(&[1]).await;
    bench.publish(&[webhook_job(1, "in place")]).await;
    let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
    let context = bench.context(FaultyStore::unavailable(bench.store.clone(), 0, 2));
    worker::handle_delivery(&context, delivery).await.unwrap();
    assert_eq!(bench.name(1).await, Some(json!("in place")));
    assert_eq!(bench.depth(QueueName::Webhooks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_finishes_what_it_holds() {
    let bench = WorkerFixture::new(&[1]).await;
    // Each job is a message of its own.
    for n in 0..400 {
        bench
            .publish(&[webhook_job(1, &format!("name {n:03}"))])
            .await;
    }
    let store = FaultyStore::with_random_delays(bench.store.clone(), 7);
    let context = bench.context(store);
    let metrics = context.metrics.clone();
    let running = start(context);
    eventually("some acknowledgements", || async {
        (metrics.jobs_acknowledged.get() >= 20).then_some(())
    })
    .await;
    stop(running).await;
    // A message that the worker received and neither finished nor gave back would not be among those
    // that wait, because its channel is still open.
    let acknowledged = metrics.jobs_acknowledged.get();
    eventually("every message to be acknowledged or to wait", || async {
        let waiting = bench.depth(QueueName::Webhooks).await;
        (acknowledged + waiting == 400).then_some(())
    })
    .await;
    // RabbitMQ also counts a delivery of what it had assigned to the cancelled consumer, although the
    // consumer never got it. See docs/decisions.md.
    let max_attempt = match BACKEND {
        TestBackend::Embedded => 1,
        TestBackend::Distributed => 2,
    };
    bench.queue.start_receiving();
    while bench.depth(QueueName::Webhooks).await > 0 {
        let delivery = bench.queue.receive(QueueName::Webhooks).await.unwrap();
        assert!(delivery.attempt <= max_attempt);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_jobs_and_jobs_of_a_newer_version_become_dead_letters() {
    let bench = WorkerFixture::new(&[1]).await;
    let unknown = [
        "",
        "hello",
        "{}",
        "[7]",
        r#"[{"v":1}]"#,
        r#"[{"v":2}]"#,
        r#"[{"v":"abc","webhook":{}}]"#,
        r#"[{"v":9223372036854775808,"later":{"x":1}}]"#,
    ];
    match &bench.storage {
        TestStorage::Distributed { vhost, .. } => {
            for payload in unknown {
                vhost.publish_raw("pagesync.v2.webhooks", payload).await;
            }
        }
        TestStorage::Embedded(directory) => {
            let file = rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
            for payload in unknown {
                let insert =
                    "INSERT INTO messages (queue, attempt, body) VALUES ('webhooks', 0, ?1)";
                file.execute(insert, [payload.as_bytes()]).unwrap();
            }
        }
    }
    bench.publish(&[webhook_job(1, "good")]).await;
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "good").await;
    let dead_letters = eventually("a dead letter for each unknown job", || async {
        let found = bench.dead_letters().await;
        (found.len() == unknown.len()).then_some(found)
    })
    .await;
    assert_eq!(
        dead_letters
            .iter()
            .filter(|(_, dead_letter)| dead_letter.reason.starts_with(NEWER_VERSION_PREFIX))
            .count(),
        1
    );
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_newer_version_is_retried_when_a_worker_that_knows_the_version_starts() {
    let bench = WorkerFixture::new(&[1]).await;
    let body = model::job::encode_job(&webhook_job(1, "understood")).into_bytes();
    let reason = format!("{NEWER_VERSION_PREFIX}: 3, this build knows 2");
    let job = Job::Unreadable(Unreadable {
        body,
        reason: reason.clone(),
        received_at: HostTime(1),
    });
    save(&bench, &job, &reason).await;
    let running = bench.start(bench.store.clone());
    bench.wait_for_name(1, "understood").await;
    eventually("every dead letter to be removed", || async {
        bench.dead_letters().await.is_empty().then_some(())
    })
    .await;
    stop(running).await;
}
