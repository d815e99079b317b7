//! The limits of the dead letters: their counts, the samples beyond the limits, and the list of
//! those that are retried.

use std::collections::BTreeMap;

use common::clock::Clock;
use common::pages;
use common::records::dead_letter;
use common::records::dead_letter::usage::{self, MAX_BYTES, MAX_DEAD_LETTERS, Usage};
use common::records::{erasure, put_write, write_records};
use common::store::{RecordKey, RecordKind, RecordWrite, Store};
use model::id::PageId;
use model::job::{Job, NEWER_VERSION_PREFIX, Unreadable};
use model::time::HostTime;
use pagesync::cli::EraseCommand;
use pagesync::output::Format;
use serde_json::json;

use crate::support::command_config;
use crate::support::{eventually, webhook_job};
use crate::worker::{WorkerFixture, stop};

/// Returns a job that cannot be read. Its body contains the number.
fn unreadable(n: u64, reason: &str) -> Job {
    Job::Unreadable(Unreadable {
        body: format!("? {n}").into_bytes(),
        reason: reason.to_owned(),
        received_at: HostTime(1),
    })
}

async fn usage_of(store: &dyn Store) -> Usage {
    Usage::load(store, Clock::system().now()).await.unwrap()
}

/// Adds to a count of dead letters, as if that many were stored.
pub(crate) async fn add(store: &dyn Store, counted: &str, n: i64) {
    let day = Clock::system().now().0 / 86_400_000;
    let key = RecordKey::new(RecordKind::DeadLetterCount, format!("{day}.{counted}"));
    let write = RecordWrite::Add { key, n };
    write_records(store, vec![write]).await.unwrap();
}

/// Replays the dead letters. Returns whether they were removed.
async fn replay_all(bench: &WorkerFixture) -> bool {
    let store = &*bench.store;
    let found = dead_letter::next_chunk(store, &mut None).await.unwrap();
    let now = Clock::system().now();
    dead_letter::replay(store, &*bench.queue, now, &found.unwrap())
        .await
        .unwrap()
}

