//! Erasures of Pages whose deliveries wait to be forwarded.

use common::clock::Clock;
use common::records::waiting_delivery::{self, WaitingDelivery};
use common::records::write_records;
use model::id::PageId;

use crate::BACKEND;
use crate::erasure::{BOB, two_people};
use crate::forwarding::{DAY, message, sealer, texts, waiting};
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::receiver::{Answer, Receiver};

#[tokio::test(flavor = "multi_thread")]
async fn the_deliveries_of_an_erased_page_are_not_sent() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_FORWARD_URL", &receiver.url)],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let (erased, other) = (page_id_text(0), page_id_text(1));
    let deployment = &connected.deployment;
    assert_eq!(deployment.deliver(message(&erased, "erased")).await, 200);
    assert_eq!(deployment.deliver(message(&other, "other")).await, 200);
    // One that waits in a record, as after an hour without an answer.
    let store = &*deployment.store;
    let body = message(&erased, "recorded");
    let page = PageId::parse(&erased).unwrap();
    let now = Clock::system().now();
    let delivery = sealer(&deployment.storage)
        .seal(&[], body.as_bytes(), vec![page], now)
        .unwrap();
    let record = WaitingDelivery {
        delivery,
        failures: 3,
        retry_at: now.plus(DAY),
    };
    let write = waiting_delivery::write(&record, None, now);
    write_records(store, vec![write]).await.unwrap();
    receiver.wait_for(2).await;
    connected.text(&["erase", "page", &erased]);
    assert!(waiting(store).await.is_empty());
    receiver.forget();
    receiver.answer(Answer::Status(200));
    deployment.wait_until_idle().await;
    let after = texts(&receiver.received());
    assert!(after.contains(&"other".to_owned()), "{after:?}");
    assert!(!after.contains(&"recorded".to_owned()), "{after:?}");
    let outcomes: u64 = deployment
        .roles
        .iter()
        .map(|(_, running)| running.metrics.forwarded_deliveries.get("erased"))
        .sum();
    assert_eq!(outcomes, 1);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deliveries_of_a_page_that_another_person_keeps_are_kept() {
    let connected = two_people().await;
    let store = &*connected.deployment.store;
    let page = PageId::parse(&page_id_text(2)).unwrap();
    let now = connected.clock.now();
    let body = message(page.as_str(), "kept");
    let delivery = sealer(&connected.deployment.storage)
        .seal(&[], body.as_bytes(), vec![page], now)
        .unwrap();
    let record = WaitingDelivery {
        delivery,
        failures: 0,
        retry_at: now.plus(DAY),
    };
    let write = waiting_delivery::write(&record, None, now);
    write_records(store, vec![write]).await.unwrap();
    connected.text(&["erase", "connection", BOB]);
    assert_eq!(waiting(store).await, [record]);
    connected.text(&["erase", "page", &page_id_text(2)]);
    assert!(waiting(store).await.is_empty());
    connected.finish().await;
}
