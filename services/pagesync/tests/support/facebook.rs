//! Runs a deployment together with a simulated Facebook. Tests log in through the real dialog and
//! control the clock of each side.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::clock::Clock;
use common::config::{Config, Role};
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
use simulator::token::TokenInvalidation;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

use super::deployment::{APP_ID, APP_SECRET, Deployment, TestStorage};
use super::{TestBackend, eventually, reserve_port};

/// A deployment and the simulated Facebook that it calls.
#[derive(Debug)]
pub(crate) struct ConnectedDeployment {
    /// The deployment.
    pub(crate) deployment: Deployment,
    /// The simulated Facebook.
    pub(crate) simulator: Simulator,
    /// The base address of the simulated Facebook.
    pub(crate) facebook_url: String,
    /// The base address of the public listener.
    pub(crate) public: String,
    /// The clock of the roles.
    pub(crate) clock: Clock,
    /// The settings of the roles in addition to the defaults for tests.
    pub(crate) settings: Vec<(String, String)>,
}

/// The options of a [`ConnectedDeployment`].
#[derive(Debug, Clone)]
pub(crate) struct DeploymentOptions<'a> {
    /// Further settings of the roles.
    pub(crate) extra: &'a [(&'a str, &'a str)],
    /// The clock of the roles.
    pub(crate) clock: Clock,
    /// How many schedulers run on the distributed backend.
    pub(crate) schedulers: usize,
    /// How many Pages Facebook has.
    pub(crate) pages: usize,
    /// The host under which browsers reach Facebook's login dialog.
    pub(crate) dialog_host: &'a str,
    /// The path of the public address.
    pub(crate) public_path: &'a str,
    /// The roles to start; empty for all roles of the backend.
    pub(crate) only: &'a [Role],
}

impl Default for DeploymentOptions<'_> {
    fn default() -> Self {
        Self {
            extra: &[],
            clock: Clock::system(),
            schedulers: 1,
            pages: 3,
            dialog_host: "127.0.0.1",
            public_path: "",
            only: &[],
        }
    }
}

/// Returns the id of Page `n` of the simulated Facebook, counted from 0.
pub(crate) fn page_id_text(n: usize) -> String {
    format!("{}", 100_000_000_000_001 + n)
}

