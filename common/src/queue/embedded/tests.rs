//! Tests of the embedded queue while another process holds the write lock of the database, and
//! after a backlog.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model::job::{Job, Unreadable, encode_job, encode_message};
use model::queue_name::QueueName;
use model::time::HostTime;

use super::EmbeddedQueue;
use crate::database::{Access, Database};
use crate::queue::Queue;
use crate::queue::error::QueueError;

/// The time after which an operation that must end counts as one that does not end.
const BOUND: Duration = Duration::from_secs(120);

fn job(n: u64, bytes: usize) -> Job {
    Job::Unreadable(Unreadable {
        body: vec![b'x'; bytes],
        reason: n.to_string(),
        received_at: HostTime(n),
    })
}

async fn open(directory: &Path) -> (Arc<Database>, EmbeddedQueue) {
    let database = Arc::new(Database::open(directory, Access::Exclusive).unwrap());
    let queue = EmbeddedQueue::open(database.clone(), Access::Exclusive).await;
    (database, queue.unwrap())
}

/// Holds the write lock of the database, as a backup or a long command does.
fn hold_write_lock(directory: &Path) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(directory.join("pagesync.db")).unwrap();
    other.busy_timeout(BOUND).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_could_not_be_given_back_are_delivered_again_after_the_lock_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, queue) = open(directory.path()).await;
    for queue_name in QueueName::ALL {
        let jobs = [job(1, 1), job(2, 1)];
        for job in &jobs {
            queue
                .publish(queue_name, std::slice::from_ref(job))
                .await
                .unwrap();
        }
    }
    let mut held = Vec::new();
    for queue_name in QueueName::ALL {
        held.push(queue.receive(queue_name).await.unwrap());
    }
    let other = hold_write_lock(directory.path());
    let mut held = held.into_iter();
    // One delivery cannot be acknowledged, one is dropped, and one queue cannot be given back.
    held.next().unwrap().ack().await.unwrap_err();
    drop(held.next());
    queue.requeue(QueueName::PollsDaily).await.unwrap_err();
    drop(held);
    other.execute_batch("COMMIT").unwrap();
    for queue_name in QueueName::ALL {
        let mut jobs = Vec::new();
        while jobs.len() < 2 {
            let delivery = tokio::time::timeout(BOUND, queue.receive(queue_name)).await;
            let delivery = delivery.unwrap_or_else(|_| panic!("{queue_name} is stranded"));
            let delivery = delivery.unwrap();
            jobs.extend(delivery.jobs.clone());
            delivery.ack().await.unwrap();
        }
        assert_eq!(queue.depth(queue_name).await.unwrap().messages, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_that_were_reported_as_failed_are_not_made_later() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, queue) = open(directory.path()).await;
    let other = hold_write_lock(directory.path());
    let jobs: Vec<Job> = (0..40).map(|n| job(n, 1)).collect();
    let publishes = jobs
        .iter()
        .map(|job| queue.publish(QueueName::Webhooks, std::slice::from_ref(job)));
    let results = join_all(publishes).await;
    assert!(results.iter().all(Result::is_err), "{results:?}");
    other.execute_batch("COMMIT").unwrap();
    let last = job(99, 1);
    // The writer may still wait for the lock, so a publish may fail once more.
    while queue
        .publish(QueueName::Webhooks, std::slice::from_ref(&last))
        .await
        .is_err()
    {}
    let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
    // A publish whose deadline passed during its transaction may have been made.
    assert!(!delivery.jobs.is_empty());
    assert!(
        delivery.jobs.iter().all(|job| *job == last),
        "{:?}",
        delivery.jobs
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_wait_for_a_stalled_disk_are_limited_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, queue) = open(directory.path()).await;
    let other = hold_write_lock(directory.path());
    let jobs: Vec<Job> = (0..80).map(|n| job(n, 900 * 1024)).collect();
    let publishes = jobs
        .iter()
        .map(|job| queue.publish(QueueName::Webhooks, std::slice::from_ref(job)));
    let results = join_all(publishes).await;
    let is_refused = |result: &&Result<(), QueueError>| matches!(result, Err(error) if error.to_string().contains("does not keep up"));
    let refused = results.iter().filter(is_refused).count();
    assert!((10..80).contains(&refused), "{refused} of 80 were refused");
    other.execute_batch("COMMIT").unwrap();
    // The refused messages no longer count when the others were written or given up.
    while queue
        .publish(QueueName::Webhooks, &jobs[..1])
        .await
        .is_err()
    {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_shrinks_after_a_backlog() {
    const MIB: u64 = 1 << 20;
    const MESSAGES: usize = 64;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pagesync.db");
    let (database, queue) = open(directory.path()).await;
    let body = encode_message([encode_job(&job(1, 1 << 20)).as_str()]);
    let fill = move |connection: &rusqlite::Connection| {
        let insert = "INSERT INTO messages (queue, attempt, body) VALUES ('webhooks', 0, ?1)";
        for _ in 0..MESSAGES {
            connection.execute(insert, [body.as_bytes()])?;
        }
        Ok(())
    };
    database.write(fill).await.unwrap();
    database.truncate_log().await.unwrap();
    let size = || std::fs::metadata(&file).unwrap().len();
    assert!(size() > 64 * MIB, "{}", size());
    let mut done = 0;
    while done < MESSAGES {
        let delivery = queue.receive(QueueName::Webhooks).await.unwrap();
        done += delivery.jobs.len();
        delivery.ack().await.unwrap();
    }
    let shrunk = async {
        while size() > 20 * MIB {
            // This fails while the writer removes pages.
            let _ = database.truncate_log().await;
            tokio::task::yield_now().await;
        }
    };
    let bounded = tokio::time::timeout(BOUND, shrunk).await;
    bounded.unwrap_or_else(|_| panic!("the file still has {} bytes", size()));
}

#[tokio::test]
async fn a_file_that_an_earlier_version_created_is_converted_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pagesync.db");
    let old = rusqlite::Connection::open(&file).unwrap();
    old.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE other (a)")
        .unwrap();
    let mode = |connection: &rusqlite::Connection| -> i64 {
        connection
            .query_row("PRAGMA auto_vacuum", [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(mode(&old), 0);
    drop(old);
    drop(Database::open(directory.path(), Access::Exclusive).unwrap());
    assert_eq!(mode(&rusqlite::Connection::open(&file).unwrap()), 2);
}
