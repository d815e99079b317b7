//! The HTTP API: Pages, connections, keys and actions.

use std::collections::BTreeSet;

use common::store::StoredPage;
use model::id::PageId;
use serde_json::{Value as Json, json};
use simulator::browser::Decision;

use crate::BACKEND;
use crate::support::api::{ApiClient, create_key};
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

/// Starts a deployment with `pages` Pages that a person of the client `acme` has connected.
pub(crate) async fn deployment_of_client(options: DeploymentOptions<'_>) -> ConnectedDeployment {
    let extra = [&[("STATE_TOKEN_SECRET", "0123456789abcdef")], options.extra].concat();
    let extra: &[(&str, &str)] = &extra;
    let connected =
        ConnectedDeployment::start(BACKEND, DeploymentOptions { extra, ..options }).await;
    let invite = ["connection", "invite", "--client", "acme"];
    let address = connected.text(&invite).trim().to_owned();
    let mut browser = simulator::browser::LoginBrowser::new().unwrap();
    let callback = browser.log_in(&address, &Decision::default()).await;
    let (status, body) = connected
        .wait_for_login(&mut browser, &callback.unwrap().unwrap())
        .await;
    assert_eq!(status, 200, "{body}");
    connected
}

fn ids(list: &Json) -> Vec<&str> {
    let pages = list["pages"].as_array().unwrap();
    pages
        .iter()
        .map(|page| page["id"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_listed_in_parts_filtered_searched_and_exported() {
    let pages = 5;
    let options = DeploymentOptions {
        pages,
        ..DeploymentOptions::default()
    };
    let mut connected = deployment_of_client(options).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let all: Vec<String> = (0..pages).map(page_id_text).collect();
    let (mut listed, mut path) = (Vec::new(), "/v1/pages?limit=2".to_owned());
    loop {
        let part = api.ok(&path).await;
        listed.extend(ids(&part).into_iter().map(ToOwned::to_owned));
        let Some(next) = part["next"].as_str() else {
            break;
        };
        path = format!("/v1/pages?limit=2&after={next}");
    }
    assert_eq!(listed, all);
    connected.text(&["page", "add", "77"]);
    let user = connected.connection().await.user;
    let of_client = [
        "client=acme".to_owned(),
        format!("connection={user}"),
        "q=PAGE".to_owned(),
    ];
    for filter in of_client.iter().map(String::as_str) {
        let list = api.ok(&format!("/v1/pages?{filter}")).await;
        assert_eq!(ids(&list), all, "{filter}");
    }
    assert_eq!(
        ids(&api
            .ok("/v1/pages?status=active&client=acme&limit=500")
            .await),
        all
    );
    assert_eq!(ids(&api.ok("/v1/pages?q=page3").await), [&all[3]]);
    assert_eq!(ids(&api.ok("/v1/pages?q=%22").await), [""; 0]);
    assert_eq!(ids(&api.ok("/v1/pages?status=needs_login").await), [""; 0]);
    let two = format!("/v1/pages?ids={},{},4711&fields=name,phone", all[4], all[1]);
    let two = api.ok(&two).await;
    assert_eq!(ids(&two), [&all[1], &all[4]]);
    let fields = two["pages"][0]["fields"].as_object().unwrap();
    assert_eq!(fields["name"]["value"], "Page 1");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["name", "phone"]);
    let counts = api.ok("/v1/pages/counts").await;
    assert_eq!(
        counts
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_u64().unwrap())
            .sum::<u64>(),
        6
    );

    let hostile = json!({"name": "=HYPERLINK(\"https://evil.example\")\nx"});
    connected
        .simulator
        .change(&all[0], hostile.as_object().unwrap().clone())
        .unwrap();
    eventually("the new name", || async {
        let name = connected.field(0, "name").await;
        name.as_str().unwrap().starts_with('=').then_some(())
    })
    .await;
    let answer = api
        .request("/v1/pages.csv?fields=name,phone,hours&client=acme", &[])
        .await;
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/csv")
    );
    let text = answer.text().await.unwrap();
    let mut lines = text.split("\r\n");
    assert_eq!(
        lines.next(),
        Some("id,client,status,facebook_state,version,name,phone,hours")
    );
    let first = lines.next().unwrap();
    assert!(
        first.contains(",\"'=HYPERLINK(\"\"https://evil.example\"\")\nx\",+49 30 1,\"{\"\""),
        "{first}"
    );
    assert_eq!(
        lines.count(),
        pages,
        "the other Pages, and the end of the last line"
    );
    let printed = connected.text(&["page", "list", "--client", "acme", "--output", "csv"]);
    assert!(
        printed.starts_with("id,client,facebook_state,last_failure,name,"),
        "{printed}"
    );

    for path in [
        "/v1/pages?limit=0",
        "/v1/pages?limit=501",
        "/v1/pages?status=good",
        "/v1/pages?ids=1,x",
        "/v1/pages?fields=,",
        "/v1/pages?client=a&client=b",
        "/v1/pages?colour=red",
        "/v1/pages/x",
        "/v1/pages/%ff",
        "/v1/changes?after=x",
        "/v1/changes?wait=61s",
        "/v1/missed?days=0",
    ] {
        let (status, body) = api.get(path).await;
        assert_eq!(
            (status, &body["code"]),
            (400, &json!("invalid_request")),
            "{path}"
        );
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_tag_that_changes_with_its_version() {
    let mut connected = deployment_of_client(DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let path = format!("/v1/pages/{}", page_id_text(0));
    let tag = eventually("a tag", || async {
        let answer = api.request(&path, &[]).await;
        Some(answer.headers().get("etag")?.to_str().unwrap().to_owned())
    })
    .await;
    let unchanged = api
        .request(&path, &[("if-none-match", &format!("\"x\", W/{tag}"))])
        .await;
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.headers()["etag"].to_str().unwrap(), tag);
    assert_eq!(unchanged.text().await.unwrap(), "");
    connected.read_again(0).await;
    let changed = eventually("another version", || async {
        let answer = api.request(&path, &[("if-none-match", &tag)]).await;
        (answer.status() == 200).then_some(answer)
    })
    .await;
    assert_ne!(changed.headers()["etag"].to_str().unwrap(), tag);
    let page: Json = serde_json::from_str(&changed.text().await.unwrap()).unwrap();
    assert_eq!(page["fields"]["name"]["value"], "Page 0");
    let explained = api.ok(&format!("{path}/explain")).await;
    let text = explained["text"].as_str().unwrap();
    assert!(text.contains("name = \"Page 0\""), "{text}");
    let (status, body) = api.get("/v1/pages/4711").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
    connected
        .deployment
        .storage
        .corrupt(&PageId::parse(&page_id_text(1)).unwrap())
        .await;
    let (status, body) = api.get(&format!("/v1/pages/{}", page_id_text(1))).await;
    assert_eq!((status, &body["code"]), (500, &json!("unreadable_data")));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_allows_what_its_scope_and_its_limits_say_until_it_ends() {
    let clock = manual_clock();
    let options = DeploymentOptions {
        clock: clock.clone(),
        ..DeploymentOptions::default()
    };
    let mut connected = deployment_of_client(options).await;
    connected.text(&["page", "add", "77"]);
    let api = ApiClient::start(&mut connected, &["--scope", "operate"]).await;
    let (page, path) = (page_id_text(0), format!("/v1/pages/{}", page_id_text(0)));
    let other = api.key.replace(|c: char| c.is_ascii_digit(), "0");
    for key in [
        "",
        "x",
        "pagesync_0_0",
        &other,
        &api.key[..api.key.len() - 1],
    ] {
        let refused = api.with_key(key).request(&path, &[]).await;
        assert_eq!(refused.status(), 401, "{key}");
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        assert_eq!(
            refused.headers()["content-type"],
            "application/problem+json"
        );
    }
    let without = crate::support::client()
        .get(format!("{}{path}", api.url))
        .send()
        .await;
    assert_eq!(without.unwrap().status(), 401);

    let code = |answer: (u16, Json)| (answer.0, answer.1["code"].as_str().unwrap_or("").to_owned());
    let of_key = |arguments: &[&str]| {
        let created = create_key(&connected, arguments);
        let members: BTreeSet<&String> = created.as_object().unwrap().keys().collect();
        assert_eq!(
            members.into_iter().collect::<Vec<_>>(),
            ["id", "key", "name", "scope"]
        );
        (
            api.with_key(created["key"].as_str().unwrap()),
            created["id"].as_str().unwrap().to_owned(),
        )
    };
    let (reader, id) = of_key(&["--scope", "read"]);
    let read = json!({"version": 1});
    let forbidden = (403, "forbidden".to_owned());
    assert_eq!(
        code(reader.post(&format!("{path}/read"), &read).await),
        forbidden
    );
    assert_eq!(code(reader.get("/v1/dead-letters/x").await), forbidden);
    assert_eq!(code(reader.get("/v1/audit").await), forbidden);
    reader.ok("/v1/schedule").await;

    let (of_page, _) = of_key(&["--scope", "read", "--page", &page]);
    assert_eq!(ids(&of_page.ok("/v1/pages").await), [&page]);
    // People are not shown to a limited key.
    let user = connected.connection().await.user.to_string();
    for path in [
        path.clone(),
        format!("{path}/explain"),
        "/v1/pages?fields=all".to_owned(),
    ] {
        assert!(api.ok(&path).await.to_string().contains(&user), "{path}");
        assert!(
            !of_page.ok(&path).await.to_string().contains(&user),
            "{path}"
        );
    }
    let by_person = format!("/v1/pages?connection={user}");
    assert_eq!(code(of_page.get(&by_person).await), forbidden);
    let hidden = format!("/v1/pages/{}", page_id_text(1));
    assert_eq!(code(of_page.get(&hidden).await).0, 404);
    for path in [
        "/v1/connections",
        "/v1/schedule",
        "/v1/missed",
        "/v1/checks",
        "/v1/dead-letters",
        "/v1/pages/counts",
    ] {
        assert_eq!(code(of_page.get(path).await), forbidden, "{path}");
    }
    let (of_client, _) = of_key(&["--scope", "read", "--client", "acme"]);
    assert_eq!(ids(&of_client.ok("/v1/pages").await).len(), 3);
    assert_eq!(ids(&of_client.ok("/v1/pages?client=other").await), [""; 0]);
    assert_eq!(ids(&api.ok("/v1/pages").await).len(), 4);
    assert_eq!(code(of_client.get("/v1/pages/77").await).0, 404);
    let (of_other, _) = of_key(&["--scope", "read", "--client", "other"]);
    assert_eq!(
        of_client.ok("/v1/connections").await["connections"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        of_other.ok("/v1/connections").await["connections"],
        json!([])
    );

    // Another program revokes the key. The API learns it within five seconds.
    connected.text(&["api-key", "revoke", &id]);
    eventually("the end of a revoked key", || async {
        (reader.get(&path).await.0 == 401).then_some(())
    })
    .await;
    let (ending, _) = of_key(&["--scope", "read", "--days", "1"]);
    ending.ok(&path).await;
    clock.advance(std::time::Duration::from_secs(24 * 3600 + 60));
    assert_eq!(ending.get(&path).await.0, 401);

    let listed = connected.json(&["api-key", "list"]);
    let states: Vec<&Json> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["state"])
        .collect();
    assert!(states.contains(&&json!("revoked")), "{listed}");
    let stored = connected.deployment.storage.everything_stored().await;
    assert!(
        !stored.contains(&api.key[30..]),
        "the text of a key is stored"
    );
    connected.finish().await;
}

/// A search looks at 1,000 Pages at most, and its cursor reaches the last Page.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_in_many_pages_goes_on_at_its_cursor() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let store = connected.deployment.store.clone();
    let commits: Vec<_> = (0..2500_u64)
        .map(|n| {
            let id = PageId::parse(&format!("{}", 5_000_000 + n)).unwrap();
            let name = if n == 2499 { "the Needle" } else { "hay" };
            crate::store::write(&id, 0, name, n)
        })
        .collect();
    store.commit(&commits).await.unwrap();
    let (mut path, mut parts) = ("/v1/pages?q=needle".to_owned(), Vec::new());
    loop {
        let part = api.ok(&path).await;
        parts.push(ids(&part).len());
        let Some(next) = part["next"].as_str() else {
            break;
        };
        path = format!("/v1/pages?q=needle&after={next}");
    }
    assert_eq!(parts, [0, 0, 1]);
    let list = store
        .load_pages(&[PageId::parse("5002499").unwrap()])
        .await
        .unwrap();
    assert!(matches!(list[0].value, StoredPage::Page(_)));
    let answer = api.request("/v1/pages.csv?fields=name", &[]).await;
    let text = answer.text().await.unwrap();
    assert_eq!(text.lines().count(), 2501);
    connected.finish().await;
}
