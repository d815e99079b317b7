//! A deployment in this process: real roles on free ports, on the backend of this test binary.

use std::sync::Arc;

use common::backends::Backends;
use common::clock::Clock;
use common::config::{Config, Environment, Role};
use common::database::{Access, Database};
use common::pages;
use common::queue::Queue;
use common::queue::embedded::EmbeddedQueue;
use common::queue::rabbitmq::RabbitMq;
use common::store::embedded::EmbeddedStore;
use common::store::redis::{Durability, RedisStore};
use common::store::{Store, Stored, Versioned};
use model::id::PageId;
use model::lane::Lane;
use model::page::Page;
use pagesync::roles::{self, Running};
use simulator::bytes::signature_256;
use tempfile::TempDir;

use super::servers::{Vhost, database, shared_broker, shared_redis, vhost};
use super::{TestBackend, eventually};

pub(crate) const APP_SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const VERIFY_TOKEN: &str = "a verify token with spaces & signs";

/// Where a deployment keeps its things.
#[derive(Debug)]
pub(crate) enum Place {
    Embedded(TempDir),
    Distributed { vhost: Vhost, redis: String },
}

impl Place {
    pub(crate) async fn new(backend: TestBackend) -> Self {
        match backend {
            TestBackend::Embedded => Self::Embedded(tempfile::tempdir().unwrap()),
            TestBackend::Distributed => Self::Distributed {
                vhost: vhost(shared_broker().await).await,
                redis: database(shared_redis().await),
            },
        }
    }

    pub(crate) async fn queue(&self) -> Arc<dyn Queue> {
        match self {
            Self::Embedded(directory) => {
                let database = Database::open(directory.path(), Access::Owner).unwrap();
                Arc::new(
                    EmbeddedQueue::open(Arc::new(database), Access::Owner)
                        .await
                        .unwrap(),
                )
            }
            Self::Distributed { vhost, .. } => {
                let queue = RabbitMq::open(&vhost.amqp, "test").await.unwrap();
                eventually("the publisher", || async { queue.is_ready().then_some(()) }).await;
                Arc::new(queue)
            }
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(directory) => {
                // A guest makes no database; in a deployment the owner has made it.
                if !directory.path().join("pagesync.db").exists() {
                    drop(Database::open(directory.path(), Access::Owner).unwrap());
                }
                let database = Database::open(directory.path(), Access::Guest).unwrap();
                Arc::new(EmbeddedStore::new(Arc::new(database), Clock::system()))
            }
            Self::Distributed { redis, .. } => {
                Arc::new(RedisStore::open(redis, Durability::Relaxed).unwrap())
            }
        }
    }

    /// The settings of a process on this place, listening on free ports.
    pub(crate) fn environment(&self, extra: &[(&str, &str)]) -> Environment {
        let mut settings = vec![
            ("FACEBOOK_APP_SECRET", APP_SECRET.to_owned()),
            ("FACEBOOK_VERIFY_TOKEN", VERIFY_TOKEN.to_owned()),
            ("PAGESYNC_LISTEN", "127.0.0.1:0".to_owned()),
            ("PAGESYNC_OPERATOR_LISTEN", "127.0.0.1:0".to_owned()),
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
            }
        }
        let extra = extra.iter().map(|(key, value)| (*key, (*value).to_owned()));
        settings
            .into_iter()
            .chain(extra)
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }
}

/// Ingress and worker at work.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) place: Place,
    ingress: Running,
    /// In a distributed deployment; the embedded one has both in one.
    worker: Option<Running>,
    pub(crate) store: Arc<dyn Store>,
    client: reqwest::Client,
    finished: bool,
}

impl Deployment {
    pub(crate) async fn start(backend: TestBackend) -> Self {
        Self::start_with(backend, &[]).await
    }

    pub(crate) async fn start_with(backend: TestBackend, extra: &[(&str, &str)]) -> Self {
        Self::start_on(Place::new(backend).await, extra).await
    }

