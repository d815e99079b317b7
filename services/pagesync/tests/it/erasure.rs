//! Erasures that Facebook or an operator requests, also under load. The data must be gone from the
//! disk as well.

use std::time::Duration;

use common::clock::Clock;
use common::records::connection;
use common::records::erasure::{ErasureReceipt, PageErasure};
use common::records::{dead_letter, erasure, expiry, load_all, token};
use common::store::RecordKind;
use model::id::{PageId, UserId};
use model::page::Status;
use model::time::HostTime;
use serde_json::{Value as Json, json};
use simulator::browser::Decision;
use simulator::people::Person;
use simulator::signed_request;

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, TestStorage};
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text, status_and_body,
};
use crate::support::faulty_store::FaultyStore;
use crate::support::servers::shared_redis;

/// A text that is planted in values of Pages. It must be stored nowhere after the erasure.
const PLANTED: &str = "PLANTEDdeadbeef";
const ADA: &str = "200000000000001";
pub(crate) const BOB: &str = "200000000000002";

/// Posts a signed request, as Facebook does. Returns the status and the body of the answer.
async fn post(connected: &ConnectedDeployment, path: &str, signed: &str) -> (u16, Json) {
    let url = format!("{}/facebook/{path}", connected.public);
    let form = [("signed_request", signed)];
    let sent = connected
        .deployment
        .client
        .post(url)
        .form(&form)
        .send()
        .await;
    status_and_body(sent.unwrap()).await
}

/// Sends a GET. Returns the status and the body of the answer.
async fn get(connected: &ConnectedDeployment, url: &str) -> (u16, Json) {
    status_and_body(connected.deployment.client.get(url).send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_erases_nothing_and_reveals_nothing() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let sign = |payload: &Json| signed_request::sign(APP_SECRET, payload);
    let valid = json!({"user_id": ADA, "algorithm": "HMAC-SHA256", "issued_at": 1});
    let (signature, payload) = {
        let text = sign(&valid);
        let (signature, payload) = text.split_once('.').unwrap();
        (signature.to_owned(), payload.to_owned())
    };
    for invalid in [
        String::new(),
        payload.clone(),
        format!("!!!.{payload}"),
        format!("{signature}.!!!"),
        format!("{}.{payload}", "A".repeat(43)),
        signed_request::sign("another secret", &valid),
        sign(&json!({"user_id": ADA, "algorithm": "HMAC-MD5"})),
        sign(&json!({"algorithm": "HMAC-SHA256"})),
        sign(&json!({"user_id": {"a": 1}, "algorithm": "HMAC-SHA256"})),
    ] {
        for path in ["deauthorize", "data-deletion"] {
            assert_eq!(post(&connected, path, &invalid).await.0, 400, "{invalid}");
        }
    }
    let long = "x".repeat(20_000);
    assert_eq!(post(&connected, "deauthorize", &long).await.0, 413);
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.connection().await.user.as_str(), ADA);
    assert_eq!(connected.page(0).await.status, Status::Active);
    // A request about a person who never logged in is answered with a confirmation code, too.
    let stranger = sign(&json!({"user_id": "218471", "algorithm": "hmac-sha256"}));
    let (status, body) = post(&connected, "data-deletion", &stranger).await;
    let code = body["confirmation_code"].as_str().unwrap().to_owned();
    assert_eq!(status, 200);
    assert_eq!(
        body["url"],
        format!("{}/facebook/data-deletion/{code}", connected.public)
    );
    eventually("the receipt of the erasure", || async {
        let (status, page) = get(&connected, body["url"].as_str().unwrap()).await;
        assert_eq!(status, 200);
        page.as_str().unwrap().contains("0 Pages").then_some(())
    })
    .await;
    // A repeated request is treated as a new request and gets another code.
    let (_, again) = post(&connected, "data-deletion", &stranger).await;
    assert_ne!(again["confirmation_code"].as_str(), Some(code.as_str()));
    let mut other: Vec<char> = code.chars().collect();
    // The digits of a code are hexadecimal, in upper or lower case.
    other[5] = if other[5] == 'a' { 'b' } else { 'a' };
    for code in [
        other.into_iter().collect(),
        "A".repeat(43),
        "xyz".to_owned(),
        "%2e%2e".to_owned(),
    ] {
        let url = format!("{}/facebook/data-deletion/{code}", connected.public);
        let (status, page) = get(&connected, &url).await;
        assert_eq!(status, 404, "{code}");
        assert!(!page.as_str().unwrap_or_default().contains(&code));
    }
    assert_eq!(connected.page(0).await.status, Status::Active);
    connected.finish().await;
}

