//! The programs in `examples` that need packages: readers of Redis in Python and Node, and the copy in
//! PostgreSQL. The packages are installed from their registries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pagesync::init_secrets::reader_rule;
use serde_json::json;

use crate::sdk::{node_packages, python_packages, run};
use crate::support::api::ApiClient;
use crate::support::deployment::TestStorage;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::raw_access::redis_command;
use crate::support::{TestBackend, eventually, reserve_port};

/// The programs of PostgreSQL of Debian bookworm, which `./test` installs.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(path)
}

/// Runs a command and returns its output. Panics if it fails.
fn output_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_of_redis_reads_pages_and_nothing_else() {
    let options = DeploymentOptions::default();
    let connected = ConnectedDeployment::start(TestBackend::Distributed, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let TestStorage::Distributed { redis, .. } = &connected.deployment.storage else {
        unreachable!("distributed")
    };
    let fields = json!({"name": "Renamed"}).as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the new name", || async {
        (connected.field(0, "name").await == "Renamed").then_some(())
    })
    .await;
    let rule = reader_rule("a-password");
    let words: Vec<&str> = ["ACL", "SETUSER"]
        .into_iter()
        .chain(rule.split(' '))
        .collect();
    redis_command(redis, &words).await;
    let reader = redis.replace("redis://", "redis://reader:a-password@");
    let (python, modules) = tokio::task::block_in_place(|| {
        (
            python_packages("redis", "redis==8.1.0"),
            node_packages("redis", &["redis@6.3.1"]),
        )
    });
    let page = page_id_text(0);
    let scripts = tokio::task::block_in_place(|| {
        [
            output_of(
                Command::new(python)
                    .arg(example("redis/reader.py"))
                    .arg(&page)
                    .env("REDIS_URL", &reader),
            ),
            output_of(
                Command::new("node")
                    .arg(example("redis/reader.mjs"))
                    .arg(&page)
                    .current_dir(modules)
                    .env("REDIS_URL", &reader),
            ),
            output_of(Command::new("redis-cli").args([
                "--no-auth-warning",
                "-u",
                &reader,
                "HGET",
                &format!("{{pagesync}}:page:{page}"),
                "name",
            ])),
        ]
    });
    assert_eq!(
        scripts,
        ["Renamed\nRenamed\n", "Renamed\nRenamed\n", "Renamed\n"]
    );
    let user = connected.connection().await.user;
    let token = format!("{{pagesync}}:record:user_token:{user}");
    let key = format!("{{pagesync}}:page:{page}");
    for refused in [
        &["HGETALL", &token][..],
        &["HSET", &key, "name", "x"],
        &["DEL", &key],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["RANDOMKEY"],
        &["EVAL", "return 1", "0"],
        &["CONFIG", "GET", "requirepass"],
        &["FLUSHALL"],
    ] {
        let answer = tokio::task::block_in_place(|| {
            output_of(
                Command::new("redis-cli")
                    .args(["--no-auth-warning", "-u", &reader])
                    .args(refused),
            )
        });
        assert!(answer.starts_with("NOPERM"), "{refused:?}: {answer}");
    }
    for allowed in [
        &["ZRANGEBYLEX", "{pagesync}:pages", "-", "+"][..],
        &["ZCARD", "{pagesync}:pages:active"],
        &["LRANGE", &format!("{{pagesync}}:history:{page}"), "0", "-1"],
        &["XRANGE", "{pagesync}:feed", "-", "+", "COUNT", "1"],
        &["HGET", "{pagesync}:feed_changes", "1"],
        &["INFO", "server"],
    ] {
        let answer = tokio::task::block_in_place(|| {
            output_of(
                Command::new("redis-cli")
                    .args(["--no-auth-warning", "-u", &reader])
                    .args(allowed),
            )
        });
        assert!(!answer.starts_with("NOPERM"), "{allowed:?}: {answer}");
    }
    redis_command(redis, &["ACL", "DELUSER", "reader"]).await;
    connected.finish().await;
}

/// A PostgreSQL server, and the process of the example. Both end when this is dropped.
struct Copy {
    directory: tempfile::TempDir,
    port: u16,
    server: Child,
    reader: Option<Child>,
}

impl Copy {
    /// Starts a server in an empty directory. PostgreSQL refuses to run as root.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for path in [directory.path(), &data] {
            run(Command::new("chown").arg("postgres").arg(path));
        }
        run(as_postgres("initdb").args(["-A", "trust", "-D"]).arg(&data));
        let port = reserve_port();
        let server = as_postgres("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", data.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let copy = Self {
            directory,
            port,
            server,
            reader: None,
        };
        eventually("PostgreSQL to answer", || async { copy.query("SELECT 1") }).await;
        copy
    }

    fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the result of a query as text, or `None` if it fails.
    fn query(&self, query: &str) -> Option<String> {
        let mut command = Command::new("psql");
        command.args([&self.url(), "-At", "-c", query]);
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim_end().to_owned())
    }

    fn start_reader(&mut self, python: &Path, api: &ApiClient) {
        let mut command = Command::new(python);
        command
            .arg(example("postgres/reader.py"))
            .env("PAGESYNC_URL", &api.url)
            .env("PAGESYNC_KEY", &api.key)
            .env("DATABASE_URL", self.url());
        self.reader = Some(command.spawn().unwrap());
    }

    fn kill_reader(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            let _ = reader.kill();
            let _ = reader.wait();
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.kill_reader();
        let _ = self.server.kill();
        let _ = self.server.wait();
        // The children of the killed server end by themselves and may still use the directory.
        let _ = std::fs::remove_dir_all(self.directory.path());
    }
}

/// Returns a command of PostgreSQL, run as its own user.
fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(Path::new(POSTGRES).join(program))
        .current_dir("/");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_in_postgresql_is_complete_after_kills_and_a_lost_feed() {
    let options = DeploymentOptions::default();
    let mut connected = ConnectedDeployment::start(TestBackend::Embedded, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let python =
        tokio::task::block_in_place(|| python_packages("postgres", "psycopg[binary]==3.3.9"));
    let mut copy = Copy::start().await;
    copy.start_reader(&python, &api);
    eventually("three Pages", || async {
        (copy.query("SELECT count(*) FROM pages")? == "3").then_some(())
    })
    .await;
    let name = "SELECT fields ->> 'name' FROM pages ORDER BY id LIMIT 1";
    // The names increase, because webhooks of one second have the same stamp.
    for n in 1..=5 {
        let renamed = format!("name {n}");
        let fields = json!({ "name": renamed }).as_object().unwrap().clone();
        if n % 2 == 0 {
            copy.kill_reader();
        }
        connected
            .simulator
            .change(&page_id_text(0), fields)
            .unwrap();
        if n % 2 == 0 {
            copy.start_reader(&python, &api);
        }
        eventually("the new name", || async {
            (copy.query(name)? == renamed).then_some(())
        })
        .await;
    }
    // The changes that a stopped reader missed are no longer stored.
    copy.kill_reader();
    let fields = json!({"name": "name 6"}).as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the new name in pagesync", || async {
        (connected.field(0, "name").await == "name 6").then_some(())
    })
    .await;
    let cursor = copy.query("UPDATE pages_cursor SET cursor = 'another.1' RETURNING cursor");
    assert!(cursor.is_some());
    connected.text(&["erase", "page", &page_id_text(2)]);
    copy.start_reader(&python, &api);
    eventually("a new copy", || async {
        (copy.query(name)? == "name 6").then_some(())
    })
    .await;
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM pages";
    assert_eq!(copy.query(statuses).unwrap(), "active active erased");
    connected.finish().await;
}
