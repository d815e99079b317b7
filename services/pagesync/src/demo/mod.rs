//! `pagesync demo`: runs pagesync and a simulated Facebook in one process, on a temporary database.
//!
//! A login connects three Pages. The Pages change for a minute. Then webhooks are lost and every
//! token becomes invalid (`lost_webhooks.rs`). At last a customer writes to a Page, and the example bot
//! answers (`conversation.rs`). Logins and webhooks pass through HTTP, the queue and the worker, as in a
//! deployment.

mod conversation;
mod lost_webhooks;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use common::backends::Backends;
use common::clock::Clock;
use common::config::settings::{DEFAULT_SCOPES, Environment};
use common::config::{Config, LogFormat, Role};
use common::store::{PageIndex, StoredPage, Versioned};
use common::telemetry::init_logs;
use model::field::FieldName;
use model::id::PageId;
use serde_json::{Value as Json, json};
use simulator::browser::{Decision, LoginBrowser};
use simulator::bytes::signature_256;
use simulator::delivery::{DeliveryFaults, single_change_body};
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::demo_pages::DEMO_PAGES;
use crate::output::{self, Format};
use crate::{dead_letter as dead_letter_command, init_secrets, page, roles};

/// How long a result may take before the demo fails.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running demo.
struct Demo {
    simulator: Simulator,
    backends: Backends,
    webhook_address: String,
    app_secret: String,
    /// The base address of the simulated Facebook.
    facebook: String,
    client: reqwest::Client,
    began: Instant,
    /// Changes that were announced without their value, and whose value no read has returned yet.
    // The lock is never held across an await.
    unread: Mutex<Vec<UnreadChange>>,
}

/// A change that was announced without its new value, which a read must return.
#[derive(Debug, Clone, Copy)]
struct UnreadChange {
    /// The index of the Page in [`DEMO_PAGES`].
    page: usize,
    field: &'static str,
    value: &'static str,
    changed_at: Instant,
}

/// Runs the demo and prints its results. The changes of the first part last `seconds`.
pub async fn run(seconds: u64, format: Format) -> anyhow::Result<()> {
    init_logs("error", LogFormat::Text);
    let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
    let app_secret = init_secrets::random_secret()?;
    let control = TcpListener::bind("127.0.0.1:0").await?;
    let facebook = format!("http://{}", control.local_addr()?);
    // The listener is bound before its address is used, so that no other process can take the port.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let public = format!("http://{}", listener.local_addr()?);
    let mut environment = settings(directory.path(), &facebook, &public, &app_secret)?;
    let bot = Demo::bot_address().await?;
    if let Some(bot) = bot {
        let url = format!("http://{bot}/webhook");
        environment.insert("PAGESYNC_FORWARD_URL".to_owned(), url);
    }
    let config = Config::read(&environment, Role::Up)?;
    let simulator = start_simulator(&config, &app_secret)?;
    tokio::spawn(simulator::serve(simulator.clone(), control));
    let running = roles::start(&config, Role::Up, Clock::system(), Some(listener)).await?;
    output::print(&format!(
        "pagesync, a Facebook simulator and an embedded database in one process.\n\
         public:     {public}/facebook/login (log in again) and /facebook/webhook\n\
         health:     http://{}/readyz and /metrics\n\
         Facebook:   {facebook}/_sim/pages (PATCH /_sim/pages/<id> changes a Page)\n",
        running.private
    ))?;
    let demo = Demo {
        simulator,
        backends: running.backends.clone(),
        webhook_address: format!("{public}/facebook/webhook"),
        app_secret,
        facebook,
        client: reqwest::Client::new(),
        began: Instant::now(),
        unread: Mutex::default(),
    };
    let played = tokio::select! {
        played = demo.play(&public, seconds) => played,
        _ = tokio::signal::ctrl_c() => output::print("stopped early"),
    };
    played?;
    demo.print_store(format).await?;
    demo.show_conversation(&running, bot, directory.path())
        .await?;
    running.lifecycle.stop();
    running.lifecycle.finish().await.map_err(anyhow::Error::msg)
}

