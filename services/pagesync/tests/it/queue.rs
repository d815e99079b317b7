//! The conformance suite of the trait `Queue`. Both backends must pass it.

use std::collections::BTreeSet;
use std::time::Duration;

use common::queue::Queue;
use common::queue::delivery::Delivery;
use common::queue::error::QueueError;
use futures_util::future::join_all;
use model::id::Subject;
use model::job::{Claim, Job, Unreadable, encode_job};
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::{eventually, page_id, webhook_job};

fn poll(n: u64) -> Job {
    let claim = Claim {
        subject: Subject::Page(page_id(n)),
        queue: QueueName::PollsNow,
        due_at: HostTime(n),
    };
    Job::Poll(claim)
}

/// Receives the next message. Panics if none arrives within a minute.
async fn receive(queue: &dyn Queue, queue_name: QueueName) -> Delivery {
    let received = tokio::time::timeout(Duration::from_secs(60), queue.receive(queue_name)).await;
    received.expect("a delivery in time").unwrap()
}

/// Receives and acknowledges messages until it has received `n` jobs. Returns the jobs.
async fn drain(queue: &dyn Queue, queue_name: QueueName, n: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    while jobs.len() < n {
        let delivery = receive(queue, queue_name).await;
        jobs.extend(delivery.jobs.clone());
        delivery.ack().await.unwrap();
    }
    jobs
}

/// Checks that a queue is empty.
async fn assert_empty(queue: &dyn Queue, queue_name: QueueName) {
    eventually("an empty queue", || async {
        (queue.depth(queue_name).await.unwrap().messages == 0).then_some(())
    })
    .await;
    let more = tokio::time::timeout(Duration::from_millis(300), queue.receive(queue_name)).await;
    assert!(more.is_err(), "the queue still contains a message");
}

