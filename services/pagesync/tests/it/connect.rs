//! Connecting: login, dialog, callback, and what each leaves behind. B40 to B48 of the bad inputs.

use common::records::{all, grant, login, subscription, token};
use common::store::{Key, Kind};
use model::field::DEFAULT_TRACKED;
use model::page::Status;
use reqwest::header::{LOCATION, SET_COOKIE};
use serde_json::{Value as Json, json};
use simulator::visitor::{Decision, Visitor};

use crate::BACKEND;
use crate::support::deployment::{APP_ID, APP_SECRET, Place, raw};
use crate::support::facebook::{Connected, Scene, answer, manual, nth};
use crate::support::{client, eventually};

async fn start() -> Connected {
    Connected::start(BACKEND, Scene::default()).await
}

async fn none_of(connected: &Connected, kind: Kind) -> bool {
    connected
        .deployment
        .store
        .records(kind, None, 10)
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
        .records(Kind::Login, None, 10)
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
        .connected
        .until(connection.expires.unwrap())
        .as_secs();
    assert!(
        lives > 50 * 24 * 3600,
        "the long-lived token was exchanged for: {lives} s"
    );
    let store = &*connected.deployment.store;
    let tokens = all::<token::Held>(store, Kind::PageToken, "")
        .await
        .unwrap();
    assert_eq!(tokens.len(), 3);
    assert!(!none_of(&connected, Kind::UserToken).await);
    for n in 0..3 {
        let page = connected.page(n).await;
        assert_eq!(page.status, Status::Active);
        assert_eq!(page.registers.len(), DEFAULT_TRACKED.len());
        for name in page.registers.keys() {
            assert!(page.proven_at(name).is_some(), "{name} of Page {n}");
        }
        assert!(page.polling.slot.is_some() && !page.polling.wanted());
        let key = subscription::key(&model::id::PageId::parse(&nth(n)).unwrap());
        let held: subscription::Subscription = common::records::get(store, &key)
            .await
            .unwrap()
            .unwrap()
            .value;
        assert!(
            held.fields.contains("name") && held.fields.contains("phone"),
            "{held:?}"
        );
        assert!(held.refused.is_empty() && held.problem.is_none());
    }
    let (app, installed) = {
        let facebook = connected.simulator.facebook();
        (
            facebook.subscription.clone().unwrap(),
            facebook.installed.len(),
        )
    };
    let ours = format!("{}/facebook/webhook", connected.public);
    assert_eq!(app.callback, ours);
    assert!(app.include_values && app.fields.contains("name"));
    assert_eq!(installed, 3);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b40_a_state_works_once_in_its_browser_and_nowhere_else() {
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
    let mut other = Visitor::new().unwrap();
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
async fn b41_a_person_who_says_no_sees_so_and_nothing_is_kept() {
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
    assert!(none_of(&connected, Kind::Grant).await && none_of(&connected, Kind::Connection).await);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b42_b43_a_code_that_is_not_exchanged_leaves_nothing() {
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
    assert!(none_of(&connected, Kind::Grant).await && none_of(&connected, Kind::Connection).await);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b44_a_token_of_another_app_is_refused() {
    let connected = start().await;
    connected.simulator.facebook().habits.token_app = Some("999999999999999".to_owned());
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
        none_of(&connected, Kind::Connection).await && none_of(&connected, Kind::UserToken).await
    );
    let grants = all::<grant::Grant>(&*connected.deployment.store, Kind::Grant, "")
        .await
        .unwrap();
    assert!(
        matches!(grants[0].1.value.stage, grant::Stage::Failed(_)),
        "its token is gone"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b45_each_missing_permission_says_what_does_not_work() {
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
    let held: subscription::Subscription = common::records::get(&*connected.deployment.store, &key)
        .await
        .unwrap()
        .unwrap()
        .value;
    assert!(held.refused.contains("name"), "{held:?}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_a_missing_permission_is_subscribed_after_the_next_login() {
    let connected = start().await;
    let declined = Decision {
        declined: vec!["pages_manage_metadata".to_owned()],
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&declined).await.0, 200);
    assert!(connected.simulator.facebook().installed.is_empty());
    assert_eq!(connected.connect().await.0, 200);
    eventually("the subscriptions", || async {
        let facebook = connected.simulator.facebook();
        let all = facebook.installed.len() == 3;
        (all && facebook
            .installed
            .values()
            .all(|fields| fields.contains("name")))
        .then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_moment_of_facebook_delays_a_login_and_does_not_end_it() {
    let connected = start().await;
    let failing = json!({"edge": "GET debug_token", "status": 500, "body": {"error": {"message": "An unknown error occurred", "code": 1}}});
    connected.reply(&json!([failing]));
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["polling_test"].as_array().unwrap().len()),
        (200, 3),
        "{body}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b40_a_state_is_good_for_ten_minutes() {
    let scene = Scene {
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    let (mut visitor, callback) = connected.visit(&Decision::default()).await;
    connected.clock.advance(std::time::Duration::from_secs(601));
    let (status, body) = answer(visitor.get(&callback).await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("state_unknown"))
    );
    assert_eq!(connected.calls("POST oauth/access_token"), 0);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tracked_field_is_shown_with_its_source_and_proof_and_stands_in_the_store() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    let id = model::id::PageId::parse(&nth(1)).unwrap();
    let (version, page) = connected.deployment.page(&id).await.unwrap();
    let view = serde_json::to_value(common::pages::view(&id, version, &page)).unwrap();
    assert_eq!(view["status"], "active");
    for name in DEFAULT_TRACKED {
        let field = &view["fields"][name];
        assert!(!field["value"].is_null(), "{name}: {view}");
        assert_eq!(field["source"], "poll", "{name}");
        assert!(
            field["changed_at"].is_string() && field["proven_at"].is_string(),
            "{name}"
        );
        if let Place::Distributed { redis, .. } = &connected.deployment.place {
            let key = format!("{{pagesync}}:page:{id}");
            let plain: String =
                redis::from_redis_value(raw(redis, &["HGET", &key, name]).await).unwrap();
            let shown = field["value"]
                .as_str()
                .map_or_else(|| field["value"].to_string(), ToOwned::to_owned);
            assert_eq!(plain.len(), shown.len(), "{name}: {plain}");
        }
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_two_people_is_read_with_the_token_that_works() {
    let scene = Scene {
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    let bob = json!({"id": "200000000000002", "name": "Bob", "pages": [nth(0)]});
    let bob: simulator::facebook::Person = serde_json::from_value(bob).unwrap();
    connected
        .simulator
        .facebook()
        .people
        .insert(bob.id.clone(), bob);
    assert_eq!(connected.connect().await.0, 200);
    let as_bob = Decision {
        user: "200000000000002".to_owned(),
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&as_bob).await.0, 200);
    assert_eq!(connected.page(0).await.connections.len(), 2);
    for token in connected.simulator.facebook().tokens.values_mut() {
        if token.user == "200000000000001" {
            token.dead = Some(460);
        }
    }
    connected.advance(std::time::Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!(
        (page.status, page.polling.failures),
        (Status::Active, 0),
        "Bob's token reads it"
    );
    let page = connected.read_again(1).await;
    assert_eq!(page.status, Status::NeedsLogin, "only Ada covers this one");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b46_no_page_and_pages_listed_twice_are_handled() {
    let connected = Connected::start(
        BACKEND,
        Scene {
            pages: 0,
            ..Scene::default()
        },
    )
    .await;
    let (status, body) = connected.connect().await;
    assert_eq!((status, &body["pages"]["data"]), (200, &json!([])));
    assert!(
        body["connection"]["problem"]
            .as_str()
            .unwrap()
            .contains("no Page"),
        "{body}"
    );
    let page = json!({"id": nth(0), "name": "Twice", "access_token": "EAASx"});
    let body = json!({"data": [page, page, {"id": "0"}, "odd", {"name": "nobody"}]});
    connected.reply(&json!([{"edge": "GET me/accounts", "body": body}]));
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 1)
    );
    assert_eq!(connected.field(0, "name").await, json!("Twice"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b48_a_page_without_a_token_is_listed_and_not_polled() {
    let connected = start().await;
    let ada = connected
        .simulator
        .facebook()
        .people
        .values_mut()
        .next()
        .map(|ada| {
            ada.without_token.insert(nth(1));
            ada.id.clone()
        });
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 3)
    );
    let page = connected.page(1).await;
    assert_eq!(page.status, Status::NoToken);
    assert_eq!(connected.calls("GET {id}"), 0);
    let key = Key::new(Kind::PageToken, format!("{}.{}", ada.unwrap(), nth(1)));
    let held: token::Held = common::records::get(&*connected.deployment.store, &key)
        .await
        .unwrap()
        .unwrap()
        .value;
    assert!(held.sealed.is_none());
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_the_progress_as_a_page_and_names_are_text() {
    let connected = start().await;
    let evil = json!({"name": "<img src=x onerror=alert(1)>"});
    connected
        .simulator
        .change(&nth(0), evil.as_object().cloned().unwrap())
        .unwrap();
    let (visitor, callback) = connected.visit(&Decision::default()).await;
    let last = eventually("the end of the progress", || {
        let mut visitor = visitor.clone();
        let callback = callback.clone();
        async move {
            let page = visitor
                .get_as(&callback, "text/html,*/*;q=0.8")
                .await
                .unwrap();
            assert_eq!(page.status(), 200);
            let page = page.text().await.unwrap();
            assert!(!page.contains("EAAS"));
            (!page.contains("http-equiv=\"refresh\"")).then_some(page)
        }
    })
    .await;
    assert!(
        last.contains("Connected as <b>Ada Operator</b>") && last.contains("3 Pages"),
        "{last}"
    );
    assert!(last.contains("&lt;img") && !last.contains("<img"), "{last}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_logins_need_an_invitation_only_its_link_leads_on() {
    let extra = [
        ("PAGESYNC_LOGIN", "invited"),
        ("STATE_TOKEN_SECRET", "a-secret-for-invitations"),
    ];
    let connected = Connected::start(
        BACKEND,
        Scene {
            extra: &extra,
            ..Scene::default()
        },
    )
    .await;
    let (status, body) = answer(client().get(connected.login()).send().await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("not_invited"))
    );
    let secret = secrecy::SecretString::from(extra[1].1.to_owned());
    let until = connected
        .clock
        .now()
        .plus(std::time::Duration::from_secs(60));
    let invitation = common::invitation::sign(&secret, until);
    let invited = format!("{}?invitation={invitation}", connected.login());
    assert_eq!(client().get(&invited).send().await.unwrap().status(), 302);
    let forged = format!("{}?invitation={}x", connected.login(), invitation);
    assert_eq!(client().get(&forged).send().await.unwrap().status(), 403);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_login_renews_the_connection_and_unticked_pages_are_asked_for_themselves() {
    let connected = start().await;
    assert_eq!(connected.connect().await.0, 200);
    let before = connected.connection().await;
    let two = Decision {
        pages: vec![nth(0), nth(1)],
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&two).await.0, 200);
    let after = connected.connection().await;
    assert!(after.connected > before.connected && after.last.as_ref().unwrap().pages == 2);
    // Its token does not see it any more: the value stays, the state says so.
    let page = eventually("the unticked Page to be asked for", || async {
        let page = connected.page(2).await;
        (page.status != Status::Active).then_some(page)
    })
    .await;
    assert_eq!(page.status, Status::Unreachable);
    assert_eq!(connected.field(2, "name").await, json!("Page 2"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_not_begun_twice_by_two_requests_at_once() {
    let connected = start().await;
    let (visitor, callback) = connected.visit(&Decision::default()).await;
    let (mut one, mut two) = (visitor.clone(), visitor);
    let (one, two) = tokio::join!(one.get(&callback), two.get(&callback));
    let (one, two): ((u16, Json), (u16, Json)) =
        (answer(one.unwrap()).await, answer(two.unwrap()).await);
    assert_eq!((one.0, two.0), (200, 200));
    assert_eq!(one.1["pages"], two.1["pages"]);
    assert_eq!(connected.calls("POST oauth/access_token"), 2);
    let kept = all::<login::Login>(&*connected.deployment.store, Kind::Login, "")
        .await
        .unwrap();
    assert!(matches!(kept[0].1.value.stage, login::Stage::Taken(_)));
    connected.finish().await;
}
