//! The roles of the executable: which tasks make up a process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use common::backends::Backends;
use common::clock::Clock;
use common::config::{Config, Role};
use common::database::Access;
use common::http::{Ready, private_router, serve};
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::store::Store;
use common::telemetry::{Metrics, init_logs};
use ingress::oauth::OAuth;
use model::lane::Lane;
use secrecy::ExposeSecret as _;
use simulator::delivery::Faults;
use simulator::facebook::App;
use simulator::scenario::Scenario;
use tokio::net::TcpListener;

use crate::cast::CAST;

/// A started role.
#[derive(Debug)]
pub struct Running {
    /// Where the public listener is, if the role has one.
    pub public: Option<SocketAddr>,
    /// Where the private listener is.
    pub private: SocketAddr,
    /// Its tasks.
    pub lifecycle: Lifecycle,
    /// What it counts.
    pub metrics: Metrics,
    /// What it works on.
    pub backends: Backends,
}

/// Runs a role until a signal.
pub async fn run(config: &Config, role: Role) -> anyhow::Result<()> {
    init_logs(&config.log, config.log_format);
    let running = start(config, role, Clock::system(), None).await?;
    tracing::info!(
        role = role.name(),
        backend = ?config.backend,
        version = env!("CARGO_PKG_VERSION"),
        listen.public = running.public.map(|address| address.to_string()),
        listen.private = %running.private,
        "listening"
    );
    let ended = running.lifecycle.run_until_signal().await;
    tracing::info!("stopped");
    ended.map_err(anyhow::Error::msg)
}

/// What the tasks of a process share.
struct Ground {
    backends: Backends,
    lifecycle: Lifecycle,
    metrics: Metrics,
    clock: Clock,
}

/// Starts a role's tasks by this clock. The public side, if the role has one, is served on
/// `listener`; without one, on a listener bound as configured.
pub async fn start(
    config: &Config,
    role: Role,
    clock: Clock,
    listener: Option<TcpListener>,
) -> anyhow::Result<Running> {
    let backends = Backends::open(config, role.name(), Access::Owner, clock.clone()).await?;
    let ground = Ground {
        backends,
        lifecycle: Lifecycle::default(),
        metrics: Metrics::default(),
        clock,
    };
    // Ingress takes webhooks without the store: it must not wait for it, nor look at its settings.
    if role != Role::Ingress {
        ground.backends.check().await?;
    }
    let mut public = None;
    if matches!(role, Role::Up | Role::Ingress) {
        let listener = match listener {
            Some(listener) => listener,
            None => bind(config.listen, "PAGESYNC_LISTEN").await?,
        };
        public = Some(face(config, &ground, listener)?);
    }
    if matches!(role, Role::Up | Role::Worker) {
        work(config, &ground)?;
    }
    if matches!(role, Role::Up | Role::Scheduler) {
        schedule(&ground);
    }
    let private = watch(config, role, &ground).await?;
    Ok(Running {
        public,
        private,
        lifecycle: ground.lifecycle,
        metrics: ground.metrics,
        backends: ground.backends,
    })
}

/// Starts ingress; answers with where it listens.
fn face(config: &Config, ground: &Ground, listener: TcpListener) -> anyhow::Result<SocketAddr> {
    let own = listener.local_addr()?;
    let (metrics, clock) = (ground.metrics.clone(), ground.clock.clone());
    let Backends { queue, store, .. } = ground.backends.clone();
    let lifecycle = ground.lifecycle.clone();
    // Connects ahead of the first publish.
    queue.is_ready();
    let oauth = OAuth::new(
        config,
        store,
        metrics.clone(),
        clock.clone(),
        own,
        lifecycle.clone(),
    );
    let oauth = oauth.map_err(anyhow::Error::msg)?;
    let parts = ingress::Parts::new(config, queue, oauth, metrics, clock);
    let serving = ingress::run(parts, listener, lifecycle.clone());
    lifecycle.spawn("ingress", serving);
    Ok(own)
}

fn work(config: &Config, ground: &Ground) -> anyhow::Result<()> {
    let Backends { queue, store, .. } = ground.backends.clone();
    let (metrics, clock) = (ground.metrics.clone(), ground.clock.clone());
    let lifecycle = ground.lifecycle.clone();
    let parts = worker::Parts::new(config, (queue, store), metrics, clock, lifecycle);
    let parts = parts.map_err(anyhow::Error::msg)?;
    ground.lifecycle.spawn("worker", worker::run(parts));
    Ok(())
}

