//! Two processes that serve the API and post changes.

use common::config::Role;

use crate::change_posts::{change_name, names, start};
use crate::support::eventually;
use crate::support::receiver::Receiver;

/// Two processes serve the API. Whichever posts stops, and the other one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_processes_posts_each_change() {
    let receiver = Receiver::start().await;
    let mut connected = start(&receiver, None).await;
    connected.add_role(Role::Api).await;
    for n in 1..=5 {
        change_name(&connected, &format!("name {n}"));
        receiver.wait_for(n).await;
    }
    let stored = eventually("the stored cursor", || async {
        let state =
            common::records::destination::find(&*connected.deployment.store, "default").await;
        let state = state.unwrap().value;
        (state.delivered == 8).then_some(state)
    })
    .await;
    let apis = connected
        .deployment
        .roles
        .iter()
        .filter(|(role, _)| *role == Role::Api);
    let (_, first) = apis.clone().next().unwrap();
    first.lifecycle.stop();
    first.lifecycle.finish().await.unwrap();
    change_name(&connected, "name 6");
    let received = receiver.wait_for(6).await;
    let expected: Vec<String> = (1..=6).map(|n| format!("name {n}")).collect();
    assert_eq!(names(&received), expected, "{stored:?}");
    connected.finish().await;
}
