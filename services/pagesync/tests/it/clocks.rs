//! Wrong clocks: of a host that was ahead and then corrected, of a scheduler, and of the store.

use std::time::Duration;

use common::clock::Clock;
use common::records::connection;
use common::store::{Commit, DueWrite};
use common::store_clock;
use model::id::{PageId, Subject, UserId};
use model::job::{Claim, Job};
use model::polling::MAX_DUE_AHEAD;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::json;

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::{TestBackend, eventually, page_id};

const THREE_DAYS: Duration = Duration::from_secs(3 * 24 * 3600);

/// Starts a deployment whose clock the test sets, and lets Ada log in.
async fn connected_with_clock(clock: &Clock) -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: clock.clone(),
        extra: &[("PAGESYNC_VERIFY_AFTER", "1s")],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    eventually("the subscriptions", || async {
        let subscribed = connected.simulator.facebook().page_subscriptions.len();
        (subscribed == 3).then_some(())
    })
    .await;
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clock_that_was_ahead_is_corrected_everything_is_read_at_once() {
    for ahead in [Duration::from_secs(3600), THREE_DAYS] {
        let right = Clock::system().now();
        let clock = Clock::manual(right.plus(ahead));
        let connected = connected_with_clock(&clock).await;
        let id = PageId::parse(&page_id_text(0)).unwrap();
        connected.read_again(0).await;
        clock.set(right.plus(Duration::from_secs(60)));

        // An operator requests a read of a Page and a poll of the connection.
        let reads = connected.calls("GET {id}");
        crate::support::request_read(&*connected.deployment.store, &id, clock.now())
            .await
            .unwrap();
        eventually("the requested read", || async {
            (connected.calls("GET {id}") > reads).then_some(())
        })
        .await;
        let walks = connected.calls("GET me/accounts");
        let user = UserId::parse("200000000000001").unwrap();
        connection::request_poll(&*connected.deployment.store, &user, clock.now())
            .await
            .unwrap();
        eventually("the requested connection poll", || async {
            (connected.calls("GET me/accounts") > walks).then_some(())
        })
        .await;

        // A notification arrives, and its verification read is due a second later.
        let reads = connected.calls("GET {id}");
        connected
            .simulator
            .change(
                &page_id_text(1),
                json!({"phone": "+49 30 2"}).as_object().cloned().unwrap(),
            )
            .unwrap();
        eventually("the notification", || async {
            let page = connected.page(1).await;
            page.polling.read_needed_after().map(|_| ())
        })
        .await;
        clock.advance(Duration::from_secs(62));
        eventually("the verification read", || async {
            (connected.calls("GET {id}") > reads).then_some(())
        })
        .await;

        // The same person logs in again.
        let (status, body) = connected.connect().await;
        assert_eq!(
            (status, &body["connection"]["status"]),
            (200, &json!("active")),
            "{body}"
        );
        connected.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_scheduler_that_is_ahead_answers_the_daily_slot_once() {
    let clock = manual_clock();
    let connected = connected_with_clock(&clock).await;
    let user = UserId::parse("200000000000001").unwrap();
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    // The worker's clock is a minute behind the clock of the scheduler that has claimed the slot.
    clock.set(HostTime(slot.0 - 60_000));
    let claim = Claim {
        subject: Subject::Connection(user.clone()),
        queue: QueueName::PollsDaily,
        due_at: slot,
    };
    let queue = connected.deployment.roles[0].1.backends.queue.clone();
    queue
        .publish(QueueName::PollsDaily, &[Job::Poll(claim)])
        .await
        .unwrap();
    let next = eventually("the daily poll", || async {
        let polling = connected.connection().await.polling;
        polling.daily_slot.filter(|next| *next != slot)
    })
    .await;
    let a_day = Duration::from_secs(20 * 3600);
    assert!(next > slot.plus(a_day), "{slot:?} {next:?}");
    connected.finish().await;
}

#[tokio::test]
async fn the_store_lowers_a_due_time_that_is_too_far_ahead() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let due = |n: u64, at: HostTime| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((QueueName::PollsDaily, at)),
        }],
        ..Commit::default()
    };
    let now = Clock::system().now();
    let (near, far) = (now.plus(MAX_DUE_AHEAD / 2), now.plus(MAX_DUE_AHEAD * 2));
    store.commit(&[due(1, near), due(2, far)]).await.unwrap();
    let entries = store.next_due(QueueName::PollsDaily, 9).await.unwrap();
    assert_eq!(entries[0].due_at, near);
    let latest = Clock::system().now().plus(MAX_DUE_AHEAD);
    assert!(entries[1].due_at <= latest, "{entries:?}");
    assert_eq!(store.pull_back_due_times().await.unwrap(), 0);
}

#[tokio::test]
async fn due_times_that_lie_too_far_ahead_become_due_now() {
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    let now = Clock::system().now();
    let (near, far) = (now.plus(MAX_DUE_AHEAD / 2), now.plus(MAX_DUE_AHEAD * 2));
    for queue_name in QueueName::POLLS {
        storage
            .add_due(queue_name, &format!("page:{}1", queue_name as u8), near.0)
            .await;
        storage
            .add_due(queue_name, &format!("page:{}2", queue_name as u8), far.0)
            .await;
    }
    assert_eq!(store.pull_back_due_times().await.unwrap(), 3);
    for queue_name in QueueName::POLLS {
        let entries = store.next_due(queue_name, 9).await.unwrap();
        assert!(entries[0].due_at <= Clock::system().now(), "{entries:?}");
        assert_eq!(entries[1].due_at, near);
    }
}

#[tokio::test]
async fn a_difference_from_the_clock_of_the_store_is_measured() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let system = Clock::system();
    let difference = store_clock::difference(&*store, &system).await.unwrap();
    assert!(!store_clock::is_reported(difference), "{difference}");
    for (seconds, reported) in [(50, false), (600, true)] {
        let by = Duration::from_secs(seconds);
        let ahead = Clock::manual(system.now().plus(by));
        let difference = store_clock::difference(&*store, &ahead).await.unwrap();
        assert_eq!(
            (difference > 0, store_clock::is_reported(difference)),
            (true, reported)
        );
        let behind = Clock::manual(HostTime(system.now().0 - seconds * 1000));
        let difference = store_clock::difference(&*store, &behind).await.unwrap();
        assert_eq!(
            (difference < 0, store_clock::is_reported(difference)),
            (true, reported)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_reports_that_its_clock_differs_from_the_clock_of_the_store() {
    let ahead = Clock::manual(Clock::system().now().plus(Duration::from_secs(600)));
    let scene = DeploymentOptions {
        clock: ahead,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    for (role, running) in &connected.deployment.roles {
        let metric = "pagesync_store_clock_difference_seconds ";
        let seconds = eventually(&format!("the metric of {role:?}"), || async {
            let (_, text) = connected
                .deployment
                .get_private_of(running, "metrics")
                .await;
            let line = text.lines().find_map(|line| line.strip_prefix(metric))?;
            let seconds: i64 = line.parse().unwrap();
            // The embedded store has the clock of its process.
            (BACKEND == TestBackend::Embedded || seconds != 0).then_some(seconds)
        })
        .await;
        match BACKEND {
            TestBackend::Embedded => assert_eq!(seconds, 0),
            TestBackend::Distributed => assert!((400..=600).contains(&seconds), "{seconds}"),
        }
    }
    connected.finish().await;
}
