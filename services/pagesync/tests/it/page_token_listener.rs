//! The token of a Page for a program of the operator: who gets it, when, and what is recorded.

use common::config::Role;
use common::store::{Commit, CommitOutcome, PageWrite};
use model::id::PageId;
use model::page::Status;
use serde_json::{Value as Json, json};
use simulator::bytes::signature_256;
use simulator::token::TokenInvalidation;

use crate::BACKEND;
use crate::support::api::{ApiClient, create_key};
use crate::support::deployment::APP_SECRET;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text, status_and_body,
};
use crate::support::{client, eventually};

/// Sends a request for the token of a Page. Returns the status, the body and the header `Cache-Control`.
async fn request(url: &str, key: &str, page: &str) -> (u16, Json, String) {
    let request = client().get(format!("{url}/page-tokens/{page}"));
    let answer = request.bearer_auth(key).send().await.unwrap();
    let cache = answer.headers()["cache-control"]
        .to_str()
        .unwrap()
        .to_owned();
    let (status, body) = status_and_body(answer).await;
    (status, body, cache)
}

fn text(created: &Json) -> String {
    created["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_scope_token_gets_a_working_token_and_the_reason_if_there_is_none() {
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_TOKEN_LISTEN", "127.0.0.1:0")],
        ..DeploymentOptions::default()
    };
    let mut connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let running = connected.deployment.roles.iter();
    let mut listeners = running.filter_map(|(role, running)| Some((*role, running.tokens?)));
    let (role, address) = listeners.next().unwrap();
    assert!(matches!(role, Role::Up | Role::Worker), "{role:?}");
    assert_eq!(listeners.next(), None, "only the worker opens tokens");
    let url = format!("http://{address}");
    let key = text(&create_key(&connected, &["--scope", "token"]));

    let (status, body, cache) = request(&url, &key, &page_id_text(0)).await;
    assert_eq!((status, cache.as_str()), (200, "no-store"), "{body}");
    let members: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["ends_at", "page_id", "permissions", "token"]);
    assert!(
        body["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("pages_show_list"))
    );
    assert!(body["ends_at"].as_str().unwrap().ends_with('Z'));
    let token = body["token"].as_str().unwrap().to_owned();
    // The simulated app requires the proof, as the dashboard recommends.
    let proof = signature_256(APP_SECRET, token.as_bytes()).replace("sha256=", "");
    let read = client().get(format!(
        "{}/v25.0/{}",
        connected.facebook_url,
        page_id_text(0)
    ));
    let read = read.query(&[
        ("access_token", &*token),
        ("appsecret_proof", &*proof),
        ("fields", "name"),
    ]);
    let (status, page) = status_and_body(read.send().await.unwrap()).await;
    assert_eq!((status, &page["name"]), (200, &json!("Page 0")), "{page}");

    // Other keys get nothing, and this key gets nothing else.
    let reader = text(&create_key(&connected, &["--scope", "operate"]));
    let of_other = ["--scope", "token", "--page", &page_id_text(1)];
    let of_other = text(&create_key(&connected, &of_other));
    for (key, page, expected) in [
        ("", page_id_text(0), (401, "unauthorized")),
        ("pagesync_0_0", page_id_text(0), (401, "unauthorized")),
        (&reader, page_id_text(0), (403, "forbidden")),
        (&of_other, page_id_text(0), (404, "not_found")),
        (&key, "4711".to_owned(), (404, "not_found")),
        (&key, "x".to_owned(), (400, "invalid_request")),
    ] {
        let (status, body, cache) = request(&url, key, &page).await;
        assert_eq!((status, body["code"].as_str().unwrap()), expected, "{page}");
        assert_eq!(cache, "no-store");
        assert!(!body.to_string().contains(&token));
    }
    let api = ApiClient::start(&mut connected, &["--scope", "operate"]).await;
    let (status, body) = api.with_key(&key).get("/v1/pages").await;
    assert_eq!((status, &body["code"]), (403, &json!("forbidden")));

    // A key of one client gets no token of a person who logged in for another one.
    let of_client = ["--scope", "token", "--client", "globex"];
    let of_client = text(&create_key(&connected, &of_client));
    let store = connected.deployment.store.clone();
    let moved = PageId::parse(&page_id_text(1)).unwrap();
    let (version, mut page) = connected.deployment.page(&moved).await.unwrap();
    page.client = Some("globex".to_owned());
    let write = PageWrite {
        id: moved,
        expected: version,
        page,
        changes: Vec::new(),
        received_at: connected.clock.now(),
    };
    let commit = Commit {
        page: Some(write),
        ..Commit::default()
    };
    assert_eq!(
        store.commit(&[commit]).await.unwrap(),
        [CommitOutcome::Applied]
    );
    let (status, body, _) = request(&url, &of_client, &page_id_text(1)).await;
    assert_eq!((status, &body["code"]), (409, &json!("no_token")), "{body}");

    // The person changes their password, which ends all tokens.
    let ended = connected
        .simulator
        .facebook()
        .invalidate_tokens(&TokenInvalidation {
            user: None,
            page: None,
            subcode: 460,
        });
    assert!(ended > 0);
    connected.read_again(0).await;
    eventually("the Page to need a login", || async {
        (connected.page(0).await.status == Status::NeedsLogin).then_some(())
    })
    .await;
    let (status, body, _) = request(&url, &key, &page_id_text(0)).await;
    assert_eq!((status, &body["code"]), (409, &json!("no_token")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("Fix: "), "{body}");
    connected.text(&["erase", "page", &page_id_text(2)]);
    assert_eq!(request(&url, &key, &page_id_text(2)).await.0, 404);

    let audit = api.ok("/v1/audit").await;
    let outcomes: Vec<(String, String)> = audit["actions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|action| action["action"] == "page_token.get")
        .map(|action| {
            let text = |name: &str| action[name].as_str().unwrap().to_owned();
            (text("target"), text("outcome"))
        })
        .collect();
    let page = |n: usize| format!("page:{}", page_id_text(n));
    let expected = [
        (page(2), "not_found"),
        (page(0), "no_token"),
        (page(1), "no_token"),
        ("page:4711".to_owned(), "not_found"),
        (page(0), "not_found"),
        (page(0), "done"),
    ];
    let expected: Vec<(String, String)> = expected
        .into_iter()
        .map(|(target, outcome)| (target, outcome.to_owned()))
        .collect();
    assert_eq!(outcomes, expected);
    let stored = connected.deployment.storage.everything_stored().await;
    assert!(!stored.contains(&token), "the token is stored in the clear");
    for (_, running) in &connected.deployment.roles {
        assert!(!running.metrics.text().contains(&token));
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gets_a_limited_number_of_tokens_in_a_minute() {
    // The minute ends when the test says so.
    let clock = manual_clock();
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_TOKEN_LISTEN", "127.0.0.1:0")],
        clock: clock.clone(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let mut running = connected.deployment.roles.iter();
    let address = running.find_map(|(_, running)| running.tokens).unwrap();
    let url = format!("http://{address}");
    let keys = [(); 2].map(|()| text(&create_key(&connected, &["--scope", "token"])));
    // The Page is unknown, which counts like any other request.
    let client = client();
    let status = async |key: &str| {
        let request = client.get(format!("{url}/page-tokens/4711"));
        let answer = request.bearer_auth(key).send().await.unwrap();
        answer.status().as_u16()
    };
    for _ in 0..300 {
        assert_eq!(status(&keys[0]).await, 404);
    }
    assert_eq!(status(&keys[0]).await, 429);
    assert_eq!(status(&keys[1]).await, 404, "each key has its own limit");
    clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(status(&keys[0]).await, 404);
    connected.finish().await;
}