#[tokio::test(flavor = "multi_thread")]
async fn published_jobs_are_available_to_the_next_process() {
    let storage = TestStorage::new(BACKEND).await;
    let jobs = [webhook_job(1, "a"), webhook_job(2, "b")];
    let queue = storage.queue().await;
    queue.publish(QueueName::Webhooks, &jobs).await.unwrap();
    drop(queue);
    let queue = storage.queue().await;
    assert_eq!(drain(&*queue, QueueName::Webhooks, 2).await, jobs);
    assert_empty(&*queue, QueueName::Webhooks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_message_is_redelivered_and_its_deliveries_are_counted() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    queue
        .publish(QueueName::PollsNow, &[poll(1)])
        .await
        .unwrap();
    for attempt in 1..=3 {
        let delivery = receive(&*queue, QueueName::PollsNow).await;
        assert_eq!(
            (delivery.attempt, &delivery.jobs),
            (attempt, &vec![poll(1)])
        );
        drop(delivery);
    }
    let delivery = receive(&*queue, QueueName::PollsNow).await;
    delivery.ack().await.unwrap();
    assert_empty(&*queue, QueueName::PollsNow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requeue_returns_every_unacknowledged_message_once() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    let jobs = [poll(1), poll(2), poll(3)];
    queue.publish(QueueName::PollsNow, &jobs).await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(receive(&*queue, QueueName::PollsNow).await);
    }
    assert!(
        deliveries.iter().all(|delivery| delivery.jobs.len() == 1),
        "each poll is a separate message"
    );
    queue.requeue(QueueName::PollsNow).await.unwrap();
    let mut redelivered = Vec::new();
    for _ in 0..3 {
        redelivered.push(receive(&*queue, QueueName::PollsNow).await);
    }
    assert!(redelivered.iter().all(|delivery| delivery.attempt == 2));
    for delivery in deliveries {
        let result = delivery.ack().await;
        assert!(matches!(result, Err(QueueError::Requeued)), "{result:?}");
    }
    let mut seen = BTreeSet::new();
    for delivery in redelivered {
        seen.extend(delivery.jobs.iter().map(encode_job));
        delivery.ack().await.unwrap();
    }
    assert_eq!(seen, jobs.iter().map(encode_job).collect());
    assert_empty(&*queue, QueueName::PollsNow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publish_may_contain_every_kind_of_job() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    let unreadable = Unreadable {
        body: vec![0, 159, 146, 150],
        reason: "not text".to_owned(),
        received_at: HostTime(7),
    };
    let jobs = [
        webhook_job(1, "ä\u{0}\n"),
        Job::Unreadable(unreadable),
        poll(3),
    ];
    queue.publish(QueueName::Webhooks, &jobs).await.unwrap();
    assert_eq!(drain(&*queue, QueueName::Webhooks, 3).await, jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_above_the_message_size_limit_is_published_as_a_message_of_its_own() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    let long = webhook_job(1, &"x".repeat(1_500_000));
    let jobs = [webhook_job(2, "before"), long, webhook_job(3, "after")];
    queue.publish(QueueName::Webhooks, &jobs).await.unwrap();
    let mut received = BTreeSet::new();
    while received.len() < 3 {
        let delivery = receive(&*queue, QueueName::Webhooks).await;
        let encoded: Vec<String> = delivery.jobs.iter().map(encode_job).collect();
        let is_long = encoded.iter().any(|job| job.len() > 1_000_000);
        assert!(
            !is_long || encoded.len() == 1,
            "the long job shares a message with other jobs"
        );
        received.extend(encoded);
        delivery.ack().await.unwrap();
    }
    assert_eq!(received, jobs.iter().map(encode_job).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_receive_loses_no_message() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    for n in 1..=40 {
        queue
            .publish(QueueName::PollsNow, &[poll(n)])
            .await
            .unwrap();
        // Different timeouts cancel the call at different points while it waits for a message.
        let timeout = Duration::from_micros(n * 50);
        if let Ok(delivery) =
            tokio::time::timeout(timeout, queue.receive(QueueName::PollsNow)).await
        {
            drop(delivery.unwrap());
        }
    }
    let mut received = BTreeSet::new();
    while received.len() < 40 {
        let delivery = receive(&*queue, QueueName::PollsNow).await;
        received.extend(delivery.jobs.iter().map(encode_job));
        delivery.ack().await.unwrap();
    }
    assert_empty(&*queue, QueueName::PollsNow).await;
}

/// A full queue refuses jobs while the other queues accept them, and every caller gets the result
/// of its own jobs. Each result is checked, because lapin may assign a confirm to the wrong message
/// if several messages are in flight on one channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_a_thousand_publishers_gets_its_own_result() {
    let storage = TestStorage::new(BACKEND).await;
    let queue = storage.queue().await;
    match &storage {
        TestStorage::Distributed { vhost, .. } => {
            vhost.limit_queue("pagesync.v2.polls_daily", 2000).await;
        }
        TestStorage::Embedded(directory) => {
            let file = rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
            let limit = "UPDATE queues SET max_bytes = 2000 WHERE queue = 'polls_daily'";
            assert_eq!(file.execute(limit, []).unwrap(), 1);
        }
    }
    // RabbitMQ applies a policy shortly after it is set.
    eventually("the queue to be full", || async {
        queue
            .publish(QueueName::PollsDaily, &[poll(9999)])
            .await
            .is_err_and(|error| matches!(error, QueueError::Full(_)))
            .then_some(())
    })
    .await;
    let before = queue.depth(QueueName::PollsDaily).await.unwrap().messages;
    let publishers = (1..=1000u64).map(|n| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let (queue_name, job) = if n % 2 == 0 {
                (QueueName::Webhooks, webhook_job(n, "n"))
            } else {
                (QueueName::PollsDaily, poll(n))
            };
            let result = queue.publish(queue_name, std::slice::from_ref(&job)).await;
            (n, encode_job(&job), result)
        })
    });
    let results: Vec<_> = join_all(publishers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let accepted: BTreeSet<&str> = results
        .iter()
        .filter(|(.., result)| result.is_ok())
        .map(|(_, job, _)| job.as_str())
        .collect();
    // A job whose publish was not answered in time may or may not be in the queue.
    let mut unanswered = BTreeSet::new();
    for (n, job, result) in &results {
        match result {
            Ok(()) => {}
            Err(QueueError::Full(_)) if n % 2 == 1 => {}
            Err(QueueError::Unavailable(_)) => {
                unanswered.insert(job.as_str());
            }
            Err(error) => panic!("{n}: {error}"),
        }
    }
    assert!(
        results.len() - accepted.len() > 400,
        "the full queue refused most of the jobs published to it"
    );
    let even =
        |(n, _, result): &&(u64, String, Result<(), QueueError>)| n % 2 == 0 && result.is_ok();
    let mut webhooks = drain(
        &*queue,
        QueueName::Webhooks,
        results.iter().filter(even).count(),
    )
    .await;
    // The queue may also contain jobs whose publish was not answered in time.
    let timeout = Duration::from_millis(300);
    while let Ok(more) = tokio::time::timeout(timeout, queue.receive(QueueName::Webhooks)).await {
        let delivery = more.unwrap();
        webhooks.extend(delivery.jobs.clone());
        delivery.ack().await.unwrap();
    }
    let mut stored: BTreeSet<String> = webhooks.iter().map(encode_job).collect();
    let daily = queue.depth(QueueName::PollsDaily).await.unwrap().messages;
    let daily = drain(
        &*queue,
        QueueName::PollsDaily,
        usize::try_from(daily).unwrap(),
    )
    .await;
    let fillers = daily.iter().filter(|job| **job == poll(9999)).count();
    assert_eq!(fillers as u64, before);
    stored.extend(
        daily
            .iter()
            .filter(|job| **job != poll(9999))
            .map(encode_job),
    );
    let stored: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    assert!(accepted.is_subset(&stored), "an accepted job is missing");
    let known: BTreeSet<&str> = accepted.union(&unanswered).copied().collect();
    assert!(stored.is_subset(&known), "a refused job was stored");
    assert_empty(&*queue, QueueName::Webhooks).await;
    assert_empty(&*queue, QueueName::PollsDaily).await;
}