    pub(crate) async fn start_on(place: Place, extra: &[(&str, &str)]) -> Self {
        let environment = place.environment(extra);
        let start = async |role| {
            let config = Config::read(&environment, role).unwrap();
            roles::start(&config, role).await.unwrap()
        };
        let (ingress, worker) = match place {
            Place::Embedded(_) => (start(Role::Up).await, None),
            Place::Distributed { .. } => {
                (start(Role::Ingress).await, Some(start(Role::Worker).await))
            }
        };
        let working = worker.as_ref().unwrap_or(&ingress);
        let store = working.backends.as_ref().unwrap().store.clone();
        let deployment = Self {
            store,
            place,
            ingress,
            worker,
            client: reqwest::Client::new(),
            finished: false,
        };
        eventually("readiness", || async {
            let ready = deployment.get_private("readyz").await;
            (ready.0 == 200).then_some(())
        })
        .await;
        deployment
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ingress.public.unwrap())
    }

    /// Asks the private listener of ingress.
    pub(crate) async fn get_private(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}/{path}", self.ingress.private);
        let answer = self.client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Posts a body as Facebook would.
    pub(crate) async fn deliver(&self, body: impl Into<Vec<u8>>) -> u16 {
        let body = body.into();
        let signature = signature_256(APP_SECRET, &body);
        self.post(&[("x-hub-signature-256", &signature)], body)
            .await
    }

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

    pub(crate) async fn add(&self, ids: &[PageId]) {
        for id in ids {
            pages::add(&*self.store, id, Clock::system().now())
                .await
                .unwrap();
        }
    }

    pub(crate) async fn page(&self, id: &PageId) -> Option<(u64, Page)> {
        let held = self
            .store
            .load(std::slice::from_ref(id))
            .await
            .unwrap()
            .pop()
            .unwrap();
        match held {
            Versioned {
                version,
                value: Stored::Page(page),
            } => Some((version, *page)),
            _ => None,
        }
    }

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
            .map(model::value::Canonical::to_json)
    }

    /// How often ingress counted a part as `name`, or the worker a job.
    pub(crate) fn counted(&self, name: &'static str) -> u64 {
        let label = common::telemetry::Label { name };
        let of = |running: &Running| {
            let parts = running.metrics.counted.get_or_create(&label).get();
            parts + running.metrics.jobs_done.get_or_create(&label).get()
        };
        of(&self.ingress) + self.worker.as_ref().map_or(0, of)
    }

    /// Waits until the worker has done everything ingress made durable.
    pub(crate) async fn settle(&self) {
        let working = self.worker.as_ref().unwrap_or(&self.ingress);
        eventually("the queue to be worked off", || async {
            let published = self.ingress.metrics.jobs_published.get();
            (working.metrics.jobs_acknowledged.get() >= published).then_some(())
        })
        .await;
    }

    /// Ends the roles in order and makes sure that nothing is left in a queue.
    pub(crate) async fn finish(mut self) {
        self.settle().await;
        for running in [Some(&self.ingress), self.worker.as_ref()]
            .into_iter()
            .flatten()
        {
            running.lifecycle.stop();
            running.lifecycle.finish().await.unwrap();
        }
        let backends: Option<&Backends> = self.ingress.backends.as_ref();
        let queue = match backends {
            Some(backends) => backends.queue.clone(),
            None => self.place.queue().await,
        };
        for lane in Lane::ALL {
            assert_eq!(
                queue.depth(lane).await.unwrap().messages,
                0,
                "left in {lane}"
            );
        }
        self.finished = true;
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        assert!(
            self.finished || std::thread::panicking(),
            "a test ends with `finish`, so that what is left in a queue is seen"
        );
    }
}

impl Place {
    /// The store, beside what must live as long as it.
    pub(crate) fn into_store(self) -> (Self, Arc<dyn Store>) {
        let store = self.store();
        (self, store)
    }

    /// Damages the stored form of a Page.
    pub(crate) async fn corrupt(&self, id: &PageId) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let damage = "UPDATE pages SET attributes = '{' WHERE id = ?1";
                assert_eq!(file.execute(damage, [id.as_str()]).unwrap(), 1);
            }
            Self::Distributed { redis, .. } => {
                let key = format!("{{pagesync}}:page:{id}");
                raw(redis, &["HSET", &key, "_registers", "{"]).await;
            }
        }
    }

    /// Makes the webhook lane full at so many bytes, or as roomy as it was.
    pub(crate) async fn limit_webhooks(&self, bytes: Option<u64>) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let bytes = i64::try_from(bytes.unwrap_or(1 << 31)).unwrap();
                let limit = "UPDATE lanes SET max_bytes = ?1 WHERE lane = 'webhooks'";
                assert_eq!(file.execute(limit, [bytes]).unwrap(), 1);
            }
            Self::Distributed { vhost, .. } => {
                let bytes = bytes.unwrap_or(1 << 30);
                vhost.limit_queue("pagesync.v1.webhooks", bytes).await;
            }
        }
    }

    /// Trims the feed.
    pub(crate) async fn forget_feed_up_to(&self, n: u64) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                file.execute(
                    "DELETE FROM feed WHERE n <= ?1",
                    [i64::try_from(n).unwrap()],
                )
                .unwrap();
            }
            Self::Distributed { redis, .. } => {
                let from = format!("{}-0", n + 1);
                raw(redis, &["XTRIM", "{pagesync}:feed", "MINID", &from]).await;
            }
        }
    }
}

/// A command as `redis-cli` would send it.
pub(crate) async fn raw(url: &str, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}
