//! Starts RabbitMQ or Redis for the tests: in a container if a Docker engine answers, otherwise as
//! a private process.
//!
//! In both forms a server can be killed, started again on the same ports with the same data, and
//! frozen.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use testcontainers::core::{ContainerPort, ExecCommand, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use super::{eventually, reserve_port, within};

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    RabbitMq,
    Redis,
}

/// Where a container stores its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Real,
    Memory,
}

/// A server for tests.
#[derive(Debug)]
pub(crate) struct Server {
    kind: ServerKind,
    /// The ports on this machine: first that of AMQP or Redis, then that of the management API of
    /// RabbitMQ.
    pub(crate) ports: Vec<u16>,
    form: Form,
}

/// How a server runs.
#[derive(Debug)]
enum Form {
    Container(Box<ContainerAsync<GenericImage>>),
    Process(ServerProcess),
}

/// A server that runs as a process.
#[derive(Debug)]
struct ServerProcess {
    directory: PathBuf,
    /// The ports that Erlang needs for RabbitMQ: of the distribution and of the port mapper (epmd).
    erlang_ports: [u16; 2],
    child: Mutex<Option<Child>>,
}

/// Returns whether a Docker engine answers. The first call checks it and prints the result.
fn engine_answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    *ANSWERS.get_or_init(|| {
        let version = Command::new("docker")
            .args(["version", "--format", "{{.Server.Version}}"])
            .stderr(Stdio::null())
            .output();
        let answers = version.is_ok_and(|output| output.status.success());
        let form = if answers {
            "containers"
        } else {
            "private processes, because no Docker engine answers"
        };
        println!("servers of the tests: {form}");
        answers
    })
}

/// The label of each container. `./test` finds the containers of killed tests by it.
const LABEL: (&str, &str) = ("pagesync.test", "true");
/// A variable in the environment of each server process. `./test` finds the servers of killed
/// tests by it.
const MARK: &str = "PAGESYNC_TEST_SERVER";

/// The data directory of Redis in a container. The user of Redis may write there in every image.
const REDIS_DATA: &str = "/tmp";

