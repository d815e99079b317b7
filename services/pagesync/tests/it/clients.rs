//! An agency connects the Pages of its clients: an invitation names the client, is good for one person,
//! and can be revoked. The person sees who reads what, both tests, and what happens next.

use std::time::Duration;

use model::page::Status;
use serde_json::{Value as Json, json};
use simulator::browser::{Decision, LoginBrowser};
use simulator::people::Person;

use crate::BACKEND;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::{client, eventually};

const ADA: &str = "200000000000001";
const BOB: &str = "200000000000002";

async fn start() -> ConnectedDeployment {
    let options = DeploymentOptions {
        extra: &[
            ("PAGESYNC_LOGIN", "invited"),
            ("STATE_TOKEN_SECRET", "a-secret-for-invitations"),
            ("PAGESYNC_NAME", "Example <Agency>"),
            ("PAGESYNC_CONTACT", "pages@agency.example"),
        ],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let bob = json!({"id": BOB, "name": "Bob", "pages": [page_id_text(2)]});
    let bob: Person = serde_json::from_value(bob).unwrap();
    connected
        .simulator
        .facebook()
        .people
        .insert(BOB.to_owned(), bob);
    connected
}

/// Returns the address that `connection invite` prints.
fn invite(connected: &ConnectedDeployment, client: &str) -> String {
    let arguments = [
        "connection",
        "invite",
        "--client",
        client,
        "--return-to",
        "https://agency.example/done?a=1&b=2",
    ];
    connected.text(&arguments).trim().to_owned()
}

/// Logs in at an address. Returns the browser, the callback, and the last answer.
async fn log_in(
    connected: &ConnectedDeployment,
    address: &str,
    user: &str,
) -> (LoginBrowser, String, (u16, Json)) {
    let mut browser = LoginBrowser::new().unwrap();
    let decision = Decision {
        user: user.to_owned(),
        ..Decision::default()
    };
    let callback = browser.log_in(address, &decision).await.unwrap().unwrap();
    let answer = connected.wait_for_login(&mut browser, &callback).await;
    (browser, callback, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_keeps_its_client_and_is_good_for_one_person() {
    let connected = start().await;
    let address = invite(&connected, "Acme & Sons");
    let (_, _, (status, body)) = log_in(&connected, &address, BOB).await;
    assert_eq!(status, 200, "{body}");
    // Ada cannot use it, and Bob can use it again.
    let (_, _, (status, body)) = log_in(&connected, &address, ADA).await;
    assert_eq!(status, 502, "{body}");
    let message = body["connection"]["message"].as_str().unwrap();
    assert!(
        message.contains("another person has used this invitation"),
        "{message}"
    );
    assert_eq!(log_in(&connected, &address, BOB).await.2.0, 200);

    let other = invite(&connected, "Other");
    assert_eq!(log_in(&connected, &other, ADA).await.2.0, 200);
    let of = |command: &[&str], client: &str| -> Vec<Json> {
        let listed = connected.json(&[command, &["list", "--client", client]].concat());
        listed.as_array().unwrap().clone()
    };
    let connections = of(&["connection"], "Acme & Sons");
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0]["id"], BOB);
    assert_eq!(connections[0]["client"], "Acme & Sons");
    let pages = of(&["page"], "Other");
    assert!(
        pages.iter().any(|page| page["id"] == page_id_text(0)),
        "{pages:?}"
    );
    assert!(of(&["page"], "nobody").is_empty());
    let invitations = of(&["invitation"], "Acme & Sons");
    assert_eq!(invitations[0]["state"], "used");
    assert_eq!(invitations[0]["used_by"], BOB);
    assert!(
        !connected
            .json(&["invitation", "list"])
            .to_string()
            .contains("invitation=")
    );

    // The link to log in again is good for Bob only and keeps the client.
    let again = login_address(&connected, BOB).await;
    let (_, _, (status, body)) = log_in(&connected, &again, ADA).await;
    assert_eq!(status, 502, "{body}");
    assert_eq!(log_in(&connected, &again, BOB).await.2.0, 200);
    assert_eq!(of(&["connection"], "Acme & Sons").len(), 1);
    connected.finish().await;
}

/// Revokes a permission of a person. Returns the address where they log in again.
async fn login_address(connected: &ConnectedDeployment, user: &str) -> String {
    connected
        .simulator
        .facebook()
        .revoke(user, "pages_manage_metadata")
        .unwrap();
    let id = model::id::UserId::parse(user).unwrap();
    let store = &*connected.deployment.store;
    common::records::connection::request_poll(store, &id, connected.clock.now())
        .await
        .unwrap();
    eventually("the missing permission", || async {
        let shown = connected.json(&["connection", "show", user]);
        shown["login_address"].as_str().map(ToOwned::to_owned)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_invitation_begins_no_login() {
    let connected = start().await;
    let address = invite(&connected, "Acme");
    let listed = connected.json(&["invitation", "list"]);
    let id = listed[0]["id"].as_str().unwrap();
    let revoked = connected.text(&["invitation", "revoke", id]);
    assert!(revoked.contains("revoked the invitation"), "{revoked}");
    let answer = client().get(&address).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let listed = connected.json(&["invitation", "list"]);
    assert_eq!(listed[0]["state"], "revoked");
    for wrong in ["http://agency.example/", "javascript:alert(1)"] {
        let arguments = ["connection", "invite", "--return-to", wrong];
        let (code, _, errors) = connected.run(&arguments, "");
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("--return-to is not an address"), "{errors}");
    }
    connected.finish().await;
}

/// A link that was damaged on its way must not connect a person without its client.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_invitation_begins_no_login_even_if_none_is_needed() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let damaged = format!("{}?invitation=garbage", connected.login());
    assert_eq!(client().get(damaged).send().await.unwrap().status(), 403);
    let plain = client().get(connected.login()).send().await.unwrap();
    assert_eq!(plain.status(), 302);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_after_a_login_shows_both_tests_what_is_read_and_what_happens_next() {
    let connected = start().await;
    let address = invite(&connected, "Acme");
    let mut browser = LoginBrowser::new().unwrap();
    let decision = Decision {
        user: BOB.to_owned(),
        ..Decision::default()
    };
    let callback = browser.log_in(&address, &decision).await.unwrap().unwrap();
    let began = std::time::Instant::now();
    let page = loop {
        let answer = browser.get_as(&callback, "text/html").await.unwrap();
        let page = answer.text().await.unwrap();
        if !page.contains("http-equiv=\"refresh\"") {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{page}");
    };
    for expected in [
        "A test webhook was received, queued and stored.",
        "1 Page was read from Facebook.",
        "Client: <b>Acme</b>",
        "Example &lt;Agency&gt; reads these fields",
        "Questions: pages@agency.example",
        "you may close this window",
        r#"href="https://agency.example/done?a=1&amp;b=2""#,
        "published at Facebook",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    for _ in 0..3 {
        browser.get_as(&callback, "text/html").await.unwrap();
        browser.get(&callback).await.unwrap();
    }
    let answers = &connected.deployment.public_role().metrics.webhook_answers;
    assert_eq!(answers.get("200"), 1, "one login sends one probe");
    assert_eq!(connected.page(2).await.status, Status::Active);
    connected.finish().await;
}
