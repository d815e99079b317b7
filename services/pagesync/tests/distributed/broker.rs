//! What only a real broker can do to the queue: restart, freeze, block, refuse, lose a queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::pages;
use common::queue::error::QueueError;
use common::queue::rabbitmq::RabbitMq;
use common::queue::{PUBLISH_DEADLINE, Queue};
use common::store::StoredPage;
use model::job::{Job, encode_job, encode_message};
use model::queue_name::QueueName;

use crate::support::deployment::{Place, worker_context};
use crate::support::engine::{Kind, Server};
use crate::support::servers::{shared_broker, vhost};
use crate::support::{TestBackend, eventually, page_id, webhook_job};

/// Remembers what it made durable.
struct Client {
    queue: Arc<RabbitMq>,
    next: u64,
    accepted: BTreeSet<String>,
}

impl Client {
    /// Publishes one more job; the answer comes in time whatever the broker does.
    async fn publish(&mut self) -> Result<(), QueueError> {
        self.next += 1;
        let job = webhook_job(self.next, "n");
        let begun = Instant::now();
        let answer = self
            .queue
            .publish(QueueName::Webhooks, std::slice::from_ref(&job))
            .await;
        let took = begun.elapsed();
        assert!(
            took < PUBLISH_DEADLINE + Duration::from_secs(2),
            "answered after {took:?}"
        );
        if answer.is_ok() {
            self.accepted.insert(encode_job(&job));
        }
        answer
    }

