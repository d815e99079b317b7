//! Rounds: load, a fault at a random point, recovery, and the search for every webhook.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::clock::Clock;
use common::database::{Access, Database};
use common::pages::registration_commit;
use common::queue::Queue;
use common::queue::embedded::EmbeddedQueue;
use common::records::dead_letter;
use common::store::{Commit, CommitOutcome, Store, StoredPage, Versioned};
use model::id::PageId;
use model::polling::Polling;
use model::queue_name::QueueName;
use serde_json::Value as Json;

use crate::Tally;
use crate::load::{CONNECTIONS, Load, name_of};
use crate::support::deployment::Place;
use crate::support::engine::{Kind, Server};
use crate::support::process::Process;
use crate::support::servers::{database, vhost};
use crate::support::{TestBackend, page_id, within};

/// Webhooks in a round.
const WEBHOOKS: u64 = 1000;
/// In flight at each kill, at least.
const IN_FLIGHT: u64 = 200;
/// How long the worker may take to work off what a round left.
const PATIENCE: Duration = Duration::from_secs(90);

/// No first read: a poll would be a write of its own, and writes are counted.
fn without_read(mut registration: Commit) -> Commit {
    registration.due.clear();
    if let Some(write) = &mut registration.page {
        write.page.polling = Polling::default();
    }
    registration
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillIngress,
    KillWorker,
    KillBoth,
    Terminate,
    RestartBroker,
    RestartRedis,
}

/// A deployment of processes.
struct Scene {
    /// In a distributed deployment ingress, worker, scheduler; else the one process.
    processes: Vec<Process>,
    servers: Option<(Server, Server)>,
    place: Place,
    store: Arc<dyn Store>,
    next_page: u64,
}

/// Runs every fault of a backend `rounds` times.
pub(crate) async fn run(
    backend: TestBackend,
    rounds: u32,
    chance: &mut fastrand::Rng,
    tally: &mut Tally,
) {
    let mut scene = Scene::new(backend).await;
    let faults: &[Fault] = match backend {
        TestBackend::Embedded => &[Fault::KillBoth, Fault::Terminate],
        TestBackend::Distributed => &[
            Fault::KillIngress,
            Fault::KillWorker,
            Fault::KillBoth,
            Fault::Terminate,
            Fault::RestartBroker,
            Fault::RestartRedis,
        ],
    };
    for fault in faults {
        let (mut least_in_flight, mut recoveries) = (u64::MAX, Vec::new());
        for _ in 0..rounds {
            let (in_flight, recovery) = scene.round(*fault, chance, tally).await;
            least_in_flight = least_in_flight.min(in_flight);
            recoveries.push(recovery);
        }
        recoveries.sort_unstable();
        let (median, longest) = (
            recoveries[recoveries.len() / 2],
            recoveries[recoveries.len() - 1],
        );
        println!(
            "{backend:?} {fault:?}: {rounds} rounds, in flight at least {least_in_flight}, recovered after {} ms, at most {} ms",
            median.as_millis(),
            longest.as_millis()
        );
    }
    scene.audit(tally).await;
}

impl Scene {
    async fn new(backend: TestBackend) -> Self {
        let (place, servers) = match backend {
            TestBackend::Embedded => (Place::new(backend).await, None),
            TestBackend::Distributed => {
                let broker = Server::start(Kind::RabbitMq).await;
                let redis = Server::start(Kind::Redis).await;
                let place = Place::Distributed {
                    vhost: vhost(&broker).await,
                    redis: database(&redis),
                };
                (place, Some((broker, redis)))
            }
        };
        // A kill of Redis must not take what was acknowledged: polls that heal it come later.
        let fsync = [("PAGESYNC_REDIS_DURABILITY", "fsync")];
        let mut processes = Vec::new();
        for role in place.roles() {
            let environment = place.environment(role, &fsync);
            processes.push(Process::start(role.name(), environment).await);
        }
        let store = place.store();
        Self {
            processes,
            servers,
            place,
            store,
            next_page: 1_000_000,
        }
    }

