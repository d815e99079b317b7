//! The RabbitMQ and Redis servers that all tests of a run share. Each test gets a vhost and a
//! database number of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;

use super::engine::{Server, ServerKind};

static BROKER: OnceCell<Server> = OnceCell::const_new();
static REDIS: OnceCell<Server> = OnceCell::const_new();
static NEXT_VHOST: AtomicU32 = AtomicU32::new(1);
static NEXT_DATABASE: AtomicU32 = AtomicU32::new(1);

/// A vhost on a broker.
#[derive(Debug, Clone)]
pub(crate) struct Vhost {
    /// The AMQP address, with the credentials of the test user.
    pub(crate) amqp: String,
    /// The address of the management API.
    management: String,
    name: String,
}

/// Returns the RabbitMQ server of this test run. The first call starts it.
pub(crate) async fn shared_broker() -> &'static Server {
    BROKER
        .get_or_init(|| Server::start(ServerKind::RabbitMq))
        .await
}

/// Returns the Redis server of this test run. The first call starts it.
pub(crate) async fn shared_redis() -> &'static Server {
    REDIS
        .get_or_init(|| Server::start_in_memory(ServerKind::Redis))
        .await
}

/// Creates a vhost on `broker`.
pub(crate) async fn vhost(broker: &Server) -> Vhost {
    let name = format!("test{}", NEXT_VHOST.fetch_add(1, Ordering::SeqCst));
    let management = format!("http://127.0.0.1:{}/api", broker.ports[1]);
    let vhost = Vhost {
        amqp: format!("amqp://guest:guest@127.0.0.1:{}/{name}", broker.ports[0]),
        management,
        name,
    };
    vhost.put("vhosts/{vhost}", "{}").await;
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    vhost.put("permissions/{vhost}/guest", all).await;
    vhost
}

/// Returns the address of an unused database on `server`.
pub(crate) fn database(server: &Server) -> String {
    let number = NEXT_DATABASE.fetch_add(1, Ordering::SeqCst);
    format!("redis://127.0.0.1:{}/{number}", server.ports[0])
}

impl Vhost {
    /// Sends a PUT to the management API. `{vhost}` in the path becomes the name of this vhost.
    pub(crate) async fn put(&self, path: &str, body: &str) {
        self.manage(reqwest::Method::PUT, path, body).await;
    }

    /// Sends a DELETE to the management API. `{vhost}` in the path becomes the name of this vhost.
    pub(crate) async fn delete(&self, path: &str) {
        self.manage(reqwest::Method::DELETE, path, "").await;
    }

    async fn manage(&self, method: reqwest::Method, path: &str, body: &str) {
        let path = path.replace("{vhost}", &self.name);
        let answer = crate::support::client()
            .request(method, format!("{}/{path}", self.management))
            .basic_auth("guest", Some("guest"))
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }

    /// Sets a policy that limits a queue to `bytes`. RabbitMQ applies the smaller of this limit and
    /// the one that the queue was declared with.
    pub(crate) async fn limit_queue(&self, queue: &str, bytes: u64) {
        let policy = format!(
            r#"{{"pattern":"^{queue}$","definition":{{"max-length-bytes":{bytes}}},"apply-to":"queues"}}"#
        );
        self.put("policies/{vhost}/small", &policy).await;
    }

    /// Publishes raw text to a queue, as another program on the broker could.
    pub(crate) async fn publish_raw(&self, queue: &str, payload: &str) {
        let body = serde_json::json!({
            "properties": {"delivery_mode": 2},
            "routing_key": queue,
            "payload": payload,
            "payload_encoding": "string",
        });
        let answer = crate::support::client()
            .post(format!(
                "{}/exchanges/{}/amq.default/publish",
                self.management, self.name
            ))
            .basic_auth("guest", Some("guest"))
            .json(&body)
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains(r#""routed":true"#), "{text}");
    }
}