    async fn publish_again(&mut self, after: &str) {
        let begun = Instant::now();
        while self.publish().await.is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "publishes again after {after}"
            );
            tokio::task::yield_now().await;
        }
        println!("after {after}: publishes again after {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_freezes_or_blocks_loses_nothing_and_delays_no_answer() {
    let broker = Server::start(Kind::RabbitMq).await;
    let place = vhost(&broker).await;
    let queue = Arc::new(RabbitMq::open(&place.amqp, "test").await.unwrap());
    let mut client = Client {
        queue: queue.clone(),
        next: 0,
        accepted: BTreeSet::new(),
    };
    client.publish_again("the start").await;
    let stored = queue.receive(QueueName::Webhooks).await.unwrap();
    client.publish().await.unwrap();

    broker.kill().await;
    client.publish().await.unwrap_err();
    eventually("the publisher to know", || async {
        (!queue.is_ready()).then_some(())
    })
    .await;
    let lost = stored.ack().await;
    assert!(
        lost.is_err(),
        "an acknowledgement to a dead broker is no success"
    );
    broker.start_again().await;
    client.publish_again("kill -9 and restart").await;

    // I11: what was published into the freeze is in the queue after all once it thaws, and our caller,
    // told that it failed, sends it again. That twice is once: I4, `worker.rs`.
    broker.freeze().await;
    client.publish().await.unwrap_err();
    let begun = Instant::now();
    queue.depth(QueueName::Webhooks).await.unwrap_err();
    queue.requeue(QueueName::Webhooks).await.unwrap();
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(22),
        "a frozen broker held depth and release for {took:?}"
    );
    broker.thaw().await;
    client.publish_again("a freeze").await;

    let stored = eventually("a delivery", || async {
        queue.receive(QueueName::Webhooks).await.ok()
    })
    .await;
    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"])
        .await;
    while client.publish().await.is_ok() {}
    let begun = Instant::now();
    client.publish().await.unwrap_err();
    assert!(
        begun.elapsed() < PUBLISH_DEADLINE / 2,
        "the breaker is open"
    );
    let jobs = stored.jobs.clone();
    stored
        .ack()
        .await
        .expect("acknowledgements pass while publishers are blocked");
    for job in jobs {
        client.accepted.remove(&encode_job(&job));
    }
    broker
        .rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"])
        .await;
    client.publish_again("a memory alarm").await;

    let mut came = BTreeSet::new();
    while !client.accepted.is_subset(&came) {
        let next =
            tokio::time::timeout(Duration::from_secs(60), queue.receive(QueueName::Webhooks)).await;
        let Ok(delivery) = next.expect("what was accepted comes") else {
            continue;
        };
        came.extend(delivery.jobs.iter().map(encode_job));
        let _ = delivery.ack().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_declared_otherwise_is_refused_by_name_and_left_alone() {
    let place = vhost(shared_broker().await).await;
    let other = r#"{"durable":true,"arguments":{"x-queue-type":"quorum","x-delivery-limit":5}}"#;
    place
        .put("queues/{vhost}/pagesync.v1.webhooks", other)
        .await;
    let refused = RabbitMq::open(&place.amqp, "test").await.unwrap_err();
    let QueueError::Mismatch(text) = &refused else {
        panic!("{refused}")
    };
    assert!(text.contains("pagesync.v1.webhooks"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_under_us_fails_publishes_until_it_is_declared_again() {
    let place = vhost(shared_broker().await).await;
    let queue = Arc::new(RabbitMq::open(&place.amqp, "test").await.unwrap());
    let mut client = Client {
        queue: queue.clone(),
        next: 0,
        accepted: BTreeSet::new(),
    };
    client.publish_again("the start").await;
    place.delete("queues/{vhost}/pagesync.v1.webhooks").await;
    client.accepted.clear();
    client
        .publish()
        .await
        .expect_err("a message nobody keeps is no success");
    client.publish_again("the queue was deleted").await;
    let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
    assert_eq!(
        delivery
            .jobs
            .iter()
            .map(encode_job)
            .collect::<BTreeSet<_>>(),
        client.accepted
    );
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_on_is_taken_apart_and_done() {
    let place = Place::new(TestBackend::Distributed).await;
    let (queue, store) = (place.queue().await, place.store());
    for page in [1, 2] {
        pages::register(&*store, &page_id(page), Clock::system().now())
            .await
            .unwrap();
    }
    let jobs: Vec<Job> = vec![webhook_job(1, "one"), webhook_job(2, "two")];
    let encoded: Vec<String> = jobs.iter().map(encode_job).collect();
    let Place::Distributed { vhost, .. } = &place else {
        unreachable!("asked for")
    };
    vhost
        .publish_raw(
            "pagesync.v1.dead",
            &encode_message(encoded.iter().map(String::as_str)),
        )
        .await;
    let lifecycle = Lifecycle::default();
    let parts = worker::context::Context {
        lifecycle: lifecycle.clone(),
        ..worker_context(&place, queue.clone(), store.clone())
    };
    lifecycle.spawn("worker", worker::run(parts));
    eventually("both Pages to be named", || async {
        let stored = store.load_pages(&[page_id(1), page_id(2)]).await.unwrap();
        let named = |stored: &common::store::Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if !page.registers.is_empty());
        stored.iter().all(named).then_some(())
    })
    .await;
    lifecycle.stop();
    lifecycle.finish().await.unwrap();
    let letters = common::records::dead_letter::all(&*store).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
}

#[tokio::test]
async fn a_broker_that_refuses_us_is_an_error_without_the_password() {
    let broker = shared_broker().await;
    let uri = format!(
        "amqp://guest:a-wrong-password@127.0.0.1:{}/%2f",
        broker.ports[0]
    );
    let queue = RabbitMq::open(&uri, "test").await.unwrap();
    let refused = queue
        .publish(QueueName::Webhooks, &[webhook_job(1, "n")])
        .await
        .unwrap_err();
    assert!(
        !refused.to_string().contains("a-wrong-password"),
        "{refused}"
    );
    let refused = queue.receive(QueueName::Webhooks).await.unwrap_err();
    assert!(
        !refused.to_string().contains("a-wrong-password"),
        "{refused}"
    );
    assert!(!format!("{queue:?}").contains("a-wrong-password"));
}