    /// One round; answers with what was in flight at the fault and how long recovery took.
    async fn round(
        &mut self,
        fault: Fault,
        chance: &mut fastrand::Rng,
        tally: &mut Tally,
    ) -> (u64, Duration) {
        let pages: Vec<u64> = (self.next_page..self.next_page + WEBHOOKS).collect();
        self.next_page += WEBHOOKS;
        self.register(&pages).await;
        let load = Load::start(&self.processes[0].webhook_url(), pages.clone());
        let strike_at = chance.u64(50..=WEBHOOKS - 3 * CONNECTIONS as u64);
        let counts = load.counts.clone();
        within(PATIENCE, "the load to be under way", || async {
            let answered = counts.answered.load(Ordering::SeqCst);
            (answered >= strike_at).then_some(())
        })
        .await;
        let in_flight = counts.in_flight.load(Ordering::SeqCst);
        assert!(in_flight >= IN_FLIGHT, "{in_flight} in flight at the fault");
        let up = self.strike(fault).await;
        let recovered = self.recovery(fault, &load, &pages, up).await;
        let counts = load.finish().await;
        tally.attempted += counts.attempted.load(Ordering::SeqCst);
        tally.acknowledged += counts.answered.load(Ordering::SeqCst);
        tally.lost += self.search(&pages).await;
        (in_flight, recovered)
    }

    /// How long after `up` work went on: an answer to Facebook, or a Page that got its name where
    /// the fault was behind the queue.
    async fn recovery(&self, fault: Fault, load: &Load, pages: &[u64], up: Instant) -> Duration {
        let behind = matches!(fault, Fault::KillWorker | Fault::RestartRedis);
        let done = async || {
            if behind {
                self.unnamed(pages)
                    .await
                    .map(|unnamed| WEBHOOKS - unnamed.len() as u64)
            } else {
                Some(load.counts.answered.load(Ordering::SeqCst))
            }
        };
        let before = done().await.unwrap_or(0);
        within(PATIENCE, "work to go on after the fault", || async {
            let more = done()
                .await
                .is_some_and(|now| now > before || now >= WEBHOOKS);
            more.then(|| up.elapsed())
        })
        .await
    }

