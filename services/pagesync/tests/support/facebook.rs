//! A deployment with a Facebook of its own: logins by the real flow, Pages, knobs.

use std::time::Duration;

use common::clock::Clock;
use common::config::{Config, Role};
use common::pages;
use common::records::connection::{self, Connection};
use model::field::FieldName;
use model::id::PageId;
use model::page::Page;
use model::time::HostTime;
use pagesync::roles;
use serde_json::{Value as Json, json};
use simulator::browser::{Decision, LoginBrowser};
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

use super::deployment::{APP_ID, APP_SECRET, Deployment, Place};
use super::{TestBackend, eventually, own_port};

/// A deployment and the Facebook it talks to.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) deployment: Deployment,
    pub(crate) simulator: Simulator,
    /// Where Facebook is.
    pub(crate) facebook: String,
    /// Where we are, as people see us.
    pub(crate) public: String,
    /// Our clock.
    pub(crate) clock: Clock,
    /// The settings of its roles beside the usual ones.
    pub(crate) settings: Vec<(String, String)>,
}

/// How a scene differs from the usual one.
#[derive(Debug, Clone)]
pub(crate) struct Scene<'a> {
    pub(crate) extra: &'a [(&'a str, &'a str)],
    pub(crate) clock: Clock,
    /// Further schedulers, on the distributed backend.
    pub(crate) schedulers: usize,
    pub(crate) pages: usize,
    /// The host people's browsers reach Facebook at.
    pub(crate) dialog_host: &'a str,
    /// The roles that are started; empty: all of the backend.
    pub(crate) only: &'a [Role],
}

impl Default for Scene<'_> {
    fn default() -> Self {
        Self {
            extra: &[],
            clock: Clock::system(),
            schedulers: 1,
            pages: 3,
            dialog_host: "127.0.0.1",
            only: &[],
        }
    }
}

/// The id of Page `n` of a scene.
pub(crate) fn nth(n: usize) -> String {
    format!("{}", 100_000_000_000_001 + n)
}

/// Page `n` as Facebook has it.
pub(crate) fn page(n: usize) -> simulator::pages::Page {
    let id = nth(n);
    let page = json!({
        "id": id, "name": format!("Page {n}"), "category": "Coffee shop", "about": "about",
        "category_list": [{"id": "197871390225897", "name": "Coffee shop"}],
        "description": "description", "website": "https://page.example", "phone": "+49 30 1",
        "link": format!("https://www.facebook.com/{id}"), "username": format!("page{n}"),
        "emails": ["a@page.example"], "single_line_address": "Street 1, Town",
        "location": {"city": "Town", "latitude": 52.520_006_6, "longitude": 13.404_954},
        "hours": {"mon_1_open": "09:00", "mon_1_close": "17:00"},
        "picture": {"data": {"cache_key": id, "is_silhouette": false, "url": format!("https://cdn.example/{id}.jpg")}},
        "fan_count": 17, "followers_count": 18, "verification_status": "not_verified",
        "is_published": true, "is_permanently_closed": false,
    });
    page.as_object().cloned().unwrap()
}

/// A Facebook on a free port, with these Pages, that serves until the test ends.
pub(crate) async fn facebook(public: &str, pages: usize) -> (Simulator, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let simulator = Simulator::start(&Options {
        app: App {
            id: APP_ID.to_owned(),
            secret: APP_SECRET.to_owned(),
            redirect_uris: vec![format!("{public}/facebook/callback")],
        },
        callback: None,
        seed: 7,
        delivery_faults: DeliveryFaults::default(),
    });
    for n in 0..pages {
        simulator.put_page(&page(n)).unwrap();
    }
    tokio::spawn(simulator::serve(simulator.clone(), listener));
    (simulator, address)
}

