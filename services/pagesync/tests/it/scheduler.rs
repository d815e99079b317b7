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
