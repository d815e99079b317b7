//! Special cases of logins: missing permissions, no Pages, a second login, two people with the same
//! Page, and errors of Facebook.

use common::records::page_subscription::{self, PageSubscription};
use common::records::{load_all, load_record, login, rate_limit, token};
use common::store::{RecordKey, RecordKind};
use model::field::{FieldName, TrackedFields};
use model::id::{PageId, UserId};
use model::page::Status;
use model::time::{FacebookTime, HostTime};
use serde_json::{Value as Json, json};
use simulator::browser::Decision;

use crate::BACKEND;
use crate::support::deployment::{APP_ID, TestStorage};
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text, status_and_body,
};
use crate::support::raw_access::redis_command;

use crate::login_flow::start;

const BOB: &str = "200000000000002";

#[tokio::test(flavor = "multi_thread")]
async fn ids_as_numbers_and_times_as_text_connect_a_person_all_the_same() {
    let scene = DeploymentOptions {
        pages: 1,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    let number = |text: &str| text.parse::<u64>().unwrap();
    let (app, page) = (number(APP_ID), number(&page_id_text(0)));
    let token = json!({"app_id": app, "user_id": number("200000000000001"),
        "data_access_expires_at": "4102444800", "issued_at": "1750000000"});
    connected.reply(&json!([
        {"edge": "GET debug_token", "times": 9, "patch": token},
        {"edge": "GET me/accounts", "times": 9, "patch": {"id": page}},
        {"edge": "GET {id}", "times": 9, "patch": {"id": page}},
        {"edge": "GET {id}/subscribed_apps", "times": 9, "patch": {"id": app}},
    ]));
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, &body["connection"]["status"]),
        (200, &json!("active")),
        "{body}"
    );
    assert_eq!(
        body["polling_test"][0]["result"],
        json!({"status": "success"}),
        "{body}"
    );
    let connection = connected.connection().await;
    assert_eq!(
        connection.data_access_expires_at,
        Some(HostTime(4_102_444_800_000))
    );
    assert_eq!(
        connection.token_issued_at,
        Some(FacebookTime(1_750_000_000_000))
    );
    connected.read_again(0).await;
    assert_eq!(connected.field(0, "name").await, json!("Page 0"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_error_of_facebook_delays_a_login_and_does_not_end_it() {
    let connected = start().await;
    let failing = json!({"edge": "GET debug_token", "status": 500, "body": {"error": {"message": "An unknown error occurred", "code": 1}}});
    connected.reply(&json!([failing]));
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["polling_test"].as_array().unwrap().len()),
        (200, 3),
        "{body}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_expires_after_ten_minutes() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    let (mut visitor, callback) = connected.visit(&Decision::default()).await;
    connected.clock.advance(std::time::Duration::from_secs(601));
    let (status, body) = status_and_body(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("state_unknown"))
    );
    assert_eq!(connected.calls("POST oauth/access_token"), 0);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tracked_field_is_stored_and_shown_with_its_source_and_confirmation() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    let id = PageId::parse(&page_id_text(1)).unwrap();
    let (version, page) = connected.deployment.page(&id).await.unwrap();
    let view = serde_json::to_value(common::views::page::page_detail(&id, version, &page)).unwrap();
    assert_eq!(view["status"], "active");
    for name in TrackedFields::default().iter().map(FieldName::as_str) {
        let field = &view["fields"][name];
        assert!(!field["value"].is_null(), "{name}: {view}");
        assert_eq!(field["source"], "poll", "{name}");
        assert!(
            field["changed_at"].is_string() && field["confirmed_at"].is_string(),
            "{name}"
        );
        if let TestStorage::Distributed { redis, .. } = &connected.deployment.storage {
            let key = format!("{{pagesync}}:page:{id}");
            let stored: String =
                redis::from_redis_value(redis_command(redis, &["HGET", &key, name]).await).unwrap();
            let shown = field["value"]
                .as_str()
                .map_or_else(|| field["value"].to_string(), ToOwned::to_owned);
            assert_eq!(stored.len(), shown.len(), "{name}: {stored}");
        }
    }
    connected.finish().await;
}

/// Starts a deployment. At its Facebook, Ada manages every Page and Bob manages Page 0. No person
/// has logged in yet.
async fn with_bob() -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    add_bob(&connected);
    connected
}

/// Adds Bob to the simulated Facebook. He manages Page 0.
fn add_bob(connected: &ConnectedDeployment) {
    let bob = json!({"id": BOB, "name": "Bob", "pages": [page_id_text(0)]});
    let bob: simulator::people::Person = serde_json::from_value(bob).unwrap();
    let people = &mut connected.simulator.facebook().people;
    people.insert(bob.id.clone(), bob);
}

