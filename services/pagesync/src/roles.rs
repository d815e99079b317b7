//! The roles of the executable: starts the tasks of each role in one process.
//!
//! Invariant: a process has one clock, one set of metrics and one lifecycle, which its tasks share.

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
use common::store_clock;
use common::telemetry::{Metrics, init_logs};
use ingress::oauth::context::LoginContext;
use scheduler::alerts::{AlertContext, Channels};
use secrecy::ExposeSecret as _;
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::scenario::Scenario;
use tokio::net::{TcpListener, TcpSocket};

use crate::demo_pages::DEMO_PAGES;
use crate::doctor;

/// How many new connections wait to be accepted. The kernel refuses further ones for a second, so
/// there is room for as many as are open at a time.
const LISTEN_BACKLOG: u32 = 4096;

/// A started role.
#[derive(Debug)]
pub struct RunningRole {
    /// The address of the public listener, if the role has one.
    pub public: Option<SocketAddr>,
    /// The address of the private listener.
    pub private: SocketAddr,
    /// The address of the token listener, if the role has one.
    pub tokens: Option<SocketAddr>,
    /// The lifecycle of the process, which starts and stops the tasks of the role.
    pub lifecycle: Lifecycle,
    /// The metrics of the role.
    pub metrics: Metrics,
    /// The queue and the store of the role.
    pub backends: Backends,
}

/// Runs a role until a signal, or until one of its tasks fails.
pub async fn run(config: &Config, role: Role) -> anyhow::Result<()> {
    init_logs(&config.log_filter, config.log_format);
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

/// The state that the tasks of a process share.
struct Runtime {
    backends: Backends,
    lifecycle: Lifecycle,
    metrics: Metrics,
    clock: Clock,
}

/// Starts the tasks of a role.
///
/// If the role has a public listener, it is `listener`, or else a new one on the configured
/// address. Fails if the queue or the store cannot be opened, if the settings of the store are
/// unsafe, or if an address is in use.
pub async fn start(
    config: &Config,
    role: Role,
    clock: Clock,
    listener: Option<TcpListener>,
) -> anyhow::Result<RunningRole> {
    let backends = Backends::open(config, role.name(), Access::Exclusive, clock.clone()).await?;
    let runtime = Runtime {
        backends,
        lifecycle: Lifecycle::default(),
        metrics: Metrics::default(),
        clock,
    };
    // Ingress accepts webhooks without the store, so it neither waits for the store nor checks it.
    if role != Role::Ingress {
        runtime.backends.check().await?;
    }
    let mut public = None;
    if matches!(role, Role::Up | Role::Ingress) {
        let listener = match listener {
            Some(listener) => listener,
            None => bind(config.listen, "PAGESYNC_LISTEN")?,
        };
        public = Some(serve_public(config, &runtime, listener)?);
    }
    let mut tokens = None;
    if matches!(role, Role::Up | Role::Worker) {
        tokens = start_worker(config, &runtime)?;
    }
    if matches!(role, Role::Up | Role::Scheduler) {
        start_scheduler(config, &runtime)?;
    }
    let private = serve_private(config, role, &runtime)?;
    Ok(RunningRole {
        public,
        private,
        tokens,
        lifecycle: runtime.lifecycle,
        metrics: runtime.metrics,
        backends: runtime.backends,
    })
}

/// Starts ingress, and returns the address of its listener.
fn serve_public(
    config: &Config,
    runtime: &Runtime,
    listener: TcpListener,
) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let (metrics, clock) = (runtime.metrics.clone(), runtime.clock.clone());
    let Backends { queue, store, .. } = runtime.backends.clone();
    let lifecycle = runtime.lifecycle.clone();
    // The check opens the connection for publishing before the first webhook arrives.
    queue.is_ready();
    let login = LoginContext::new(
        config,
        store,
        metrics.clone(),
        clock.clone(),
        address,
        lifecycle.clone(),
    )?;
    let context = ingress::context::Context::new(config, queue, login, metrics, clock);
    let serving = ingress::run(context, listener, lifecycle.clone());
    lifecycle.spawn("ingress", serving);
    Ok(address)
}

/// Starts the worker, and returns the address of its token listener, if it has one.
fn start_worker(config: &Config, runtime: &Runtime) -> anyhow::Result<Option<SocketAddr>> {
    let (metrics, clock) = (runtime.metrics.clone(), runtime.clock.clone());
    let lifecycle = runtime.lifecycle.clone();
    let context =
        worker::context::Context::new(config, &runtime.backends, metrics, clock, lifecycle)?;
    let mut tokens = None;
    if let Some(address) = config.token_listen {
        let listener = bind(address, "PAGESYNC_TOKEN_LISTEN")?;
        tokens = Some(listener.local_addr()?);
        let router = worker::token_listener::router(context.clone());
        let serving = serve(listener, router, runtime.lifecycle.clone());
        runtime.lifecycle.spawn("token listener", serving);
    }
    runtime.lifecycle.spawn("worker", worker::run(context));
    Ok(tokens)
}

