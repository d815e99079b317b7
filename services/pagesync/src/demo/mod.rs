//! `pagesync demo`: the main job on a simulated Facebook, in one process, on a database that is
//! gone afterwards: three Pages connect through the real login, then a minute of changes, then lost
//! webhooks and a dead token (`proof.rs`). Everything shown went over HTTP, through the queue and the
//! worker.

mod proof;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use common::backends::Backends;
use common::clock::Clock;
use common::config::settings::Environment;
use common::config::{Config, LogFormat, Role};
use common::records::dead_letter;
use common::store::{StoredPage, Versioned};
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
use crate::{dead_letter as letters, init, page, roles};

/// How long after the play the last verification may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    simulator: Simulator,
    backends: Backends,
    callback: String,
    app_secret: String,
    client: reqwest::Client,
    begun: Instant,
    /// Announced changes whose value is still to be read: Page, field, value, when it changed.
    // Tiny critical sections, never across an await.
    unread: Mutex<Vec<(usize, &'static str, &'static str, Instant)>>,
}

/// Plays for `seconds` and shows what came of it.
pub async fn run(seconds: u64, format: Format) -> anyhow::Result<()> {
    init_logs("error", LogFormat::Text);
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let app_secret = init::random()?;
    let control = TcpListener::bind("127.0.0.1:0").await?;
    let facebook = format!("http://{}", control.local_addr()?);
    // Bound before its address is told to anybody: nobody else can come to stand there.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let public = format!("http://{}", listener.local_addr()?);
    let environment = settings(directory.path(), &facebook, &public, &app_secret)?;
    let config = Config::read(&environment, Role::Up)?;
    let simulator = simulate(&config, &app_secret)?;
    tokio::spawn(simulator::serve(simulator.clone(), control));
    let running = roles::start(&config, Role::Up, Clock::system(), Some(listener)).await?;
    output::print(&format!(
        "pagesync, a Facebook simulator and an embedded database in one process.\n\
         public:     {public}/facebook/login (log in again) and /facebook/webhook\n\
         health:     http://{}/readyz and /metrics\n\
         Facebook:   {facebook}/_sim/pages (PATCH /_sim/pages/<id> changes a Page)\n",
        running.private
    ))?;
    let stage = Stage {
        simulator,
        backends: running.backends.clone(),
        callback: format!("{public}/facebook/webhook"),
        app_secret,
        client: reqwest::Client::new(),
        begun: Instant::now(),
        unread: Mutex::default(),
    };
    let played = tokio::select! {
        played = stage.perform(&public, seconds) => played,
        _ = tokio::signal::ctrl_c() => output::print("ended early"),
    };
    played?;
    stage.show(format).await?;
    running.lifecycle.stop();
    running.lifecycle.finish().await.map_err(anyhow::Error::msg)
}

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
        ("PAGESYNC_OPERATOR_LISTEN", "127.0.0.1:0".to_owned()),
        ("PAGESYNC_GRAPH_URL", facebook.to_owned()),
        ("PAGESYNC_DIALOG_URL", facebook.to_owned()),
        ("FACEBOOK_APP_ID", "100200300400500".to_owned()),
        ("FACEBOOK_APP_SECRET", app_secret.to_owned()),
        ("FACEBOOK_VERIFY_TOKEN", init::random()?),
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

fn simulate(config: &Config, app_secret: &str) -> anyhow::Result<Simulator> {
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
    for cast in DEMO_PAGES {
        simulator
            .put_page(&cast.as_graph())
            .map_err(anyhow::Error::msg)?;
    }
    Ok(simulator)
}

/// What happens on the stage, in this order, evenly spread over the time.
#[derive(Debug, Clone, Copy)]
enum Scene {
    Rename(usize, &'static str),
    Announce(usize, &'static str, &'static str),
    Forge,
    Garble,
    Stranger,
}

const SCENES: [Scene; 12] = [
    Scene::Announce(1, "phone", "+45 33 999 000"),
    Scene::Rename(0, "Café Aurora & Rösterei ☕"),
    Scene::Announce(2, "hours", "closed on Mondays"),
    Scene::Forge,
    Scene::Rename(2, "Fahrradwerkstatt Süd-West"),
    Scene::Garble,
    Scene::Rename(1, "Bookshop <at> the Harbour"),
    Scene::Stranger,
    Scene::Rename(0, "Aurora 100% Arabica"),
    Scene::Rename(2, "Radwerk"),
    Scene::Rename(1, "Harbour Books"),
    Scene::Rename(0, "Aurora"),
];

impl Stage {
    async fn perform(&self, public: &str, seconds: u64) -> anyhow::Result<()> {
        self.connect(public).await?;
        output::print(&format!(
            "\nPlaying {seconds} seconds of changes on three Pages; three of ten deliveries come twice.\n"
        ))?;
        tokio::try_join!(self.play(seconds), self.watch(seconds))?;
        self.simulator.delivery_counts().all_finished().await;
        self.prove(public).await
    }

