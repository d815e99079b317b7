//! The connection pool of the Redis store.
//!
//! Invariant: every connection and every reply has a deadline.

use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, IntoConnectionInfo as _, Pipeline, RedisResult, Script, Value as Reply,
};

use super::durability::Durability;
use super::reply::unavailable;
use crate::store::StoreError;

/// Our deadline for connecting and for every answer: the client's default, 500 ms, is too short for
/// a server that is writing its log.
const DEADLINE: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 16;
pub(super) const COMMIT: &str = include_str!("commit.lua");

/// The store of a distributed deployment.
pub struct RedisStore {
    pool: Pool,
    pub(super) durability: Durability,
    pub(super) commit: Script,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Uses the server at `url` (`redis://user:password@host:6379/0`). Connects when first asked.
    pub fn open(url: &str, durability: Durability) -> Result<Self, StoreError> {
        let refuse = |_| {
            let shape = "the store's address is not of the form redis://user:password@host:6379/0";
            StoreError::Unavailable(shape.to_owned())
        };
        let info = url.into_connection_info().map_err(refuse)?;
        let tcp = redis::io::tcp::TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(DEADLINE);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let manager =
            Manager::new_with_config(info.set_tcp_settings(tcp), config).map_err(refuse)?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(DEADLINE))
            .create_timeout(Some(DEADLINE))
            .recycle_timeout(Some(DEADLINE))
            .build()
            .map_err(|error| StoreError::Unexpected(error.to_string()))?;
        Ok(Self {
            pool,
            durability,
            commit: Script::new(COMMIT),
        })
    }

    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        self.pool
            .get()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Sends commands together; each has its own answer.
    pub(super) async fn ask(
        &self,
        connection: &mut Connection,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<RedisResult<Reply>>, StoreError> {
        pipeline
            .ignore_errors()
            .query_async(connection)
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Sends commands together; one failing fails all.
    pub(super) async fn ask_all(&self, pipeline: &mut Pipeline) -> Result<Vec<Reply>, StoreError> {
        let mut connection = self.connection().await?;
        let answers = self.ask(&mut connection, pipeline).await?;
        answers
            .into_iter()
            .map(|answer| answer.map_err(|error| unavailable(&error)))
            .collect()
    }
}