/// Starts the scheduler and, if a channel is configured, the task that tells the operator of problems.
fn start_scheduler(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    if !config.alert.is_empty() {
        let (metrics, clock) = (runtime.metrics.clone(), runtime.clock.clone());
        let context = AlertContext::new(config, &runtime.backends, metrics, clock);
        let channels = Channels::new(&config.alert)?;
        let telling = scheduler::alerts::run(context, channels, runtime.lifecycle.clone());
        runtime.lifecycle.spawn("alerts", telling);
    }
    let Backends { queue, store, .. } = runtime.backends.clone();
    let context = scheduler::Context {
        queue,
        store,
        metrics: runtime.metrics.clone(),
        clock: runtime.clock.clone(),
        poll_concurrency: config.poll_concurrency,
    };
    let running = scheduler::run(context, runtime.lifecycle.clone());
    runtime.lifecycle.spawn("scheduler", running);
    Ok(())
}

/// Starts the private listener, and returns its address. Also starts the task that ends the process
/// when a task of the queue or the store has ended.
fn serve_private(config: &Config, role: Role, runtime: &Runtime) -> anyhow::Result<SocketAddr> {
    let Backends {
        queue,
        store,
        ended,
    } = runtime.backends.clone();
    let listener = bind(config.private_listen, "PAGESYNC_PRIVATE_LISTEN")?;
    let private = listener.local_addr()?;
    let required_store = (role != Role::Ingress).then_some(store);
    let metrics = runtime.metrics.clone();
    let readiness = readiness_check(queue.clone(), required_store.clone(), metrics.clone());
    let mut router = private_router(metrics, queue, required_store, readiness);
    if matches!(role, Role::Up | Role::Api) {
        router = router.merge(api_router(config, runtime)?);
    }
    let serving = serve(listener, router, runtime.lifecycle.clone());
    runtime.lifecycle.spawn("private listener", serving);
    let Runtime { clock, metrics, .. } = runtime;
    let watching = store_clock::watch(
        runtime.backends.store.clone(),
        clock.clone(),
        metrics.clone(),
        runtime.lifecycle.clone(),
    );
    runtime.lifecycle.spawn("store clock", watching);
    let lifecycle = runtime.lifecycle.clone();
    runtime.lifecycle.spawn("queue and store", async move {
        tokio::select! {
            // In a process that stops, the end of these tasks is not a failure.
            biased;
            () = lifecycle.stopping() => Ok(()),
            () = ended.cancelled() => Err("a background task ended"),
        }
    });
    Ok(private)
}

/// Starts the tasks of the API, and returns its routes.
fn api_router(config: &Config, runtime: &Runtime) -> anyhow::Result<axum::Router> {
    let Backends { queue, store, .. } = runtime.backends.clone();
    // The check opens the connection for publishing before the first action.
    queue.is_ready();
    let checked = config.clone();
    let context = api::context::Context::start(
        config,
        queue,
        store,
        runtime.metrics.clone(),
        runtime.clock.clone(),
        runtime.lifecycle.clone(),
        Arc::new(move || {
            let config = checked.clone();
            Box::pin(async move { doctor::checks(&config).await })
        }),
    )?;
    Ok(api::router(context))
}

/// Returns a listener on `address`. An error names `setting`.
fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restarted process can use the address at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address} ({setting})"))
}

/// Returns the check behind `/readyz`. A role is ready when the queue accepts messages. With a store,
/// the store must also accept a write, and no worker in the process may have paused.
fn readiness_check(
    queue: Arc<dyn Queue>,
    store: Option<Arc<dyn Store>>,
    metrics: Metrics,
) -> ReadinessCheck {
    Arc::new(move || {
        let (queue, store) = (queue.clone(), store.clone());
        let is_paused = metrics.processing_paused.get() != 0;
        Box::pin(async move {
            if is_paused {
                let reason = "processing is paused: the store did not accept a write";
                return Err(NotReady(reason.to_owned()));
            }
            let accepts_messages = queue.check().await;
            accepts_messages.map_err(|error| NotReady(error.to_string()))?;
            let Some(store) = store else {
                let not_ready = || NotReady("the queue is not available".to_owned());
                return queue.is_ready().then_some(()).ok_or_else(not_ready);
            };
            let health = store.check().await;
            let health = health.map_err(|error| NotReady(error.to_string()))?;
            health
                .into_result()
                .map_err(|error| NotReady(error.to_string()))
        })
    })
}

/// Runs the simulator with the Pages of the demo until a signal. Plays the scenario of the file
/// `scenario`, if there is one.
pub async fn simulator(config: &Config, scenario: Option<&Path>) -> anyhow::Result<()> {
    init_logs(&config.log_filter, config.log_format);
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
        seed: seed_from_clock(),
        delivery_faults: DeliveryFaults::default(),
    };
    let simulator = simulator::Simulator::start(&options);
    for page in DEMO_PAGES {
        simulator
            .put_page(&page.as_graph())
            .map_err(anyhow::Error::msg)?;
    }
    let listener = bind(config.simulator_listen, "PAGESYNC_SIMULATOR_LISTEN")?;
    if let Some(scenario) = scenario {
        tracing::info!(about = scenario.about, "playing a scenario");
        tokio::spawn(scenario.play(simulator.clone()));
    }
    tracing::info!(listen = %listener.local_addr()?, "the simulator is listening; its state is in memory only");
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
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Scenario::parse(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))
}

/// Returns a seed that differs in every run.
fn seed_from_clock() -> u64 {
    Clock::system().now().0
}
