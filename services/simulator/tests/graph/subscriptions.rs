//! Both layers of subscriptions.

use super::*;

#[tokio::test]
async fn both_layers_are_needed_and_each_refuses_in_its_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callback = format!("http://{}/hook", listener.local_addr().unwrap());
    let echo = async |Query(query): Query<std::collections::BTreeMap<String, String>>| {
        if query["hub.verify_token"] == "right" {
            query["hub.challenge"].clone()
        } else {
            "no".to_owned()
        }
    };
    let router = Router::new().route("/hook", get(echo).post(async || "ok"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let scene = Scene::new(2).await;
    let user = scene.token().await;
    let page = scene.page_token(&user).await;
    let app = format!("{APP}|{SECRET}");
    let edge = format!("{APP}/subscriptions");
    let wanted = |verify: &'static str| {
        [
            ("object", "page"),
            ("callback_url", callback.as_str()),
            ("verify_token", verify),
            ("include_values", "true"),
            ("fields", "name,phone"),
        ]
    };
    let (_, body) = scene
        .call(Method::POST, &edge, &user, &wanted("right"))
        .await;
    assert_eq!(code_of(&body), (15, 0), "an app token is needed");
    let (_, body) = scene
        .bare(Method::POST, &edge, &app, &wanted("wrong"))
        .await;
    assert_eq!(code_of(&body), (2200, 0), "the handshake failed");
    let (status, _) = scene
        .bare(Method::POST, &edge, &app, &wanted("right"))
        .await;
    assert_eq!(status, 200);
    let (_, body) = scene
        .call(
            Method::POST,
            "1/subscribed_apps",
            &user,
            &[("subscribed_fields", "name")],
        )
        .await;
    assert_eq!(code_of(&body), (210, 0), "a Page token is needed");
    let (_, body) = scene
        .call(
            Method::POST,
            "1/subscribed_apps",
            &page,
            &[("subscribed_fields", "mentions")],
        )
        .await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .ends_with("got \"mentions\"."),
        "{body}"
    );
    let (status, body) = scene
        .call(
            Method::POST,
            "1/subscribed_apps",
            &page,
            &[("subscribed_fields", "messages")],
        )
        .await;
    assert_eq!((status, code_of(&body)), (403, (200, 0)));
    for (fields, left) in [("name,category", 2), ("name", 1)] {
        scene
            .call(
                Method::POST,
                "1/subscribed_apps",
                &page,
                &[("subscribed_fields", fields)],
            )
            .await;
        assert_eq!(
            scene.simulator.facebook().installed["1"].len(),
            left,
            "the list replaces the one before"
        );
    }
    let change = |fields: Value| fields.as_object().cloned().unwrap_or_else(Map::new);
    let events = || scene.simulator.tally().json()["events"].as_u64().unwrap();
    scene
        .simulator
        .change("1", change(json!({"name": "New"})))
        .unwrap();
    assert_eq!(events(), 1, "both layers have it");
    scene
        .simulator
        .change("1", change(json!({"phone": "1", "category": "C"})))
        .unwrap();
    assert_eq!(
        events(),
        1,
        "phone only the app has, category only the Page had"
    );
    scene
        .simulator
        .change("2", change(json!({"name": "New"})))
        .unwrap();
    assert_eq!(events(), 1, "the app is not on that Page");
}