/// Returns the name and the tag of the container image.
fn image(kind: ServerKind) -> (String, String) {
    let (variable, default) = match kind {
        ServerKind::RabbitMq => ("TEST_RABBITMQ_IMAGE", "pagesync/rabbitmq:latest"),
        ServerKind::Redis => ("TEST_REDIS_IMAGE", "pagesync/redis:latest"),
    };
    let name = std::env::var_os(variable).and_then(|name| name.into_string().ok());
    let name = name.unwrap_or_else(|| default.to_owned());
    let (name, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
    (name.to_owned(), tag.to_owned())
}

impl Server {
    /// Starts a server whose data is on disk and survives a kill and a restart.
    pub(crate) async fn start(kind: ServerKind) -> Self {
        Self::start_on(kind, Disk::Real).await
    }

    /// Starts a server that many tests share and that no test kills. In a container, the data of
    /// Redis is in memory, so that tests do not wait for the disk of a busy machine.
    pub(crate) async fn start_in_memory(kind: ServerKind) -> Self {
        Self::start_on(kind, Disk::Memory).await
    }

    async fn start_on(kind: ServerKind, disk: Disk) -> Self {
        let ports: Vec<u16> = match kind {
            ServerKind::RabbitMq => vec![reserve_port(), reserve_port()],
            ServerKind::Redis => vec![reserve_port()],
        };
        let form = if engine_answers() {
            Form::Container(Box::new(container(kind, &ports, disk).await))
        } else {
            Form::Process(ServerProcess::start(kind, &ports))
        };
        let server = Self { kind, ports, form };
        server.wait_until_up().await;
        server
    }

    /// Kills the server with SIGKILL. Its data is kept.
    pub(crate) async fn kill(&self) {
        match &self.form {
            Form::Container(container) => container.stop_with_timeout(Some(0)).await.unwrap(),
            Form::Process(process) => process.kill(),
        }
    }

    /// Starts the server again on the same ports and waits until it answers.
    pub(crate) async fn start_again(&self) {
        match &self.form {
            Form::Container(container) => container.start().await.unwrap(),
            Form::Process(process) => process.spawn(self.kind, &self.ports),
        }
        self.wait_until_up().await;
    }

    /// Suspends the server. Its connections stay open.
    pub(crate) async fn freeze(&self) {
        match &self.form {
            // The kernel does not always freeze a container with busy threads in the time that runc
            // allows ("unable to freeze"). runc then lets the container run.
            Form::Container(container) => {
                eventually("the engine to pause the container", || async {
                    container.pause().await.ok()
                })
                .await;
            }
            Form::Process(process) => process.signal("STOP"),
        }
    }

    /// Resumes a frozen server.
    pub(crate) async fn thaw(&self) {
        match &self.form {
            Form::Container(container) => container.unpause().await.unwrap(),
            Form::Process(process) => process.signal("CONT"),
        }
    }

    /// Copies the append-only file of a running Redis to a new directory.
    pub(crate) fn copy_append_only_file(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        match &self.form {
            Form::Container(container) => {
                let from = format!("{}:{REDIS_DATA}/appendonlydir", container.id());
                docker_copy(&from, &copy.path().display().to_string());
            }
            Form::Process(process) => {
                let from = process.directory.join("appendonlydir");
                let copied = Command::new("cp")
                    .arg("-r")
                    .args([&from, copy.path()])
                    .status();
                assert!(copied.unwrap().success());
            }
        }
        copy
    }

    /// Replaces the append-only file of a killed Redis with a copy.
    pub(crate) fn restore_append_only_file(&self, copy: &tempfile::TempDir) {
        let files = copy.path().join("appendonlydir");
        match &self.form {
            // The manifest names the files of the copy. Redis ignores the others. The owner of the
            // copied files is root, and Redis runs as another user.
            Form::Container(container) => {
                let allowed = Command::new("chmod")
                    .args(["-R", "a+rwX"])
                    .arg(&files)
                    .status();
                assert!(allowed.unwrap().success());
                let to = format!("{}:{REDIS_DATA}", container.id());
                docker_copy(&files.display().to_string(), &to);
            }
            Form::Process(process) => {
                let copied = Command::new("cp")
                    .arg("-r")
                    .args([&files, &process.directory])
                    .status();
                assert!(copied.unwrap().success());
            }
        }
    }

    /// Returns the host and the port at which another server reaches this Redis.
    pub(crate) fn address_for_servers(&self) -> (String, u16) {
        match &self.form {
            Form::Container(container) => {
                let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
                let inspect = Command::new("docker")
                    .args(["inspect", "-f", format, container.id()])
                    .output();
                let address = String::from_utf8(inspect.unwrap().stdout).unwrap();
                (address.trim().to_owned(), 6379)
            }
            Form::Process(_) => ("127.0.0.1".to_owned(), self.ports[0]),
        }
    }

    /// Runs `rabbitmqctl` against the broker. Panics if it fails.
    pub(crate) async fn rabbitmqctl(&self, arguments: &[&str]) {
        match &self.form {
            Form::Container(container) => {
                let command = ["/usr/lib/rabbitmq/bin/rabbitmqctl"]
                    .iter()
                    .chain(arguments);
                let command = ExecCommand::new(command.map(ToString::to_string));
                let mut done = container.exec(command).await.unwrap();
                let output = done.stdout_to_vec().await.unwrap();
                // The output can end before the engine knows the exit code.
                let done = &done;
                let code = eventually("the exit code of rabbitmqctl", || async {
                    done.exit_code().await.unwrap()
                })
                .await;
                let output = String::from_utf8_lossy(&output).into_owned();
                assert_eq!(code, 0, "rabbitmqctl {arguments:?}: {output}");
            }
            Form::Process(process) => {
                let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
                process.environment(&mut command, &self.ports);
                assert!(command.args(arguments).status().unwrap().success());
            }
        }
    }

    /// Returns the append-only file of Redis as text. If Redis rewrites it meanwhile, it is read
    /// again.
    pub(crate) async fn append_only_file(&self) -> String {
        eventually("a complete append-only file", || async {
            let before = self.append_only_files("*.manifest").await?;
            let all = self.append_only_files("*").await?;
            let after = self.append_only_files("*.manifest").await?;
            (before == after && all.len() > 100).then(|| String::from_utf8_lossy(&all).into_owned())
        })
        .await
    }

    /// Returns the concatenated parts of the append-only file whose names match a pattern, or
    /// `None` if one of them is missing.
    async fn append_only_files(&self, names: &str) -> Option<Vec<u8>> {
        match &self.form {
            Form::Container(container) => {
                let script = format!("cat {REDIS_DATA}/appendonlydir/{names}");
                let command = ExecCommand::new(["sh", "-c", &script]);
                let mut done = container.exec(command).await.unwrap();
                let bytes = done.stdout_to_vec().await.unwrap();
                (done.exit_code().await.unwrap() == Some(0)).then_some(bytes)
            }
            Form::Process(process) => {
                let script = format!("cat appendonlydir/{names}");
                let mut command = Command::new("sh");
                command
                    .args(["-c", &script])
                    .current_dir(&process.directory);
                let done = command.output().unwrap();
                done.status.success().then_some(done.stdout)
            }
        }
    }

    async fn wait_until_up(&self) {
        // A server may listen before it can answer, so this sends a real request.
        let port = *self.ports.last().unwrap();
        let client = crate::support::client();
        within(Duration::from_secs(180), "a server to answer", || async {
            match self.kind {
                ServerKind::Redis => {
                    let url = format!("redis://127.0.0.1:{port}/");
                    let mut connection = redis::Client::open(url)
                        .ok()?
                        .get_multiplexed_async_connection()
                        .await
                        .ok()?;
                    let pong: redis::RedisResult<String> =
                        redis::cmd("PING").query_async(&mut connection).await;
                    pong.ok().map(drop)
                }
                ServerKind::RabbitMq => {
                    let url =
                        format!("http://127.0.0.1:{port}/api/health/checks/port-listener/5672");
                    let url = match self.form {
                        Form::Container(_) => url,
                        Form::Process(_) => url.replace("5672", &self.ports[0].to_string()),
                    };
                    let request = client.get(url).basic_auth("guest", Some("guest"));
                    let answer = request.timeout(Duration::from_secs(2)).send().await.ok()?;
                    answer.status().is_success().then_some(())
                }
            }
        })
        .await;
    }
}

/// Copies files from or to a container.
fn docker_copy(from: &str, to: &str) {
    let copied = Command::new("docker").args(["cp", from, to]).status();
    assert!(copied.unwrap().success(), "docker cp {from} {to}");
}

/// Starts a server in a container, from an image of `deploy/images` or an official one.
async fn container(kind: ServerKind, ports: &[u16], disk: Disk) -> ContainerAsync<GenericImage> {
    let (name, tag) = image(kind);
    // `wait_until_up` checks the server itself.
    let mut request = GenericImage::new(name, tag)
        .with_wait_for(WaitFor::Nothing)
        .with_label(LABEL.0, LABEL.1)
        .with_hostname("server");
    let inside: &[u16] = match kind {
        ServerKind::RabbitMq => {
            let conf = "loopback_users = none\nmanagement.tcp.port = 15672\n";
            for directory in ["/run/pagesync/rabbitmq", "/etc/rabbitmq/conf.d"] {
                let path = format!("{directory}/90-test.conf");
                request = request.with_copy_to(path, conf.as_bytes().to_vec());
            }
            &[5672, 15672]
        }
        ServerKind::Redis => {
            let command = [
                "redis-server",
                "--dir",
                REDIS_DATA,
                "--protected-mode",
                "no",
            ];
            request = request.with_cmd(command.into_iter().chain(REDIS_SETTINGS));
            &[6379]
        }
    };
    for (outside, inside) in ports.iter().zip(inside) {
        request = request.with_mapped_port(*outside, ContainerPort::Tcp(*inside));
    }
    if disk == Disk::Memory {
        // Only Redis uses this directory. RabbitMQ would refuse it, because it must own its data
        // directory.
        request = request.with_mount(Mount::tmpfs_mount(REDIS_DATA));
    }
    request.start().await.unwrap()
}

/// The settings of Redis: a database for each test, an append-only file that is synced before each
/// reply, and no compression, because tests search the stored bytes for data that must be absent.
const REDIS_SETTINGS: [&str; 10] = [
    "--rdbcompression",
    "no",
    "--databases",
    "1024",
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--save",
    "",
];

impl ServerProcess {
    fn start(kind: ServerKind, ports: &[u16]) -> Self {
        let directory =
            std::env::temp_dir().join(format!("pagesync-test-{}-{}", std::process::id(), ports[0]));
        std::fs::create_dir_all(&directory).unwrap();
        let process = Self {
            directory,
            erlang_ports: [reserve_port(), reserve_port()],
            child: Mutex::new(None),
        };
        process.spawn(kind, ports);
        process
    }

    fn spawn(&self, kind: ServerKind, ports: &[u16]) {
        let mut command = match kind {
            ServerKind::RabbitMq => {
                let conf = format!(
                    "listeners.tcp.default = {}\nmanagement.tcp.port = {}\ndisk_free_limit.absolute = 200MB\n",
                    ports[0], ports[1]
                );
                std::fs::write(self.directory.join("rabbitmq.conf"), conf).unwrap();
                std::fs::write(self.directory.join("plugins"), "[rabbitmq_management].\n").unwrap();
                let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
                self.environment(&mut command, ports);
                command
            }
            ServerKind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &ports[0].to_string()]);
                command.args(REDIS_SETTINGS).arg("--dir");
                command.arg(&self.directory);
                command
            }
        };
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        command.env(MARK, &self.directory).process_group(0);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        *self.child.lock().unwrap() = Some(child.unwrap());
    }

    /// Sets the environment variables that give each RabbitMQ its own node name, ports, data
    /// directory and Erlang cookie.
    fn environment(&self, command: &mut Command, ports: &[u16]) {
        let at = |name: &str| self.directory.join(name);
        command
            .env("HOME", &self.directory)
            .env("RABBITMQ_NODENAME", format!("test{}@localhost", ports[0]))
            .env("RABBITMQ_DIST_PORT", self.erlang_ports[0].to_string())
            .env("ERL_EPMD_PORT", self.erlang_ports[1].to_string())
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("logs"));
    }

    fn signal(&self, signal: &str) {
        let child = self.child.lock().unwrap();
        let pid = child.as_ref().unwrap().id().to_string();
        // The signal goes to the process group, because the node of RabbitMQ is a child of its
        // start script.
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), "--", &format!("-{pid}")])
            .status();
        assert!(sent.unwrap().success());
    }

    fn kill(&self) {
        self.signal("KILL");
        let child = self.child.lock().unwrap().take();
        if let Some(mut child) = child {
            let _ = child.wait();
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.child.lock().is_ok_and(|child| child.is_some()) {
            self.kill();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