/// Returns Page `n` as the simulated Facebook has it at the start.
pub(crate) fn page(n: usize) -> simulator::pages::Page {
    let id = page_id_text(n);
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

/// Starts a simulated Facebook with `pages` Pages on a free port. It runs until the test ends.
/// Returns it together with its base address.
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

/// Returns the settings of a deployment at the address `public` that uses the Facebook at the
/// address `facebook`.
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

impl ConnectedDeployment {
    /// Starts a deployment and its Facebook. No person has logged in yet.
    pub(crate) async fn start(backend: TestBackend, scene: DeploymentOptions<'_>) -> Self {
        let listen = format!("127.0.0.1:{}", reserve_port());
        let public = format!("http://{listen}{}", scene.public_path);
        let (simulator, facebook) = facebook(&public, scene.pages).await;
        let storage = TestStorage::new(backend).await;
        let mut settings = settings(&public, &facebook);
        settings.push(("PAGESYNC_LISTEN".to_owned(), listen));
        let dialog = facebook.replace("127.0.0.1", scene.dialog_host);
        settings.push(("PAGESYNC_DIALOG_URL".to_owned(), dialog));
        settings.extend(
            scene
                .extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let mut wanted = if scene.only.is_empty() {
            storage.roles()
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
        let deployment = Deployment::start_roles(storage, &wanted, &extra, &scene.clock).await;
        Self {
            deployment,
            simulator,
            facebook_url: facebook,
            public,
            clock: scene.clock,
            settings,
        }
    }

    /// Starts one more role with the settings and the clock of the others.
    pub(crate) async fn add_role(&mut self, role: Role) {
        let extra: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let environment = self.deployment.storage.environment(role, &extra);
        let config = Config::read(&environment, role).unwrap();
        let running = roles::start(&config, role, self.clock.clone(), None)
            .await
            .unwrap();
        self.deployment.roles.push((role, running));
    }

    /// Returns the address where a login begins.
    pub(crate) fn login(&self) -> String {
        format!("{}/facebook/login", self.public)
    }

    /// Logs in and allows everything. Returns the status and the body of the callback.
    pub(crate) async fn connect(&self) -> (u16, Json) {
        self.connect_as(&Decision::default()).await
    }

    /// Completes the dialog in a new browser. Returns the browser and the callback address that
    /// the dialog redirects to.
    pub(crate) async fn visit(&self, decision: &Decision) -> (LoginBrowser, String) {
        let mut visitor = LoginBrowser::new().unwrap();
        let callback = visitor.log_in(&self.login(), decision).await;
        (visitor, callback.unwrap().unwrap())
    }

    /// Logs in with this decision in the dialog, and waits as [`Self::wait_for_login`]. Returns the status and the body of the last answer.
    pub(crate) async fn connect_as(&self, decision: &Decision) -> (u16, Json) {
        let (mut visitor, callback) = self.visit(decision).await;
        self.wait_for_login(&mut visitor, &callback).await
    }

    /// Repeats the request of the callback while the login is pending. Returns the status and the
    /// body of the last answer.
    pub(crate) async fn wait_for_login(
        &self,
        visitor: &mut LoginBrowser,
        callback: &str,
    ) -> (u16, Json) {
        let began = std::time::Instant::now();
        loop {
            let (status, body) = status_and_body(visitor.get(callback).await.unwrap()).await;
            if body["connection"]["status"] != "pending" {
                return (status, body);
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{body}");
        }
    }

    /// Logs in, allows everything, and requests the callback once, even if the login is still
    /// pending.
    pub(crate) async fn connect_once(&self) -> (u16, Json) {
        let (mut visitor, callback) = self.visit(&Decision::default()).await;
        status_and_body(visitor.get(&callback).await.unwrap()).await
    }

    /// Returns the stored Page `n`.
    pub(crate) async fn page(&self, n: usize) -> Page {
        let stored = self
            .deployment
            .page(&PageId::parse(&page_id_text(n)).unwrap())
            .await;
        stored.unwrap_or_else(|| panic!("Page {n} is not stored")).1
    }

    /// Returns the stored value of a field of Page `n`; null if it is unknown or has no value.
    pub(crate) async fn field(&self, n: usize, name: &str) -> Json {
        field(&self.page(n).await, name)
    }

    /// Requests a read of Page `n`, waits until it has been attempted, and returns the Page.
    pub(crate) async fn read_again(&self, n: usize) -> Page {
        let id = PageId::parse(&page_id_text(n)).unwrap();
        let before = self.deployment.page(&id).await.unwrap().1.polling;
        crate::support::request_read(&*self.deployment.store, &id, self.clock.now())
            .await
            .unwrap()
            .unwrap();
        eventually("a read", || async {
            let page = self.deployment.page(&id).await?.1;
            (page.polling.last_attempt_began > before.last_attempt_began).then_some(page)
        })
        .await
    }

    /// Advances the clock of the roles and Facebook's clock by the same duration.
    pub(crate) fn advance(&self, by: Duration) {
        self.simulator.facebook().clock_offset_seconds += i64::try_from(by.as_secs()).unwrap();
        self.clock.advance(by);
    }

    /// Advances both clocks to the next daily slot of the connection and waits until the daily poll
    /// has ended. Returns the slot.
    pub(crate) async fn next_day(&self) -> HostTime {
        let before = self.connection().await;
        let slot = before.polling.daily_slot.unwrap();
        self.advance(self.clock.now().until(slot) + Duration::from_secs(1));
        self.wait_for_poll_after(before.last_poll.unwrap().ended_at)
            .await;
        slot
    }

    /// Waits until a connection poll ends later than `since`.
    pub(crate) async fn wait_for_poll_after(&self, since: HostTime) {
        eventually("a connection poll", || async {
            let last = self.connection().await.last_poll.unwrap();
            (last.ended_at > since).then_some(())
        })
        .await;
    }

    /// Returns the only connection. Panics unless there is exactly one.
    pub(crate) async fn connection(&self) -> Connection {
        let mut all = connection::list(&*self.deployment.store).await.unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Returns the number of calls of an edge of Facebook, such as `GET me/accounts` or `GET {id}`.
    pub(crate) fn calls(&self, edge: &str) -> u64 {
        self.simulator
            .facebook()
            .calls
            .get(edge)
            .copied()
            .unwrap_or(0)
    }

    /// Runs a command on the running deployment with `--output json` and returns its output.
    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_str(&self.text(&arguments)).unwrap()
    }

    /// Runs a command on the running deployment and returns its output. The command may end with the
    /// code 3 of `doctor` for a check that failed.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let (code, output, errors) = self.run(arguments, "");
        assert!(matches!(code, 0 | 3), "{arguments:?}: {errors}");
        output
    }

    /// Runs a command on the running deployment with a text in standard input. Returns its exit code,
    /// its output and its errors.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        self.run_as(self.deployment.roles[0].0, arguments, input)
    }

    /// Runs a command where the tokens can be opened.
    pub(crate) fn run_as_worker(&self, arguments: &[&str]) -> (i32, String, String) {
        let role = match &self.deployment.storage {
            TestStorage::Distributed { .. } => Role::Worker,
            TestStorage::Embedded(_) => Role::Up,
        };
        self.run_as(role, arguments, "")
    }

    /// Returns a command on the running deployment, which the caller starts.
    pub(crate) fn command(&self, role: Role, arguments: &[&str]) -> Command {
        let mut environment = self.deployment.storage.environment(role, &[]);
        if let TestStorage::Distributed { .. } = &self.deployment.storage {
            environment.insert("PAGESYNC_BACKEND".to_owned(), "distributed".to_owned());
        }
        environment.extend(self.settings.iter().cloned());
        let mut command = Command::new(env!("CARGO_BIN_EXE_pagesync"));
        command.args(arguments).env_clear().envs(environment);
        command
    }

    fn run_as(&self, role: Role, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(role, arguments);
        tokio::task::block_in_place(|| {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input.as_bytes()).unwrap();
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let code = output.status.code().unwrap();
            (code, text(output.stdout), text(output.stderr))
        })
    }

    /// Makes Facebook refuse every token of a person, who has changed their password.
    pub(crate) fn end_login(&self, user: &str) {
        let invalidation = TokenInvalidation {
            user: Some(user.to_owned()),
            page: None,
            subcode: 460,
        };
        self.simulator.facebook().invalidate_tokens(&invalidation);
    }

    /// Adds scripted replies, which replace the next real answers of Facebook.
    pub(crate) fn reply(&self, scripted: &Json) {
        let scripted: Vec<simulator::scripted_reply::ScriptedReply> =
            serde_json::from_value(scripted.clone()).unwrap();
        self.simulator.facebook().scripted_replies.extend(scripted);
    }

    /// Stops the deployment; see [`Deployment::finish`].
    pub(crate) async fn finish(self) {
        self.deployment.finish().await;
    }
}

/// Returns the value of a field of a Page; null if it is unknown or has no value.
pub(crate) fn field(page: &Page, name: &str) -> Json {
    let stored = page.registers.get(&FieldName::parse(name).unwrap());
    stored
        .and_then(|stored| stored.value.as_ref())
        .map_or(Json::Null, model::value::CanonicalValue::to_json)
}

/// Returns a clock that starts at the present time and that only the test advances.
pub(crate) fn manual_clock() -> Clock {
    Clock::manual(Clock::system().now())
}

/// Returns the status and the body of an HTTP answer. A body that is not JSON is returned as a JSON
/// string.
pub(crate) async fn status_and_body(answer: reqwest::Response) -> (u16, Json) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Json::String(text)),
    )
}
