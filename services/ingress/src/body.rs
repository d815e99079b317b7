//! Reads the bodies of requests whose sender has proven nothing yet.
//!
//! Anyone can send a body, so the memory of all unfinished bodies is limited. Bytes are charged when
//! they arrive, because a declared length costs its sender nothing.
//!
//! Invariant: the unfinished bodies hold at most [`FREE_BYTES`] each and [`POOL_BYTES`] together
//! beyond that.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::StatusCode;
use common::log_limit::LogLimit;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;

/// How long a body may take to arrive after the headers.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How many bytes an unfinished body holds without a part of the pool. Nearly all webhooks are
/// shorter.
pub const FREE_BYTES: usize = 16 * 1024;
/// How many bytes the unfinished bodies hold together beyond [`FREE_BYTES`] each.
pub const POOL_BYTES: usize = 32 * 1024 * 1024;

/// The memory of the unfinished bodies of a process.
#[derive(Debug, Default)]
pub struct BodyMemory {
    /// Never locked across an await.
    pool: Mutex<Pool>,
    refusals: LogLimit,
}

/// The unfinished bodies that are longer than [`FREE_BYTES`].
#[derive(Debug, Default)]
struct Pool {
    bodies: HashMap<u64, PooledBody>,
    /// What the bodies hold beyond [`FREE_BYTES`] each.
    charged: usize,
    last_id: u64,
}

/// The bytes of a body in blocks of [`FREE_BYTES`]. Blocks of one size let the allocator use the
/// memory of a closed body for another one.
#[derive(Debug)]
struct PooledBody {
    blocks: Vec<Vec<u8>>,
    /// Cancelled when the body is closed to make room.
    closed: CancellationToken,
}

/// A body was closed, because the pool was empty and no other body held more.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

impl BodyMemory {
    /// Reads a whole body of at most `max` bytes. Fails with the status of the answer: 413 if the
    /// body is longer, 408 if it did not arrive within [`BODY_DEADLINE`] or was closed because it
    /// held the most memory when the pool was empty, 400 if it is malformed.
    pub(crate) async fn read(&self, body: Body, max: usize) -> Result<Bytes, StatusCode> {
        tokio::time::timeout(BODY_DEADLINE, self.collect(body, max))
            .await
            .unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))
    }

    async fn collect(&self, mut body: Body, max: usize) -> Result<Bytes, StatusCode> {
        let mut unfinished = UnfinishedBody::new(self);
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = unfinished.closed() => return Err(self.refuse()),
            };
            let Some(frame) = frame else {
                return unfinished.finish().map_err(|Closed| self.refuse());
            };
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            let Ok(data) = frame.into_data() else {
                continue; // Trailers have no meaning here.
            };
            if unfinished.len + data.len() > max {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            if unfinished.len == 0 && body.is_end_stream() {
                return Ok(data); // The usual webhook arrives in one piece and is not copied.
            }
            unfinished.append(&data).map_err(|Closed| self.refuse())?;
            // Who sends much at once waits for all others after each part. Otherwise thousands of
            // such senders delay the acceptance of connections by seconds.
            tokio::task::yield_now().await;
        }
    }

    /// Returns the status for a body that was closed to make room.
    fn refuse(&self) -> StatusCode {
        if self.refusals.allows() {
            tracing::warn!(
                "the memory for unfinished request bodies is used up; the largest are answered with 408"
            );
        }
        StatusCode::REQUEST_TIMEOUT
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that has not arrived completely. Its memory is released when it is dropped.
#[derive(Debug)]
struct UnfinishedBody<'a> {
    memory: &'a BodyMemory,
    /// How many bytes have arrived.
    len: usize,
    /// The bytes, while they are at most [`FREE_BYTES`].
    free: Vec<u8>,
    /// The key of the body in the pool, and the token that is cancelled when it is closed.
    pooled: Option<(u64, CancellationToken)>,
}

impl<'a> UnfinishedBody<'a> {
    fn new(memory: &'a BodyMemory) -> Self {
        Self {
            memory,
            len: 0,
            free: Vec::new(),
            pooled: None,
        }
    }

    /// Waits until the body is closed to make room.
    async fn closed(&self) {
        match &self.pooled {
            Some((_, closed)) => closed.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Adds bytes that have arrived.
    fn append(&mut self, data: &[u8]) -> Result<(), Closed> {
        self.len += data.len();
        if self.len <= FREE_BYTES {
            self.free.extend_from_slice(data);
            return Ok(());
        }
        let mut pool = self.memory.lock();
        let (id, _) = self
            .pooled
            .get_or_insert_with(|| pool.insert(std::mem::take(&mut self.free)));
        pool.append(*id, data)
    }

    /// Returns the whole body.
    fn finish(mut self) -> Result<Bytes, Closed> {
        let bytes = match &self.pooled {
            Some((id, _)) => {
                let removed = self.memory.lock().remove(*id);
                removed.ok_or(Closed)?.blocks.concat()
            }
            None => std::mem::take(&mut self.free),
        };
        Ok(bytes.into())
    }
}

impl Drop for UnfinishedBody<'_> {
    fn drop(&mut self) {
        if let Some((id, _)) = &self.pooled {
            self.memory.lock().remove(*id);
        }
    }
}

/// Returns how much of the pool a body with this number of blocks takes.
fn charge(blocks: usize) -> usize {
    blocks.saturating_sub(1) * FREE_BYTES
}

impl Pool {
    /// Adds a body that holds at most [`FREE_BYTES`]. Returns its key, and the token that is
    /// cancelled when the body is closed.
    fn insert(&mut self, mut bytes: Vec<u8>) -> (u64, CancellationToken) {
        self.last_id += 1;
        let closed = CancellationToken::new();
        bytes.reserve_exact(FREE_BYTES - bytes.len());
        let body = PooledBody {
            blocks: vec![bytes],
            closed: closed.clone(),
        };
        self.bodies.insert(self.last_id, body);
        (self.last_id, closed)
    }

