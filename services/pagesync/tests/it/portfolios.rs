//! The ways in which Facebook grants Pages: by a role, through a business portfolio, by a permission
//! for one Page, with a configuration of Facebook Login for Business, and with the token of a system
//! user.

use std::collections::{BTreeMap, BTreeSet};

use common::records::connection;
use model::page::Status;
use serde_json::{Value as Json, json};
use simulator::people::{LoginConfiguration, Person};
use simulator::token::TokenInvalidation;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const ADA: &str = "200000000000001";
/// A system user of a business.
const SYSTEM_USER: &str = "200000000000009";

/// Replaces people of the simulated Facebook.
fn put_person(connected: &ConnectedDeployment, person: Json) {
    let person: Person = serde_json::from_value(person).unwrap();
    let mut facebook = connected.simulator.facebook();
    facebook.people.insert(person.id.clone(), person);
}

/// Ada has a role on Page 0. Her portfolio owns Pages 1 and 2, and manages Pages 2 and 3 for clients.
fn ada() -> Json {
    json!({"id": ADA, "name": "Ada", "pages": [page_id_text(0)], "portfolios": [
        {"id": "500000000000001", "name": "Agency",
            "owned": [page_id_text(1), page_id_text(2)], "client": [page_id_text(2), page_id_text(3)]},
        {"id": "500000000000002", "name": "Empty"},
    ]})
}

