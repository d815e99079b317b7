//! Runs the compose file with the profile `demo`. One of four workers is killed under load, and no
//! webhook may be lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value as Json, json};
use simulator::bytes::signature_256;
use simulator::delivery::delivery_body;
use tokio::task::JoinSet;

use crate::support::{reserve_port, within};

const WEBHOOKS: u64 = 400;
const FIRST_PAGE: u64 = 2_000_000;

/// A compose project. It is removed with its volumes when the test ends.
struct Project {
    /// The port of ingress on this machine.
    ingress: u16,
    /// The port of the simulator on this machine.
    simulator: u16,
    /// The port of the API on this machine.
    api: u16,
}

impl Project {
    /// Runs Compose 2, or Compose 1 if version 2 is not installed.
    fn compose(&self, arguments: &[&str]) -> Output {
        let has_plugin = Command::new("docker").args(["compose", "version"]).output();
        let mut command = match has_plugin {
            Ok(output) if output.status.success() => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            _ => Command::new("docker-compose"),
        };
        command
            .args(["-p", "pagesync-test", "--profile", "demo"])
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .env("INGRESS_PORT", self.ingress.to_string())
            .env("SIMULATOR_PORT", self.simulator.to_string())
            .env("API_PORT", self.api.to_string())
            .env_remove("FACEBOOK_APP_ID")
            .env_remove("FACEBOOK_APP_SECRET")
            .output()
            .expect("docker-compose is missing; ./test installs it")
    }

    /// Runs Compose and returns its standard output. Panics if it fails.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "compose {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Runs a command in a container of the project and returns the JSON that it prints.
    fn pagesync(&self, command: &[&str]) -> Json {
        let run = ["run", "--rm", "-T", "demo-login"];
        let output = self.run(&[&run[..], command, &["--output", "json"]].concat());
        let start = output.find(['[', '{']).expect("JSON");
        serde_json::from_str(&output[start..]).unwrap()
    }

    fn pages(&self) -> Vec<Json> {
        serde_json::from_value(self.pagesync(&["page", "list"])).unwrap()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--tail", "20"]);
            println!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        self.compose(&["down", "-v", "--remove-orphans"]);
    }
}

/// Sends a webhook that sets the name of a Page, until it is answered with 200.
async fn send(client: reqwest::Client, url: String, secret: String, page: u64) {
    let entry = json!({"id": page.to_string(), "time": 1_760_000_000, "changes": [{"field": "name", "value": format!("n{page}")}]});
    let body = delivery_body(&[entry]);
    within(
        Duration::from_secs(180),
        "a webhook to be accepted",
        || async {
            let request = client.post(&url).header(
                "x-hub-signature-256",
                signature_256(&secret, body.as_bytes()),
            );
            let answer = request.body(body.clone()).send().await.ok()?;
            (answer.status().as_u16() == 200).then_some(())
        },
    )
    .await;
}

/// Returns the versions of the Pages whose names [`send`] sets and that `is_wanted` accepts.
fn versions(pages: &[Json], is_wanted: impl Fn(&Json) -> bool) -> BTreeMap<String, u64> {
    let id = |page: &Json| page["id"].as_str().unwrap().to_owned();
    let named = pages.iter().filter(|page| id(page).starts_with("200"));
    let wanted = named.filter(|page| is_wanted(page));
    wanted
        .map(|page| (id(page), page["version"].as_u64().unwrap()))
        .collect()
}

/// Requests a connection poll and waits until it has ended. Like a daily poll, it is claimed by a
/// scheduler and made by a worker.
async fn poll_connection(project: &Project) {
    let connection = || project.pagesync(&["connection", "list"])[0].clone();
    let before = connection();
    let (id, last_poll) = (&before["id"], &before["last_poll"]);
    let poll = ["run", "--rm", "-T", "demo-login", "connection", "poll"];
    project.run(&[&poll[..], &[id.as_str().unwrap()]].concat());
    let after = within(Duration::from_secs(180), "a connection poll", || async {
        let now = connection();
        (now["last_poll"] != *last_poll).then_some(now)
    })
    .await;
    let pages = &after["last_poll"]["pages"];
    assert_eq!(
        (&after["status"], pages, &after["problem"]),
        (&json!("active"), &json!(3), &Json::Null)
    );
}