/// Waits until this many dead letters are stored, and checks that the counts agree with them.
async fn wait_for_dead_letters(bench: &WorkerFixture, count: usize) {
    let found = eventually(&format!("{count} dead letters"), || async {
        let found = bench.dead_letters().await;
        (found.len() == count).then_some(found)
    })
    .await;
    let sizes = found
        .iter()
        .map(|(_, letter)| letter.job.len() + letter.reason.len());
    let expected = Usage {
        count: count as u64,
        bytes: sizes.sum::<usize>() as u64,
        not_stored: BTreeMap::new(),
    };
    assert_eq!(usage_of(&*bench.store).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_limit_one_sample_of_each_kind_of_reason_is_stored_and_the_rest_is_counted() {
    for (counted, limit) in [("count", MAX_DEAD_LETTERS), ("bytes", MAX_BYTES)] {
        let bench = WorkerFixture::new(&[1]).await;
        let store = &*bench.store;
        let limit = i64::try_from(limit).unwrap();
        add(store, counted, limit).await;
        let mut jobs: Vec<Job> = (0..5)
            .map(|n| unreadable(n, &format!("entry {n} has no id")))
            .collect();
        jobs.extend([unreadable(5, "entry 5 has no time"), webhook_job(1, "one")]);
        bench.publish(&jobs).await;
        let running = bench.start(bench.store.clone());
        bench.wait_for_name(1, "one").await;
        let ids: Vec<String> = bench
            .dead_letters()
            .await
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let mut samples = [dead_letter::id(&jobs[0]), dead_letter::id(&jobs[5])];
        samples.sort();
        assert_eq!(ids, samples);
        let counts = usage_of(store).await.not_stored;
        // A delivery that is executed again is counted again.
        assert!(counts["entry # has no id"] >= 4, "{counts:?}");
        assert!(counts.contains_key("entry # has no time"), "{counts:?}");

        // A job that fails again might only be counted, so a replay retains its dead letter.
        assert!(!replay_all(&bench).await);
        assert_eq!(bench.dead_letters().await.len(), 2);

        // When there is room again, every dead letter is stored.
        add(store, counted, -limit).await;
        usage::forget_not_stored(store).await.unwrap();
        bench.publish(&jobs[1..3]).await;
        wait_for_dead_letters(&bench, 4).await;
        stop(running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counts_agree_with_the_dead_letters_after_every_operation() {
    let bench = WorkerFixture::new(&[1]).await;
    let store = &*bench.store;
    let running = bench.start(bench.store.clone());
    let jobs: Vec<Job> = (10..15).map(|n| unreadable(n, "a reason")).collect();
    bench.publish(&jobs).await;
    wait_for_dead_letters(&bench, 5).await;
    // A job that fails again has the same dead letter.
    let again = [jobs[0].clone(), jobs[1].clone(), webhook_job(1, "one")];
    bench.publish(&again).await;
    bench.wait_for_name(1, "one").await;
    wait_for_dead_letters(&bench, 5).await;
    // A command that failed after it had erased the Page is repeated. An id that no Page has deletes
    // nothing, although every job contains its digit.
    let page = PageId::parse("12").unwrap();
    let now = Clock::system().now();
    pages::register(store, std::slice::from_ref(&page), now)
        .await
        .unwrap();
    erasure::erase_pages(store, &[page], now).await.unwrap();
    let erase = EraseCommand::Page {
        ids: vec!["12".to_owned(), "2".to_owned()],
        dry_run: false,
    };
    pagesync::erase::run(&command_config(), store, erase, Format::Table)
        .await
        .unwrap();
    wait_for_dead_letters(&bench, 4).await;
    let ids = [&jobs[0], &jobs[1]].map(dead_letter::id);
    let chosen = dead_letter::load_chosen(store, &ids).await.unwrap();
    dead_letter::discard(store, &chosen).await.unwrap();
    wait_for_dead_letters(&bench, 2).await;
    stop(running).await;
    assert!(replay_all(&bench).await);
    wait_for_dead_letters(&bench, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dead_letters_that_may_succeed_are_listed_for_the_retries() {
    let bench = WorkerFixture::new(&[]).await;
    let store = &*bench.store;
    let newer = unreadable(1, &format!("{NEWER_VERSION_PREFIX}: 9"));
    let jobs = [unreadable(2, "a reason"), newer, unreadable(3, "a reason")];
    for job in &jobs {
        let Job::Unreadable(Unreadable { reason, .. }) = job else {
            unreachable!("every job is unreadable")
        };
        let (mut usage, now) = (usage_of(store).await, Clock::system().now());
        dead_letter::save(store, &mut usage, job, reason, now, &[])
            .await
            .unwrap();
    }
    let listed = || async {
        let found = dead_letter::next_retryable(store, &mut None).await.unwrap();
        found.map(|found| found.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
    };
    assert_eq!(listed().await, Some(vec![dead_letter::id(&jobs[1])]));
    dead_letter::remove(store, &dead_letter::id(&jobs[1]))
        .await
        .unwrap();
    assert_eq!(listed().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_a_newer_version_is_ignored_and_dead_letters_are_stored() {
    let bench = WorkerFixture::new(&[]).await;
    let day = Clock::system().now().0 / 86_400_000;
    let kind = RecordKind::DeadLetterCount;
    for id in [
        format!("{day}.count"),
        format!("{day}.of a newer version"),
        "x".to_owned(),
    ] {
        let newer = put_write(RecordKey::new(kind, id), &json!({"n": 1}), None, None);
        write_records(&*bench.store, vec![newer]).await.unwrap();
    }
    let running = bench.start(bench.store.clone());
    bench.publish(&[unreadable(1, "a reason")]).await;
    eventually("a dead letter", || async {
        (bench.dead_letters().await.len() == 1).then_some(())
    })
    .await;
    usage::prune(&*bench.store).await.unwrap();
    stop(running).await;
}
