//! Erasures: on request of a person, through Facebook, or by hand; under load, and down to the disk.

use std::time::Duration;

use common::records::connection;
use common::records::erasure::ErasureReceipt;
use common::records::{dead_letter, erasure, expiry, load_all, token};
use common::store::RecordKind;
use model::id::{PageId, UserId};
use model::page::Status;
use serde_json::{Value as Json, json};
use simulator::browser::Decision;
use simulator::facebook::Person;
use simulator::signed_request;

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Place};
use crate::support::eventually;
use crate::support::facebook::{Connected, Scene, answer, manual, nth};
use crate::support::servers::shared_redis;

/// What must be nowhere afterwards.
const PLANTED: &str = "PLANTEDdeadbeef";
const ADA: &str = "200000000000001";
const BOB: &str = "200000000000002";

async fn post(connected: &Connected, path: &str, signed: &str) -> (u16, Json) {
    let url = format!("{}/facebook/{path}", connected.public);
    let form = [("signed_request", signed)];
    let sent = connected
        .deployment
        .client
        .post(url)
        .form(&form)
        .send()
        .await;
    answer(sent.unwrap()).await
}

async fn get(connected: &Connected, url: &str) -> (u16, Json) {
    answer(connected.deployment.client.get(url).send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_erases_nothing_and_tells_nothing() {
    let connected = Connected::start(BACKEND, Scene::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let about = |payload: &Json| signed_request::sign(APP_SECRET, payload);
    let good = json!({"user_id": ADA, "algorithm": "HMAC-SHA256", "issued_at": 1});
    let (signature, payload) = {
        let text = about(&good);
        let (signature, payload) = text.split_once('.').unwrap();
        (signature.to_owned(), payload.to_owned())
    };
    for bad in [
        String::new(),
        payload.clone(),
        format!("!!!.{payload}"),
        format!("{signature}.!!!"),
        format!("{}.{payload}", "A".repeat(43)),
        signed_request::sign("another secret", &good),
        about(&json!({"user_id": ADA, "algorithm": "HMAC-MD5"})),
        about(&json!({"algorithm": "HMAC-SHA256"})),
        about(&json!({"user_id": {"a": 1}, "algorithm": "HMAC-SHA256"})),
    ] {
        for path in ["deauthorize", "data-deletion"] {
            assert_eq!(post(&connected, path, &bad).await.0, 400, "{bad}");
        }
    }
    let long = "x".repeat(20_000);
    assert_eq!(post(&connected, "deauthorize", &long).await.0, 413);
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.connection().await.user.as_str(), ADA);
    assert_eq!(connected.page(0).await.status, Status::Active);
    // Somebody we never saw: a code all the same.
    let stranger = about(&json!({"user_id": "218471", "algorithm": "hmac-sha256"}));
    let (status, body) = post(&connected, "data-deletion", &stranger).await;
    let code = body["confirmation_code"].as_str().unwrap().to_owned();
    assert_eq!(status, 200);
    assert_eq!(
        body["url"],
        format!("{}/facebook/data-deletion/{code}", connected.public)
    );
    eventually("the receipt", || async {
        let (status, page) = get(&connected, body["url"].as_str().unwrap()).await;
        assert_eq!(status, 200);
        page.as_str().unwrap().contains("0 Pages").then_some(())
    })
    .await;
    // A replay is another request for the same.
    let (_, again) = post(&connected, "data-deletion", &stranger).await;
    assert_ne!(again["confirmation_code"].as_str(), Some(code.as_str()));
    let mut other: Vec<char> = code.chars().collect();
    other[5] = if other[5] == 'A' { 'B' } else { 'A' };
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

/// Ada manages Pages 0 to 2, Bob Page 2; both are connected, and every Page has values and a past.
async fn two_people() -> Connected {
    let scene = Scene {
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    {
        let bob = json!({"id": BOB, "name": "Bob", "pages": [nth(2)]});
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

/// Plants a value into a Page by webhook and by read, into its history, a gap and a dead letter.
async fn plant(connected: &Connected, n: usize) {
    for round in ["one", "two"] {
        let fields = json!({"name": format!("{PLANTED} {round}"), "about": format!("{PLANTED} about {round}")});
        connected
            .simulator
            .change(&nth(n), fields.as_object().unwrap().clone())
            .unwrap();
        connected.simulator.delivery_counts().all_finished().await;
        eventually("the name", || async {
            let name = connected.field(n, "name").await;
            name.as_str().unwrap().contains(round).then_some(())
        })
        .await;
        // Two attempts are a minute apart.
        connected.advance(Duration::from_secs(61));
        connected.read_again(n).await;
    }
    let letter = format!(
        r#"{{"object":"page","entry":[{{"id":"{}","time":1,"changes":[{{"field":"name","value":{{"{PLANTED}":"\ud83d"}}}}]}}]}}"#,
        nth(n)
    );
    assert_eq!(connected.deployment.deliver(letter).await, 200);
    connected.deployment.wait_until_idle().await;
}

/// Every byte there is, on the disk, too.
async fn everything(connected: &Connected) -> String {
    let place = &connected.deployment.place;
    let mut all = place.everything_kept().await;
    if matches!(place, Place::Distributed { .. }) {
        all += &shared_redis().await.append_only_file().await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_deletion_under_load_leaves_nothing_anywhere() {
    let connected = two_people().await;
    for n in 0..2 {
        plant(&connected, n).await;
    }
    let tokens: Vec<String> = {
        let facebook = connected.simulator.facebook();
        facebook.tokens.keys().cloned().collect()
    };
    let before = everything(&connected).await;
    assert!(before.contains(PLANTED), "what is looked for can be found");
    assert!(
        !dead_letter::all(&*connected.deployment.store)
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
        stored.value["sealed"]["text"]
            .as_str()
            .map_or_else(|| stored.value["sealed"].to_string(), ToOwned::to_owned)
    })
    .collect();
    assert_eq!(sealed.len(), 3);
    // Webhooks of the same Pages go on coming, with values.
    let load = async {
        for round in 0..40 {
            let name = format!("{PLANTED} load {round}");
            let body = simulator::delivery::single_change_body(&nth(round % 2), "name", &name);
            assert_eq!(connected.deployment.deliver(body).await, 200);
        }
    };
    let callback = format!("{}/facebook/data-deletion", connected.public);
    let asking = async {
        let url = format!("{}/_sim/people/{ADA}/data-deletion", connected.facebook);
        let request = connected
            .deployment
            .client
            .post(url)
            .json(&json!({"callback": callback}));
        answer(request.send().await.unwrap()).await.1
    };
    let ((), answered) = tokio::join!(load, asking);
    assert_eq!(answered["status"], 200, "{answered}");
    let url = answered["body"]["url"].as_str().unwrap().to_owned();
    eventually("the receipt", || async {
        let (_, page) = get(&connected, &url).await;
        page.as_str()
            .unwrap()
            .contains("2 Pages through you. 1 Pages are kept")
            .then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    // What came meanwhile is swept up on the days after.
    let swept = async || {
        let receipts = load_all::<ErasureReceipt>(
            &*connected.deployment.store,
            RecordKind::ErasureReceipt,
            "",
        );
        receipts.await.unwrap()[0].1.value.scrubbed_at
    };
    let first = eventually("the first sweep", || async { swept().await }).await;
    connected.advance(Duration::from_secs(25 * 3600));
    eventually("the sweep of the next day", || async {
        (swept().await > Some(first)).then_some(())
    })
    .await;
    let after = everything(&connected).await;
    assert!(!after.contains(PLANTED), "{}", around(&after, PLANTED));
    for token in tokens.iter().chain(&sealed) {
        assert!(!after.contains(token.as_str()));
    }
    let store = &*connected.deployment.store;
    assert!(dead_letter::all(store).await.unwrap().is_empty());
    assert_eq!(connected.page(0).await.status, Status::Erased);
    let kept = connected.page(2).await;
    assert_eq!(kept.status, Status::Active);
    assert_eq!(
        kept.connections
            .iter()
            .map(UserId::as_str)
            .collect::<Vec<_>>(),
        [BOB]
    );
    // It does not come back by a webhook, and does by a login.
    let body = simulator::delivery::single_change_body(&nth(0), "name", "again");
    assert_eq!(connected.deployment.deliver(body).await, 200);
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.page(0).await.status, Status::Erased);
    connected.advance(Duration::from_secs(1));
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(connected.page(0).await.status, Status::Active);
    connected.finish().await;
}

fn around(text: &str, what: &str) -> String {
    let at = text.find(what).unwrap_or(0);
    let from = text[..at]
        .char_indices()
        .rev()
        .nth(200)
        .map_or(0, |(i, _)| i);
    text[from..].chars().take(400).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deauthorization_and_a_purge_erase_the_same_and_a_purged_page_stays_away() {
    let connected = two_people().await;
    let store = connected.deployment.store.clone();
    let now = connected.clock.now();
    let page = PageId::parse(&nth(2)).unwrap();
    let erased = erasure::erase_page(&*store, &page, now)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(erased.pages_erased, 1);
    assert_eq!(
        erasure::erase_page(&*store, &page, now).await.unwrap(),
        None
    );
    let prefix = format!("{}.", nth(2));
    assert!(
        load_all::<Json>(&*store, RecordKind::UnannouncedChange, &prefix)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(connected.page(2).await.status, Status::Erased);
    let callback = format!("{}/facebook/deauthorize", connected.public);
    let url = format!("{}/_sim/people/{ADA}/deauthorize", connected.facebook);
    let request = connected
        .deployment
        .client
        .post(url)
        .json(&json!({"callback": callback}));
    let (_, answered) = answer(request.send().await.unwrap()).await;
    assert_eq!(answered["status"], 200);
    eventually("the erasure", || async {
        (connection::list(&*store).await.unwrap().len() == 1).then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    for n in 0..2 {
        assert_eq!(connected.page(n).await.status, Status::Erased);
    }
    let forecast = expiry::list(&*store, now).await.unwrap();
    assert_eq!((forecast.len(), forecast[0].pages_lost_count), (1, 0));
    // Bob's walk lists the purged Page, and leaves it alone.
    connected.advance(Duration::from_secs(61));
    let bob = UserId::parse(BOB).unwrap();
    let before = connection::find(&*store, &bob).await.unwrap().unwrap();
    let mut asked = before.value.clone();
    asked.polling.request_read(connected.clock.now());
    asked.polling.last_attempt_began = None;
    store
        .commit(&[connection::save_commit(&asked, before.version)])
        .await
        .unwrap();
    eventually("a walk", || async {
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
