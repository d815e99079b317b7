//! What Facebook says reaches the person whom it concerns: about a merged Page, about a login that
//! fails in the worker, and about the removal of the app from a Page.

use serde_json::json;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::support::deployment::APP_SECRET;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::{client, eventually};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

async fn start() -> ConnectedDeployment {
    let options = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    ConnectedDeployment::start(BACKEND, options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_page_names_the_page_that_replaced_it_which_is_found_at_once() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(65 * MINUTE);
    let new = page_id_text(7);
    let mut page = connected.simulator.pages().remove(0);
    page.insert("id".to_owned(), json!(new));
    connected.simulator.put_page(&page).unwrap();
    let message = format!(
        "(#21) Page ID {} was migrated to page ID {new}. Please update your API calls to the new ID",
        page_id_text(0)
    );
    let error = json!({"error": {"code": 21, "message": message, "type": "OAuthException"}});
    connected.reply(&json!([{"edge": "GET {id}", "status": 400, "body": error}]));
    connected.read_again(0).await;
    eventually("the new Page", || async {
        let stored = connected.json(&["page", "list"]);
        let mut listed = stored.as_array().unwrap().iter();
        listed.any(|page| page["id"] == new).then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_in_the_worker_tells_the_person_what_facebook_said() {
    let connected = start().await;
    let error = json!({"error": {"code": 100, "message": "The app is in a strange state", "fbtrace_id": "AbC9"}});
    connected.reply(&json!([{"edge": "GET debug_token", "status": 400, "body": error}]));
    let (status, body) = connected.connect().await;
    assert_eq!(status, 502, "{body}");
    let message = body["connection"]["message"].as_str().unwrap();
    let said = "Facebook said \"The app is in a strange state\" (code 100, fbtrace_id AbC9)";
    assert!(message.contains(said), "{message}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_facebook_refuses_tells_the_person_what_facebook_said() {
    let connected = start().await;
    connected.reply(&json!([{"edge": "POST oauth/access_token", "fault": "100/36007"}]));
    let (mut visitor, callback) = connected.visit(&Decision::default()).await;
    let answer = LoginBrowser::get(&mut visitor, &callback).await.unwrap();
    assert_eq!(answer.status(), 400);
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("This authorization code has expired."),
        "{text}"
    );
    connected.finish().await;
}

/// Facebook reports that the app was removed from one Page with a request that names no person.
#[tokio::test(flavor = "multi_thread")]
async fn a_deauthorization_of_a_page_reads_the_page_and_erases_nothing() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(2 * MINUTE);
    let reads = connected.calls("GET {id}");
    let payload = json!({"algorithm": "HMAC-SHA256", "user_id": 0, "profile_id": page_id_text(1),
        "issued_at": 1_790_000_000});
    let request = simulator::signed_request::sign(APP_SECRET, &payload);
    let address = format!("{}/facebook/deauthorize", connected.public);
    let form = [("signed_request", request)];
    let answer = client().post(address).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually("the read of the Page", || async {
        connected.page(1).await.polling.last_attempt_began
    })
    .await;
    assert_eq!(connected.calls("GET {id}"), reads + 1);
    assert_eq!(
        connected.connection().await.status,
        common::records::connection::Status::Active
    );
    connected.finish().await;
}