/// Returns when the simulated Facebook issued the newest token of Ada, in seconds.
fn newest_token_of_ada(connected: &ConnectedDeployment) -> u64 {
    let facebook = connected.simulator.facebook();
    let of_ada = facebook.tokens.values().filter(|token| token.user == ADA);
    of_ada.map(|token| token.issued_at).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deauthorization_that_is_older_than_the_last_login_erases_nothing() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    // Ada removes the app and logs in again, which is the usual advice. Facebook delivers the
    // deauthorization after the login.
    for as_text in [false, true] {
        assert_eq!(connected.connect().await.0, 200);
        let issued_at = newest_token_of_ada(&connected) - 1;
        let issued_at = if as_text {
            json!(issued_at.to_string())
        } else {
            json!(issued_at)
        };
        let payload = json!({"user_id": ADA, "algorithm": "HMAC-SHA256", "issued_at": issued_at});
        let signed = signed_request::sign(APP_SECRET, &payload);
        assert_eq!(post(&connected, "deauthorize", &signed).await.0, 200);
        connected.deployment.wait_until_idle().await;
        assert_eq!(connected.connection().await.user.as_str(), ADA);
        assert_eq!(connected.page(0).await.status, Status::Active);
    }
    // A request that is a second younger than the token ends the connection.
    let issued_at = newest_token_of_ada(&connected) + 1;
    let payload = json!({"user_id": ADA, "algorithm": "HMAC-SHA256", "issued_at": issued_at});
    let signed = signed_request::sign(APP_SECRET, &payload);
    assert_eq!(post(&connected, "deauthorize", &signed).await.0, 200);
    eventually("the end of the connection", || async {
        let left = connection::list(&*connected.deployment.store)
            .await
            .unwrap();
        left.is_empty().then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_that_cannot_be_read_is_counted() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let payload = json!({"user_id": 0, "algorithm": "HMAC-SHA256"});
    let signed = signed_request::sign(APP_SECRET, &payload);
    assert_eq!(post(&connected, "deauthorize", &signed).await.0, 400);
    let unsigned = signed_request::sign("another secret", &payload);
    assert_eq!(post(&connected, "deauthorize", &unsigned).await.0, 400);
    let results = &connected.deployment.public_role().metrics.erasure_requests;
    assert_eq!(results.get("unreadable"), 1);
    assert_eq!(results.get("invalid_signature"), 1);
    connected.finish().await;
}

/// Starts a deployment with two connections: Ada manages Pages 0 to 2, and Bob manages Page 2.
pub(crate) async fn two_people() -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    {
        let bob = json!({"id": BOB, "name": "Bob", "pages": [page_id_text(2)]});
        let bob: Person = serde_json::from_value(bob).unwrap();
        connected
            .simulator
            .facebook()
            .people
            .insert(BOB.to_owned(), bob);
    }
    assert_eq!(connected.connect().await.0, 200);
    let bob = Decision {
        user: BOB.to_owned(),
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&bob).await.0, 200);
    connected
}

/// Stores [`PLANTED`] for a Page everywhere: by webhooks and reads, in the history, in an
/// unannounced change and in a dead letter.
async fn plant(connected: &ConnectedDeployment, n: usize) {
    for round in ["one", "two"] {
        let fields = json!({"name": format!("{PLANTED} {round}"), "about": format!("{PLANTED} about {round}")});
        connected
            .simulator
            .change(&page_id_text(n), fields.as_object().unwrap().clone())
            .unwrap();
        connected.simulator.delivery_counts().all_finished().await;
        eventually("the name to be stored", || async {
            let name = connected.field(n, "name").await;
            name.as_str().unwrap().contains(round).then_some(())
        })
        .await;
        // Two attempts to read a Page are at least a minute apart.
        connected.advance(Duration::from_secs(61));
        connected.read_again(n).await;
    }
    let unreadable = format!(
        r#"{{"object":"page","entry":[{{"id":"{}","time":1,"changes":[{{"field":"name","value":{{"{PLANTED}":"\ud83d"}}}}]}}]}}"#,
        page_id_text(n)
    );
    assert_eq!(connected.deployment.deliver(unreadable).await, 200);
    connected.deployment.wait_until_idle().await;
}

