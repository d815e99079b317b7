//! Faults of the broker: restarts, freezes, blocked publishers, refused logins, and queues that are
//! declared differently or deleted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::clock::Clock;
use common::config::Role;
use common::config::settings::Environment;
use common::lifecycle::Lifecycle;
use common::pages;
use common::queue::error::QueueError;
use common::queue::rabbitmq::RabbitMq;
use common::queue::{PUBLISH_DEADLINE, Queue};
use common::store::StoredPage;
use model::job::{Job, encode_job, encode_message};
use model::queue_name::QueueName;
use serde_json::Value as Json;

use crate::support::deployment::{Deployment, POLL_CONCURRENCY, TestStorage, worker_context};
use crate::support::engine::{Server, ServerKind};
use crate::support::servers::{database, shared_broker, shared_redis, vhost};
use crate::support::{TestBackend, eventually, page_id, webhook_job};

/// A publisher that records the jobs that the queue accepted.
struct Publisher {
    queue: Arc<RabbitMq>,
    next: u64,
    accepted: BTreeSet<String>,
}

impl Publisher {
    /// Publishes one more job. Panics if no result arrives, whatever the state of the broker is.
    async fn publish(&mut self) -> Result<(), QueueError> {
        self.next += 1;
        let job = webhook_job(self.next, "n");
        let jobs = std::slice::from_ref(&job);
        let result = bounded("a publish", self.queue.publish(QueueName::Webhooks, jobs)).await;
        if result.is_ok() {
            self.accepted.insert(encode_job(&job));
        }
        result
    }

    /// Publishes jobs until the queue accepts one. `after` names the fault that was just repaired.
    async fn publish_again(&mut self, after: &str) {
        let began = Instant::now();
        while self.publish().await.is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the queue accepts no job after {after}"
            );
            tokio::task::yield_now().await;
        }
        println!(
            "{after}: jobs were accepted again {:?} later",
            began.elapsed()
        );
    }
}

