//! Erasures while polls, subscriptions, webhooks and logins of the same person are under way, in a
//! different order every time.

use std::sync::Arc;
use std::time::Duration;

use common::queue::Queue;
use common::records::connection::{self, Connection};
use common::records::{erasure, grant, load_all, missed_webhooks, token};
use common::store::{RecordKind, StoredPage};
use model::id::{GrantId, PageId, Subject, UserId};
use model::job::{Claim, Job};
use model::page::Status;
use model::polling::Polling;
use model::queue_name::QueueName;
use serde_json::{Value as Json, json};
use simulator::facebook::Person;

use crate::BACKEND;
use crate::support::deployment::{Place, worker_context_with};
use crate::support::facebook::{facebook, settings};
use crate::support::faulty_store::FaultyStore;
use crate::support::{page_id, webhook_job};

/// What must be nowhere afterwards. Of its own: tests share a server, and it one append-only file.
const SOWN: &str = "SOWNdeadbeef";

/// A person of their own with two Pages, for one line of interleavings.
struct Line {
    user: UserId,
    pages: Vec<u64>,
}

/// One interleaving: a walk, a read of a Page, a subscription and a webhook run while the person is
/// forgotten.
async fn interleave(
    parts: &worker::context::Context,
    line: &Line,
    simulator: &simulator::Simulator,
    chance: u64,
) {
    let mut chance = fastrand::Rng::with_seed(chance);
    let now = parts.clock.now();
    let text =
        simulator
            .facebook()
            .issue(simulator::token::TokenOwner::User, line.user.as_str(), None);
    let mut polling = Polling::default();
    polling.request_read(now);
    let connection: Connection = serde_json::from_value(json!({
        "user": line.user, "connected": now, "polling": polling,
    }))
    .unwrap();
    let stored = connection::find(&*parts.store, &line.user).await.unwrap();
    let mut login = connection::save_commit(&connection, stored.map_or(0, |stored| stored.version));
    let keys = parts.keyring.keys().unwrap();
    let given = common::sealing::Token::new(text);
    login.records.push(
        token::seal_write(
            token::user_key(&line.user),
            Some(&given),
            keys.current(),
            now,
        )
        .unwrap(),
    );
    parts.store.commit(&[login]).await.unwrap();
    let poll = |subject: Subject| {
        Job::Poll(Claim {
            subject,
            queue: QueueName::PollsNow,
            due_at: now,
        })
    };
    let page = page_id(line.pages[0]);
    let walk = poll(Subject::Connection(line.user.clone()));
    // Sometimes the walk has already been, so that the Page has a token.
    if chance.bool() {
        work(parts, &walk).await;
        let stored = connection::find(&*parts.store, &line.user)
            .await
            .unwrap()
            .unwrap();
        let mut again = stored.value;
        again
            .polling
            .request_read(parts.clock.now().plus(Duration::from_millis(1)));
        again.polling.last_attempt_began = None;
        parts
            .store
            .commit(&[connection::save_commit(&again, stored.version)])
            .await
            .unwrap();
        common::pages::request_read(&*parts.store, &page, parts.clock.now())
            .await
            .unwrap();
    }
    let webhook = webhook_job(line.pages[0], &format!("{SOWN} {}", chance.u32(..)));
    let grant = a_login(parts, line, simulator, &mut chance).await;
    let jobs = [
        walk,
        poll(Subject::Page(page.clone())),
        poll(Subject::Subscription(page)),
        webhook,
        poll(Subject::Grant(grant)),
    ];
    let wait = chance.u32(0..400);
    let erasing = async {
        for _ in 0..wait {
            tokio::task::yield_now().await;
        }
        erasure::erase_user(&*parts.store, &line.user, parts.clock.now())
            .await
            .unwrap();
    };
    let [one, two, three, four, five] = &jobs;
    tokio::join!(
        work(parts, one),
        work(parts, two),
        work(parts, three),
        work(parts, four),
        work(parts, five),
        erasing,
    );
    // A delivery that found the Page before it was forgotten may have been applied; then it is
    // forgotten with it.
    let store = &*parts.store;
    for kind in [
        RecordKind::PageToken,
        RecordKind::UserToken,
        RecordKind::Connection,
    ] {
        let left = store.list_records(kind, None, 1000).await.unwrap();
        let left = left
            .iter()
            .filter(|(key, _)| key.id.starts_with(line.user.as_str()));
        assert_eq!(left.count(), 0, "a {kind:?} came back");
    }
    let ids: Vec<PageId> = line.pages.iter().map(|n| page_id(*n)).collect();
    for (id, stored) in ids.iter().zip(store.load_pages(&ids).await.unwrap()) {
        match stored.value {
            StoredPage::Unknown => {}
            StoredPage::Page(page) => {
                assert_eq!(page.status, Status::Erased, "Page {id} came back")
            }
            StoredPage::Corrupt(corrupt) => panic!("{corrupt:?}"),
        }
        assert!(store.history(id).await.unwrap().is_empty());
        let gaps = load_all::<Json>(
            store,
            RecordKind::UnannouncedChange,
            &missed_webhooks::page_prefix(id),
        )
        .await
        .unwrap();
        assert!(gaps.is_empty());
        let subscription = common::records::subscription::key(id);
        assert_eq!(store.load_record(&subscription).await.unwrap(), None);
    }
}

