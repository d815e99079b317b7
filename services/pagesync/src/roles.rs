//! The roles of the executable: which tasks make up a process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use common::backends::Backends;
use common::clock::Clock;
use common::config::{Config, Role};
use common::database::Access;
use common::http::{NotReady, ReadinessCheck, private_router, serve};
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::store::Store;
use common::telemetry::{Metrics, init_logs};
use ingress::oauth::context::OAuth;
use model::queue_name::QueueName;
use secrecy::ExposeSecret as _;
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::scenario::Scenario;
use tokio::net::TcpListener;

use crate::demo_pages::DEMO_PAGES;

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
    Ok(ended?)
}

/// What the tasks of a process share.
struct Runtime {
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
    let backends = Backends::open(config, role.name(), Access::Exclusive, clock.clone()).await?;
    let runtime = Runtime {
        backends,
        lifecycle: Lifecycle::default(),
        metrics: Metrics::default(),
        clock,
    };
    // Ingress takes webhooks without the store: it must not wait for it, nor look at its settings.
    if role != Role::Ingress {
        runtime.backends.check().await?;
    }
    let mut public = None;
    if matches!(role, Role::Up | Role::Ingress) {
        let listener = match listener {
            Some(listener) => listener,
            None => bind(config.listen, "PAGESYNC_LISTEN").await?,
        };
        public = Some(serve_public(config, &runtime, listener)?);
    }
    if matches!(role, Role::Up | Role::Worker) {
        start_worker(config, &runtime)?;
    }
    if matches!(role, Role::Up | Role::Scheduler) {
        start_scheduler(&runtime);
    }
    let private = serve_private(config, role, &runtime).await?;
    Ok(Running {
        public,
        private,
        lifecycle: runtime.lifecycle,
        metrics: runtime.metrics,
        backends: runtime.backends,
    })
}

/// Starts ingress; answers with where it listens.
fn serve_public(
    config: &Config,
    runtime: &Runtime,
    listener: TcpListener,
) -> anyhow::Result<SocketAddr> {
    let own = listener.local_addr()?;
    let (metrics, clock) = (runtime.metrics.clone(), runtime.clock.clone());
    let Backends { queue, store, .. } = runtime.backends.clone();
    let lifecycle = runtime.lifecycle.clone();
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
    let oauth = oauth?;
    let context = ingress::context::Context::new(config, queue, oauth, metrics, clock);
    let serving = ingress::run(context, listener, lifecycle.clone());
    lifecycle.spawn("ingress", serving);
    Ok(own)
}

fn start_worker(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    let (metrics, clock) = (runtime.metrics.clone(), runtime.clock.clone());
    let lifecycle = runtime.lifecycle.clone();
    let context =
        worker::context::Context::new(config, &runtime.backends, metrics, clock, lifecycle)?;
    runtime.lifecycle.spawn("worker", worker::run(context));
    Ok(())
}

fn start_scheduler(runtime: &Runtime) {
    let Backends { queue, store, .. } = runtime.backends.clone();
    let context = scheduler::Context {
        queue,
        store,
        metrics: runtime.metrics.clone(),
        clock: runtime.clock.clone(),
    };
    let running = scheduler::run(context, runtime.lifecycle.clone());
    runtime.lifecycle.spawn("scheduler", running);
}

/// Starts the private listener, and what ends the process with its queue or store; answers with where
/// the listener is.
async fn serve_private(
    config: &Config,
    role: Role,
    runtime: &Runtime,
) -> anyhow::Result<SocketAddr> {
    let Backends {
        queue,
        store,
        ended,
    } = runtime.backends.clone();
    let listener = bind(config.operator_listen, "PAGESYNC_OPERATOR_LISTEN").await?;
    let private = listener.local_addr()?;
    let works_on_store = (role != Role::Ingress).then_some(store);
    let ready = readiness(queue.clone(), works_on_store);
    let router = private_router(runtime.metrics.clone(), queue, ready);
    let serving = serve(listener, router, runtime.lifecycle.clone());
    runtime.lifecycle.spawn("private listener", serving);
    let watching = runtime.lifecycle.clone();
    runtime.lifecycle.spawn("queue and store", async move {
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
fn readiness(queue: Arc<dyn Queue>, store: Option<Arc<dyn Store>>) -> ReadinessCheck {
    Arc::new(move || {
        let (queue, store) = (queue.clone(), store.clone());
        Box::pin(async move {
            let Some(store) = store else {
                let down = || NotReady("the queue is not available".to_owned());
                return queue.is_ready().then_some(()).ok_or_else(down);
            };
            let depth = queue.depth(QueueName::Webhooks).await;
            depth.map_err(|error| NotReady(error.to_string()))?;
            let health = store.check().await;
            let health = health.map_err(|error| NotReady(error.to_string()))?;
            health
                .into_result()
                .map_err(|error| NotReady(error.to_string()))
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
        delivery_faults: DeliveryFaults::default(),
    };
    let simulator = simulator::Simulator::start(&options);
    for page in DEMO_PAGES {
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
