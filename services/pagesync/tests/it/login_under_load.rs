//! A login while many Pages are due for a read. Logins have a queue and workers of their own, so a
//! new login does not wait for these reads.

use std::time::Instant;

use crate::support::request_read;
use common::store::{StoredPage, Versioned};
use model::id::PageId;
use serde_json::json;
use simulator::browser::Decision;
use simulator::people::Person;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page, page_id_text};

/// How many Pages are due. Each read takes a second, so that they take longer than a login on any
/// machine.
const DUE_PAGES: usize = 300;
const BOB: &str = "200000000000002";

/// Returns how many of these Pages wait for a read.
async fn waiting(connected: &ConnectedDeployment, ids: &[PageId]) -> usize {
    let stored = connected.deployment.store.load_pages(ids).await.unwrap();
    let waits = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if page.polling.has_open_notification_or_request());
    stored.iter().filter(|stored| waits(stored)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_login_is_connected_and_shown_before_the_due_pages_are_read() {
    let scene = DeploymentOptions {
        pages: DUE_PAGES,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    let ids: Vec<PageId> = (0..DUE_PAGES)
        .map(|n| PageId::parse(&page_id_text(n)).unwrap())
        .collect();
    eventually("the first reads", || async {
        (waiting(&connected, &ids).await == 0).then_some(())
    })
    .await;
    connected.simulator.put_page(&page(DUE_PAGES)).unwrap();
    let bob = json!({"id": BOB, "name": "Bob", "pages": [page_id_text(DUE_PAGES)]});
    let bob: Person = serde_json::from_value(bob).unwrap();
    {
        let mut facebook = connected.simulator.facebook();
        facebook.people.insert(BOB.to_owned(), bob);
    }
    connected
        .simulator
        .facebook()
        .graph_faults
        .slow_answer_seconds = 1;
    let slow = json!([{"edge": "GET {id}", "times": DUE_PAGES, "fault": "slow"}]);
    connected.reply(&slow);
    let store = &*connected.deployment.store;
    for ids in ids.chunks(50) {
        let now = connected.clock.now();
        let requests = ids.iter().map(|id| request_read(store, id, now));
        for requested in futures_util::future::join_all(requests).await {
            requested.unwrap();
        }
    }

    let due = waiting(&connected, &ids).await;
    let began = Instant::now();
    let bob = Decision {
        user: BOB.to_owned(),
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&bob).await.0, 200);
    let answered = began.elapsed();
    eventually("the Page of the new login", || async {
        (connected.field(DUE_PAGES, "name").await == format!("Page {DUE_PAGES}")).then_some(())
    })
    .await;
    let shown = began.elapsed();
    let left = waiting(&connected, &ids).await;
    println!(
        "{due} Pages were due; connected after {answered:?}, shown after {shown:?}, {left} Pages left"
    );
    assert!(left > 0, "every due Page was read before the new login");
    connected.simulator.facebook().scripted_replies.clear();
    connected.finish().await;
}