    /// The Pages without a name; `None` while the store does not answer.
    async fn unnamed(&self, pages: &[u64]) -> Option<Vec<u64>> {
        let ids: Vec<PageId> = pages.iter().map(|page| page_id(*page)).collect();
        let stored = self.store.load_pages(&ids).await.ok()?;
        let named = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if !page.registers.is_empty());
        let unnamed = pages
            .iter()
            .zip(stored)
            .filter(|(_, stored)| !named(stored));
        Some(unnamed.map(|(page, _)| *page).collect())
    }

    async fn register(&self, pages: &[u64]) {
        let now = Clock::system().now();
        let commits: Vec<Commit> = pages
            .iter()
            .map(|page| registration_commit(&page_id(*page), 0, now))
            .map(without_read)
            .collect();
        // A server that was just restarted may be late with an answer; then what stands is stale.
        let late = AtomicBool::new(false);
        let outcomes = within(PATIENCE, "the Pages to be registered", || async {
            let done = self.store.commit(&commits).await;
            late.fetch_or(done.is_err(), Ordering::SeqCst);
            done.ok()
        })
        .await;
        let stood = late.into_inner();
        let right = |outcome: &CommitOutcome| *outcome == CommitOutcome::Applied || stood;
        assert!(outcomes.iter().all(right), "{outcomes:?}");
    }

    /// Does it and undoes it; answers with when everything was up again.
    async fn strike(&mut self, fault: Fault) -> Instant {
        match fault {
            Fault::KillIngress => self.kill_and_start(0..1).await,
            Fault::KillWorker => self.kill_and_start(1..2).await,
            Fault::KillBoth => self.kill_and_start(0..self.processes.len()).await,
            // I13: under load, so in the middle of whatever there is to be in the middle of.
            Fault::Terminate => {
                for process in &mut self.processes {
                    process.terminate().await;
                    process.start_again().await;
                }
            }
            Fault::RestartBroker | Fault::RestartRedis => {
                let (broker, redis) = self.servers.as_ref().expect("a distributed deployment");
                let server = if fault == Fault::RestartBroker {
                    broker
                } else {
                    redis
                };
                server.kill().await;
                server.start_again().await;
            }
        }
        Instant::now()
    }

    async fn kill_and_start(&mut self, which: std::ops::Range<usize>) {
        for process in &mut self.processes[which.clone()] {
            process.kill();
        }
        for process in &mut self.processes[which] {
            process.start_again().await;
        }
    }

    /// Waits until every Page has its name; answers how many never got it.
    async fn search(&self, pages: &[u64]) -> u64 {
        let mut missing: Vec<u64> = pages.to_vec();
        let begun = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !missing.is_empty() && begun.elapsed() < PATIENCE {
            look.tick().await;
            if let Some(unnamed) = self.unnamed(&missing).await {
                missing = unnamed;
            }
        }
        for page in missing.iter().take(3) {
            println!("lost: the webhook of Page {page}");
        }
        missing.len() as u64
    }

    /// Ends the processes in order, then counts effects and leftovers over all Pages of the run.
    async fn audit(&mut self, tally: &mut Tally) {
        let queue = self.drained(tally).await;
        for process in &mut self.processes {
            process.terminate().await;
        }
        for first in (1_000_000..self.next_page).step_by(500) {
            let pages: Vec<u64> = (first..(first + 500).min(self.next_page)).collect();
            let ids: Vec<PageId> = pages.iter().map(|page| page_id(*page)).collect();
            let loaded = within(PATIENCE, "the Pages", || async {
                self.store.load_pages(&ids).await.ok()
            });
            for (page, stored) in pages.iter().zip(loaded.await) {
                let Versioned {
                    version,
                    value: StoredPage::Page(state),
                } = stored
                else {
                    tally.unexpected += 1;
                    continue;
                };
                let value = state
                    .registers
                    .values()
                    .next()
                    .and_then(|register| register.value.as_ref());
                let is_right = value.map(model::value::CanonicalValue::to_json)
                    == Some(Json::from(name_of(*page)));
                tally.unexpected +=
                    u64::from(value.is_some() && (!is_right || state.registers.len() != 1));
                // Registered, named: each further write is an effect too many.
                tally.duplicated += u64::from(version > 2);
            }
        }
        let letters = within(PATIENCE, "the dead letters", || async {
            dead_letter::all(&*self.store).await.ok()
        })
        .await;
        for (_, letter) in letters.iter().take(3) {
            println!("unexpected: a dead letter, {}", letter.reason);
        }
        tally.unexpected += letters.len() as u64;
        // What came back unacknowledged after the end of the last process.
        for queue_name in QueueName::ALL {
            tally.unexpected += queue.depth(queue_name).await.unwrap().messages;
        }
    }

    /// Waits until the queues are worked off: the search ends with the last name it needs, while the
    /// repeated half of a webhook sent twice may still be waiting.
    async fn drained(&self, tally: &mut Tally) -> Arc<dyn Queue> {
        let queue = match &self.place {
            Place::Embedded(directory) => {
                let database = Database::open(directory.path(), Access::Shared).unwrap();
                Arc::new(
                    EmbeddedQueue::open(Arc::new(database), Access::Shared)
                        .await
                        .unwrap(),
                )
            }
            Place::Distributed { .. } => self.place.queue().await,
        };
        let begun = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(20));
        let mut waiting = 1;
        while waiting > 0 && begun.elapsed() < PATIENCE {
            look.tick().await;
            waiting = 0;
            for queue_name in QueueName::ALL {
                waiting += queue.depth(queue_name).await.unwrap().messages;
            }
        }
        if waiting > 0 {
            println!("unexpected: {waiting} messages are not worked off");
            tally.unexpected += waiting;
        }
        queue
    }
}