    /// Removes a body and releases its part of the pool. Returns `None` if it was closed.
    fn remove(&mut self, id: u64) -> Option<PooledBody> {
        let body = self.bodies.remove(&id)?;
        self.charged -= charge(body.blocks.len());
        Some(body)
    }

    /// Adds bytes to a body. If the pool is empty, the largest bodies are closed, and this fails if
    /// the body itself is larger than all others.
    fn append(&mut self, id: u64, mut data: &[u8]) -> Result<(), Closed> {
        let mut body = self.remove(id).ok_or(Closed)?;
        let len = body.blocks.iter().map(Vec::len).sum::<usize>() + data.len();
        let blocks = len.div_ceil(FREE_BYTES);
        while self.charged + charge(blocks) > POOL_BYTES {
            let others = self.bodies.iter();
            let largest = others.max_by_key(|(_, other)| other.blocks.len());
            match largest.map(|(id, other)| (*id, other.blocks.len())) {
                Some((other, held)) if held >= blocks => {
                    if let Some(other) = self.remove(other) {
                        other.closed.cancel();
                    }
                }
                _ => return Err(Closed),
            }
        }
        for block in &mut body.blocks {
            let part = data.len().min(FREE_BYTES - block.len());
            block.extend_from_slice(&data[..part]);
            data = &data[part..];
        }
        for part in data.chunks(FREE_BYTES) {
            let mut block = Vec::with_capacity(FREE_BYTES);
            block.extend_from_slice(part);
            body.blocks.push(block);
        }
        self.charged += charge(blocks);
        self.bodies.insert(id, body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 5 * 1024 * 1024;
    const STEP: usize = 64 * 1024;

    /// Adds `bytes` to a body in steps.
    fn add(body: &mut UnfinishedBody<'_>, bytes: usize) -> Result<(), Closed> {
        (0..bytes / STEP).try_for_each(|_| body.append(&vec![b'x'; STEP]))
    }

    fn is_closed(body: &UnfinishedBody<'_>) -> bool {
        body.pooled
            .as_ref()
            .is_some_and(|(_, closed)| closed.is_cancelled())
    }

    #[test]
    fn the_largest_body_is_closed_and_not_the_newcomer() {
        let memory = BodyMemory::default();
        let mut large = UnfinishedBody::new(&memory);
        add(&mut large, MAX).unwrap();
        let mut bodies: Vec<_> = (0..7).map(|_| UnfinishedBody::new(&memory)).collect();
        for body in &mut bodies {
            add(body, 4 * 1024 * 1024).unwrap();
        }
        assert!(is_closed(&large));
        assert!(!bodies.iter().any(is_closed));
        let mut newcomer = UnfinishedBody::new(&memory);
        add(&mut newcomer, MAX / 4).unwrap();
        assert_eq!(newcomer.finish().unwrap().len(), MAX / 4);
        assert_eq!(large.append(b"x"), Err(Closed));
        assert_eq!(large.finish(), Err(Closed));
    }

    #[test]
    fn a_body_that_would_become_the_largest_closes_itself() {
        let memory = BodyMemory::default();
        let mut bodies: Vec<_> = (0..POOL_BYTES / (STEP - FREE_BYTES))
            .map(|_| UnfinishedBody::new(&memory))
            .collect();
        for body in &mut bodies {
            add(body, STEP).unwrap();
        }
        let mut newcomer = UnfinishedBody::new(&memory);
        assert_eq!(add(&mut newcomer, MAX), Err(Closed));
        assert!(bodies.iter().filter(|body| is_closed(body)).count() <= 1);
    }

    #[test]
    fn the_pool_is_never_exceeded_and_is_whole_again_at_the_end() {
        let memory = BodyMemory::default();
        let mut chance = fastrand::Rng::with_seed(1);
        let mut bodies = Vec::new();
        for _ in 0..2000 {
            if bodies.len() < 500 {
                bodies.push(UnfinishedBody::new(&memory));
            }
            let n = chance.usize(..bodies.len());
            let bytes = chance.usize(..MAX / 16).min(MAX - bodies[n].len);
            let _ = bodies[n].append(&vec![b'x'; bytes]);
            if chance.u8(..) < 16 {
                drop(bodies.swap_remove(chance.usize(..bodies.len())));
            }
            let pool = memory.lock();
            let capacity = |body: &PooledBody| body.blocks.iter().map(Vec::capacity).sum::<usize>();
            let held: usize = pool.bodies.values().map(capacity).sum();
            assert!(held <= POOL_BYTES + pool.bodies.len() * FREE_BYTES);
            assert!(pool.charged <= POOL_BYTES);
        }
        bodies.clear();
        let pool = memory.lock();
        assert_eq!((pool.charged, pool.bodies.len()), (0, 0));
    }

    #[test]
    fn bytes_of_a_finished_body_are_those_that_arrived() {
        let memory = BodyMemory::default();
        let sent: Vec<u8> = (0..u8::MAX).cycle().take(100_000).collect();
        let mut body = UnfinishedBody::new(&memory);
        for part in sent.chunks(777) {
            body.append(part).unwrap();
        }
        assert_eq!(body.finish().unwrap(), sent);
    }
}