fn schedule(ground: &Ground) {
    let Backends { queue, store, .. } = ground.backends.clone();
    let parts = scheduler::Parts {
        queue,
        store,
        metrics: ground.metrics.clone(),
        clock: ground.clock.clone(),
    };
    let running = scheduler::run(parts, ground.lifecycle.clone());
    ground.lifecycle.spawn("scheduler", running);
}

/// Starts the private listener, and what ends the process with its queue or store; answers with where
/// the listener is.
async fn watch(config: &Config, role: Role, ground: &Ground) -> anyhow::Result<SocketAddr> {
    let Backends {
        queue,
        store,
        ended,
    } = ground.backends.clone();
    let listener = bind(config.operator_listen, "PAGESYNC_OPERATOR_LISTEN").await?;
    let private = listener.local_addr()?;
    let works_on_store = (role != Role::Ingress).then_some(store);
    let ready = readiness(queue.clone(), works_on_store);
    let router = private_router(ground.metrics.clone(), queue, ready);
    let serving = serve(listener, router, ground.lifecycle.clone());
    ground.lifecycle.spawn("private listener", serving);
    let watching = ground.lifecycle.clone();
    ground.lifecycle.spawn("queue and store", async move {
        tokio::select! {
            // First: once the process ends, so do they, and that is no failure.
            biased;
            () = watching.stopping() => Ok(()),
            () = ended.cancelled() => Err("a task behind them ended"),
        }
    });
    Ok(private)
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({key})"))
}

/// Ingress is ready when a publish would be tried; who works on a store, when the store takes a
/// write and the queue answers.
fn readiness(queue: Arc<dyn Queue>, store: Option<Arc<dyn Store>>) -> Ready {
    Arc::new(move || {
        let (queue, store) = (queue.clone(), store.clone());
        Box::pin(async move {
            let Some(store) = store else {
                let down = || "the queue is not available".to_owned();
                return queue.is_ready().then_some(()).ok_or_else(down);
            };
            let depth = queue.depth(Lane::Webhooks).await;
            depth.map_err(|error| error.to_string())?;
            let health = store.check().await.map_err(|error| error.to_string())?;
            health.verdict()
        })
    })
}

/// Asks the running process of this configuration whether it is ready.
pub async fn health(config: &Config) -> anyhow::Result<()> {
    let mut address = config.operator_listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    common::tls::provide();
    let client = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(4))
        .build()?;
    let answer = client.get(format!("http://{address}/readyz")).send().await;
    let answer = answer.with_context(|| format!("nothing answers on {address}"))?;
    if !answer.status().is_success() {
        bail!("not ready: {}", answer.text().await?.trim());
    }
    Ok(())
}

/// Runs the simulator until a signal, with the Pages of the demo; plays a scenario if there is one.
pub async fn simulator(config: &Config, scenario: Option<&Path>) -> anyhow::Result<()> {
    init_logs(&config.log, config.log_format);
    let scenario = scenario.map(read_scenario).transpose()?;
    let Some(secret) = config.app_secrets.first() else {
        bail!("FACEBOOK_APP_SECRET is missing")
    };
    let app = App {
        id: config.app_id.clone(),
        secret: secret.expose_secret().to_owned(),
        redirect_uris: vec![config.redirect_uri.clone()],
    };
    let options = simulator::Options {
        app,
        callback: None,
        seed: any_seed(),
        faults: Faults::default(),
    };
    let simulator = simulator::Simulator::start(&options);
    for page in CAST {
        simulator
            .put_page(&page.as_graph())
            .map_err(anyhow::Error::msg)?;
    }
    let listener = bind(config.simulator_listen, "PAGESYNC_SIMULATOR_LISTEN").await?;
    if let Some(scenario) = scenario {
        tracing::info!(about = scenario.about, "a scenario is played");
        tokio::spawn(scenario.play(simulator.clone()));
    }
    tracing::info!(listen = %listener.local_addr()?, "a simulated Facebook is listening; what it knows is in memory");
    let lifecycle = Lifecycle::default();
    let serving = lifecycle.clone();
    lifecycle.spawn("simulator", async move {
        tokio::select! {
            served = simulator::serve(simulator, listener) => served.map_err(|error| error.to_string()),
            () = serving.stopping() => Ok(()),
        }
    });
    lifecycle
        .run_until_signal()
        .await
        .map_err(anyhow::Error::msg)
}

fn read_scenario(path: &Path) -> anyhow::Result<Scenario> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    Scenario::parse(&text).map_err(|error| anyhow::anyhow!("{shown}: {error}"))
}

/// A seed for a simulator that nobody needs to repeat.
fn any_seed() -> u64 {
    Clock::system().now().0
}
