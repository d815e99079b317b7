//! Stored data that this build cannot decode, as a newer version may have written it. Only its own
//! subject is affected: all other jobs are done, and processing does not pause.

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::records::dead_letter::UNREADABLE_DATA_PREFIX;
use common::records::{connection, decode, erasure, put_write, rate_limit, write_records};
use common::store::{Commit, DueWrite, RecordKey, RecordKind, Store};
use common::telemetry::Metrics;
use model::id::{LoginId, Subject, UserId};
use model::job::{Claim, ErasureRequest, Job};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::{APP_ID, Deployment, POLL_CONCURRENCY, TestStorage};
use crate::support::faulty_store::FaultyStore;
use crate::support::{eventually, page_id, webhook_job};
use crate::worker::{WorkerFixture, stop};

/// A login id.
const LOGIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn user(n: u64) -> UserId {
    UserId::parse(&n.to_string()).unwrap()
}

/// Stores a record with any body.
async fn put(store: &dyn Store, kind: RecordKind, id: &str, body: &Json) {
    let write = put_write(RecordKey::new(kind, id), body, None, None);
    write_records(store, vec![write]).await.unwrap();
}

/// Returns the id of a record of each kind that concerns person 7, Page 1 or the whole app.
fn record_id(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::DeadLetter
        | RecordKind::DeadLetterRetry
        | RecordKind::ErasureReceipt
        | RecordKind::Probe
        | RecordKind::Trial => "fedcba98",
        RecordKind::DeadLetterCount => "90000.count",
        RecordKind::Check => "write",
        RecordKind::Login | RecordKind::TokenExchange | RecordKind::WebhookTest => LOGIN,
        RecordKind::Connection
        | RecordKind::ConnectionEpoch
        | RecordKind::UserToken
        | RecordKind::TokenInspection => "7",
        RecordKind::PageToken => "7.1",
        RecordKind::PageSubscription => "1",
        RecordKind::App | RecordKind::RateLimit => "app",
        RecordKind::ExcludedField => "name",
        RecordKind::ApiKey => "0123456789abcdef",
        RecordKind::Destination => "default",
        RecordKind::Forwarding => "state",
        RecordKind::WaitingDelivery => "01790000000000.fedcba98",
        RecordKind::Alert => "login_ended.7",
        RecordKind::AlertLease => "alerts",
        RecordKind::WebhookHour => "0497222",
        RecordKind::Audit => "ffffffffffffffff-00000000",
        RecordKind::Invitation => "0123456789abcdef0123456789abcdef",
        RecordKind::DailyPoll => "2026-11-22.7",
        RecordKind::ChangeCount => "2026-11-22.name.announced",
        RecordKind::UnannouncedChange => "1.name.5",
        RecordKind::DroppedCount => "2026-11-22.messages",
    }
}

/// Returns the job of a poll of `subject`.
fn poll(subject: Subject) -> Job {
    Job::Poll(Claim {
        subject,
        queue: QueueName::PollsNow,
        due_at: HostTime(1),
    })
}

/// Returns a job for each kind of subject, about person 7 and Page 1.
fn polls() -> Vec<Job> {
    vec![
        poll(Subject::Page(page_id(1))),
        poll(Subject::Connection(user(7))),
        poll(Subject::Login(LoginId::parse(LOGIN).unwrap())),
        poll(Subject::PageSubscription(page_id(1))),
        poll(Subject::App),
    ]
}

