//! Runs a deployment in the test process: the real roles, on free ports and on either backend.

use std::sync::{Arc, OnceLock};

use common::backends::Backends;
use common::clock::Clock;
use common::config::settings::Environment;
use common::config::{Config, Role};
use common::database::{Access, Database};
use common::pages;
use common::queue::Queue;
use common::queue::embedded::EmbeddedQueue;
use common::queue::rabbitmq::RabbitMq;
use common::sealing::PrivateKey;
use common::store::embedded::EmbeddedStore;
use common::store::redis::client::RedisStore;
use common::store::redis::durability::Durability;
use common::store::{Store, StoredPage, Versioned, load_page};
use model::id::PageId;
use model::page::Page;
use model::polling::Polling;
use model::queue_name::QueueName;
use pagesync::roles::{self, RunningRole};
use secrecy::ExposeSecret as _;
use simulator::bytes::signature_256;
use tempfile::TempDir;

use super::servers::{Vhost, database, shared_broker, shared_redis, vhost};
use super::{TestBackend, client, eventually};

/// The app id of every test deployment.
pub(crate) const APP_ID: &str = "100200300400500";
/// The app secret of every test deployment.
pub(crate) const APP_SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The verify token of every test deployment.
pub(crate) const VERIFY_TOKEN: &str = "a verify token with spaces & signs";

/// The storage of a deployment: its queue and its store.
#[derive(Debug)]
pub(crate) enum TestStorage {
    /// The directory of the database file.
    Embedded(TempDir),
    /// The RabbitMQ vhost and the address of the Redis database.
    Distributed { vhost: Vhost, redis: String },
}

impl TestStorage {
    /// Creates empty storage.
    pub(crate) async fn new(backend: TestBackend) -> Self {
        match backend {
            TestBackend::Embedded => Self::Embedded(tempfile::tempdir().unwrap()),
            TestBackend::Distributed => Self::Distributed {
                vhost: vhost(shared_broker().await).await,
                redis: database(shared_redis().await),
            },
        }
    }

    /// Opens the queue.
    pub(crate) async fn queue(&self) -> Arc<dyn Queue> {
        match self {
            Self::Embedded(directory) => {
                let database = Database::open(directory.path(), Access::Exclusive).unwrap();
                Arc::new(
                    EmbeddedQueue::open(Arc::new(database), Access::Exclusive)
                        .await
                        .unwrap(),
                )
            }
            Self::Distributed { vhost, .. } => {
                let queue = RabbitMq::open(&vhost.amqp, "test", POLL_CONCURRENCY)
                    .await
                    .unwrap();
                eventually("a ready publisher", || async {
                    queue.is_ready().then_some(())
                })
                .await;
                Arc::new(queue)
            }
        }
    }

