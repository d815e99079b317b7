//! The programs in `examples` that need no further package, and the commands of the README that use the
//! HTTP API.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::api::ApiClient;
use crate::support::deployment::TestStorage;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(path)
}

/// A program that runs until it is dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(program: &str, script: &Path, api: &ApiClient) -> Self {
        let mut child = Command::new(program)
            .arg(script)
            .env("PAGESYNC_URL", &api.url)
            .env("PAGESYNC_KEY", &api.key)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads lines up to one that contains a text.
    fn read_until(&mut self, text: &str) {
        let found =
            tokio::task::block_in_place(|| self.lines.any(|line| line.unwrap().contains(text)));
        assert!(found, "the program ended before it printed {text}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exists(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reader_prints_all_pages_and_then_a_change() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let readers = [
        ("sh", "reader.sh"),
        ("python3", "reader.py"),
        ("node", "reader.mjs"),
        ("php", "reader.php"),
    ];
    // Every shell is here, but not every shell knows --version.
    let readers = readers
        .iter()
        .filter(|(program, _)| *program == "sh" || exists(program));
    for (n, (program, script)) in readers.enumerate() {
        println!("{script}");
        let mut reader = Running::start(program, &example("readers").join(script), &api);
        reader.read_until(&page_id_text(2));
        // The names increase, because webhooks of one second have the same stamp.
        let name = format!("name {n}");
        let fields = json!({ "name": name }).as_object().unwrap().clone();
        connected
            .simulator
            .change(&page_id_text(0), fields)
            .unwrap();
        reader.read_until(&name);
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_read_the_api() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let readme = crate::tidy::read("README.md");
    let commands = readme.lines().filter(|line| line.starts_with("curl "));
    let commands: Vec<String> = commands
        .map(|line| line.split(" #").next().unwrap().trim())
        .map(|line| {
            line.replace("http://127.0.0.1:5001", &api.url)
                .replace("wait=30s", "wait=0s")
        })
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let output = tokio::task::block_in_place(|| {
            Command::new("sh")
                .args(["-c", &command])
                .env("KEY", &api.key)
                .output()
                .unwrap()
        });
        let answer: Json = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer["code"].is_null(), "{command}: {answer}");
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_the_database_has_every_field_with_its_type() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let TestStorage::Embedded(directory) = &connected.deployment.storage else {
        unreachable!("this test runs on the embedded backend")
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database =
        Connection::open_with_flags(directory.path().join("pagesync.db"), flags).unwrap();
    let select = "SELECT status, version, name, connections, fields FROM pages_v1 WHERE id = ?1";
    let (status, version, name, people, fields): (String, u64, String, String, String) = database
        .query_row(select, [page_id_text(1)], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })
        .unwrap();
    assert_eq!((status.as_str(), name.as_str()), ("active", "Page 1"));
    let person = connected.connection().await.user.to_string();
    assert_eq!(
        serde_json::from_str::<Json>(&people).unwrap(),
        json!([person])
    );
    let shown = connected.json(&["page", "show", &page_id_text(1)]);
    assert_eq!(shown["version"].as_u64(), Some(version));
    let values: serde_json::Map<String, Json> = shown["fields"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, field)| (name.clone(), field["value"].clone()))
        .collect();
    assert_eq!(
        serde_json::from_str::<Json>(&fields).unwrap(),
        Json::Object(values)
    );
    assert!(database.execute("DELETE FROM pages_v1", []).is_err());
    // The query of the documentation.
    let documented = crate::tidy::read("docs/state.md");
    let command = documented.lines().find(|line| line.starts_with("sqlite3 "));
    let query = command.unwrap().rsplit('"').nth(1).unwrap();
    let phone: String = database
        .query_row(
            &format!("{query} WHERE id = ?1"),
            [page_id_text(1)],
            |row| row.get(2),
        )
        .unwrap();
    assert_eq!(phone, "+49 30 1");
    connected.finish().await;
}
