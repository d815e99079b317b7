//! Erases a person while polls, subscriptions, webhooks and logins of the same person run
//! concurrently, in random orders.

use std::sync::Arc;
use std::time::Duration;

use common::queue::Queue;
use common::records::connection::{self, Connection};
use common::records::{erasure, load_all, missed_webhooks, token, token_exchange};
use common::store::{RecordKind, StoredPage};
use model::id::{LoginId, PageId, Subject, UserId};
use model::job::{Claim, Job};
use model::page::Status;
use model::polling::Polling;
use model::queue_name::QueueName;
use serde_json::{Value as Json, json};
use simulator::people::Person;

use crate::BACKEND;
use crate::support::deployment::{TestStorage, worker_context_with};
use crate::support::facebook::{facebook, settings};
use crate::support::faulty_store::FaultyStore;
use crate::support::{page_id, webhook_job};

/// A text that is planted in values of Pages. It must be stored nowhere after the erasures. It
/// differs from the text in `erasure.rs`, because all tests share the append-only file of Redis.
const PLANTED: &str = "SOWNdeadbeef";

/// A person with two Pages. Each runs a sequence of interleavings.
struct Owner {
    user: UserId,
    pages: Vec<u64>,
}

/// Runs one interleaving: a connection poll, a read of a Page, a subscription, a webhook and a
/// login run while the person is erased. Checks that no data is left.
async fn interleave(
    context: &worker::context::Context,
    owner: &Owner,
    simulator: &simulator::Simulator,
    seed: u64,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    let now = context.clock.now();
    let text = simulator.facebook().issue(
        simulator::token::TokenOwner::User,
        owner.user.as_str(),
        None,
    );
    let mut polling = Polling::default();
    polling.request_read(now);
    let connection: Connection = serde_json::from_value(json!({
        "user": owner.user, "connected_at": now, "polling": polling,
    }))
    .unwrap();
    let stored = connection::find(&*context.store, &owner.user)
        .await
        .unwrap();
    let mut login =
        connection::update_commit(&connection, stored.map_or(0, |stored| stored.version));
    let keys = context.keyring.keys().unwrap();
    let token = common::sealing::Token::new(text);
    login.records.push(
        token::seal_write(
            token::user_key(&owner.user),
            Some(&token),
            keys.current(),
            now,
        )
        .unwrap(),
    );
    context.store.commit(&[login]).await.unwrap();
    let poll = |subject: Subject| {
        Job::Poll(Claim {
            subject,
            queue: QueueName::PollsNow,
            due_at: now,
        })
    };
    let page = page_id(owner.pages[0]);
    let connection_poll = poll(Subject::Connection(owner.user.clone()));
    // In half of the interleavings a connection poll has already given the Page a token.
    if random.bool() {
        do_job(context, &connection_poll).await;
        let stored = connection::find(&*context.store, &owner.user)
            .await
            .unwrap()
            .unwrap();
        let mut again = stored.value;
        again
            .polling
            .request_read(context.clock.now().plus(Duration::from_millis(1)));
        again.polling.last_attempt_began = None;
        context
            .store
            .commit(&[connection::update_commit(&again, stored.version)])
            .await
            .unwrap();
        crate::support::request_read(&*context.store, &page, context.clock.now())
            .await
            .unwrap();
    }
    let webhook = webhook_job(owner.pages[0], &format!("{PLANTED} {}", random.u32(..)));
    let login = add_login(context, owner, simulator, &mut random).await;
    let jobs = [
        connection_poll,
        poll(Subject::Page(page.clone())),
        poll(Subject::PageSubscription(page)),
        webhook,
        poll(Subject::Login(login)),
    ];
    let yields = random.u32(0..400);
    let erasure = async {
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        erasure::erase_user(&*context.store, &owner.user, context.clock.now(), None)
            .await
            .unwrap();
    };
    let [one, two, three, four, five] = &jobs;
    tokio::join!(
        do_job(context, one),
        do_job(context, two),
        do_job(context, three),
        do_job(context, four),
        do_job(context, five),
        erasure,
    );
    // If the webhook was applied before the Page was erased, its value is erased as well.
    let store = &*context.store;
    for kind in [
        RecordKind::PageToken,
        RecordKind::UserToken,
        RecordKind::Connection,
    ] {
        let left = store.list_records(kind, None, 1000).await.unwrap();
        let left = left
            .iter()
            .filter(|(key, _)| key.id.starts_with(owner.user.as_str()));
        assert_eq!(left.count(), 0, "a {kind:?} is left");
    }
    let ids: Vec<PageId> = owner.pages.iter().map(|n| page_id(*n)).collect();
    for (id, stored) in ids.iter().zip(store.load_pages(&ids).await.unwrap()) {
        match stored.value {
            StoredPage::Unknown => {}
            StoredPage::Page(page) => {
                assert_eq!(page.status, Status::Erased, "Page {id} is not erased");
            }
            StoredPage::Corrupt(corrupt) => panic!("{corrupt:?}"),
        }
        assert!(store.history(id).await.unwrap().is_empty());
        let changes = load_all::<Json>(
            store,
            RecordKind::UnannouncedChange,
            &missed_webhooks::page_prefix(id),
        )
        .await
        .unwrap();
        assert!(changes.is_empty());
        let subscription = common::records::page_subscription::key(id);
        assert_eq!(store.load_record(&subscription).await.unwrap(), None);
    }
}