    /// Opens the store.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(directory) => {
                // Shared access does not create the database. In a deployment, the process with
                // exclusive access creates it.
                if !directory.path().join("pagesync.db").exists() {
                    drop(Database::open(directory.path(), Access::Exclusive).unwrap());
                }
                let database = Database::open(directory.path(), Access::Shared).unwrap();
                Arc::new(EmbeddedStore::new(Arc::new(database), Clock::system()))
            }
            Self::Distributed { redis, .. } => {
                Arc::new(RedisStore::open(redis, Durability::Relaxed, Clock::system()).unwrap())
            }
        }
    }

    /// Returns the settings of a process that runs `role` on this storage and listens on free
    /// ports. Verification reads are delayed by a day unless `extra` sets another delay.
    pub(crate) fn environment(&self, role: Role, extra: &[(&str, &str)]) -> Environment {
        let mut settings = vec![
            ("FACEBOOK_APP_ID", APP_ID.to_owned()),
            ("FACEBOOK_APP_SECRET", APP_SECRET.to_owned()),
            ("FACEBOOK_VERIFY_TOKEN", VERIFY_TOKEN.to_owned()),
            (
                "FACEBOOK_REDIRECT_URI",
                "http://localhost:5000/facebook/callback".to_owned(),
            ),
            (
                "FACEBOOK_WEBHOOK_ADDRESS",
                "http://localhost:5000/facebook/webhook".to_owned(),
            ),
            // Nothing listens on port 9. Tests that need Facebook start a simulator.
            ("PAGESYNC_GRAPH_URL", "http://127.0.0.1:9".to_owned()),
            ("PAGESYNC_DIALOG_URL", "http://127.0.0.1:9".to_owned()),
            ("PAGESYNC_LISTEN", "127.0.0.1:0".to_owned()),
            ("PAGESYNC_PRIVATE_LISTEN", "127.0.0.1:0".to_owned()),
            ("PAGESYNC_VERIFY_AFTER", "24h".to_owned()),
            ("PAGESYNC_TIME_ZONE", time_zone_where_it_is_noon()),
        ];
        match self {
            Self::Embedded(directory) => {
                settings.push(("PAGESYNC_BACKEND", "embedded".to_owned()));
                settings.push(("PAGESYNC_DATA_DIR", directory.path().display().to_string()));
            }
            Self::Distributed { vhost, redis } => {
                settings.push(("PAGESYNC_BACKEND", "distributed".to_owned()));
                settings.push(("PAGESYNC_RABBITMQ_URL", vhost.amqp.clone()));
                settings.push(("PAGESYNC_REDIS_URL", redis.clone()));
                let key = sealing_key();
                match role {
                    Role::Ingress => {
                        settings.push(("PAGESYNC_TOKEN_PUBLIC_KEY", key.public().text()));
                    }
                    Role::Worker => settings.push((
                        "PAGESYNC_TOKEN_PRIVATE_KEYS",
                        key.text().expose_secret().to_owned(),
                    )),
                    _ => {}
                }
            }
        }
        let extra = extra.iter().map(|(key, value)| (*key, (*value).to_owned()));
        settings
            .into_iter()
            .chain(extra)
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    /// Returns the roles of a whole deployment on this storage.
    pub(crate) fn roles(&self) -> Vec<Role> {
        match self {
            Self::Embedded(_) => vec![Role::Up],
            Self::Distributed { .. } => vec![Role::Ingress, Role::Worker, Role::Scheduler],
        }
    }
}

/// How many polls of each queue a worker makes at a time, as by default.
pub(crate) const POLL_CONCURRENCY: u16 = 8;

/// Returns a time zone in which it is about noon, so that every daily slot is hours away. Tests
/// that move their clock by hours must not depend on the hour at which they run.
fn time_zone_where_it_is_noon() -> String {
    let hour = Clock::system().now().0 / 1000 / 3600 % 24;
    // These names have the signs of POSIX: Etc/GMT-2 is two hours ahead of UTC.
    match i64::try_from(hour).unwrap() - 12 {
        ahead @ 0.. => format!("Etc/GMT+{ahead}"),
        behind => format!("Etc/GMT{behind}"),
    }
}

/// Returns the key that seals and opens the tokens of this test run.
pub(crate) fn sealing_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(PrivateKey::generate)
}

/// Returns the context of a worker with this queue and store, and the default settings for
/// `storage`.
pub(crate) fn worker_context(
    storage: &TestStorage,
    queue: Arc<dyn Queue>,
    store: Arc<dyn Store>,
) -> worker::context::Context {
    worker_context_with(storage, queue, store, &[])
}