/// Writes to a Page of the simulator as a customer, and waits for the answer of the example bot.
async fn ask_the_bot(client: &reqwest::Client, page: &str) {
    let question = json!({"from": "5501", "text": "Can I call you?"});
    let sent = client.post(format!("{page}/messages")).json(&question);
    assert_eq!(sent.send().await.unwrap().status(), 201);
    let answer = within(
        Duration::from_secs(180),
        "the answer of the bot",
        || async {
            let answer = client.get(format!("{page}/conversation")).send().await;
            let messages: Json = answer.ok()?.json().await.ok()?;
            let mut messages = messages.as_array()?.iter();
            let of_page = messages.find(|message| message["author"] == "page")?;
            of_page["text"].as_str().map(ToOwned::to_owned)
        },
    )
    .await;
    let expected = "Renamed at the simulator: Our phone number: ";
    assert!(answer.starts_with(expected), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_lost_when_one_of_four_workers_is_killed_under_load() {
    let project = Project {
        ingress: reserve_port(),
        simulator: reserve_port(),
        api: reserve_port(),
    };
    project.compose(&["down", "-v", "--remove-orphans"]);
    let scaled = ["--scale", "worker=4", "--scale", "scheduler=2"];
    project.run(&[&["up", "-d", "--build"], &scaled[..]].concat());
    let client = crate::support::client();
    let simulated = format!("http://127.0.0.1:{}/_sim/pages", project.simulator);
    within(
        Duration::from_secs(180),
        "the simulator to answer",
        || async {
            let answer = client.get(&simulated).send().await.ok()?;
            answer.status().is_success().then_some(())
        },
    )
    .await;
    // The service `demo-login` logs in once, which connects three Pages.
    within(
        Duration::from_secs(180),
        "three connected Pages",
        || async {
            let pages = project.pages();
            let active = pages.iter().filter(|page| page["status"] == "active");
            (active.count() == 3).then_some(())
        },
    )
    .await;
    let page = project.pagesync(&["page", "show", "100000000000002"]);
    let phone = &page["fields"]["phone"];
    assert_eq!(
        (&phone["value"], &phone["source"]),
        (&json!("+45 33 123 456"), &json!("poll"))
    );
    assert!(phone["confirmed_at"].is_string(), "{phone}");
    let log = project.run(&["logs", "--no-color", "demo-login"]);
    assert!(
        log.contains(r#""webhook_test":{"status":"success"}"#),
        "{log}"
    );
    let login = client
        .get(format!(
            "http://127.0.0.1:{}/facebook/login",
            project.ingress
        ))
        .send()
        .await
        .unwrap();
    assert_eq!(login.status(), 302);
    let create = [
        "exec", "-T", "api", "pagesync", "api-key", "create", "--name", "bot",
    ];
    let created = project.run(&[&create[..], &["--scope", "read", "--output", "json"]].concat());
    let created: Json = serde_json::from_str(&created).unwrap();
    let listed = client
        .get(format!("http://127.0.0.1:{}/v1/pages", project.api))
        .bearer_auth(created["key"].as_str().unwrap());
    let listed: Json = listed.send().await.unwrap().json().await.unwrap();
    assert_eq!(listed["pages"].as_array().unwrap().len(), 3, "{listed}");
    for service in ["ingress", "scheduler", "api"] {
        let printed = project.compose(&[
            "exec",
            "-T",
            service,
            "cat",
            "/run/pagesync-worker/token_private_keys",
        ]);
        assert!(
            !printed.status.success(),
            "{service} can read the keys that open tokens"
        );
    }
    poll_connection(&project).await;
    let secret = project
        .run(&["exec", "-T", "ingress", "cat", "/run/pagesync/app_secret"])
        .trim()
        .to_owned();
    let pages: Vec<u64> = (FIRST_PAGE..FIRST_PAGE + WEBHOOKS).collect();
    let ids: Vec<String> = pages.iter().map(ToString::to_string).collect();
    let add = ["run", "--rm", "-T", "demo-login", "page", "add"];
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    project.run(&[&add[..], &ids].concat());
    // After the first reads, which find no token, only webhooks write to these Pages.
    let registered = within(Duration::from_secs(180), "the first reads", || async {
        let found = versions(&project.pages(), |page| page["status"] == "no_token");
        (found.len() == pages.len()).then_some(found)
    })
    .await;

    let url = format!("http://127.0.0.1:{}/facebook/webhook", project.ingress);
    let workers = project.run(&["ps", "-q", "worker"]);
    let workers: Vec<&str> = workers.lines().collect();
    assert_eq!(workers.len(), 4, "--scale worker=4");
    let mut load = JoinSet::new();
    for page in &pages {
        load.spawn(send(client.clone(), url.clone(), secret.clone(), *page));
        if *page == FIRST_PAGE + WEBHOOKS / 2 {
            let killed = Command::new("docker")
                .args(["kill", "-s", "KILL", workers[0]])
                .output()
                .unwrap();
            assert!(killed.status.success());
        }
    }
    load.join_all().await;
    let renamed = client
        .patch(format!("{simulated}/100000000000001"))
        .json(&json!({"name": "Renamed at the simulator"}))
        .send()
        .await
        .unwrap();
    assert!(renamed.status().is_success());
    let lost = within(
        Duration::from_secs(180),
        "every Page to be named",
        || async {
            let listed = project.pages();
            let has = |id: &str, name: &str| {
                listed
                    .iter()
                    .any(|page| page["id"] == id && page["name"] == name)
            };
            let lost = pages
                .iter()
                .filter(|page| !has(&page.to_string(), &format!("n{page}")))
                .count();
            let simulated = has("100000000000001", "Renamed at the simulator");
            (lost == 0 && simulated).then_some(lost)
        },
    )
    .await;
    println!("webhooks={WEBHOOKS} lost={lost}");
    ask_the_bot(&client, &format!("{simulated}/100000000000001")).await;
    let script = "redis-cli --no-auth-warning -a \"$(sed 's/^requirepass //' /run/pagesync/redis/10-password.conf)\" HGET '{pagesync}:page:100000000000001' name";
    let name = project.run(&["exec", "-T", "redis", "sh", "-c", script]);
    assert_eq!(name.trim(), "Renamed at the simulator");

    // The command of docs/state.md.
    let script = "redis-cli -u \"$(cat /run/pagesync/redis_reader_url)\" HGET {pagesync}:page:100000000000001 name";
    let name = project.run(&["exec", "-T", "redis", "sh", "-c", script]);
    assert_eq!(name.trim(), "Renamed at the simulator");

    let named = versions(&project.pages(), |_| true);
    let twice = named
        .iter()
        .filter(|(id, version)| **version > registered[*id] + 1)
        .count();
    assert_eq!(twice, 0, "number of webhooks that were applied twice");
    let dead_letters = project.pagesync(&["dead-letter", "list"]);
    assert_eq!(dead_letters, json!([]));
    project.run(&["down", "-v"]);
}
