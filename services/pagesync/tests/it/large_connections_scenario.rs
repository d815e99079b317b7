//! Three people give access to 1,000 Pages: 400 by roles, and 300 owned and 300 client Pages of two
//! portfolios. One declines a permission, one leaves, one token dies, and one person's data is deleted.
//! After each step, states, access, the forecast, subscriptions, `doctor` and what each person is shown
//! are exactly right.

use std::collections::BTreeMap;
use std::time::Duration;

use common::records::{connection, expiry};
use common::store::{PageIndex, StoredPage};
use model::id::UserId;
use serde_json::{Value as Json, json};
use simulator::browser::Decision;
use simulator::people::Person;

use crate::BACKEND;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::{client, within};

const ADA: &str = "200000000000001";
const BOB: &str = "200000000000002";
const CID: &str = "200000000000003";
/// How long a step may take, which reads or subscribes hundreds of Pages in a debug build.
const STEP: Duration = Duration::from_secs(300);

fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(page_id_text).collect()
}

fn put(connected: &ConnectedDeployment, person: Json) {
    let person: Person = serde_json::from_value(person).unwrap();
    let mut facebook = connected.simulator.facebook();
    facebook.people.insert(person.id.clone(), person);
}

/// Logs in as a person who declines these permissions. Returns the member `connection` of the answer.
async fn log_in(connected: &ConnectedDeployment, user: &str, declined: &[&str]) -> Json {
    let decision = Decision {
        user: user.to_owned(),
        declined: declined.iter().map(|name| (*name).to_owned()).collect(),
        ..Decision::default()
    };
    let (status, mut body) = connected.connect_as(&decision).await;
    assert_eq!(status, 200, "{body}");
    body["connection"].take()
}

/// What is stored about all Pages: how many have each status, and how many each person gives access to.
#[derive(Debug, PartialEq, Eq)]
struct Pages {
    statuses: BTreeMap<String, usize>,
    access: BTreeMap<String, usize>,
}

impl Pages {
    fn new(statuses: &[(&str, usize)], access: &[(&str, usize)]) -> Self {
        let map = |pairs: &[(&str, usize)]| {
            let pairs = pairs.iter();
            pairs.map(|(name, n)| ((*name).to_owned(), *n)).collect()
        };
        Self {
            statuses: map(statuses),
            access: map(access),
        }
    }
}

/// Loads all Pages.
async fn pages(connected: &ConnectedDeployment) -> Pages {
    let mut found = Pages::new(&[], &[]);
    let stored = connected
        .deployment
        .store
        .list_pages(&PageIndex::All, None, 2000)
        .await;
    for (_, stored) in stored.unwrap() {
        let StoredPage::Page(page) = stored.value else {
            panic!("a Page cannot be decoded");
        };
        *found.statuses.entry(page.status.to_string()).or_default() += 1;
        for user in page.connections {
            *found.access.entry(user.to_string()).or_default() += 1;
        }
    }
    found
}

/// How often the clock is advanced while nothing changes.
const MAX_ADVANCES: usize = 60;

/// Waits until the stored Pages are as expected. Lets a minute pass whenever nothing changes, because
/// two reads of a Page begin at least a minute apart.
async fn wait_for(connected: &ConnectedDeployment, what: &str, expected: Pages) {
    let (mut before, mut advances) = (pages(connected).await, 0);
    while advances < MAX_ADVANCES {
        let began = std::time::Instant::now();
        let settled = within(STEP, what, || async {
            let found = pages(connected).await;
            let is_still = began.elapsed() > Duration::from_secs(2);
            (found == expected || is_still).then_some(found)
        });
        let found = settled.await;
        if found == expected {
            return;
        }
        // However slow the machine is, the reads that are under way are waited for.
        if found == before {
            connected.advance(Duration::from_secs(61));
            advances += 1;
        }
        before = found;
    }
    panic!("{what}: {before:?} instead of {expected:?}");
}

/// Returns the state of a check of `doctor`, and the exit code.
fn doctor(connected: &ConnectedDeployment, name: &str) -> (i32, String) {
    let (code, output, _) = connected.run(&["doctor", "--output", "json"], "");
    let checks: Json = serde_json::from_str(&output).unwrap();
    let mut checks = checks.as_array().unwrap().iter();
    let check = checks.find(|check| check["check"] == name).unwrap();
    (code, check["state"].as_str().unwrap().to_owned())
}

/// Returns the days left and the number of Pages that would be lost, of a person in the forecast.
async fn forecast(connected: &ConnectedDeployment, user: &str) -> (Option<u64>, u64) {
    let listed = expiry::list(&*connected.deployment.store, connected.clock.now()).await;
    let listed = listed.unwrap();
    let mut listed = listed.iter();
    let found = listed.find(|expiry| expiry.user.as_str() == user).unwrap();
    (found.days_left, found.pages_lost_count)
}

async fn connection_of(connected: &ConnectedDeployment, user: &str) -> connection::Connection {
    let user = UserId::parse(user).unwrap();
    let stored = connection::find(&*connected.deployment.store, &user).await;
    stored.unwrap().unwrap().value
}

