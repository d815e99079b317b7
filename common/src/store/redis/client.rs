//! Opens connections to Redis and sends commands.
//!
//! Invariant: connecting and every reply have a timeout.

use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, IntoConnectionInfo as _, Pipeline, RedisError, RedisResult, Script,
    ServerErrorKind, Value as Reply,
};

use super::durability::Durability;
use super::reply::unavailable;
use crate::clock::Clock;
use crate::store::StoreError;

/// How long connecting and each reply may take. The default of the client, 500 ms, is too short
/// while the server writes its append-only file.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest number of connections in the pool.
const MAX_CONNECTIONS: usize = 16;
/// The script that executes a commit.
pub(super) const COMMIT_SCRIPT: &str = include_str!("commit.lua");

/// The store of a deployment on RabbitMQ and Redis.
pub struct RedisStore {
    pool: Pool,
    pub(super) durability: Durability,
    /// This host's clock.
    pub(super) clock: Clock,
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
    /// Returns the store on the server at `url`, which has the form
    /// `redis://user:password@host:6379/0`. The first operation opens a connection. Fails if `url`
    /// has another form.
    pub fn open(url: &str, durability: Durability, clock: Clock) -> Result<Self, StoreError> {
        let invalid_url = |_| {
            let reason =
                "the address of Redis is not of the form redis://user:password@host:6379/0";
            StoreError::Unavailable(reason.to_owned())
        };
        let info = url.into_connection_info().map_err(invalid_url)?;
        let tcp = redis::io::tcp::TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(TIMEOUT);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let manager =
            Manager::new_with_config(info.set_tcp_settings(tcp), config).map_err(invalid_url)?;
        let pool = Pool::builder(manager)
            .max_size(MAX_CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(TIMEOUT))
            .create_timeout(Some(TIMEOUT))
            .recycle_timeout(Some(TIMEOUT))
            .build()
            .map_err(|error| StoreError::Unexpected(error.to_string()))?;
        Ok(Self {
            pool,
            durability,
            clock,
            commit: Script::new(COMMIT_SCRIPT),
        })
    }

    /// Returns a connection of the pool, or a new one if none is idle.
    pub(super) async fn connection(&self) -> Result<Connection, StoreError> {
        self.pool
            .get()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Sends commands in one pipeline and returns a reply or an error for each.
    pub(super) async fn query_each(
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

    /// Sends commands in one pipeline and returns their replies. Fails if one of the commands
    /// fails.
    pub(super) async fn query_all(
        &self,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<Reply>, StoreError> {
        let mut connection = self.connection().await?;
        let replies = self.query_each(&mut connection, pipeline).await?;
        let replies: RedisResult<Vec<Reply>> = replies.into_iter().collect();
        replies.map_err(|error| failure_on(connection, &error))
    }
}

/// Converts the error of a command that a connection sent. If a failover has made the server a
/// replica, the connection does not return to the pool.
pub(super) fn failure_on(connection: Connection, error: &RedisError) -> StoreError {
    if error.kind() == ServerErrorKind::ReadOnly.into() {
        drop(Connection::take(connection));
    }
    unavailable(error)
}