/// The settings that make a deployment at `public` talk to that Facebook.
pub(crate) fn settings(public: &str, facebook: &str) -> Vec<(String, String)> {
    [
        ("PAGESYNC_GRAPH_URL", facebook.to_owned()),
        ("PAGESYNC_DIALOG_URL", facebook.to_owned()),
        (
            "PAGESYNC_LISTEN",
            public.trim_start_matches("http://").to_owned(),
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            format!("{public}/facebook/callback"),
        ),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            format!("{public}/facebook/webhook"),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

impl Connected {
    /// A deployment on this backend, nobody logged in.
    pub(crate) async fn start(backend: TestBackend, scene: Scene<'_>) -> Self {
        let public = format!("http://127.0.0.1:{}", own_port());
        let (simulator, facebook) = facebook(&public, scene.pages).await;
        let place = Place::new(backend).await;
        let mut settings = settings(&public, &facebook);
        let dialog = facebook.replace("127.0.0.1", scene.dialog_host);
        settings.push(("PAGESYNC_DIALOG_URL".to_owned(), dialog));
        settings.extend(
            scene
                .extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let mut wanted = if scene.only.is_empty() {
            place.roles()
        } else {
            scene.only.to_vec()
        };
        if backend == TestBackend::Distributed {
            wanted.extend(vec![Role::Scheduler; scene.schedulers - 1]);
        }
        let extra: Vec<(&str, &str)> = settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let deployment = Deployment::start_roles(place, &wanted, &extra, &scene.clock).await;
        Self {
            deployment,
            simulator,
            facebook,
            public,
            clock: scene.clock,
            settings,
        }
    }

    /// Starts one more role.
    pub(crate) async fn add_role(&mut self, role: Role) {
        let extra: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let environment = self.deployment.place.environment(role, &extra);
        let config = Config::read(&environment, role).unwrap();
        let running = roles::start(&config, role, self.clock.clone(), None)
            .await
            .unwrap();
        self.deployment.roles.push((role, running));
    }

    pub(crate) fn login(&self) -> String {
        format!("{}/facebook/login", self.public)
    }

    /// Logs in and allows everything; answers with status and body of the callback.
    pub(crate) async fn connect(&self) -> (u16, Json) {
        self.connect_as(&Decision::default()).await
    }

    /// A new browser that decided in the dialog, and the address it is sent back to.
    pub(crate) async fn visit(&self, decision: &Decision) -> (LoginBrowser, String) {
        let mut visitor = LoginBrowser::new().unwrap();
        let sent = visitor.log_in(&self.login(), decision).await;
        (visitor, sent.unwrap().unwrap())
    }

    /// The same for a decision. A login that takes longer than an answer may is asked after again, as
    /// its page does.
    pub(crate) async fn connect_as(&self, decision: &Decision) -> (u16, Json) {
        let (mut visitor, callback) = self.visit(decision).await;
        let begun = std::time::Instant::now();
        loop {
            let (status, body) = answer(visitor.get(&callback).await.unwrap()).await;
            if body["connection"]["status"] != "pending" {
                return (status, body);
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{body}");
        }
    }

    /// The same, asked once.
    pub(crate) async fn connect_once(&self) -> (u16, Json) {
        let (mut visitor, callback) = self.visit(&Decision::default()).await;
        answer(visitor.get(&callback).await.unwrap()).await
    }

    /// Page `n` as we have it.
    pub(crate) async fn page(&self, n: usize) -> Page {
        let stored = self.deployment.page(&PageId::parse(&nth(n)).unwrap()).await;
        stored.unwrap_or_else(|| panic!("there is no Page {n}")).1
    }

    /// A field of Page `n` as we have it; null if it is unknown or has no value.
    pub(crate) async fn field(&self, n: usize, name: &str) -> Json {
        field(&self.page(n).await, name)
    }

    /// Asks for a read of Page `n` and waits until an attempt that began later has ended.
    pub(crate) async fn read_again(&self, n: usize) -> Page {
        let id = PageId::parse(&nth(n)).unwrap();
        let before = self.deployment.page(&id).await.unwrap().1.polling;
        pages::request_read(&*self.deployment.store, &id, self.clock.now())
            .await
            .unwrap()
            .unwrap();
        eventually("a read", || async {
            let page = self.deployment.page(&id).await?.1;
            (page.polling.last_attempt_began > before.last_attempt_began).then_some(page)
        })
        .await
    }

    /// Moves our clock and Facebook's by as much.
    pub(crate) fn advance(&self, by: Duration) {
        self.simulator.facebook().clock_offset_seconds += i64::try_from(by.as_secs()).unwrap();
        self.clock.advance(by);
    }

    /// Moves on to the next slot of the connection and waits until it was walked; answers with the slot.
    pub(crate) async fn next_day(&self) -> HostTime {
        let before = self.connection().await;
        let slot = before.polling.daily_slot.unwrap();
        self.advance(self.clock.now().until(slot) + Duration::from_secs(1));
        self.walked(before.last_poll.unwrap().ended_at).await;
        slot
    }

    /// Waits until a walk ended after `since`.
    pub(crate) async fn walked(&self, since: HostTime) {
        eventually("a walk", || async {
            let last = self.connection().await.last_poll.unwrap();
            (last.ended_at > since).then_some(())
        })
        .await;
    }

    /// The one connection of the scene.
    pub(crate) async fn connection(&self) -> Connection {
        let mut all = connection::list(&*self.deployment.store).await.unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// How often Facebook was asked for this, `GET me/accounts` or `GET {id}`.
    pub(crate) fn calls(&self, edge: &str) -> u64 {
        self.simulator
            .facebook()
            .calls
            .get(edge)
            .copied()
            .unwrap_or(0)
    }

    /// Puts answers in the place of the next real ones.
    pub(crate) fn reply(&self, canned: &Json) {
        let canned: Vec<simulator::scripted_reply::ScriptedReply> =
            serde_json::from_value(canned.clone()).unwrap();
        self.simulator.facebook().scripted_replies.extend(canned);
    }

    pub(crate) async fn finish(self) {
        self.deployment.finish().await;
    }
}

/// A field of a Page; null if it is unknown or has no value.
pub(crate) fn field(page: &Page, name: &str) -> Json {
    let stored = page.registers.get(&FieldName::parse(name).unwrap());
    stored
        .and_then(|stored| stored.value.as_ref())
        .map_or(Json::Null, model::value::CanonicalValue::to_json)
}

/// Our clock, set to now and moved only by the test.
pub(crate) fn manual() -> Clock {
    Clock::manual(Clock::system().now())
}

/// Status and JSON body of an answer.
pub(crate) async fn answer(answer: reqwest::Response) -> (u16, Json) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Json::String(text)),
    )
}
