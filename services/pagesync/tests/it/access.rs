//! The end of a person's access to a Page: the person has lost their role, or has left the Page out
//! in Facebook's dialog.

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Clock;
use common::records::{connection, expiry};
use model::id::UserId;
use model::page::Status;
use serde_json::{Value as Json, json};
use simulator::browser::Decision;
use simulator::people::Person;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text, status_and_body,
};

const ADA: &str = "200000000000001";
const BOB: &str = "200000000000002";

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn as_person(id: &str) -> Decision {
    Decision {
        user: id.to_owned(),
        ..Decision::default()
    }
}

/// Starts a deployment in a time zone in which it is noon, so that no daily poll becomes due.
async fn start() -> ConnectedDeployment {
    let hour = Clock::system().now().0 / 3_600_000 % 24;
    // The sign in these names is the opposite of the usual one: Etc/GMT-2 is two hours ahead.
    let zone = format!("Etc/GMT{:+}", i64::try_from(hour).unwrap() - 12);
    let scene = DeploymentOptions {
        extra: &[("PAGESYNC_TIME_ZONE", &zone)],
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    ConnectedDeployment::start(BACKEND, scene).await
}

/// Sets the Pages on which a person has a role.
fn set_pages(connected: &ConnectedDeployment, id: &str, pages: &[usize]) {
    let ids: Vec<String> = pages.iter().map(|n| page_id_text(*n)).collect();
    let person = json!({"id": id, "name": id, "pages": ids});
    let mut person: Person = serde_json::from_value(person).unwrap();
    let mut facebook = connected.simulator.facebook();
    if let Some(known) = facebook.people.get(id) {
        person.permissions = known.permissions.clone();
    }
    facebook.people.insert(id.to_owned(), person);
}

/// Polls the connection of a person and waits until the poll is complete.
async fn poll(connected: &ConnectedDeployment, id: &str) {
    connected.advance(Duration::from_secs(61));
    let store = &*connected.deployment.store;
    let now = connected.clock.now();
    connection::request_poll(store, &user(id), now)
        .await
        .unwrap();
    eventually("the poll of the connection", || async {
        let found = connection::find(store, &user(id)).await.unwrap()?;
        (found.value.last_poll?.began_at >= now).then_some(())
    })
    .await;
}

async fn people_of(connected: &ConnectedDeployment, n: usize) -> BTreeSet<UserId> {
    connected.page(n).await.connections
}

/// Waits until exactly these people give access to Page `n`.
async fn wait_for_people(connected: &ConnectedDeployment, n: usize, people: &[&str]) {
    let people: BTreeSet<UserId> = people.iter().map(|id| user(id)).collect();
    eventually("the people of the Page", || async {
        (people_of(connected, n).await == people).then_some(())
    })
    .await;
}

/// Returns the number of Pages that only this person's connection covers.
async fn pages_lost(connected: &ConnectedDeployment, id: &str) -> u64 {
    let store = &*connected.deployment.store;
    let all = expiry::list(store, connected.clock.now()).await.unwrap();
    let own = all.iter().find(|expiry| expiry.user == user(id));
    own.unwrap().pages_lost_count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_lost_their_role_sees_and_covers_the_page_no_more() {
    let connected = start().await;
    set_pages(&connected, BOB, &[2]);
    for id in [ADA, BOB] {
        assert_eq!(connected.connect_as(&as_person(id)).await.0, 200);
    }
    wait_for_people(&connected, 2, &[ADA, BOB]).await;
    assert_eq!(
        (
            pages_lost(&connected, ADA).await,
            pages_lost(&connected, BOB).await
        ),
        (2, 0)
    );

    set_pages(&connected, ADA, &[0]);
    poll(&connected, ADA).await;
    // Bob covers Page 2 alone now, and nobody covers Page 1.
    wait_for_people(&connected, 2, &[BOB]).await;
    wait_for_people(&connected, 1, &[]).await;
    assert_eq!(connected.page(2).await.status, Status::Active);
    assert_eq!(connected.page(1).await.status, Status::NoToken);
    assert_eq!(connected.field(1, "name").await, json!("Page 1"));
    assert_eq!(
        (
            pages_lost(&connected, ADA).await,
            pages_lost(&connected, BOB).await
        ),
        (1, 1)
    );

    // What changes after Ada has left is not shown to her.
    let fields = json!({"name": "After Ada"});
    let fields = fields.as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(2), fields)
        .unwrap();
    eventually("the webhook", || async {
        (connected.field(2, "name").await == "After Ada").then_some(())
    })
    .await;
    let (status, body) = connected.connect_as(&as_person(ADA)).await;
    let ids: Vec<&Json> = body["pages"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| &page["id"])
        .collect();
    assert_eq!(
        (status, ids),
        (200, vec![&json!(page_id_text(0))]),
        "{body}"
    );
    assert_eq!(body["polling_test"].as_array().unwrap().len(), 1, "{body}");

    // No other person's access keeps the data of Bob's Page, and Ada's erasure finds the Page that
    // she left.
    for (id, erased) in [(BOB, 2), (ADA, 1)] {
        let url = format!("{}/_sim/people/{id}/data-deletion", connected.facebook_url);
        let callback = format!("{}/facebook/data-deletion", connected.public);
        let request = connected
            .deployment
            .client
            .post(url)
            .json(&json!({"callback": callback}));
        let answered = status_and_body(request.send().await.unwrap()).await.1;
        assert_eq!(answered["status"], 200, "{answered}");
        eventually("the erasure", || async {
            (connected.page(erased).await.status == Status::Erased).then_some(())
        })
        .await;
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_left_out_in_the_dialog_is_not_shown_before_its_token_was_tried() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    // The reads that would end the access are not answered while the login is.
    let slow = json!([{"edge": "GET {id}", "times": 1, "fault": "reset"}]);
    connected.reply(&slow);
    let two = Decision {
        pages: vec![page_id_text(0), page_id_text(1)],
        ..Decision::default()
    };
    let (status, body) = connected.connect_as(&two).await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 2),
        "{body}"
    );
    let results = body["polling_test"].as_array().unwrap();
    assert!(
        results
            .iter()
            .all(|test| test["result"]["status"] == "success"),
        "{body}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_refused_token_ends_the_access_to_a_page_that_is_not_listed() {
    let connected = start().await;
    set_pages(&connected, BOB, &[0, 1, 2]);
    for id in [ADA, BOB] {
        assert_eq!(connected.connect_as(&as_person(id)).await.0, 200);
    }
    let nothing_listed = json!({"edge": "GET me/accounts", "body": {"data": []}});
    // Page tokens that work, and errors that pass, end no access.
    for fault in [None, Some("2"), Some("html"), Some("190/459")] {
        let calls = connected.calls("GET {id}");
        connected.reply(&json!([nothing_listed.clone()]));
        if let Some(fault) = fault {
            connected.reply(&json!([{"edge": "GET {id}", "times": 6, "fault": fault}]));
        }
        poll(&connected, ADA).await;
        eventually(
            "the tests of three tokens and the reads of three Pages",
            || async { (connected.calls("GET {id}") >= calls + 6).then_some(()) },
        )
        .await;
        connected.deployment.wait_until_idle().await;
        for n in 0..3 {
            assert_eq!(people_of(&connected, n).await.len(), 2, "{fault:?}");
        }
        // A poll that lists the Pages reads them, which ends the delay after the errors.
        poll(&connected, ADA).await;
    }
    for (n, fault) in ["100/33", "190", "10"].into_iter().enumerate() {
        // Each poll tries Ada's tokens of the Pages that are left.
        let left = 3 - n;
        connected.reply(&json!([nothing_listed.clone()]));
        let refused = json!([{"edge": "GET {id}", "times": 1, "fault": fault}]);
        connected.reply(&refused);
        poll(&connected, ADA).await;
        eventually("the end of one access", || async {
            let mut people = 0;
            for n in 0..3 {
                people += people_of(&connected, n).await.len();
            }
            (people == 3 + left - 1).then_some(())
        })
        .await;
        connected.deployment.wait_until_idle().await;
    }
    for n in 0..3 {
        assert_eq!(people_of(&connected, n).await, BTreeSet::from([user(BOB)]));
        assert_eq!(connected.page(n).await.status, Status::Active);
    }
    connected.finish().await;
}