fn erase(n: u64) -> Job {
    Job::Erase(ErasureRequest {
        user: user(n),
        confirmation_hash: Some(format!("{n:064x}")),
        requested_at: HostTime(2_000_000),
        issued_at: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_affects_only_its_own_subject() {
    for kind in RecordKind::ALL {
        println!("{kind:?}");
        let bench = WorkerFixture::new(&[1, 2]).await;
        let newer = match kind {
            // A worker must know which app the store belongs to.
            RecordKind::App => json!({"app_id": APP_ID, "polling": "another form"}),
            _ => json!({"form": "of a newer version"}),
        };
        put(&*bench.store, kind, record_id(kind), &newer).await;
        let context = bench.context(bench.store.clone());
        let (metrics, lifecycle) = (context.metrics.clone(), context.lifecycle.clone());
        lifecycle.spawn("worker", worker::run(context));
        bench.publish(&[webhook_job(1, "one")]).await;
        bench.wait_for_name(1, "one").await;
        bench.publish(&[erase(7), webhook_job(2, "two")]).await;
        let polls = polls();
        bench
            .queue
            .publish(QueueName::PollsNow, &polls)
            .await
            .unwrap();
        bench.wait_for_name(2, "two").await;
        eventually(&format!("every job to be done beside {kind:?}"), || async {
            let done = metrics.jobs_acknowledged.get();
            (done >= 3 + polls.len() as u64).then_some(())
        })
        .await;
        assert_eq!(metrics.processing_paused.get(), 0, "{kind:?}");
        let (unreadable, _) = decode::find_unreadable(&*bench.store, 9).await.unwrap();
        // The erasure may have deleted the record, and the check of the store overwrites its own.
        let others = unreadable.iter().filter(|found| found.key.kind != kind);
        assert_eq!(others.count(), 0, "{kind:?}: {unreadable:?}");
        let is_done = erasure::last_erasure(&*bench.store, &user(7)).await;
        let dead_letters = bench.dead_letters().await;
        if kind == RecordKind::Connection {
            // Whether the person has logged in since the request cannot be known.
            assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
            let (_, dead_letter) = &dead_letters[0];
            assert!(dead_letter.reason.starts_with(UNREADABLE_DATA_PREFIX));
            assert!(dead_letter.job.contains("erase"), "{dead_letter:?}");
        } else {
            assert_eq!(dead_letters.len(), 0, "{kind:?}: {dead_letters:?}");
            let requested_at = is_done.unwrap().erasure_requested_at;
            assert_eq!(requested_at, Some(HostTime(2_000_000)), "{kind:?}");
        }
        stop(lifecycle).await;
    }
}

/// An erasure needs only the time of the consent from a connection, and nothing from its tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_erased_although_a_newer_version_wrote_the_connection_and_a_token() {
    let bench = WorkerFixture::new(&[1, 2]).await;
    let newer = json!({"user": "7", "status": "suspended", "connected_at": 1, "consented_at": 1, "polling": {}});
    put(&*bench.store, RecordKind::Connection, "7", &newer).await;
    put(
        &*bench.store,
        RecordKind::PageToken,
        "7.1",
        &json!({"sealed": 5}),
    )
    .await;
    put(
        &*bench.store,
        RecordKind::UnannouncedChange,
        "1.name.5",
        &json!([]),
    )
    .await;
    let running = bench.start(bench.store.clone());
    bench.publish(&[erase(7), webhook_job(2, "two")]).await;
    bench.wait_for_name(2, "two").await;
    for (kind, id) in [
        (RecordKind::Connection, "7"),
        (RecordKind::PageToken, "7.1"),
        (RecordKind::UnannouncedChange, "1.name.5"),
    ] {
        let stored = bench.store.load_record(&RecordKey::new(kind, id)).await;
        assert_eq!(stored.unwrap(), None, "{kind:?}");
    }
    assert!(bench.dead_letters().await.is_empty());
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_could_not_be_done_is_done_when_a_worker_starts_that_can_read_the_data() {
    let bench = WorkerFixture::new(&[2]).await;
    let newer = json!({"form": "of a newer version"});
    put(&*bench.store, RecordKind::Connection, "7", &newer).await;
    let first = bench.start(bench.store.clone());
    bench.publish(&[erase(7)]).await;
    eventually("the erasure to become a dead letter", || async {
        (bench.dead_letters().await.len() == 1).then_some(())
    })
    .await;
    stop(first).await;
    let readable = json!({"user": "7", "connected_at": 1, "consented_at": 1, "polling": {}});
    put(&*bench.store, RecordKind::Connection, "7", &readable).await;
    let second = bench.start(bench.store.clone());
    eventually("the erasure to be done", || async {
        bench.dead_letters().await.is_empty().then_some(())
    })
    .await;
    let found = connection::find(&*bench.store, &user(7)).await.unwrap();
    assert!(found.is_none(), "{found:?}");
    stop(second).await;
}

/// A Page of two people stays when one of them is erased, also if this build cannot decode the
/// connection of the other one.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_another_person_is_kept_although_their_connection_cannot_be_decoded() {
    let bench = WorkerFixture::new(&[1]).await;
    let readable = json!({"user": "7", "connected_at": 1, "consented_at": 1, "polling": {}});
    put(&*bench.store, RecordKind::Connection, "7", &readable).await;
    put(
        &*bench.store,
        RecordKind::Connection,
        "8",
        &json!({"new": 1}),
    )
    .await;
    for id in ["7.1", "8.1"] {
        let token = json!({"sealed": null, "obtained_at": 1});
        put(&*bench.store, RecordKind::PageToken, id, &token).await;
    }
    let result = erasure::erase_user(&*bench.store, &user(7), HostTime(2_000_000), None).await;
    let result = result.unwrap();
    assert_eq!((result.pages_erased, result.pages_kept), (0, 1));
}

/// Twenty subjects of an unknown kind are due before a known one.
#[tokio::test(flavor = "multi_thread")]
async fn due_subjects_of_an_unknown_kind_stop_no_poll_and_are_reported() {
    const UNKNOWN: u64 = 20;
    let storage = TestStorage::new(BACKEND).await;
    let (queue, store) = (storage.queue().await, storage.store());
    for queue_name in QueueName::POLLS {
        let known = Commit {
            due: vec![DueWrite {
                subject: Subject::Page(page_id(queue_name as u64 + 1)),
                due: Some((queue_name, HostTime(1000))),
            }],
            ..Commit::default()
        };
        store.commit(&[known]).await.unwrap();
        for n in 0..UNKNOWN {
            let subject = format!("{queue_name}_newer:{n}");
            storage.add_due(queue_name, &subject, n + 1).await;
        }
    }
    let (lifecycle, metrics) = (Lifecycle::default(), Metrics::default());
    let now = Clock::system().now();
    let context = scheduler::Context {
        queue: queue.clone(),
        store: store.clone(),
        metrics: metrics.clone(),
        clock: Clock::manual(now),
        poll_concurrency: POLL_CONCURRENCY,
    };
    lifecycle.spawn("scheduler", scheduler::run(context, lifecycle.clone()));
    for queue_name in QueueName::POLLS {
        let delivery = queue.receive(queue_name).await.unwrap();
        let Job::Poll(claim) = &delivery.jobs[0] else {
            panic!("{:?}", delivery.jobs)
        };
        assert_eq!(claim.due_at, HostTime(1000));
        delivery.ack().await.unwrap();
        assert_eq!(metrics.unknown_subjects.get(queue_name.as_str()), UNKNOWN);
        let due = store.next_due(queue_name, 100).await.unwrap();
        assert_eq!(due.len() as u64, UNKNOWN + 1);
        let lease_end = now.plus(scheduler::LEASE);
        assert!(due.iter().all(|entry| entry.due_at == lease_end), "{due:?}");
    }
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
}

#[tokio::test]
async fn a_rate_limit_that_cannot_be_decoded_blocks_nothing_and_is_replaced() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    put(&*store, RecordKind::RateLimit, "app", &json!("newer")).await;
    let found = rate_limit::find(&*store, "app", Clock::system().now())
        .await
        .unwrap();
    assert_eq!(found, rate_limit::RateLimit::default());
    let now = Clock::system().now();
    let block = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, None));
    let blocked = rate_limit::update(&*store, "app", now, block)
        .await
        .unwrap();
    assert_eq!(
        rate_limit::find(&*store, "app", Clock::system().now())
            .await
            .unwrap(),
        blocked.unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_paused_by_a_store_outage_says_so_and_continues_afterwards() {
    let bench = WorkerFixture::new(&[1]).await;
    let store = FaultyStore::unavailable(bench.store.clone(), 0, 0);
    let context = bench.context(store.clone());
    let (metrics, lifecycle) = (context.metrics.clone(), context.lifecycle.clone());
    lifecycle.spawn("worker", worker::run(context));
    bench.publish(&[webhook_job(1, "before")]).await;
    bench.wait_for_name(1, "before").await;
    store.fail_commits(u64::MAX);
    bench.publish(&[webhook_job(1, "during")]).await;
    eventually("processing to be paused", || async {
        (metrics.processing_paused.get() == 1).then_some(())
    })
    .await;
    store.fail_commits(0);
    bench.wait_for_name(1, "during").await;
    eventually("processing to continue", || async {
        (metrics.processing_paused.get() == 0).then_some(())
    })
    .await;
    stop(lifecycle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_processing_is_paused_is_not_ready() {
    let deployment = Deployment::start(BACKEND).await;
    let (_, running) = deployment.roles.last().unwrap();
    running.metrics.processing_paused.set(1);
    let (status, text) = deployment.get_private_of(running, "readyz").await;
    assert!(
        status == 503 && text.contains("processing is paused"),
        "{text}"
    );
    let (_, metrics) = deployment.get_private_of(running, "metrics").await;
    assert!(
        metrics.contains("pagesync_processing_paused 1"),
        "{metrics}"
    );
    running.metrics.processing_paused.set(0);
    assert_eq!(deployment.get_private_of(running, "readyz").await.0, 200);
    deployment.finish().await;
}

/// The body of one record is not JSON.
#[tokio::test]
async fn a_damaged_record_does_not_hide_the_others_of_its_kind() {
    let storage = TestStorage::new(BACKEND).await;
    let store = storage.store();
    put(&*store, RecordKind::Probe, "a", &json!({"arrived_at": 1})).await;
    put(&*store, RecordKind::Probe, "b", &json!({"arrived_at": 2})).await;
    storage.damage_record(RecordKind::Probe, "a").await;
    let listed = store
        .list_records(RecordKind::Probe, None, 10)
        .await
        .unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].1.value, json!({"arrived_at": 2}));
    let (unreadable, count) = decode::find_unreadable(&*store, 1).await.unwrap();
    assert_eq!((unreadable[0].key.id.as_str(), count), ("a", 1));
}
