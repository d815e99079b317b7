//! A login while no worker runs: its tests fail at first, and a worker that starts later completes
//! the login.

use common::config::Role;
use serde_json::json;

use crate::BACKEND;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_tests_of_a_login_fail_until_a_worker_starts() {
    let scene = DeploymentOptions {
        only: &[Role::Ingress, Role::Scheduler],
        ..DeploymentOptions::default()
    };
    let mut connected = ConnectedDeployment::start(BACKEND, scene).await;
    let (status, body) = connected.connect_once().await;
    assert_eq!(status, 200);
    assert_eq!(body["webhook_test"]["status"], "error", "{body}");
    let message = body["webhook_test"]["message"].as_str().unwrap();
    assert!(message.contains("no worker"), "{message}");
    assert_eq!(
        (&body["polling_test"], &body["connection"]["status"]),
        (&json!([]), &json!("pending"))
    );
    // A worker that starts later completes the login.
    connected.add_role(Role::Worker).await;
    let pages = crate::support::eventually("the connection", || async {
        let store = &*connected.deployment.store;
        let all = common::records::connection::list(store).await.ok()?;
        all.first()?.last_poll.as_ref().map(|last| last.pages)
    })
    .await;
    assert_eq!(pages, 3);
    connected.finish().await;
}