/// Returns the decision in the dialog with which Bob allows everything.
fn as_bob() -> Decision {
    Decision {
        user: BOB.to_owned(),
        ..Decision::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_wait_for_the_reads_that_are_due_before_it() {
    const PAGES: usize = 240;
    let scene = DeploymentOptions {
        pages: PAGES,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    add_bob(&connected);
    assert_eq!(connected.connect().await.0, 200);
    {
        let faults = &mut connected.simulator.facebook().graph_faults;
        faults.errors.insert("slow".to_owned(), 1.0);
        faults.slow_answer_seconds = 1;
    }
    for n in 0..PAGES {
        let id = PageId::parse(&page_id_text(n)).unwrap();
        crate::support::request_read(&*connected.deployment.store, &id, connected.clock.now())
            .await
            .unwrap();
    }
    eventually("the first reads", || async {
        (connected.calls("GET {id}") > 0).then_some(())
    })
    .await;
    let (status, body) = connected.connect_as(&as_bob()).await;
    assert_eq!(
        (status, &body["connection"]["status"]),
        (200, &json!("active")),
        "{body}"
    );
    assert!(connected.page(0).await.connections.len() == 2);
    // A login that waited in one queue with the reads would come after all of them.
    let reads = connected.calls("GET {id}");
    assert!(reads < PAGES as u64, "every read came before the login");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_two_people_is_read_with_the_token_that_is_valid_and_not_blocked() {
    let connected = with_bob().await;
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(connected.connect_as(&as_bob()).await.0, 200);
    assert_eq!(connected.page(0).await.connections.len(), 2);
    // The rate limit of Ada blocks calls with her token only.
    let now = connected.clock.now();
    let ada = rate_limit::user_bucket(&UserId::parse("200000000000001").unwrap());
    let block = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, None));
    let limit = rate_limit::update(&*connected.deployment.store, &ada, now, block).await;
    let blocked_until = limit.unwrap().unwrap().blocked_until;
    connected.advance(std::time::Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!(
        (page.status, page.polling.not_before),
        (Status::Active, None)
    );
    connected.advance(now.until(blocked_until));
    for token in connected.simulator.facebook().tokens.values_mut() {
        if token.user == "200000000000001" {
            token.invalid_subcode = Some(460);
        }
    }
    connected.advance(std::time::Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!(
        (page.status, page.polling.failures),
        (Status::Active, 0),
        "the Page is read with Bob's token"
    );
    let page = connected.read_again(1).await;
    assert_eq!(
        page.status,
        Status::NeedsLogin,
        "only Ada gives access to Page 1"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_pages_reports_a_problem_and_a_page_listed_twice_is_stored_once() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            pages: 0,
            ..DeploymentOptions::default()
        },
    )
    .await;
    let (status, body) = connected.connect().await;
    assert_eq!((status, &body["pages"]["data"]), (200, &json!([])));
    assert!(
        body["connection"]["problem"]
            .as_str()
            .unwrap()
            .contains("no Page"),
        "{body}"
    );
    let page = json!({"id": page_id_text(0), "name": "Twice", "access_token": "EAASx"});
    let body = json!({"data": [page, page, {"id": "0"}, "text", {"name": "no id"}]});
    connected.reply(&json!([{"edge": "GET me/accounts", "body": body}]));
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 1)
    );
    assert_eq!(connected.field(0, "name").await, json!("Twice"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_a_token_is_listed_and_not_read() {
    let connected = start().await;
    let ada = connected
        .simulator
        .facebook()
        .people
        .values_mut()
        .next()
        .map(|ada| {
            ada.pages_without_token.insert(page_id_text(1));
            ada.id.clone()
        });
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 3)
    );
    let page = connected.page(1).await;
    assert_eq!(page.status, Status::NoToken);
    assert_eq!(connected.calls("GET {id}"), 0);
    let key = RecordKey::new(
        RecordKind::PageToken,
        format!("{}.{}", ada.unwrap(), page_id_text(1)),
    );
    let stored: token::StoredToken = load_record(&*connected.deployment.store, &key)
        .await
        .unwrap()
        .unwrap()
        .value;
    assert!(stored.sealed.is_none());
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_the_progress_as_html_with_escaped_names() {
    let connected = start().await;
    let name = json!({"name": "<img src=x onerror=alert(1)>"});
    connected
        .simulator
        .change(&page_id_text(0), name.as_object().cloned().unwrap())
        .unwrap();
    let (visitor, callback) = connected.visit(&Decision::default()).await;
    let last = eventually("the end of the progress", || {
        let mut visitor = visitor.clone();
        let callback = callback.clone();
        async move {
            let page = visitor
                .get_as(&callback, "text/html,*/*;q=0.8")
                .await
                .unwrap();
            assert_eq!(page.status(), 200);
            let page = page.text().await.unwrap();
            assert!(!page.contains("EAAS"));
            (!page.contains("http-equiv=\"refresh\"")).then_some(page)
        }
    })
    .await;
    assert!(
        last.contains("Connected as <b>Ada Operator</b>") && last.contains("3 Pages"),
        "{last}"
    );
    assert!(last.contains("&lt;img") && !last.contains("<img"), "{last}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_login_renews_the_connection_and_deselected_pages_are_read_individually() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    let before = connected.connection().await;
    let two = Decision {
        pages: vec![page_id_text(0), page_id_text(1)],
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&two).await.0, 200);
    let after = connected.connection().await;
    assert!(
        after.connected_at > before.connected_at && after.last_poll.as_ref().unwrap().pages == 2
    );
    // The new token gives no access to the deselected Page. The values of the Page are kept,
    // and its status changes.
    let page = eventually("the read of the deselected Page", || async {
        let page = connected.page(2).await;
        (page.status != Status::Active).then_some(page)
    })
    .await;
    assert_eq!(page.status, Status::NoToken);
    assert_eq!(connected.field(2, "name").await, json!("Page 2"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_simultaneous_callbacks_complete_one_login() {
    let connected = start().await;
    let (visitor, callback) = connected.visit(&Decision::default()).await;
    let (mut one, mut two) = (visitor.clone(), visitor);
    let (one, two) = tokio::join!(one.get(&callback), two.get(&callback));
    let (one, two): ((u16, Json), (u16, Json)) = (
        status_and_body(one.unwrap()).await,
        status_and_body(two.unwrap()).await,
    );
    assert_eq!((one.0, two.0), (200, 200));
    assert_eq!(one.1["pages"], two.1["pages"]);
    assert_eq!(connected.calls("POST oauth/access_token"), 2);
    let stored = load_all::<login::Login>(&*connected.deployment.store, RecordKind::Login, "")
        .await
        .unwrap();
    assert_eq!(stored.len(), 1);
    assert!(matches!(stored[0].1.value.stage, login::Stage::CodeUsed(_)));
    let state = reqwest::Url::parse(&callback).unwrap();
    let (_, state) = state
        .query_pairs()
        .find(|(name, _)| name == "state")
        .unwrap();
    assert!(
        !stored[0].0.contains(&*state),
        "only the hash of the state is stored"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_two_people_is_subscribed_if_either_of_them_has_the_permission() {
    let connected = with_bob().await;
    let declined = Decision {
        declined: vec!["pages_manage_metadata".to_owned()],
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&declined).await.0, 200);
    let key = page_subscription::key(&PageId::parse(&page_id_text(0)).unwrap());
    let stored = async || {
        let stored = load_record::<PageSubscription>(&*connected.deployment.store, &key).await;
        stored.unwrap().unwrap().value
    };
    eventually("the refusal", || async {
        (!stored().await.refused.is_empty()).then_some(())
    })
    .await;
    // The call with Ada's token succeeds, and the call with Bob's token fails with a transient
    // error. Fields that are refused for Ada are not recorded as refused, because Bob may have the
    // permission.
    let edge = "GET {id}/subscribed_apps";
    connected.reply(&json!([{"edge": edge}, {"edge": edge, "fault": "2"}]));
    connected.advance(std::time::Duration::from_secs(61));
    assert_eq!(connected.connect_as(&as_bob()).await.0, 200);
    let after = eventually("the failed call", || async {
        let stored = stored().await;
        (stored.polling.failures > 0).then_some(stored)
    })
    .await;
    assert_eq!(after.refused.len(), 0);
    assert!(
        after.polling.has_open_notification_or_request(),
        "{after:?}"
    );
    connected.advance(std::time::Duration::from_secs(121));
    eventually("the subscription with Bob's token", || async {
        let facebook = connected.simulator.facebook();
        let fields = facebook.page_subscriptions.get(&page_id_text(0))?;
        fields.contains("name").then_some(())
    })
    .await;
    assert_eq!(
        connected.simulator.facebook().page_subscriptions.len(),
        1,
        "only Ada gives access to the other Pages"
    );
    let after = eventually("the commit", || async {
        let stored = stored().await;
        (stored.polling.failures == 0).then_some(stored)
    })
    .await;
    assert_eq!((after.refused.len(), after.problem), (0, None));
    connected.finish().await;
}