/// Returns the context of a worker as [`worker_context`] does, with further settings.
pub(crate) fn worker_context_with(
    storage: &TestStorage,
    queue: Arc<dyn Queue>,
    store: Arc<dyn Store>,
    extra: &[(String, String)],
) -> worker::context::Context {
    let mut environment = storage.environment(Role::Worker, &[("PAGESYNC_VERIFY_AFTER", "10s")]);
    environment.extend(extra.iter().cloned());
    let role = if matches!(storage, TestStorage::Embedded(_)) {
        Role::Up
    } else {
        Role::Worker
    };
    let config = Config::read(&environment, role).unwrap();
    let metrics = common::telemetry::Metrics::default();
    let (clock, lifecycle) = (Clock::system(), common::lifecycle::Lifecycle::default());
    let backends = Backends::new(queue, store);
    worker::context::Context::new(&config, &backends, metrics, clock, lifecycle).unwrap()
}

/// A running deployment.
#[derive(Debug)]
pub(crate) struct Deployment {
    /// The storage of its queue and its store.
    pub(crate) storage: TestStorage,
    /// Its running roles; the first one has the public listener.
    pub(crate) roles: Vec<(Role, RunningRole)>,
    /// Its store.
    pub(crate) store: Arc<dyn Store>,
    /// A client that follows no redirect.
    pub(crate) client: reqwest::Client,
    /// Whether [`Deployment::finish`] was called.
    finished: bool,
}

impl Deployment {
    /// Starts a deployment with default settings on empty storage.
    pub(crate) async fn start(backend: TestBackend) -> Self {
        Self::start_with(backend, &[]).await
    }

    /// Starts a deployment with further settings on empty storage.
    pub(crate) async fn start_with(backend: TestBackend, extra: &[(&str, &str)]) -> Self {
        Self::start_on(TestStorage::new(backend).await, extra).await
    }

    /// Starts a deployment with further settings on `storage`.
    pub(crate) async fn start_on(storage: TestStorage, extra: &[(&str, &str)]) -> Self {
        let roles = storage.roles();
        Self::start_roles(storage, &roles, extra, &Clock::system()).await
    }

    /// Starts these roles on `storage` with this clock, and waits until all of them are ready.
    pub(crate) async fn start_roles(
        storage: TestStorage,
        wanted: &[Role],
        extra: &[(&str, &str)],
        clock: &Clock,
    ) -> Self {
        let mut roles = Vec::new();
        for role in wanted {
            roles.push((*role, start_role(&storage, *role, extra, clock).await));
        }
        let store = roles[0].1.backends.store.clone();
        let deployment = Self {
            store,
            storage,
            roles,
            client: client(),
            finished: false,
        };
        eventually("every role to be ready", || async {
            for (_, running) in &deployment.roles {
                let ready = deployment.get_private_of(running, "readyz").await;
                if ready.0 != 200 {
                    return None;
                }
            }
            Some(())
        })
        .await;
        deployment
    }

    /// Starts one more role on the same storage, with default settings.
    pub(crate) async fn add_role(&mut self, role: Role) {
        let running = start_role(&self.storage, role, &[], &Clock::system()).await;
        self.roles.push((role, running));
    }

    /// Returns the role with the public listener.
    pub(crate) fn public_role(&self) -> &RunningRole {
        &self.roles[0].1
    }