/// Waits for an operation that has a deadline of its own. Panics if it does not return after many
/// times that deadline, so that a busy machine does not fail the test.
async fn bounded<T>(what: &str, operation: impl Future<Output = T>) -> T {
    let bound = PUBLISH_DEADLINE * 20;
    tokio::time::timeout(bound, operation)
        .await
        .unwrap_or_else(|_| panic!("{what} did not return within {bound:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_and_every_publish_has_a_result_while_the_broker_restarts_freezes_or_blocks()
{
    let broker = Server::start(ServerKind::RabbitMq).await;
    let vhost = vhost(&broker).await;
    let queue = Arc::new(
        RabbitMq::open(&vhost.amqp, "test", POLL_CONCURRENCY)
            .await
            .unwrap(),
    );
    let mut publisher = Publisher {
        queue: queue.clone(),
        next: 0,
        accepted: BTreeSet::new(),
    };
    publisher.publish_again("the start").await;
    let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
    publisher.publish_again("the first delivery").await;

    broker.kill().await;
    publisher.publish().await.unwrap_err();
    eventually("the queue not to be ready", || async {
        (!queue.is_ready()).then_some(())
    })
    .await;
    let acknowledged = delivery.ack().await;
    assert!(
        acknowledged.is_err(),
        "an acknowledgement to a broker that is down fails"
    );
    broker.start_again().await;
    publisher.publish_again("a kill and a restart").await;

    // A job that is published during the freeze is reported as failed, and yet it is in the queue
    // afterwards. Its caller publishes it again; `worker.rs` shows that a repeated job has no
    // second effect.
    broker.freeze().await;
    publisher.publish().await.unwrap_err();
    bounded("the depth", queue.depth(QueueName::Webhooks))
        .await
        .unwrap_err();
    bounded("a requeue", queue.requeue(QueueName::Webhooks))
        .await
        .unwrap();
    broker.thaw().await;
    publisher.publish_again("a freeze").await;

    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"])
        .await;
    // A publish that is in flight when the block begins fails after a while. Later ones are refused
    // because the broker blocks publishers.
    while !publisher
        .publish()
        .await
        .is_err_and(|error| error.to_string().contains("the broker blocks publishers"))
    {}
    let jobs = eventually(
        "an acknowledgement while the broker blocks publishers",
        || async {
            let delivery = queue.receive(QueueName::Webhooks).await.ok()?;
            let jobs = delivery.jobs.clone();
            delivery.ack().await.ok().map(|()| jobs)
        },
    )
    .await;
    for job in jobs {
        publisher.accepted.remove(&encode_job(&job));
    }
    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"])
        .await;
    publisher.publish_again("a memory alarm").await;

    let mut received = BTreeSet::new();
    while !publisher.accepted.is_subset(&received) {
        let next =
            tokio::time::timeout(Duration::from_secs(120), queue.receive(QueueName::Webhooks))
                .await;
        let Ok(delivery) = next.expect("every accepted job is delivered") else {
            continue;
        };
        received.extend(delivery.jobs.iter().map(encode_job));
        let _ = delivery.ack().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_declared_differently_is_named_in_the_error_and_not_deleted() {
    let vhost = vhost(shared_broker().await).await;
    let other = r#"{"durable":true,"arguments":{"x-queue-type":"quorum","x-delivery-limit":5}}"#;
    vhost
        .put("queues/{vhost}/pagesync.v2.webhooks", other)
        .await;
    let error = RabbitMq::open(&vhost.amqp, "test", POLL_CONCURRENCY)
        .await
        .unwrap_err();
    let QueueError::Mismatch(text) = &error else {
        panic!("{error}")
    };
    assert!(text.contains("pagesync.v2.webhooks"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_to_a_deleted_queue_fail_until_it_is_declared_again() {
    let vhost = vhost(shared_broker().await).await;
    let queue = Arc::new(
        RabbitMq::open(&vhost.amqp, "test", POLL_CONCURRENCY)
            .await
            .unwrap(),
    );
    let mut publisher = Publisher {
        queue: queue.clone(),
        next: 0,
        accepted: BTreeSet::new(),
    };
    publisher.publish_again("the start").await;
    vhost.delete("queues/{vhost}/pagesync.v2.webhooks").await;
    publisher.accepted.clear();
    publisher
        .publish()
        .await
        .expect_err("a publish to a deleted queue fails");
    publisher.publish_again("the deletion of the queue").await;
    let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
    assert_eq!(
        delivery
            .jobs
            .iter()
            .map(encode_job)
            .collect::<BTreeSet<_>>(),
        publisher.accepted
    );
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_dead_lettered_is_split_and_its_jobs_are_done() {
    let storage = TestStorage::new(TestBackend::Distributed).await;
    let (queue, store) = (storage.queue().await, storage.store());
    let ids = [page_id(1), page_id(2)];
    let now = Clock::system().now();
    pages::register(&*store, &ids, now).await.unwrap();
    let jobs: Vec<Job> = vec![webhook_job(1, "one"), webhook_job(2, "two")];
    let encoded: Vec<String> = jobs.iter().map(encode_job).collect();
    let TestStorage::Distributed { vhost, .. } = &storage else {
        unreachable!("the backend is distributed")
    };
    vhost
        .publish_raw(
            "pagesync.v2.dead",
            &encode_message(encoded.iter().map(String::as_str)),
        )
        .await;
    let lifecycle = Lifecycle::default();
    let context = worker::context::Context {
        lifecycle: lifecycle.clone(),
        ..worker_context(&storage, queue.clone(), store.clone())
    };
    lifecycle.spawn("worker", worker::run(context));
    eventually("both Pages to be named", || async {
        let stored = store.load_pages(&[page_id(1), page_id(2)]).await.unwrap();
        let named = |stored: &common::store::Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if !page.registers.is_empty());
        stored.iter().all(named).then_some(())
    })
    .await;
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
    let dead_letters = common::records::dead_letter::list(&*store).await.unwrap();
    assert!(dead_letters.is_empty(), "{dead_letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_dead_letter_queue_survives_more_deliveries_than_a_crash_loop_makes() {
    let vhost = vhost(shared_broker().await).await;
    let queue = RabbitMq::open(&vhost.amqp, "test", POLL_CONCURRENCY)
        .await
        .unwrap();
    let job = webhook_job(1, "n");
    let message = encode_message([encode_job(&job).as_str()]);
    vhost.publish_raw("pagesync.v2.dead", &message).await;
    // Without a declared limit, RabbitMQ 4 drops the message after the 20th.
    for _ in 0..30 {
        drop(queue.receive(QueueName::Webhooks).await.unwrap());
        queue.requeue(QueueName::Webhooks).await.unwrap();
    }
    let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
    assert_eq!(delivery.jobs, [job]);
    assert!(delivery.attempt > 20, "{}", delivery.attempt);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_broker_makes_every_role_unready_and_doctor_fail() {
    let broker = Server::start(ServerKind::RabbitMq).await;
    let storage = TestStorage::Distributed {
        vhost: vhost(&broker).await,
        redis: database(shared_redis().await),
    };
    let environment = storage.environment(Role::Command, &[]);
    let deployment = Deployment::start_on(storage, &[]).await;
    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"])
        .await;
    for (role, running) in &deployment.roles {
        // No webhook arrives, so only the check itself can find the block.
        eventually(&format!("{role:?} not to be ready"), || async {
            let (status, reason) = deployment.get_private_of(running, "readyz").await;
            (status == 503 && reason.contains("the broker blocks publishers")).then_some(())
        })
        .await;
    }
    let checks = doctor(&environment).await;
    let queue = checks.iter().find(|check| check["check"] == "queue");
    let queue = queue.unwrap();
    assert_eq!(queue["state"], "failed", "{queue}");
    assert!(
        queue["detail"].to_string().contains("blocks publishers"),
        "{queue}"
    );
    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"])
        .await;
    for (role, running) in &deployment.roles {
        eventually(&format!("{role:?} to be ready"), || async {
            (deployment.get_private_of(running, "readyz").await.0 == 200).then_some(())
        })
        .await;
    }
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_the_queues_of_an_earlier_version_with_their_depth() {
    let storage = TestStorage::new(TestBackend::Distributed).await;
    let TestStorage::Distributed { vhost, .. } = &storage else {
        unreachable!("the backend is distributed")
    };
    let quorum = r#"{"durable":true,"arguments":{"x-queue-type":"quorum"}}"#;
    vhost
        .put("queues/{vhost}/pagesync.v1.polls_now", quorum)
        .await;
    vhost.publish_raw("pagesync.v1.polls_now", "{}").await;
    let environment = storage.environment(Role::Command, &[]);
    let check = eventually("the depth of the queue", || async {
        let checks = doctor(&environment).await;
        let old = checks
            .into_iter()
            .find(|check| check["check"] == "old queues")?;
        old["detail"]
            .to_string()
            .contains("pagesync.v1.polls_now (1 messages)")
            .then_some(old)
    })
    .await;
    assert_eq!(check["state"], "warning", "{check}");
}

/// Runs `pagesync doctor` with these settings and returns its checks.
async fn doctor(environment: &Environment) -> Vec<Json> {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(["doctor", "--output", "json"])
        .env_clear()
        .envs(environment)
        .output()
        .await
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_error_of_a_refused_login_does_not_contain_the_password() {
    let broker = shared_broker().await;
    let uri = format!(
        "amqp://guest:a-wrong-password@127.0.0.1:{}/%2f",
        broker.ports[0]
    );
    let queue = RabbitMq::open(&uri, "test", POLL_CONCURRENCY)
        .await
        .unwrap();
    let error = queue
        .publish(QueueName::Webhooks, &[webhook_job(1, "n")])
        .await
        .unwrap_err();
    assert!(!error.to_string().contains("a-wrong-password"), "{error}");
    let error = queue.receive(QueueName::Webhooks).await.unwrap_err();
    assert!(!error.to_string().contains("a-wrong-password"), "{error}");
    assert!(!format!("{queue:?}").contains("a-wrong-password"));
}