/// Returns everything that is stored as text, including the bytes on the disk.
async fn all_stored_bytes(connected: &ConnectedDeployment) -> String {
    let storage = &connected.deployment.storage;
    let mut all = storage.everything_stored().await;
    if matches!(storage, TestStorage::Distributed { .. }) {
        all += &shared_redis().await.append_only_file().await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_deletion_under_load_leaves_no_data_anywhere() {
    let connected = two_people().await;
    for n in 0..2 {
        plant(&connected, n).await;
    }
    let tokens: Vec<String> = {
        let facebook = connected.simulator.facebook();
        facebook.tokens.keys().cloned().collect()
    };
    let before = all_stored_bytes(&connected).await;
    assert!(before.contains(PLANTED), "the search finds stored values");
    assert!(
        !dead_letter::list(&*connected.deployment.store)
            .await
            .unwrap()
            .is_empty()
    );
    let sealed: Vec<String> = load_all::<Json>(
        &*connected.deployment.store,
        RecordKind::PageToken,
        &format!("{ADA}."),
    )
    .await
    .unwrap()
    .into_iter()
    .map(|(_, stored)| {
        let body = stored.value["sealed"]["body"].as_str();
        body.unwrap().to_owned()
    })
    .collect();
    assert_eq!(sealed.len(), 3);
    // Webhooks with values of the same Pages arrive during the erasure.
    let load = async {
        for round in 0..40 {
            let name = format!("{PLANTED} load {round}");
            let body =
                simulator::delivery::single_change_body(&page_id_text(round % 2), "name", &name);
            assert_eq!(connected.deployment.deliver(body).await, 200);
        }
    };
    let callback = format!("{}/facebook/data-deletion", connected.public);
    let deletion = async {
        let url = format!("{}/_sim/people/{ADA}/data-deletion", connected.facebook_url);
        let request = connected
            .deployment
            .client
            .post(url)
            .json(&json!({"callback": callback}));
        status_and_body(request.send().await.unwrap()).await.1
    };
    let ((), answered) = tokio::join!(load, deletion);
    assert_eq!(answered["status"], 200, "{answered}");
    let url = answered["body"]["url"].as_str().unwrap().to_owned();
    eventually("the receipt of the erasure", || async {
        let (_, page) = get(&connected, &url).await;
        page.as_str()
            .unwrap()
            .contains("the data of 2 Pages. 1 Pages are kept")
            .then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    // Data that arrived during the erasure is removed by sweeps on the following days.
    let swept_at = async || {
        let receipts = load_all::<ErasureReceipt>(
            &*connected.deployment.store,
            RecordKind::ErasureReceipt,
            "",
        );
        receipts.await.unwrap()[0].1.value.scrubbed_at
    };
    let first = eventually("the first sweep", || async { swept_at().await }).await;
    connected.advance(Duration::from_secs(25 * 3600));
    eventually("the sweep of the next day", || async {
        (swept_at().await > Some(first)).then_some(())
    })
    .await;
    let after = all_stored_bytes(&connected).await;
    assert!(!after.contains(PLANTED), "{}", around(&after, PLANTED));
    for token in tokens.iter().chain(&sealed) {
        assert!(!after.contains(token.as_str()));
    }
    let store = &*connected.deployment.store;
    assert!(dead_letter::list(store).await.unwrap().is_empty());
    assert_eq!(connected.page(0).await.status, Status::Erased);
    let page = connected.page(2).await;
    assert_eq!(page.status, Status::Active);
    assert_eq!(
        page.connections
            .iter()
            .map(UserId::as_str)
            .collect::<Vec<_>>(),
        [BOB]
    );
    // A webhook does not bring an erased Page back; a new login does.
    let body = simulator::delivery::single_change_body(&page_id_text(0), "name", "again");
    assert_eq!(connected.deployment.deliver(body).await, 200);
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.page(0).await.status, Status::Erased);
    connected.advance(Duration::from_secs(1));
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(connected.page(0).await.status, Status::Active);
    connected.finish().await;
}

/// Returns up to 400 characters of `text` around the first occurrence of `pattern`.
fn around(text: &str, pattern: &str) -> String {
    let at = text.find(pattern).unwrap_or(0);
    let start = text[..at]
        .char_indices()
        .rev()
        .nth(200)
        .map_or(0, |(i, _)| i);
    text[start..].chars().take(400).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deauthorization_erases_the_person_and_no_later_poll_restores_an_erased_page() {
    let connected = two_people().await;
    let store = connected.deployment.store.clone();
    let now = connected.clock.now();
    let page = PageId::parse(&page_id_text(2)).unwrap();
    for result in [PageErasure::Erased, PageErasure::AlreadyErased] {
        let erased = erasure::erase_pages(&*store, std::slice::from_ref(&page), now)
            .await
            .unwrap();
        assert_eq!(erased, [result]);
    }
    let prefix = format!("{}.", page_id_text(2));
    assert!(
        load_all::<Json>(&*store, RecordKind::UnannouncedChange, &prefix)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(connected.page(2).await.status, Status::Erased);
    let callback = format!("{}/facebook/deauthorize", connected.public);
    let url = format!("{}/_sim/people/{ADA}/deauthorize", connected.facebook_url);
    let request = connected
        .deployment
        .client
        .post(url)
        .json(&json!({"callback": callback}));
    let (_, answered) = status_and_body(request.send().await.unwrap()).await;
    assert_eq!(answered["status"], 200);
    eventually("the erasure", || async {
        (connection::list(&*store).await.unwrap().len() == 1).then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    for n in 0..2 {
        assert_eq!(connected.page(n).await.status, Status::Erased);
    }
    let expiring = expiry::list(&*store, now).await.unwrap();
    assert_eq!((expiring.len(), expiring[0].pages_lost_count), (1, 0));
    // The poll of Bob's connection lists the erased Page, and must not restore it.
    connected.advance(Duration::from_secs(61));
    let bob = UserId::parse(BOB).unwrap();
    let before = connection::find(&*store, &bob).await.unwrap().unwrap();
    let mut requested = before.value.clone();
    requested.polling.request_read(connected.clock.now());
    requested.polling.last_attempt_began = None;
    store
        .commit(&[connection::update_commit(&requested, before.version)])
        .await
        .unwrap();
    eventually("a connection poll", || async {
        let last = connection::find(&*store, &bob)
            .await
            .ok()??
            .value
            .last_poll?;
        (last.began_at > before.value.last_poll.as_ref()?.began_at).then_some(())
    })
    .await;
    assert_eq!(connected.page(2).await.status, Status::Erased);
    assert!(
        load_all::<token::StoredToken>(&*store, RecordKind::PageToken, "")
            .await
            .unwrap()
            .is_empty()
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_share_one_removal_from_the_disk_in_half_a_day() {
    let storage = TestStorage::new(BACKEND).await;
    let store = FaultyStore::unavailable(storage.store(), 0, 0);
    let hour = Duration::from_secs(3600);
    let began = Clock::system().now();
    let erase = async |id: &str, at: HostTime| {
        let receipt = ErasureReceipt {
            requested_at: at,
            erased_at: at,
            scrubbed_at: None,
            result: erasure::ErasureResult::default(),
        };
        erasure::save_receipt(&*store, id, &receipt).await.unwrap();
    };
    let scrub_at = async |at: HostTime| erasure::scrub_store(&*store, at).await.unwrap();
    scrub_at(began).await;
    assert_eq!(store.scrubs(), 0, "nothing was erased");
    for id in ["a", "b", "c"] {
        erase(id, began).await;
    }
    // Several workers make one removal together.
    tokio::join!(scrub_at(began), scrub_at(began), scrub_at(began));
    assert_eq!(store.scrubs(), 1);
    erase("d", began.plus(hour)).await;
    for hours in [1, 6, 11] {
        scrub_at(began.plus(hour * hours)).await;
        assert_eq!(store.scrubs(), 1, "after {hours} hours");
    }
    scrub_at(began.plus(hour * 12)).await;
    assert_eq!(store.scrubs(), 2);
    // The removal is repeated until no older webhook can arrive, and then ends.
    for hours in 13..100 {
        scrub_at(began.plus(hour * hours)).await;
    }
    assert_eq!(store.scrubs(), 5, "after 24, 36 and 48 hours");
}