async fn start(extra: &[(&str, &str)], pages: usize) -> ConnectedDeployment {
    let options = DeploymentOptions {
        extra,
        pages,
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    ConnectedDeployment::start(BACKEND, options).await
}

/// Returns the ids of the stored Pages that are active.
async fn active_pages(connected: &ConnectedDeployment) -> BTreeSet<String> {
    let stored = connected
        .deployment
        .store
        .list_pages(&common::store::PageIndex::All, None, 100)
        .await
        .unwrap();
    let active = stored.into_iter().filter(|(_, stored)| {
        matches!(&stored.value, common::store::StoredPage::Page(page) if page.status == Status::Active)
    });
    active.map(|(id, _)| id.to_string()).collect()
}

fn ids(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().map(|n| page_id_text(*n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_portfolios_are_found_read_and_subscribed_and_counted_once() {
    let connected = start(&[], 5).await;
    put_person(&connected, ada());
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(active_pages(&connected).await, ids(&[0, 1, 2, 3]));
    let last_poll = connected.connection().await.last_poll.unwrap();
    assert_eq!((last_poll.pages, last_poll.problems.len()), (4, 0));
    eventually("the subscription of each Page", || async {
        let subscribed = connected.simulator.facebook().page_subscriptions.clone();
        let subscribed: BTreeSet<String> = subscribed.into_keys().collect();
        (subscribed == ids(&[0, 1, 2, 3])).then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portfolio_that_cannot_be_read_is_shown_and_ends_no_access() {
    let connected = start(&[], 4).await;
    put_person(&connected, ada());
    assert_eq!(connected.connect().await.0, 200);
    let error = json!({"error": {"code": 100, "message": "Invalid parameter"}});
    connected.reply(&json!([{"edge": "GET {id}/owned_pages", "status": 400, "body": error}]));
    // The token of Page 1 is refused, so that its access would end if the poll counted as complete.
    let invalidation = TokenInvalidation {
        user: None,
        page: Some(page_id_text(1)),
        subcode: 492,
    };
    connected
        .simulator
        .facebook()
        .invalidate_tokens(&invalidation);
    connected.next_day().await;
    let after = connected.connection().await;
    assert_eq!(after.status, connection::Status::Active);
    let problem = after.problem.unwrap();
    assert!(
        problem.contains("that portfolio 500000000000001 owns could not be read"),
        "{problem}"
    );
    assert_eq!(
        after.last_poll.unwrap().pages,
        3,
        "the other lists are read"
    );
    let page = eventually("the read of the Page that was not listed", || async {
        let page = connected.page(1).await;
        (page.status == Status::NeedsLogin).then_some(page)
    })
    .await;
    assert_eq!(page.connections.len(), 1, "the person keeps the Page");
    connected.next_day().await;
    assert_eq!(connected.connection().await.problem, None);
    assert_eq!(active_pages(&connected).await, ids(&[0, 1, 2, 3]));
    connected.finish().await;
}

/// A portfolio also lists Pages on which the person has no task. They come without a token.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_portfolio_without_a_token_is_no_page_of_the_person() {
    let connected = start(&[], 4).await;
    let mut ada = ada();
    ada["pages_without_token"] = json!([page_id_text(3)]);
    put_person(&connected, ada);
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(active_pages(&connected).await, ids(&[0, 1, 2]));
    let id = model::id::PageId::parse(&page_id_text(3)).unwrap();
    assert_eq!(connected.deployment.page(&id).await, None);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_for_a_temporary_reason_is_read_again() {
    let connected = start(&[], 4).await;
    put_person(&connected, ada());
    connected.reply(&json!([{"edge": "GET {id}/client_pages", "fault": "2"}]));
    let (_, body) = connected.connect_once().await;
    assert_eq!(body["connection"]["status"], "pending", "{body}");
    let before = connected.calls("GET me/accounts");
    connected.advance(std::time::Duration::from_secs(120));
    eventually("the rest of the lists", || async {
        connected.connection().await.last_poll
    })
    .await;
    assert_eq!(active_pages(&connected).await, ids(&[0, 1, 2, 3]));
    assert_eq!(connected.connection().await.problem, None);
    let calls = connected.calls("GET me/accounts");
    assert_eq!(calls, before, "the poll continues at the same list");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_only_the_permissions_name_is_read_singly() {
    let connected = start(&[], 3).await;
    // Ada has no business permission, and `/me/accounts` lists nothing.
    let mut ada = ada();
    ada["pages"] = json!([]);
    ada["portfolios"][0]["owned"] = json!([page_id_text(1)]);
    put_person(&connected, ada);
    let decision = simulator::browser::Decision {
        pages: vec![page_id_text(1)],
        declined: vec!["business_management".to_owned()],
        ..Default::default()
    };
    let (status, body) = connected.connect_as(&decision).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(active_pages(&connected).await, ids(&[1]));
    assert_eq!(connected.calls("GET me/businesses"), 0);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_without_pages_is_told_what_was_searched() {
    let connected = start(&[], 1).await;
    put_person(&connected, json!({"id": ADA, "name": "Ada", "pages": []}));
    let (_, body) = connected.connect().await;
    let problem = body["connection"]["problem"].as_str().unwrap();
    assert!(problem.contains("/me/accounts is empty"), "{problem}");
    assert!(
        problem.contains("no role in a business portfolio"),
        "{problem}"
    );
    assert!(
        problem.contains("the permissions name no Page"),
        "{problem}"
    );
    let checks = connected.text(&["doctor"]);
    assert!(
        checks.contains("FAILED   connections: 1 of 1 have a problem"),
        "{checks}"
    );
    connected.finish().await;
}

/// Adds a login configuration to the simulated Facebook, which makes its app one of type Business.
fn configure(connected: &ConnectedDeployment, system_user: Option<&str>) {
    let permissions = [
        "pages_show_list",
        "pages_read_engagement",
        "pages_manage_metadata",
        "business_management",
    ];
    let configuration = LoginConfiguration {
        permissions: permissions.map(ToOwned::to_owned).to_vec(),
        system_user: system_user.map(ToOwned::to_owned),
    };
    let configurations = BTreeMap::from([("987654321012345".to_owned(), configuration)]);
    connected.simulator.facebook().login_configurations = configurations;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_type_business_logs_in_with_its_configuration_only() {
    let with_id = [("PAGESYNC_LOGIN_CONFIG_ID", "987654321012345")];
    for (extra, is_connected) in [(&[][..], false), (&with_id[..], true)] {
        let connected = start(extra, 2).await;
        configure(&connected, None);
        let mut visitor = simulator::browser::LoginBrowser::new().unwrap();
        let decision = simulator::browser::Decision::default();
        let callback = visitor.log_in(&connected.login(), &decision).await.unwrap();
        match callback {
            Err(answer) => {
                let page = answer.text().await.unwrap();
                assert!(page.contains("this app isn't available"), "{page}");
                assert!(!is_connected);
            }
            Ok(callback) => {
                assert!(is_connected);
                let (status, body) = connected.wait_for_login(&mut visitor, &callback).await;
                assert_eq!(status, 200, "{body}");
                assert!(connected.connection().await.token_expires_at.is_some());
                assert_eq!(active_pages(&connected).await, ids(&[0, 1]));
            }
        }
        connected.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_system_user_is_used_as_it_is_and_never_expires() {
    let connected = start(&[("PAGESYNC_LOGIN_CONFIG_ID", "987654321012345")], 2).await;
    put_person(
        &connected,
        json!({"id": SYSTEM_USER, "name": "System user"}),
    );
    configure(&connected, Some(SYSTEM_USER));
    let (status, body) = connected.connect().await;
    assert_eq!(status, 200, "{body}");
    let connection = connected.connection().await;
    assert_eq!(connection.user.as_str(), SYSTEM_USER);
    assert_eq!(
        (
            connection.token_expires_at,
            connection.data_access_expires_at
        ),
        (None, None)
    );
    assert_eq!(active_pages(&connected).await, ids(&[0, 1]));
    connected.next_day().await;
    assert_eq!(
        connected.connection().await.status,
        connection::Status::Active
    );
    connected.finish().await;
}

/// Runs `connection import` with a text in standard input. Returns the exit code and what it printed.
fn import(connected: &ConnectedDeployment, input: &str) -> (i32, String) {
    let (code, output, errors) = connected.run(&["connection", "import"], input);
    (code, output + &errors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_imported_from_standard_input() {
    let connected = start(&[], 2).await;
    put_person(
        &connected,
        json!({"id": SYSTEM_USER, "name": "System user", "permissions": {
        "pages_show_list": true, "pages_read_engagement": true, "pages_manage_metadata": true,
        "business_management": true}}),
    );
    let token = connected
        .simulator
        .facebook()
        .issue_to_system_user(SYSTEM_USER);
    let (code, printed) = import(&connected, &format!("{token}\n"));
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains(&format!("connected {SYSTEM_USER}")),
        "{printed}"
    );
    assert!(!printed.contains(&token));
    eventually("the Pages", || async {
        (active_pages(&connected).await == ids(&[0, 1])).then_some(())
    })
    .await;
    assert_eq!(connected.connection().await.token_expires_at, None);
    for (input, reason) in [
        ("", "there is no token"),
        ("two words", "this is not an access token"),
        (
            "EAASunknown",
            "the token cannot be used: the token is invalid",
        ),
    ] {
        let (code, printed) = import(&connected, input);
        assert_eq!(code, 1, "{printed}");
        assert!(printed.contains(reason), "{printed}");
        assert!(
            !printed.contains("EAAS") && !printed.contains("two words"),
            "{printed}"
        );
    }
    connected.finish().await;
}
