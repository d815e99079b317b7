//! Connecting: login, dialog, callback, and what each leaves behind. B40 to B48 of the bad inputs.

use common::records::{grant, load_all, subscription, token};
use common::store::RecordKind;
use model::field::TrackedFields;
use model::page::Status;
use reqwest::header::{LOCATION, SET_COOKIE};
use serde_json::json;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::support::client;
use crate::support::deployment::{APP_ID, APP_SECRET};
use crate::support::facebook::{Connected, Scene, answer, nth};

pub(crate) async fn start() -> Connected {
    Connected::start(BACKEND, Scene::default()).await
}

pub(crate) async fn none_of(connected: &Connected, kind: RecordKind) -> bool {
    connected
        .deployment
        .store
        .list_records(kind, None, 10)
        .await
        .unwrap()
        .is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn login_leads_to_the_dialog_with_a_state_bound_to_this_browser() {
    let connected = start().await;
    let sent = client().get(connected.login()).send().await.unwrap();
    assert_eq!(sent.status(), 302);
    let to = reqwest::Url::parse(sent.headers()[LOCATION].to_str().unwrap()).unwrap();
    assert!(
        to.as_str()
            .starts_with(&format!("{}/v25.0/dialog/oauth?", connected.facebook))
    );
    let query: std::collections::BTreeMap<String, String> = to.query_pairs().into_owned().collect();
    assert_eq!(query["client_id"], APP_ID);
    assert_eq!(
        query["redirect_uri"],
        format!("{}/facebook/callback", connected.public)
    );
    assert_eq!(query["response_type"], "code");
    assert_eq!(
        query["scope"],
        "pages_show_list,pages_read_engagement,pages_manage_metadata,business_management"
    );
    assert!(query["state"].len() >= 43, "256 bits");
    let cookie = sent.headers()[SET_COOKIE].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Lax", "Path=/facebook"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let kept = connected
        .deployment
        .store
        .list_records(RecordKind::Login, None, 10)
        .await
        .unwrap();
    assert_eq!(kept.len(), 1);
    let text = kept[0].1.value.to_string() + &kept[0].0.id;
    assert!(!text.contains(&query["state"]), "only its hash is kept");
    let again = client().get(connected.login()).send().await.unwrap();
    let again = again.headers()[LOCATION].to_str().unwrap().to_owned();
    assert!(
        !again.contains(&query["state"]),
        "each login has a state of its own"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_connects_every_page_and_answers_in_the_shape_of_the_tutorial() {
    let connected = start().await;
    let (status, body) = connected.connect().await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["webhook_test"], json!({"status": "success"}));
    assert_eq!(body["pages"]["paging"], json!({}));
    let listed = body["pages"]["data"].as_array().unwrap();
    let names: Vec<&str> = listed
        .iter()
        .map(|page| page["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Page 0", "Page 1", "Page 2"]);
    assert_eq!(listed[0]["location"]["city"], "Town");
    let polled = json!({"page_id": nth(0), "result": {"status": "success"}});
    assert_eq!(body["polling_test"][0], polled);
    assert_eq!(body["polling_test"].as_array().unwrap().len(), 3);
    let text = body.to_string();
    for secret in ["EAAS", "access_token", "graph.facebook.com", APP_SECRET] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    let connection = connected.connection().await;
    assert_eq!(connection.scopes.len(), 4);
    let lives = connection
        .connected_at
        .until(connection.token_expires_at.unwrap())
        .as_secs();
    assert!(
        lives > 50 * 24 * 3600,
        "the long-lived token was exchanged for: {lives} s"
    );
    let store = &*connected.deployment.store;
    let tokens = load_all::<token::StoredToken>(store, RecordKind::PageToken, "")
        .await
        .unwrap();
    assert_eq!(tokens.len(), 3);
    assert!(!none_of(&connected, RecordKind::UserToken).await);
    for n in 0..3 {
        let page = connected.page(n).await;
        assert_eq!(page.status, Status::Active);
        assert_eq!(
            page.registers.len(),
            TrackedFields::default().iter().count()
        );
        for name in page.registers.keys() {
            assert!(page.confirmed_at(name).is_some(), "{name} of Page {n}");
        }
        assert!(page.polling.daily_slot.is_some() && !page.polling.is_read_requested());
        let key = subscription::key(&model::id::PageId::parse(&nth(n)).unwrap());
        let stored: subscription::Subscription = common::records::load_record(store, &key)
            .await
            .unwrap()
            .unwrap()
            .value;
        assert!(
            stored.fields.contains("name") && stored.fields.contains("phone"),
            "{stored:?}"
        );
        assert!(stored.refused.is_empty() && stored.problem.is_none());
    }
    let (app, installed) = {
        let facebook = connected.simulator.facebook();
        (
            facebook.subscription.clone().unwrap(),
            facebook.page_subscriptions.len(),
        )
    };
    let ours = format!("{}/facebook/webhook", connected.public);
    assert_eq!(app.callback, ours);
    assert!(app.include_values && app.fields.contains("name"));
    assert_eq!(installed, 3);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_works_once_in_its_browser_and_nowhere_else() {
    let connected = start().await;
    let (mut visitor, callback) = connected.visit(&Decision::default()).await;
    let code = callback
        .split("code=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let base = format!("{}/facebook/callback", connected.public);
    for (address, word) in [
        (format!("{base}?code={code}"), "state_missing"),
        (format!("{base}?code={code}&state="), "state_missing"),
        (
            format!("{base}?code={code}&state=a&state=b"),
            "state_missing",
        ),
        (format!("{base}?code={code}&state=made-up"), "state_unknown"),
    ] {
        let (status, body) = answer(visitor.get(&address).await.unwrap()).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!(word)),
            "{address}"
        );
    }
    let mut other = LoginBrowser::new().unwrap();
    let (status, body) = answer(other.get(&callback).await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("other_browser"))
    );
    other.get(&connected.login()).await.unwrap();
    let (status, _) = answer(other.get(&callback).await.unwrap()).await;
    assert_eq!(
        status, 400,
        "a cookie of its own is not the cookie of this login"
    );
    assert_eq!(
        connected.calls("POST oauth/access_token"),
        0,
        "nothing was exchanged so far"
    );

    let (status, first) = answer(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(status, 200, "{first}");
    let exchanges = connected.calls("POST oauth/access_token");
    assert_eq!(exchanges, 2, "the code, and the long-lived token");
    let (status, second) = answer(visitor.get(&callback).await.unwrap()).await;
    assert_eq!((status, &second["pages"]), (200, &first["pages"]));
    assert_eq!(
        connected.calls("POST oauth/access_token"),
        exchanges,
        "the same answer, no second exchange"
    );
    let (status, _) = answer(other.get(&callback).await.unwrap()).await;
    assert_eq!(status, 400, "a used state is no use to another browser");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_says_no_sees_so_and_nothing_is_kept() {
    let connected = start().await;
    let deny = Decision {
        deny: true,
        ..Decision::default()
    };
    let (status, body) = connected.connect_as(&deny).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("access_denied"))
    );
    // Facebook's other form, with markup where a person would read it.
    let (mut visitor, callback) = connected.visit(&deny).await;
    let state = callback
        .split("state=")
        .nth(1)
        .unwrap()
        .split('#')
        .next()
        .unwrap();
    let address = format!(
        "{}/facebook/callback?error_code=1349048&error_message=%3Cscript%3Ealert(1)%3C/script%3E&state={state}",
        connected.public
    );
    let shown = visitor.get_as(&address, "text/html").await.unwrap();
    assert_eq!(shown.status(), 400);
    let headers = shown.headers().clone();
    let page = shown.text().await.unwrap();
    assert!(
        page.contains("&lt;script&gt;") && !page.contains("<script"),
        "{page}"
    );
    assert_eq!(headers["referrer-policy"], "no-referrer");
    assert_eq!(headers["cache-control"], "no-store");
    assert!(
        headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("default-src 'none'")
    );
    let (status, _) = answer(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(status, 400, "the state is used up");
    assert_eq!(connected.calls("POST oauth/access_token"), 0);
    assert!(
        none_of(&connected, RecordKind::Grant).await
            && none_of(&connected, RecordKind::Connection).await
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_not_exchanged_leaves_nothing() {
    let connected = start().await;
    let edge = "POST oauth/access_token";
    let odd = [
        json!({"edge": edge, "body": {"token_type": "bearer"}}),
        json!({"edge": edge, "body": {"access_token": ""}}),
        json!({"edge": edge, "body": "<html><body>Sorry</body></html>", "headers": {"content-type": "text/html"}}),
        json!({"edge": edge, "status": 500, "body": "<html>"}),
        json!({"edge": edge, "status": 302, "body": "", "headers": {"location": "http://169.254.169.254/"}}),
        json!({"edge": edge, "body": {"access_token": "EAASpadded"}, "padding": 9_000_000}),
        json!({"edge": edge, "status": 400, "body": {"error": {"message": "This authorization code has been used.", "type": "OAuthException", "code": 100, "error_subcode": 36009}}}),
    ];
    for canned in odd {
        connected.reply(&json!([canned]));
        let (status, body) = connected.connect().await;
        assert!(matches!(status, 400 | 502), "{status} {canned}");
        let word = if status == 502 {
            "facebook_unavailable"
        } else {
            "exchange_failed"
        };
        assert_eq!(body["error"]["code"], word, "{canned}");
        assert!(!body.to_string().contains("Sorry"), "{body}");
    }
    for code in ["x".repeat(5000), "a%20b".to_owned(), String::new()] {
        let (mut visitor, callback) = connected.visit(&Decision::default()).await;
        let state = callback
            .split("state=")
            .nth(1)
            .unwrap()
            .split('#')
            .next()
            .unwrap();
        let address = format!(
            "{}/facebook/callback?code={code}&state={state}",
            connected.public
        );
        let (status, _) = answer(visitor.get(&address).await.unwrap()).await;
        assert_eq!(status, 400, "{} bytes of code", code.len());
    }
    assert!(
        none_of(&connected, RecordKind::Grant).await
            && none_of(&connected, RecordKind::Connection).await
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_app_is_refused() {
    let connected = start().await;
    connected.simulator.facebook().graph_faults.token_app_id = Some("999999999999999".to_owned());
    let (status, body) = connected.connect().await;
    assert_eq!(status, 502);
    assert!(
        body["connection"]["message"]
            .as_str()
            .unwrap()
            .contains("another app"),
        "{body}"
    );
    assert!(
        none_of(&connected, RecordKind::Connection).await
            && none_of(&connected, RecordKind::UserToken).await
    );
    let grants = load_all::<grant::Grant>(&*connected.deployment.store, RecordKind::Grant, "")
        .await
        .unwrap();
    assert!(
        matches!(grants[0].1.value.stage, grant::Stage::Failed(_)),
        "its token is gone"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_permission_says_what_does_not_work() {
    let connected = start().await;
    let declined = Decision {
        declined: vec!["pages_manage_metadata".to_owned()],
        ..Decision::default()
    };
    let (status, body) = connected.connect_as(&declined).await;
    assert_eq!(status, 200);
    let missing = &body["connection"]["missing_permissions"][0];
    assert_eq!(missing["permission"], "pages_manage_metadata");
    assert!(
        missing["consequence"]
            .as_str()
            .unwrap()
            .contains("no webhook"),
        "{body}"
    );
    assert_eq!(
        body["polling_test"].as_array().unwrap().len(),
        3,
        "Pages are read all the same"
    );
    let key = subscription::key(&model::id::PageId::parse(&nth(0)).unwrap());
    let stored: subscription::Subscription =
        common::records::load_record(&*connected.deployment.store, &key)
            .await
            .unwrap()
            .unwrap()
            .value;
    assert!(stored.refused.contains("name"), "{stored:?}");
    connected.finish().await;
}
