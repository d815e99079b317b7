//! The scheduler by itself, on a real queue and a real store.

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
use crate::support::deployment::Place;
use crate::support::{eventually, page_id};

const PAGES: u64 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_with_enough_waiting_gets_no_more_until_some_is_taken() {
    let place = Place::new(BACKEND).await;
    let (queue, store) = (place.queue().await, place.store());
    let due = |n: u64| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((QueueName::PollsNow, HostTime(n))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=PAGES).map(due).collect();
    store.commit(&commits).await.unwrap();
    // A used up limit of the app: nothing is published at all.
    let clock = Clock::manual(Clock::system().now());
    let now = clock.now();
    let close = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, None));
    let closed = rate_limit::update(&*store, rate_limit::APP_BUCKET, now, close)
        .await
        .unwrap()
        .unwrap();
    let (lifecycle, metrics) = (Lifecycle::default(), Metrics::default());
    let parts = scheduler::Context {
        queue: queue.clone(),
        store: store.clone(),
        metrics,
        clock: clock.clone(),
    };
    lifecycle.spawn("scheduler", scheduler::run(parts, lifecycle.clone()));
    assert_eq!(queue.depth(QueueName::PollsNow).await.unwrap().messages, 0);
    clock.advance(now.until(closed.blocked_until));
    eventually("the queue to be full enough", || async {
        (queue.depth(QueueName::PollsNow).await.unwrap().messages >= scheduler::MAX_QUEUE_DEPTH)
            .then_some(())
    })
    .await;
    let mut seen = BTreeSet::new();
    let (mut deepest, mut twice) = (0, 0);
    while seen.len() < usize::try_from(PAGES).unwrap() {
        deepest = deepest.max(queue.depth(QueueName::PollsNow).await.unwrap().messages);
        let delivery = queue.receive(QueueName::PollsNow).await.unwrap();
        for job in &delivery.jobs {
            let Job::Poll(claim) = job else {
                panic!("{job:?}")
            };
            twice += u64::from(!seen.insert(claim.subject.clone()));
        }
        delivery.ack().await.unwrap();
    }
    // A batch that was not confirmed in time is published again, and its first copy may be there.
    assert!(twice <= 100, "{twice} published twice");
    assert!(
        deepest < scheduler::MAX_QUEUE_DEPTH + 200,
        "{deepest} messages"
    );
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}
