//! The scheduler by itself, on a real queue and a real store.

use std::collections::BTreeSet;

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::records::throttle;
use common::store::{Commit, DueWrite};
use common::telemetry::Metrics;
use model::id::Subject;
use model::job::Job;
use model::lane::Lane;
use model::time::Millis;

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
            due: Some((Lane::PollsNow, Millis(n))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=PAGES).map(due).collect();
    store.commit(&commits).await.unwrap();
    // A used up limit of the app: nothing is published at all.
    let clock = Clock::manual(Clock::system().now());
    let now = clock.now();
    let close = |held: throttle::Throttle| Some(held.closed(now, None));
    let closed = throttle::update(&*store, throttle::APP, now, close)
        .await
        .unwrap()
        .unwrap();
    let (lifecycle, metrics) = (Lifecycle::default(), Metrics::default());
    let parts = scheduler::Parts {
        queue: queue.clone(),
        store: store.clone(),
        metrics,
        clock: clock.clone(),
    };
    lifecycle.spawn("scheduler", scheduler::run(parts, lifecycle.clone()));
    assert_eq!(queue.depth(Lane::PollsNow).await.unwrap().messages, 0);
    clock.advance(now.until(closed.closed_until));
    eventually("the lane to be full enough", || async {
        (queue.depth(Lane::PollsNow).await.unwrap().messages >= scheduler::DEPTH).then_some(())
    })
    .await;
    let mut seen = BTreeSet::new();
    let (mut deepest, mut twice) = (0, 0);
    while seen.len() < usize::try_from(PAGES).unwrap() {
        deepest = deepest.max(queue.depth(Lane::PollsNow).await.unwrap().messages);
        let delivery = queue.receive(Lane::PollsNow).await.unwrap();
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
    assert!(deepest < scheduler::DEPTH + 200, "{deepest} messages");
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}
