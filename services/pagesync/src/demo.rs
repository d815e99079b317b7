//! `pagesync demo`: the main job on a simulated Facebook, in one process, on a database that is
//! gone afterwards. Everything shown went over HTTP, through the queue and the worker.

use std::time::Duration;

use anyhow::Context as _;
use common::backends::Backends;
use common::clock::Clock;
use common::config::{Config, Environment, LogFormat, Role};
use common::pages;
use common::records::dead_letter;
use common::store::{Stored, Versioned};
use common::telemetry::init_logs;
use model::field::FieldName;
use model::id::PageId;
use serde_json::{Value as Json, json};
use simulator::bytes::signature_256;
use simulator::delivery::{Faults, change_now};
use simulator::{Options, Simulator};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cast::CAST;
use crate::output::{self, Format};
use crate::{dead_letter as letters, init, page, roles};

struct Stage {
    simulator: Simulator,
    backends: Backends,
    callback: String,
    app_secret: String,
    client: reqwest::Client,
    begun: Instant,
}

/// Plays for `seconds` and shows what came of it.
pub async fn run(seconds: u64, format: Format) -> anyhow::Result<()> {
    init_logs("error", LogFormat::Text);
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let app_secret = init::random()?;
    let settings = [
        ("PAGESYNC_DATA_DIR", directory.path().display().to_string()),
        ("PAGESYNC_LISTEN", "127.0.0.1:0".to_owned()),
        ("PAGESYNC_OPERATOR_LISTEN", "127.0.0.1:0".to_owned()),
        ("FACEBOOK_APP_SECRET", app_secret.clone()),
        ("FACEBOOK_VERIFY_TOKEN", init::random()?),
    ];
    let environment: Environment = settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let config = Config::read(&environment, Role::Up)?;
    let running = roles::start(&config, Role::Up).await?;
    let public = running.public.context("up has a public listener")?;
    let callback = format!("http://{public}/facebook/webhook");
    let faults = Faults {
        duplicate: 0.3,
        ..Faults::default()
    };
    let options = Options {
        callback: callback.clone(),
        app_secret: app_secret.clone(),
        seed: 1,
        faults,
    };
    let simulator = Simulator::start(&options);
    let control = TcpListener::bind("127.0.0.1:0").await?;
    let control_address = control.local_addr()?;
    tokio::spawn(simulator::serve(simulator.clone(), control));
    let backends = running.backends.clone().context("up has a store")?;
    for cast in CAST {
        simulator
            .put_page(&cast.as_graph())
            .map_err(anyhow::Error::msg)?;
        pages::add(
            &*backends.store,
            &PageId::parse(cast.id)?,
            Clock::system().now(),
        )
        .await?;
    }
    output::print(&format!(
        "pagesync, a Facebook simulator and an embedded database in one process.\n\
         webhooks:   {callback}\n\
         health:     http://{}/readyz and /metrics\n\
         Facebook:   http://{control_address}/_sim/pages (PATCH /_sim/pages/<id> changes a Page)\n\
         Playing {seconds} seconds of changes on three Pages; three of ten deliveries come twice.\n",
        running.private
    ))?;
    let client = reqwest::Client::new();
    let stage = Stage {
        simulator,
        backends,
        callback,
        app_secret,
        client,
        begun: Instant::now(),
    };
    tokio::select! {
        played = stage.play(seconds) => played?,
        _ = tokio::signal::ctrl_c() => output::print("ended early")?,
    }
    stage.show(format).await?;
    running.lifecycle.stop();
    running.lifecycle.finish().await.map_err(anyhow::Error::msg)
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
    Scene::Rename(0, "Café Aurora & Rösterei ☕"),
    Scene::Announce(1, "phone", "+45 33 999 000"),
    Scene::Rename(2, "Fahrradwerkstatt Süd-West"),
    Scene::Forge,
    Scene::Announce(0, "category", "Coffee shop"),
    Scene::Rename(1, "Bookshop <at> the Harbour"),
    Scene::Garble,
    Scene::Announce(2, "hours", "closed on Mondays"),
    Scene::Stranger,
    Scene::Rename(0, "Aurora 100% Arabica"),
    Scene::Announce(1, "website", "https://harbour.example/books"),
    Scene::Rename(2, "Radwerk"),
];

impl Stage {
    async fn play(&self, seconds: u64) -> anyhow::Result<()> {
        let step = Duration::from_secs(seconds) / u32::try_from(SCENES.len())?;
        for (i, scene) in (0_u32..).zip(SCENES) {
            tokio::time::sleep_until(self.begun + step * i).await;
            let line = self.scene(scene).await?;
            output::print(&format!(
                "{:>5.1} s  {line}",
                self.begun.elapsed().as_secs_f64()
            ))?;
        }
        tokio::time::sleep_until(self.begun + Duration::from_secs(seconds)).await;
        self.simulator.tally().settled().await;
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
                    CAST[which].id
                )
            }
            Scene::Announce(which, what, value) => {
                let known = self.load(which).await?.map(|page| page.polling.need);
                let noted = self
                    .change(which, what, value, |page| Some(page.polling.need) != known)
                    .await?;
                format!(
                    "{} changes its {what}; the webhook says only that it did: noted after {noted}, a read is wanted (reads come with the next release)",
                    CAST[which].id
                )
            }
            Scene::Forge => {
                let body = change_now(CAST[0].id, "name", "Owned");
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
                    .post(&change_now("999", "name", "Stranger"), &self.app_secret)
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
            .change(CAST[which].id, fields)
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
            .load(&[PageId::parse(CAST[which].id)?])
            .await?;
        Ok(match loaded.into_iter().next() {
            Some(Versioned {
                value: Stored::Page(page),
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
        for (id, held) in self.backends.store.pages(None, CAST.len()).await? {
            if let Versioned {
                version,
                value: Stored::Page(page),
            } = held
            {
                output::print(&page::show(format, &id, version, &page)?)?;
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
            &["id", "kept at", "reason"],
            &rows,
        ))?;
        output::print(&format!(
            "
Facebook's side: {}",
            self.simulator.tally().sentence()
        ))
    }
}

fn field(page: &model::page::Page, name: &str) -> Json {
    let register = FieldName::parse(name).and_then(|name| page.registers.get(&name));
    register
        .and_then(|register| register.value.as_ref())
        .map_or(Json::Null, model::value::Canonical::to_json)
}
