//! HTTP requests that do not fit into the table of `webhook_input_table.rs`: the handshake,
//! settings for signatures, wrong lengths, large deliveries, replays and a full queue.

use common::clock::Clock;
use model::queue_name::QueueName;
use raw_http::exchange;
use serde_json::json;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment, TestStorage, VERIFY_TOKEN};
use crate::support::{eventually, page_id};

/// Returns the body of a webhook that sets a name. It contains the placeholder `{page}` for the id
/// of the Page.
fn change(value: &str) -> String {
    format!(
        r#"{{"object":"page","entry":[{{"id":"{{page}}","time":1750000000,"changes":[{{"field":"name","value":{value}}}]}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_allow_the_legacy_signature_and_the_previous_secret() {
    let extra = [
        ("PAGESYNC_ALLOW_SHA1", "true"),
        ("PAGESYNC_APP_SECRET_PREVIOUS", "the-previous-app-secret"),
    ];
    let deployment = Deployment::start_with(BACKEND, &extra).await;
    let body = r#"{"object":"user","entry":[]}"#;
    let legacy = signature_sha1(APP_SECRET, body.as_bytes());
    let wrong = signature_256("wrong", body.as_bytes());
    let previous = signature_256("the-previous-app-secret", body.as_bytes());
    assert_eq!(
        deployment.post(&[("x-hub-signature", &legacy)], body).await,
        200
    );
    let downgrade = [
        ("x-hub-signature-256", wrong.as_str()),
        ("x-hub-signature", legacy.as_str()),
    ];
    assert_eq!(deployment.post(&downgrade, body).await, 401);
    assert_eq!(
        deployment
            .post(&[("x-hub-signature-256", &previous)], body)
            .await,
        200
    );
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_returns_the_challenge_only_if_the_verify_token_is_right() {
    let deployment = Deployment::start(BACKEND).await;
    let client = crate::support::client();
    let get = async |query: &[(&str, &str)]| {
        let answer = client
            .get(deployment.url("/facebook/webhook"))
            .query(query)
            .send()
            .await
            .unwrap();
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (kind, sniff) = (header("content-type"), header("x-content-type-options"));
        (
            answer.status().as_u16(),
            kind,
            sniff,
            answer.text().await.unwrap(),
        )
    };
    let (mode, token) = (
        ("hub.mode", "subscribe"),
        ("hub.verify_token", VERIFY_TOKEN),
    );
    let accepted = get(&[mode, token, ("hub.challenge", "1158201444")]).await;
    let text = Some("text/plain".to_owned());
    assert_eq!(
        accepted,
        (
            200,
            text,
            Some("nosniff".to_owned()),
            "1158201444".to_owned()
        )
    );
    let challenge = ("hub.challenge", "1");
    let refused: [&[(&str, &str)]; 6] = [
        &[mode, ("hub.verify_token", "wrong"), challenge],
        &[mode, challenge],
        &[mode, ("hub.verify_token", ""), challenge],
        &[("hub.mode", "unsubscribe"), token, challenge],
        &[mode, mode, token, challenge],
        &[mode, token, token, challenge],
    ];
    for query in refused {
        let (status, _, _, body) = get(query).await;
        assert_eq!((status, body.as_str()), (403, ""), "{query:?}");
    }
    let long = "1".repeat(10_000);
    for challenge in ["<script>", "1\r\nSet-Cookie: a=b", long.as_str(), "é", ""] {
        let (status, _, _, body) = get(&[mode, token, ("hub.challenge", challenge)]).await;
        assert_eq!((status, body.as_str()), (400, ""), "{challenge:?}");
    }
    deployment.finish().await;
}

/// `doctor` asks for the address of the peer, to find a reverse proxy that is not declared.
#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_names_a_peer_that_is_not_declared_as_a_proxy_to_who_knows_the_token() {
    let peer_of = async |deployment: &Deployment, token: &str, asks: bool| {
        let mut query = vec![
            ("hub.mode", "subscribe"),
            ("hub.challenge", "1"),
            ("hub.verify_token", token),
        ];
        query.extend(asks.then_some((ingress::handshake::PEER_QUERY, "1")));
        let url = deployment.url("/facebook/webhook");
        let answer = crate::support::client().get(url).query(&query).send().await;
        let answer = answer.unwrap();
        let peer = answer.headers().get(ingress::handshake::UNDECLARED_PEER);
        peer.map(|peer| peer.to_str().unwrap().to_owned())
    };
    let deployment = Deployment::start(BACKEND).await;
    let peer = peer_of(&deployment, VERIFY_TOKEN, true).await;
    assert_eq!(peer.as_deref(), Some("127.0.0.1"));
    assert_eq!(peer_of(&deployment, VERIFY_TOKEN, false).await, None);
    assert_eq!(peer_of(&deployment, "wrong", true).await, None);
    deployment.finish().await;
    let declared = [("PAGESYNC_TRUSTED_PROXIES", "::1, 127.0.0.0/8")];
    let deployment = Deployment::start_with(BACKEND, &declared).await;
    assert_eq!(peer_of(&deployment, VERIFY_TOKEN, true).await, None);
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_excessive_lengths_are_refused() {
    const MAX: usize = 5 * 1024 * 1024;
    let deployment = Deployment::start(BACKEND).await;
    let address = deployment.url("").replace("http://", "");
    let body = change(r#""n""#);
    let signature = signature_256(APP_SECRET, body.as_bytes());
    let head = format!(
        "POST /facebook/webhook HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: {signature}\r\n"
    );
    let declared = format!("{head}content-length: {}\r\n\r\n", MAX + 1);
    let (status, closed) = exchange(&address, declared.as_bytes()).await;
    assert_eq!(
        (status, closed),
        (Some(413), true),
        "a declared length above the limit, without a body"
    );
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let endless = format!(
        "{head}transfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(6)
    );
    let (status, closed) = exchange(&address, endless.as_bytes()).await;
    assert_eq!((status, closed), (Some(413), true), "chunks without an end");
    let both = format!(
        "{head}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{body}",
        body.len()
    );
    let (status, closed) = exchange(&address, both.as_bytes()).await;
    assert!(
        closed && status.is_none_or(|status| status == 400),
        "a declared length together with chunks: {status:?}"
    );
    let long = format!("{head}content-length: {}\r\n\r\n{body}", body.len() + 9);
    let (status, closed) = exchange(&address, long.as_bytes()).await;
    assert!(
        closed && status.is_none_or(|status| status == 400),
        "a declared length above that of the body: {status:?}"
    );
    let short = format!("{head}content-length: {}\r\n\r\n{body}", body.len() - 1);
    assert_eq!(
        exchange(&address, short.as_bytes()).await.0,
        Some(401),
        "a declared length below that of the body"
    );
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_entries_and_a_thousand_changes_are_all_applied() {
    let deployment = Deployment::start(BACKEND).await;
    let ids: Vec<_> = (1..=1000).map(|n| page_id(600_000 + n)).collect();
    deployment.register_without_read(&ids).await;
    let entries: Vec<_> = ids
        .iter()
        .map(|id| json!({"id": id, "time": 1_750_000_000, "changes": [{"field": "name", "value": format!("n{id}")}]}))
        .collect();
    assert_eq!(
        deployment
            .deliver(json!({"object": "page", "entry": entries}).to_string())
            .await,
        200
    );
    let changes: Vec<_> = (0..1000)
        .map(|n| json!({"field": "name", "value": format!("v{n:04}")}))
        .collect();
    let many = json!({"object": "page", "entry": [{"id": ids[0], "time": 1_750_000_001, "changes": changes}]});
    assert_eq!(deployment.deliver(many.to_string()).await, 200);
    deployment.wait_until_idle().await;
    assert_eq!(deployment.name(&ids[0]).await, Some(json!("v0999")));
    for id in &ids[1..] {
        assert_eq!(deployment.name(id).await, Some(json!(format!("n{id}"))));
    }
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_body_changes_nothing() {
    let deployment = Deployment::start(BACKEND).await;
    let id = page_id(5);
    deployment
        .register_without_read(std::slice::from_ref(&id))
        .await;
    let old = change(r#""old""#).replace("{page}", "5");
    let new = old
        .replace("1750000000", "1750000060")
        .replace("old", "new");
    for body in [&old, &new, &old, &new, &old] {
        assert_eq!(deployment.deliver(body.clone()).await, 200);
        deployment.wait_until_idle().await;
    }
    assert_eq!(deployment.name(&id).await, Some(json!("new")));
    let (version, _) = deployment.page(&id).await.unwrap();
    assert_eq!(version, 3, "registered, old, new");
    assert_eq!(deployment.store.history(&id).await.unwrap().len(), 2);
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_listener_serves_only_public_paths_and_limits_headers() {
    let deployment = Deployment::start(BACKEND).await;
    let client = crate::support::client();
    let get = async |path: &str| {
        let answer = client.get(deployment.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/").await, (200, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    for private in ["/metrics", "/readyz", "/v1/pages", "/facebook/other"] {
        assert_eq!(get(private).await.0, 404, "{private}");
    }
    let put = client
        .put(deployment.url("/facebook/webhook"))
        .send()
        .await
        .unwrap();
    assert_eq!(put.status().as_u16(), 405);
    assert!(put.headers().get("access-control-allow-origin").is_none());
    let address = deployment.url("").replace("http://", "");
    let many = "x-many: 1\r\n".repeat(200);
    let long = format!("x-long: {}\r\n", "x".repeat(64 * 1024));
    for headers in [many, long, "x: a\rb\r\n".to_owned()] {
        let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let (status, closed) = exchange(&address, request.as_bytes()).await;
        assert!(closed && matches!(status, Some(400 | 431)), "{status:?}");
    }
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_sends_its_headers_slowly_is_closed() {
    let deployment = Deployment::start(BACKEND).await;
    let address = deployment.url("").replace("http://", "");
    let began = std::time::Instant::now();
    raw_http::wait_for_close(&address, b"GET /livez HTTP/1.1\r\nhost: x\r\n").await;
    let took = began.elapsed().as_secs();
    assert!((5..60).contains(&took), "closed after {took} s");
    deployment.finish().await;
}

/// The full queue refuses the webhook. Ingress answers 503 within four seconds, and Facebook sends
/// the webhook again.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_be_stored_is_answered_503_in_time_and_accepted_later() {
    let storage = TestStorage::new(BACKEND).await;
    let roles = storage.roles();
    // On the distributed backend only ingress is started, because a worker would empty the queue.
    let mut deployment = Deployment::start_roles(storage, &roles[..1], &[], &Clock::system()).await;
    let id = page_id(9);
    deployment
        .register_without_read(std::slice::from_ref(&id))
        .await;
    let body = change(r#""later""#).replace("{page}", "9");
    deployment
        .storage
        .limit_queue(QueueName::Webhooks, Some(1))
        .await;
    eventually("an answer in time that the queue is full", || async {
        let began = std::time::Instant::now();
        let status = deployment.deliver(body.clone()).await;
        (status == 503 && began.elapsed() < std::time::Duration::from_secs(4)).then_some(())
    })
    .await;
    deployment
        .storage
        .limit_queue(QueueName::Webhooks, None)
        .await;
    for role in &roles[1..] {
        deployment.add_role(*role).await;
    }
    eventually("the queue to accept the webhook", || async {
        (deployment.deliver(body.clone()).await == 200).then_some(())
    })
    .await;
    deployment.wait_until_idle().await;
    assert_eq!(deployment.name(&id).await, Some(json!("later")));
    deployment.finish().await;
}

/// HTTP over a plain TCP connection, for requests that a client library would not send.
mod raw_http {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    /// Sends bytes. Returns the status of the answer and whether the server closed the connection.
    pub(super) async fn exchange(address: &str, bytes: &[u8]) -> (Option<u16>, bool) {
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            // The server may answer and close the connection before it has received all bytes.
            let _ = write.write_all(&bytes).await;
            let _ = write.shutdown().await;
            write
        });
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let closed = loop {
            let received =
                tokio::time::timeout(std::time::Duration::from_secs(15), read.read(&mut buffer))
                    .await;
            match received {
                Ok(Ok(0) | Err(_)) => break true,
                Ok(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
                Err(_) => break false,
            }
        };
        drop(sending.await);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status, closed)
    }

    /// Sends bytes, and then waits until the server closes the connection.
    pub(super) async fn wait_for_close(address: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}