    /// A person opens the login, allows everything in Facebook's dialog, and is sent back.
    async fn connect(&self, public: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut visitor = LoginBrowser::new()?;
        let login = format!("{public}/facebook/login");
        let callback = visitor.log_in(&login, &Decision::default()).await?;
        let callback = callback.map_err(|_| anyhow::anyhow!("the login was not sent back"))?;
        let answer: Json = visitor.get(&callback).await?.json().await?;
        output::print(&format!(
            "A person logs in at {login}, allows the app in Facebook's dialog and comes back after {} ms.\n\
             webhook test: {}, Pages read: {}",
            begun.elapsed().as_millis(),
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

    async fn play(&self, seconds: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        let step = Duration::from_secs(seconds) / u32::try_from(SCENES.len())?;
        for (i, scene) in (0_u32..).zip(SCENES) {
            tokio::time::sleep_until(begun + step * i).await;
            let line = self.scene(scene).await?;
            self.say(&line)?;
        }
        tokio::time::sleep_until(begun + Duration::from_secs(seconds)).await;
        Ok(())
    }

    fn say(&self, line: &str) -> anyhow::Result<()> {
        output::print(&format!(
            "{:>5.1} s  {line}",
            self.begun.elapsed().as_secs_f64()
        ))
    }

    /// Says when a verification read brought a value that its webhook did not carry.
    async fn watch(&self, seconds: u64) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(seconds) + PATIENCE;
        let announcements = SCENES
            .iter()
            .filter(|scene| matches!(scene, Scene::Announce(..)));
        let mut left = announcements.count();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while left > 0 && Instant::now() < until {
            look.tick().await;
            let waiting = self
                .unread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            for (which, what, value, since) in waiting {
                let page = self.load(which).await?;
                if page.is_some_and(|page| field(&page, what) == json!(value)) {
                    self.unread
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .retain(|(w, f, ..)| (*w, *f) != (which, what));
                    left -= 1;
                    self.say(&format!(
                        "{} has its new {what}: {value:?}, read {:.1} s after the change, by the verification",
                        DEMO_PAGES[which].id,
                        since.elapsed().as_secs_f64()
                    ))?;
                }
            }
        }
        anyhow::ensure!(left == 0, "a verification read did not come");
        Ok(())
    }

    async fn scene(&self, scene: Scene) -> anyhow::Result<String> {
        Ok(match scene {
            Scene::Rename(which, name) => {
                let visible = self
                    .change(which, "name", name, |page| {
                        field(page, "name") == json!(name)
                    })
                    .await?;
                format!(
                    "{} is renamed to {name:?}: visible after {visible}",
                    DEMO_PAGES[which].id
                )
            }
            Scene::Announce(which, what, value) => {
                let known = self.load(which).await?.map(|page| page.polling.read_after);
                let noted = self
                    .change(which, what, value, |page| {
                        Some(page.polling.read_after) != known
                    })
                    .await?;
                let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.push((which, what, value, Instant::now()));
                format!(
                    "{} changes its {what}; the webhook says only that it did: noted after {noted}, a read follows",
                    DEMO_PAGES[which].id
                )
            }
            Scene::Forge => {
                let body = single_change_body(DEMO_PAGES[0].id, "name", "Owned");
                let status = self.post(&body, "not the secret").await?;
                format!("a webhook signed with another secret: answered {status}")
            }
            Scene::Garble => {
                let status = self
                    .post(r#"{"object":"page","entry":[{"id":"#, &self.app_secret)
                    .await?;
                format!(
                    "a signed webhook that ends too early: answered {status}, kept as a dead letter"
                )
            }
            Scene::Stranger => {
                let status = self
                    .post(
                        &single_change_body("999", "name", "Stranger"),
                        &self.app_secret,
                    )
                    .await?;
                format!(
                    "a signed webhook for a Page nobody registered: answered {status}, counted, no state"
                )
            }
        })
    }

    /// Changes a Page at Facebook and waits until `seen`; says how long it took.
    async fn change(
        &self,
        which: usize,
        field: &str,
        value: &str,
        seen: impl Fn(&model::page::Page) -> bool,
    ) -> anyhow::Result<String> {
        let fields = json!({field: value})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let begun = Instant::now();
        self.simulator
            .change(DEMO_PAGES[which].id, fields)
            .map_err(anyhow::Error::msg)?;
        while begun.elapsed() < Duration::from_secs(10) {
            if self.load(which).await?.is_some_and(|page| seen(&page)) {
                return Ok(format!("{} ms", begun.elapsed().as_millis()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!("the change of {field} did not arrive within 10 s")
    }

    async fn load(&self, which: usize) -> anyhow::Result<Option<model::page::Page>> {
        let loaded = self
            .backends
            .store
            .load_pages(&[PageId::parse(DEMO_PAGES[which].id)?])
            .await?;
        Ok(match loaded.into_iter().next() {
            Some(Versioned {
                value: StoredPage::Page(page),
                ..
            }) => Some(*page),
            _ => None,
        })
    }

    async fn post(&self, body: &str, secret: &str) -> anyhow::Result<u16> {
        let request = self
            .client
            .post(&self.callback)
            .header("content-type", "application/json");
        let signed = request.header(
            "x-hub-signature-256",
            signature_256(secret, body.as_bytes()),
        );
        Ok(signed.body(body.to_owned()).send().await?.status().as_u16())
    }

    async fn show(&self, format: Format) -> anyhow::Result<()> {
        output::print("\nWhat the store holds now:\n")?;
        for (id, stored) in self
            .backends
            .store
            .list_pages(None, DEMO_PAGES.len())
            .await?
        {
            if let Versioned {
                version,
                value: StoredPage::Page(page),
            } = stored
            {
                output::print(&page::show(format, &id, version, &page))?;
                output::print("")?;
            }
        }
        let kept = dead_letter::all(&*self.backends.store).await?;
        let rows: Vec<_> = kept
            .iter()
            .map(|(id, letter)| letters::row(id, letter))
            .collect();
        output::print("Dead letters:\n")?;
        output::print(&output::listing(
            format,
            &["id", "failed at", "reason"],
            &rows,
        ))?;
        output::print(&format!(
            "
Facebook's side: {}",
            self.simulator.delivery_counts().summary()
        ))
    }
}

fn field(page: &model::page::Page, name: &str) -> Json {
    let register = FieldName::parse(name).and_then(|name| page.registers.get(&name));
    register
        .and_then(|register| register.value.as_ref())
        .map_or(Json::Null, model::value::CanonicalValue::to_json)
}
