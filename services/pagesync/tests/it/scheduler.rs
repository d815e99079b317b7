//! Runs the scheduler without the other roles, on a real queue and a real store.

use std::collections::BTreeSet;

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::records::rate_limit;
use common::store::{Commit, DueWrite};
use common::telemetry::Metrics;
use model::id::Subject;
use model::job::Job;
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::BACKEND;
use crate::support::deployment::{POLL_CONCURRENCY, TestStorage};
use crate::support::{eventually, page_id};

const PAGES: u64 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_holds_at_most_twice_what_its_workers_do_at_a_time() {
    let storage = TestStorage::new(BACKEND).await;
    let (queue, store) = (storage.queue().await, storage.store());
    let due = |n: u64| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((QueueName::PollsNow, HostTime(n))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=PAGES).map(due).collect();
    store.commit(&commits).await.unwrap();
    // While the rate limit of the app blocks calls, no poll is published.
    let clock = Clock::manual(Clock::system().now());
    let now = clock.now();
    let block = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, None));
    let blocked = rate_limit::update(&*store, rate_limit::APP_BUCKET, now, block)
        .await
        .unwrap()
        .unwrap();
    let (lifecycle, metrics) = (Lifecycle::default(), Metrics::default());
    let context = scheduler::Context {
        queue: queue.clone(),
        store: store.clone(),
        metrics,
        clock: clock.clone(),
        poll_concurrency: POLL_CONCURRENCY,
    };
    let max_waiting = scheduler::WAITING_TURNS * u64::from(POLL_CONCURRENCY);
    lifecycle.spawn("scheduler", scheduler::run(context, lifecycle.clone()));
    assert_eq!(queue.depth(QueueName::PollsNow).await.unwrap().messages, 0);
    clock.advance(now.until(blocked.blocked_until));
    eventually("the queue to be full", || async {
        (queue.depth(QueueName::PollsNow).await.unwrap().messages >= max_waiting).then_some(())
    })
    .await;
    let mut seen = BTreeSet::new();
    let (mut max_depth, mut published_twice) = (0, 0);
    while seen.len() < usize::try_from(PAGES).unwrap() {
        max_depth = max_depth.max(queue.depth(QueueName::PollsNow).await.unwrap().messages);
        let delivery = queue.receive(QueueName::PollsNow).await.unwrap();
        for job in &delivery.jobs {
            let Job::Poll(claim) = job else {
                panic!("{job:?}")
            };
            published_twice += u64::from(!seen.insert(claim.subject.clone()));
        }
        delivery.ack().await.unwrap();
    }
    // A batch whose confirm is late is published again, although it may already be in the queue.
    assert!(
        published_twice <= 100,
        "{published_twice} polls were published twice"
    );
    assert!(
        // A batch that is published twice adds at most as many again.
        max_depth <= 2 * max_waiting,
        "{max_depth} messages"
    );
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_drained_quickly_does_not_hold_up_a_login() {
    const MANY: u64 = 4000;
    let storage = TestStorage::new(BACKEND).await;
    let (queue, store) = (storage.queue().await, storage.store());
    let due = |n: u64, queue_name| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((queue_name, HostTime(n))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=MANY).map(|n| due(n, QueueName::PollsNow)).collect();
    store.commit(&commits).await.unwrap();
    let (lifecycle, metrics) = (Lifecycle::default(), Metrics::default());
    let context = scheduler::Context {
        queue: queue.clone(),
        store: store.clone(),
        metrics,
        clock: Clock::system(),
        poll_concurrency: POLL_CONCURRENCY,
    };
    lifecycle.spawn("scheduler", scheduler::run(context, lifecycle.clone()));
    // A worker that needs no time for a poll, so that the queue always has room.
    let worker = {
        let queue = queue.clone();
        tokio::spawn(async move {
            loop {
                let delivery = queue.receive(QueueName::PollsNow).await.unwrap();
                delivery.ack().await.unwrap();
            }
        })
    };
    eventually("the first polls", || async {
        let first = store.next_due(QueueName::PollsNow, 1).await.unwrap();
        (first[0].due_at > HostTime(1)).then_some(())
    })
    .await;
    store
        .commit(&[due(MANY + 1, QueueName::Logins)])
        .await
        .unwrap();
    eventually("the login in its queue", || async {
        (queue.depth(QueueName::Logins).await.unwrap().messages > 0).then_some(())
    })
    .await;
    let next = store.next_due(QueueName::PollsNow, 1).await.unwrap();
    assert!(
        next[0].due_at <= HostTime(MANY),
        "every other poll came before the login"
    );
    worker.abort();
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}