/// Returns the settings of `pagesync up` with the database in `directory`.
fn settings(
    directory: &Path,
    facebook: &str,
    public: &str,
    app_secret: &str,
) -> anyhow::Result<Environment> {
    let listen = public.trim_start_matches("http://").to_owned();
    let settings = [
        ("PAGESYNC_BACKEND", "embedded".to_owned()),
        ("PAGESYNC_DATA_DIR", directory.display().to_string()),
        ("PAGESYNC_LISTEN", listen),
        ("PAGESYNC_PRIVATE_LISTEN", "127.0.0.1:0".to_owned()),
        ("PAGESYNC_TOKEN_LISTEN", "127.0.0.1:0".to_owned()),
        (
            "PAGESYNC_SCOPES",
            format!("{DEFAULT_SCOPES},pages_messaging"),
        ),
        ("PAGESYNC_GRAPH_URL", facebook.to_owned()),
        ("PAGESYNC_DIALOG_URL", facebook.to_owned()),
        ("FACEBOOK_APP_ID", "100200300400500".to_owned()),
        ("FACEBOOK_APP_SECRET", app_secret.to_owned()),
        ("FACEBOOK_VERIFY_TOKEN", init_secrets::random_secret()?),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            format!("{public}/facebook/webhook"),
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            format!("{public}/facebook/callback"),
        ),
    ];
    Ok(settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

/// Starts a simulator with the Pages of the demo. It sends three deliveries in ten twice.
fn start_simulator(config: &Config, app_secret: &str) -> anyhow::Result<Simulator> {
    let options = Options {
        app: App {
            id: config.app_id.clone(),
            secret: app_secret.to_owned(),
            redirect_uris: vec![config.redirect_uri.clone()],
        },
        callback: None,
        seed: 1,
        delivery_faults: DeliveryFaults {
            duplicate: 0.3,
            ..DeliveryFaults::default()
        },
    };
    let simulator = Simulator::start(&options);
    for page in DEMO_PAGES {
        simulator
            .put_page(&page.as_graph())
            .map_err(anyhow::Error::msg)?;
    }
    Ok(simulator)
}

/// A step of the first part. A number is the index of a Page in [`DEMO_PAGES`].
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The Page gets this name, which the webhook carries.
    Rename(usize, &'static str),
    /// The field gets this value; the webhook says only that the field changed.
    ChangeField(usize, &'static str, &'static str),
    /// A webhook is signed with another secret.
    SignWrongly,
    /// A signed webhook cannot be parsed.
    Truncate,
    /// A signed webhook is about a Page that is not registered.
    ReportUnknownPage,
}

/// The steps, evenly spread over the time of the first part.
const STEPS: [Step; 12] = [
    Step::ChangeField(1, "phone", "+45 33 999 000"),
    Step::Rename(0, "Café Aurora & Rösterei ☕"),
    Step::ChangeField(2, "hours", "closed on Mondays"),
    Step::SignWrongly,
    Step::Rename(2, "Fahrradwerkstatt Süd-West"),
    Step::Truncate,
    Step::Rename(1, "Bookshop <at> the Harbour"),
    Step::ReportUnknownPage,
    Step::Rename(0, "Aurora 100% Arabica"),
    Step::Rename(2, "Radwerk"),
    Step::Rename(1, "Harbour Books"),
    Step::Rename(0, "Aurora"),
];

impl Demo {
    /// Plays both parts.
    async fn play(&self, public: &str, seconds: u64) -> anyhow::Result<()> {
        self.connect(public).await?;
        output::print(&format!(
            "\nThree Pages change for {seconds} seconds; Facebook sends three deliveries in ten twice.\n"
        ))?;
        tokio::try_join!(self.run_steps(seconds), self.print_reads(seconds))?;
        self.simulator.delivery_counts().all_finished().await;
        self.show_lost_webhooks(public).await
    }

    /// Logs in as a person who allows everything in Facebook's dialog, and prints the answer.
    async fn connect(&self, public: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut visitor = LoginBrowser::new()?;
        let login = format!("{public}/facebook/login");
        let callback = visitor.log_in(&login, &Decision::default()).await?;
        let callback =
            callback.map_err(|_| anyhow::anyhow!("the dialog did not redirect to the callback"))?;
        let answer: Json = visitor.get(&callback).await?.json().await?;
        output::print(&format!(
            "A person logs in at {login} and allows the app in Facebook's dialog, which takes {} ms.\n\
             webhook test: {}, Pages read: {}",
            began.elapsed().as_millis(),
            answer["webhook_test"]["status"].as_str().unwrap_or("?"),
            answer["polling_test"].as_array().map_or(0, Vec::len),
        ))?;
        for page in answer["pages"]["data"].as_array().into_iter().flatten() {
            let text = |name: &str| page[name].as_str().unwrap_or("-").to_owned();
            output::print(&format!(
                "  {}  {}, phone {}",
                text("id"),
                text("name"),
                text("phone")
            ))?;
        }
        Ok(())
    }

    async fn run_steps(&self, seconds: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        let interval = Duration::from_secs(seconds) / u32::try_from(STEPS.len())?;
        for (i, step) in (0_u32..).zip(STEPS) {
            tokio::time::sleep_until(began + interval * i).await;
            let line = self.run_step(step).await?;
            self.print_line(&line)?;
        }
        tokio::time::sleep_until(began + Duration::from_secs(seconds)).await;
        Ok(())
    }

    fn print_line(&self, line: &str) -> anyhow::Result<()> {
        output::print(&format!(
            "{:>5.1} s  {line}",
            self.began.elapsed().as_secs_f64()
        ))
    }

    /// Prints a line for each value that a read returned because its webhook did not carry it.
    /// Fails if a value does not arrive in time.
    async fn print_reads(&self, seconds: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(seconds) + TIMEOUT;
        let changes = STEPS
            .iter()
            .filter(|step| matches!(step, Step::ChangeField(..)));
        let mut remaining = changes.count();
        let mut interval = tokio::time::interval(Duration::from_millis(50));
        while remaining > 0 && Instant::now() < deadline {
            interval.tick().await;
            let unread = self
                .unread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            for change in unread {
                let page = self.load(change.page).await?;
                if page.is_some_and(|page| field(&page, change.field) == json!(change.value)) {
                    self.unread
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .retain(|other| (other.page, other.field) != (change.page, change.field));
                    remaining -= 1;
                    self.print_line(&format!(
                        "{} has its new {}: {:?}, read {:.1} s after the change",
                        DEMO_PAGES[change.page].id,
                        change.field,
                        change.value,
                        change.changed_at.elapsed().as_secs_f64()
                    ))?;
                }
            }
        }
        anyhow::ensure!(
            remaining == 0,
            "a verification read did not return the value"
        );
        Ok(())
    }

    /// Runs a step, and returns its result as a line.
    async fn run_step(&self, step: Step) -> anyhow::Result<String> {
        Ok(match step {
            Step::Rename(index, name) => {
                let visible = self
                    .change(index, "name", name, |page| {
                        field(page, "name") == json!(name)
                    })
                    .await?;
                format!(
                    "{} is renamed to {name:?}: visible after {visible}",
                    DEMO_PAGES[index].id
                )
            }
            Step::ChangeField(index, name, value) => {
                let before = self.load(index).await?.map(|page| page.polling.read_after);
                let announced = self
                    .change(index, name, value, |page| {
                        Some(page.polling.read_after) != before
                    })
                    .await?;
                let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.push(UnreadChange {
                    page: index,
                    field: name,
                    value,
                    changed_at: Instant::now(),
                });
                format!(
                    "{} changes its {name}: announced after {announced} without the value, so a read follows",
                    DEMO_PAGES[index].id
                )
            }
            Step::SignWrongly => {
                let body = single_change_body(DEMO_PAGES[0].id, "name", "Owned");
                let status = self.post(&body, "not the secret").await?;
                format!("a webhook signed with another secret: answered {status}")
            }
            Step::Truncate => {
                let status = self
                    .post(r#"{"object":"page","entry":[{"id":"#, &self.app_secret)
                    .await?;
                format!(
                    "a signed webhook that ends too early: answered {status}, stored as a dead letter"
                )
            }
            Step::ReportUnknownPage => {
                let status = self
                    .post(
                        &single_change_body("999", "name", "Stranger"),
                        &self.app_secret,
                    )
                    .await?;
                format!(
                    "a signed webhook for a Page that is not registered: answered {status}, counted and not stored"
                )
            }
        })
    }

    /// Changes a field of a Page at Facebook and waits until `is_visible`. Returns how long that
    /// took as text.
    async fn change(
        &self,
        index: usize,
        field: &str,
        value: &str,
        is_visible: impl Fn(&model::page::Page) -> bool,
    ) -> anyhow::Result<String> {
        let fields = json!({field: value})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let began = Instant::now();
        self.simulator
            .change(DEMO_PAGES[index].id, fields)
            .map_err(anyhow::Error::msg)?;
        while began.elapsed() < Duration::from_secs(10) {
            if self
                .load(index)
                .await?
                .is_some_and(|page| is_visible(&page))
            {
                return Ok(format!("{} ms", began.elapsed().as_millis()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!("the change of {field} did not arrive within 10 s")
    }

    /// Returns a Page from the store, or `None` if it is not registered or cannot be read.
    async fn load(&self, index: usize) -> anyhow::Result<Option<model::page::Page>> {
        let loaded = self
            .backends
            .store
            .load_pages(&[PageId::parse(DEMO_PAGES[index].id)?])
            .await?;
        Ok(match loaded.into_iter().next() {
            Some(Versioned {
                value: StoredPage::Page(page),
                ..
            }) => Some(*page),
            _ => None,
        })
    }

    /// Posts a webhook signed with `secret`, and returns the status of the answer.
    async fn post(&self, body: &str, secret: &str) -> anyhow::Result<u16> {
        let request = self
            .client
            .post(&self.webhook_address)
            .header("content-type", "application/json");
        let signed = request.header(
            "x-hub-signature-256",
            signature_256(secret, body.as_bytes()),
        );
        Ok(signed.body(body.to_owned()).send().await?.status().as_u16())
    }

    async fn print_store(&self, format: Format) -> anyhow::Result<()> {
        output::print("\nThe Pages in the store:\n")?;
        for (id, stored) in self
            .backends
            .store
            .list_pages(&PageIndex::All, None, DEMO_PAGES.len())
            .await?
        {
            if let Versioned {
                version,
                value: StoredPage::Page(page),
            } = stored
            {
                output::print(&page::page_text(format, &id, version, &page))?;
                output::print("")?;
            }
        }
        let rows = dead_letter_command::rows(&*self.backends.store).await?;
        output::print("Dead letters:\n")?;
        output::print(&output::listing(
            format,
            &dead_letter_command::HEADER,
            &rows,
        ))?;
        output::print(&format!(
            "\nDeliveries of Facebook: {}",
            self.simulator.delivery_counts().summary()
        ))
    }
}

/// Returns the value of a field, or null if it has none.
fn field(page: &model::page::Page, name: &str) -> Json {
    let register = FieldName::parse(name).and_then(|name| page.registers.get(&name));
    register
        .and_then(|register| register.value.as_ref())
        .map_or(Json::Null, model::value::CanonicalValue::to_json)
}
