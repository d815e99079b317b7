//! Logins from the start to the callback: redirects, answers, stored records and refusals.

use common::records::{load_all, page_subscription, token, token_exchange};
use common::store::RecordKind;
use model::field::TrackedFields;
use model::page::Status;
use reqwest::header::{LOCATION, SET_COOKIE};
use serde_json::json;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::support::client;
use crate::support::deployment::{APP_ID, APP_SECRET};
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, page_id_text, status_and_body,
};

/// Starts a deployment with default settings and three Pages at Facebook.
pub(crate) async fn start() -> ConnectedDeployment {
    ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await
}

/// Returns whether no record of this kind is stored.
pub(crate) async fn has_no_records(connected: &ConnectedDeployment, kind: RecordKind) -> bool {
    connected
        .deployment
        .store
        .list_records(kind, None, 10)
        .await
        .unwrap()
        .is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn login_redirects_to_the_dialog_with_a_state_bound_to_the_browser() {
    let connected = start().await;
    let answer = client().get(connected.login()).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    let dialog = reqwest::Url::parse(answer.headers()[LOCATION].to_str().unwrap()).unwrap();
    assert!(
        dialog
            .as_str()
            .starts_with(&format!("{}/v25.0/dialog/oauth?", connected.facebook_url))
    );
    let query: std::collections::BTreeMap<String, String> =
        dialog.query_pairs().into_owned().collect();
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
    assert!(query["state"].len() >= 43, "the MAC has 256 bits");
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Lax", "Path=/facebook"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let stored = connected
        .deployment
        .store
        .list_records(RecordKind::Login, None, 10)
        .await
        .unwrap();
    assert_eq!(stored.len(), 0, "nothing is stored when a login begins");
    let second = client().get(connected.login()).send().await.unwrap();
    let second = second.headers()[LOCATION].to_str().unwrap().to_owned();
    assert!(
        !second.contains(&query["state"]),
        "each login has a state of its own"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_below_a_path_connects_people_and_receives_webhooks() {
    let scene = DeploymentOptions {
        public_path: "/bots/acme",
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    let answer = client().get(connected.login()).send().await.unwrap();
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("; Path=/bots/acme/facebook;"), "{cookie}");
    let (status, body) = connected.connect().await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["webhook_test"], json!({"status": "success"}));
    let fields = json!({"name": "Renamed"});
    let fields = fields.as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the webhook", || async {
        (connected.field(0, "name").await == "Renamed").then_some(())
    })
    .await;
    // Links are relative to the address that the browser shows, which has the path.
    let refused = client()
        .get(format!("{}/facebook/callback?code=x", connected.public))
        .header("accept", "text/html");
    let page = refused.send().await.unwrap().text().await.unwrap();
    assert!(page.contains(r#"href="login""#), "{page}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_connects_every_page_and_answers_with_json_without_tokens() {
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
    let polling_test = json!({"page_id": page_id_text(0), "result": {"status": "success"}});
    assert_eq!(body["polling_test"][0], polling_test);
    assert_eq!(body["polling_test"].as_array().unwrap().len(), 3);
    let text = body.to_string();
    for secret in ["EAAS", "access_token", "graph.facebook.com", APP_SECRET] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    let connection = connected.connection().await;
    assert_eq!(connection.permissions.len(), 4);
    let lifetime = connection
        .connected_at
        .until(connection.token_expires_at.unwrap())
        .as_secs();
    assert!(
        lifetime > 50 * 24 * 3600,
        "the token is not a long-lived one: {lifetime} s"
    );
    let store = &*connected.deployment.store;
    let tokens = load_all::<token::StoredToken>(store, RecordKind::PageToken, "")
        .await
        .unwrap();
    assert_eq!(tokens.len(), 3);
    assert!(!has_no_records(&connected, RecordKind::UserToken).await);
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
        assert!(
            page.polling.daily_slot.is_some() && !page.polling.has_open_notification_or_request()
        );
        let key = page_subscription::key(&model::id::PageId::parse(&page_id_text(n)).unwrap());
        let stored: page_subscription::PageSubscription = common::records::load_record(store, &key)
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
    let (app, page_subscriptions) = {
        let facebook = connected.simulator.facebook();
        (
            facebook.app_subscription.clone().unwrap(),
            facebook.page_subscriptions.len(),
        )
    };
    let webhook_address = format!("{}/facebook/webhook", connected.public);
    assert_eq!(app.callback, webhook_address);
    assert!(app.include_values && app.fields.contains("name"));
    assert_eq!(page_subscriptions, 3);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_valid_once_and_only_in_its_browser() {
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
    for (address, code) in [
        (format!("{base}?code={code}"), "state_missing"),
        (format!("{base}?code={code}&state="), "state_missing"),
        (
            format!("{base}?code={code}&state=a&state=b"),
            "state_missing",
        ),
        (format!("{base}?code={code}&state=made-up"), "state_unknown"),
    ] {
        let (status, body) = status_and_body(visitor.get(&address).await.unwrap()).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!(code)),
            "{address}"
        );
    }
    let mut other = LoginBrowser::new().unwrap();
    let (status, body) = status_and_body(other.get(&callback).await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("other_browser"))
    );
    other.get(&connected.login()).await.unwrap();
    let (status, _) = status_and_body(other.get(&callback).await.unwrap()).await;
    assert_eq!(status, 400, "the cookie of another login is not accepted");
    assert_eq!(
        connected.calls("POST oauth/access_token"),
        0,
        "no code was exchanged"
    );

    let (status, first) = status_and_body(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(status, 200, "{first}");
    let exchanges = connected.calls("POST oauth/access_token");
    assert_eq!(exchanges, 2, "the code, then the short-lived token");
    let (status, second) = status_and_body(visitor.get(&callback).await.unwrap()).await;
    assert_eq!((status, &second["pages"]), (200, &first["pages"]));
    assert_eq!(
        connected.calls("POST oauth/access_token"),
        exchanges,
        "the second request causes no exchange"
    );
    let (status, _) = status_and_body(other.get(&callback).await.unwrap()).await;
    assert_eq!(status, 400, "a used state is not valid in another browser");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_login_is_reported_and_stores_nothing() {
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
    // Facebook reports some errors in another form. The message contains markup.
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
    let (status, _) = status_and_body(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(status, 400, "the state is used up");
    assert_eq!(connected.calls("POST oauth/access_token"), 0);
    assert!(
        has_no_records(&connected, RecordKind::TokenExchange).await
            && has_no_records(&connected, RecordKind::Connection).await
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_code_exchange_stores_nothing() {
    let connected = start().await;
    let edge = "POST oauth/access_token";
    let replies = [
        json!({"edge": edge, "body": {"token_type": "bearer"}}),
        json!({"edge": edge, "body": {"access_token": ""}}),
        json!({"edge": edge, "body": "<html><body>Sorry</body></html>", "headers": {"content-type": "text/html"}}),
        json!({"edge": edge, "status": 500, "body": "<html>"}),
        json!({"edge": edge, "status": 302, "body": "", "headers": {"location": "http://169.254.169.254/"}}),
        json!({"edge": edge, "body": {"access_token": "EAASpadded"}, "padding": 9_000_000}),
        json!({"edge": edge, "status": 400, "body": {"error": {"message": "This authorization code has been used.", "type": "OAuthException", "code": 100, "error_subcode": 36009}}}),
    ];
    for reply in replies {
        connected.reply(&json!([reply]));
        let (status, body) = connected.connect().await;
        assert!(matches!(status, 400 | 502), "{status} {reply}");
        let code = if status == 502 {
            "facebook_unavailable"
        } else {
            "exchange_failed"
        };
        assert_eq!(body["error"]["code"], code, "{reply}");
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
        let (status, _) = status_and_body(visitor.get(&address).await.unwrap()).await;
        assert_eq!(status, 400, "{} bytes of code", code.len());
    }
    assert!(
        has_no_records(&connected, RecordKind::TokenExchange).await
            && has_no_records(&connected, RecordKind::Connection).await
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
        has_no_records(&connected, RecordKind::Connection).await
            && has_no_records(&connected, RecordKind::UserToken).await
    );
    let exchanges = load_all::<token_exchange::TokenExchange>(
        &*connected.deployment.store,
        RecordKind::TokenExchange,
        "",
    )
    .await
    .unwrap();
    assert!(
        matches!(exchanges[0].1.value.stage, token_exchange::Stage::Failed(_)),
        "the record contains no token"
    );
    connected.finish().await;
}