/// A login of the same person whose code was just exchanged.
async fn a_login(
    parts: &worker::context::Context,
    line: &Line,
    simulator: &simulator::Simulator,
    chance: &mut fastrand::Rng,
) -> GrantId {
    let kind = simulator::token::TokenOwner::User;
    let text = simulator.facebook().issue(kind, line.user.as_str(), None);
    let id = GrantId::parse(&format!("{:064x}", chance.u128(..))).unwrap();
    let keys = parts.keyring.keys().unwrap();
    let token = common::sealing::Token::new(text);
    let sealed = keys.current().seal(&token, &grant::seal_name(&id)).unwrap();
    let record = grant::Grant {
        began_at: parts.clock.now(),
        failures: 0,
        stage: grant::Stage::Sealed(sealed),
    };
    let put = common::records::put_write(grant::key(&id), &record, None, None);
    common::records::write_records(&*parts.store, vec![put])
        .await
        .unwrap();
    id
}

/// Does a job as a worker would that received it.
async fn work(parts: &worker::context::Context, job: &Job) {
    worker::apply_jobs(parts, std::slice::from_ref(job))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_under_way_cannot_write_back_what_is_erased_in_a_thousand_interleavings() {
    const LINES: u64 = 8;
    const ROUNDS: u64 = 125;
    let (simulator, address) = facebook("http://127.0.0.1:9", 0).await;
    let place = Place::new(BACKEND).await;
    let (queue, store): (Arc<dyn Queue>, _) = (place.queue().await, place.store());
    let seed = fastrand::u64(..);
    println!("interleavings of seed {seed}");
    let hesitant = FaultyStore::hesitant(store, seed);
    let extra = settings("http://127.0.0.1:9", &address);
    let parts = worker_context_with(&place, queue, hesitant, &extra);
    let mut lines = Vec::new();
    for line in 0..LINES {
        let user = UserId::parse(&format!("30000000000000{line}")).unwrap();
        let pages: Vec<u64> = (1..=2).map(|n| 700_000 + line * 10 + n).collect();
        for page in &pages {
            let page = json!({"id": page.to_string(), "name": SOWN, "about": SOWN});
            simulator.put_page(page.as_object().unwrap()).unwrap();
        }
        let ids: Vec<String> = pages.iter().map(ToString::to_string).collect();
        let scopes = [
            "pages_show_list",
            "pages_read_engagement",
            "pages_manage_metadata",
            "business_management",
        ];
        let permissions: Json = scopes
            .iter()
            .map(|name| ((*name).to_owned(), Json::Bool(true)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let person = json!({"id": user, "name": "Line", "pages": ids, "permissions": permissions});
        let person: Person = serde_json::from_value(person).unwrap();
        simulator.facebook().people.insert(user.to_string(), person);
        lines.push(Line { user, pages });
    }
    let mut running = tokio::task::JoinSet::new();
    for (n, line) in lines.into_iter().enumerate() {
        let (parts, simulator) = (parts.clone(), simulator.clone());
        running.spawn(async move {
            for round in 0..ROUNDS {
                let chance = seed ^ (n as u64 * ROUNDS + round);
                Box::pin(interleave(&parts, &line, &simulator, chance)).await;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    parts.store.scrub().await.unwrap();
    assert!(!place.everything_kept().await.contains(SOWN));
}