    /// Returns the address of a path on the public listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public_role().public.unwrap())
    }

    /// Sends a GET to the private listener of the role that has the public listener. Returns the
    /// status and the body.
    pub(crate) async fn get_private(&self, path: &str) -> (u16, String) {
        self.get_private_of(self.public_role(), path).await
    }

    /// Sends a GET to the private listener of a role. Returns the status and the body.
    pub(crate) async fn get_private_of(&self, running: &RunningRole, path: &str) -> (u16, String) {
        let url = format!("http://{}/{path}", running.private);
        let answer = self.client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Posts a signed body to the webhook address, as Facebook does. Returns the status.
    pub(crate) async fn deliver(&self, body: impl Into<Vec<u8>>) -> u16 {
        let body = body.into();
        let signature = signature_256(APP_SECRET, &body);
        self.post(&[("x-hub-signature-256", &signature)], body)
            .await
    }

    /// Posts a body with these headers to the webhook address. Returns the status.
    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> u16 {
        let mut request = self.client.post(self.url("/facebook/webhook"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(body.into())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    /// Registers Pages without a first read.
    pub(crate) async fn register_without_read(&self, ids: &[PageId]) {
        for id in ids {
            let mut commit = pages::registration_commit(id, 0, Clock::system().now());
            // The callers test webhooks, and a read would change the Pages as well.
            commit.due.clear();
            if let Some(write) = &mut commit.page {
                write.page.polling = Polling::default();
            }
            self.store.commit(&[commit]).await.unwrap();
        }
    }

    /// Returns the version and the state of a Page, or `None` if it is not registered or corrupt.
    pub(crate) async fn page(&self, id: &PageId) -> Option<(u64, Page)> {
        match load_page(&*self.store, id).await.unwrap() {
            Versioned {
                version,
                value: StoredPage::Page(page),
            } => Some((version, *page)),
            _ => None,
        }
    }

    /// Returns the stored name of a Page, or `None` if it is unknown or has no value.
    pub(crate) async fn name(&self, id: &PageId) -> Option<serde_json::Value> {
        let (_, page) = self.page(id).await?;
        let register = page
            .registers
            .iter()
            .find(|(field, _)| field.as_str() == "name")?
            .1;
        register
            .value
            .as_ref()
            .map(model::value::CanonicalValue::to_json)
    }

    /// Returns the sum over all roles of two counters: ignored parts of webhooks with the label
    /// value `name`, and jobs with the result `name`.
    pub(crate) fn counted(&self, name: &'static str) -> u64 {
        let count = |running: &RunningRole| {
            let parts = running.metrics.webhook_parts_ignored.get(name);
            parts + running.metrics.jobs_done.get(name)
        };
        self.roles.iter().map(|(_, running)| count(running)).sum()
    }

    /// Waits until all published jobs are acknowledged.
    pub(crate) async fn wait_until_idle(&self) {
        eventually("the acknowledgement of every job", || async {
            let (mut published, mut done) = (0, 0);
            for (_, RunningRole { metrics, .. }) in &self.roles {
                published += metrics.jobs_published.get();
                for queue_name in QueueName::POLLS {
                    published += metrics.polls_published.get(queue_name.as_str());
                }
                done += metrics.jobs_acknowledged.get();
            }
            (done >= published).then_some(())
        })
        .await;
    }

    /// Stops the roles, the schedulers first. Panics if a webhook is left in the queue. Polls may
    /// be left there, because they become due again.
    pub(crate) async fn finish(mut self) {
        self.wait_until_idle().await;
        let order = |role: &Role| match role {
            Role::Scheduler => 0,
            Role::Worker => 2,
            _ => 1,
        };
        self.roles.sort_by_key(|(role, _)| order(role));
        for (role, running) in &self.roles {
            if *role == Role::Worker {
                self.wait_until_idle().await;
            }
            running.lifecycle.stop();
            running.lifecycle.finish().await.unwrap();
        }
        let queue = match &self.storage {
            TestStorage::Embedded(_) => self.roles[0].1.backends.queue.clone(),
            TestStorage::Distributed { .. } => self.storage.queue().await,
        };
        let left = queue.depth(QueueName::Webhooks).await.unwrap().messages;
        assert_eq!(left, 0, "webhooks left in the queue");
        self.finished = true;
    }
}

/// Starts a role on `storage`. Panics if the settings are invalid or the role does not start.
async fn start_role(
    storage: &TestStorage,
    role: Role,
    extra: &[(&str, &str)],
    clock: &Clock,
) -> RunningRole {
    let config = Config::read(&storage.environment(role, extra), role).unwrap();
    roles::start(&config, role, clock.clone(), None)
        .await
        .unwrap()
}

impl Drop for Deployment {
    fn drop(&mut self) {
        assert!(
            self.finished || std::thread::panicking(),
            "a test must end with `finish`, which checks that no webhook is left in the queue"
        );
    }
}