/// Adds a login of the owner. Its code has been exchanged, and its token is sealed.
async fn add_login(
    context: &worker::context::Context,
    owner: &Owner,
    simulator: &simulator::Simulator,
    random: &mut fastrand::Rng,
) -> LoginId {
    let token_owner = simulator::token::TokenOwner::User;
    let text = simulator
        .facebook()
        .issue(token_owner, owner.user.as_str(), None);
    let id = LoginId::parse(&format!("{:064x}", random.u128(..))).unwrap();
    let keys = context.keyring.keys().unwrap();
    let token = common::sealing::Token::new(text);
    let sealed = keys
        .current()
        .seal(&token, &token_exchange::seal_name(&id))
        .unwrap();
    let record = token_exchange::TokenExchange::new(sealed, context.clock.now(), false);
    let put = common::records::put_write(token_exchange::key(&id), &record, None, None);
    common::records::write_records(&*context.store, vec![put])
        .await
        .unwrap();
    id
}

/// Processes a job as the worker does.
async fn do_job(context: &worker::context::Context, job: &Job) {
    worker::apply_jobs(context, std::slice::from_ref(job))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_concurrent_job_restores_erased_data_in_a_thousand_interleavings() {
    const OWNERS: u64 = 8;
    const ROUNDS: u64 = 125;
    let (simulator, address) = facebook("http://127.0.0.1:9", 0).await;
    let storage = TestStorage::new(BACKEND).await;
    let (queue, store): (Arc<dyn Queue>, _) = (storage.queue().await, storage.store());
    let seed = fastrand::u64(..);
    println!("interleavings of seed {seed}");
    let delaying = FaultyStore::with_random_delays(store, seed);
    let extra = settings("http://127.0.0.1:9", &address);
    let context = worker_context_with(&storage, queue, delaying, &extra);
    let mut owners = Vec::new();
    for owner in 0..OWNERS {
        let user = UserId::parse(&format!("30000000000000{owner}")).unwrap();
        let pages: Vec<u64> = (1..=2).map(|n| 700_000 + owner * 10 + n).collect();
        for page in &pages {
            let page = json!({"id": page.to_string(), "name": PLANTED, "about": PLANTED});
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
        let person = json!({"id": user, "name": "Owner", "pages": ids, "permissions": permissions});
        let person: Person = serde_json::from_value(person).unwrap();
        simulator.facebook().people.insert(user.to_string(), person);
        owners.push(Owner { user, pages });
    }
    let mut running = tokio::task::JoinSet::new();
    for (n, owner) in owners.into_iter().enumerate() {
        let (context, simulator) = (context.clone(), simulator.clone());
        running.spawn(async move {
            for round in 0..ROUNDS {
                let seed = seed ^ (n as u64 * ROUNDS + round);
                Box::pin(interleave(&context, &owner, &simulator, seed)).await;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    context.store.scrub().await.unwrap();
    assert!(!storage.everything_stored().await.contains(PLANTED));
}