/// Starts the deployment. Ada has roles on Pages 0 to 399 and a portfolio that owns 400 to 699; Bob has
/// roles on 0 to 99 and a portfolio with the client Pages 700 to 999; Cid has roles on 100 to 199.
async fn start() -> ConnectedDeployment {
    let options = DeploymentOptions {
        pages: 1000,
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    put(
        &connected,
        json!({"id": ADA, "name": "Ada", "pages": ids(0..400), "portfolios": [
            {"id": "500000000000001", "name": "Agency", "owned": ids(400..700)}]}),
    );
    put(
        &connected,
        json!({"id": BOB, "name": "Bob", "pages": ids(0..100), "portfolios": [
            {"id": "500000000000002", "name": "Clients", "client": ids(700..1000)}]}),
    );
    put(
        &connected,
        json!({"id": CID, "name": "Cid", "pages": ids(100..200)}),
    );
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn three_people_with_a_thousand_pages_are_shown_exactly_what_is_true() {
    let connected = start().await;
    for (user, name, declined) in [
        (ADA, "Ada", &[][..]),
        (BOB, "Bob", &[]),
        (CID, "Cid", &["pages_manage_metadata"]),
    ] {
        let shown = log_in(&connected, user, declined).await;
        assert_eq!(
            (&shown["status"], &shown["problem"]),
            (&json!("active"), &Json::Null),
            "{name}"
        );
        let missing: Vec<&Json> = shown["missing_permissions"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        assert_eq!(missing.len(), declined.len(), "{name}: {missing:?}");
    }
    let all = Pages::new(&[("active", 1000)], &[(ADA, 700), (BOB, 400), (CID, 100)]);
    wait_for(&connected, "all Pages", all).await;
    within(STEP, "all subscriptions", || async {
        let subscribed = connected.simulator.facebook().page_subscriptions.len();
        (subscribed == 1000).then_some(())
    })
    .await;
    assert_eq!(doctor(&connected, "permissions"), (0, "warning".to_owned()));
    assert_eq!(
        forecast(&connected, ADA).await.1,
        500,
        "Bob and Cid have the others"
    );
    assert_eq!(forecast(&connected, BOB).await.1, 300);

    // Bob leaves: he has no role any more, neither on a Page nor in a portfolio.
    put(
        &connected,
        json!({"id": BOB, "name": "Bob", "pages": [], "permissions":
        connected.simulator.facebook().people[BOB].permissions}),
    );
    connected.advance(Duration::from_secs(120));
    connected.text(&["connection", "poll", BOB]);
    let left = Pages::new(
        &[("active", 700), ("no_token", 300)],
        &[(ADA, 700), (CID, 100)],
    );
    wait_for(&connected, "the end of Bob's access", left).await;
    let bob = connection_of(&connected, BOB).await;
    assert_eq!(bob.status, connection::Status::Active);
    assert!(
        bob.problem
            .unwrap()
            .contains("no role in a business portfolio")
    );
    assert_eq!(doctor(&connected, "connections"), (3, "failed".to_owned()));
    assert_eq!(forecast(&connected, BOB).await.1, 0);

    // Ada's token dies. Cid's tokens still read the Pages 100 to 199.
    connected.end_login(ADA);
    connected.advance(Duration::from_secs(3700));
    let dead = Pages::new(
        &[("active", 100), ("needs_login", 600), ("no_token", 300)],
        &[(ADA, 700), (CID, 100)],
    );
    wait_for(&connected, "the Pages of a dead token", dead).await;
    let ada = connection_of(&connected, ADA).await;
    assert_eq!(ada.status, connection::Status::NeedsLogin);
    assert_eq!(forecast(&connected, ADA).await, (Some(0), 600));
    assert_eq!(doctor(&connected, "Pages"), (3, "failed".to_owned()));

    // Cid's data is deleted. The Pages stay, because Ada connected them, too.
    let address = format!("{}/_sim/people/{CID}/data-deletion", connected.facebook_url);
    let callback = json!({"callback": format!("{}/facebook/data-deletion", connected.public)});
    let answer = client().post(address).json(&callback).send().await.unwrap();
    assert_eq!(answer.json::<Json>().await.unwrap()["status"], 200);
    connected.advance(Duration::from_secs(25 * 3600));
    let deleted = Pages::new(&[("needs_login", 700), ("no_token", 300)], &[(ADA, 700)]);
    wait_for(&connected, "the erasure of Cid", deleted).await;
    let subscribed = connected.simulator.facebook().page_subscriptions.len();
    assert_eq!(
        subscribed, 1000,
        "somebody still gives access, or no token can end it"
    );

    // Ada logs in again, and everything of hers is active at once.
    let shown = log_in(&connected, ADA, &[]).await;
    assert_eq!(
        (&shown["status"], &shown["problem"]),
        (&json!("active"), &Json::Null)
    );
    let again = Pages::new(&[("active", 700), ("no_token", 300)], &[(ADA, 700)]);
    wait_for(&connected, "the Pages of Ada", again).await;
    connected.finish().await;
}
