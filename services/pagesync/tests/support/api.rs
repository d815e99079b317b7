//! A client of the HTTP API of a deployment.

use std::collections::BTreeMap;

use common::config::Role;
use serde_json::Value as Json;

use super::deployment::TestStorage;
use super::facebook::{ConnectedDeployment, status_and_body};

/// A client with a key.
#[derive(Debug, Clone)]
pub(crate) struct ApiClient {
    /// The base address of the API.
    pub(crate) url: String,
    /// The text of the key.
    pub(crate) key: String,
    client: reqwest::Client,
}

impl ApiClient {
    /// Starts the role `api` if no running role serves the API, and creates a key with these arguments of
    /// `api-key create`.
    pub(crate) async fn start(connected: &mut ConnectedDeployment, arguments: &[&str]) -> Self {
        let is_distributed = matches!(
            &connected.deployment.storage,
            TestStorage::Distributed { .. }
        );
        let roles = &connected.deployment.roles;
        if is_distributed && !roles.iter().any(|(role, _)| *role == Role::Api) {
            connected.add_role(Role::Api).await;
        }
        let serves = |role: Role| matches!(role, Role::Up | Role::Api);
        let mut roles = connected.deployment.roles.iter();
        let (_, running) = roles.find(|(role, _)| serves(*role)).unwrap();
        super::eventually("the API to be ready", || async {
            let ready = connected.deployment.get_private_of(running, "readyz").await;
            (ready.0 == 200).then_some(())
        })
        .await;
        Self {
            url: format!("http://{}", running.private),
            key: create_key(connected, arguments)["key"]
                .as_str()
                .unwrap()
                .to_owned(),
            client: super::client(),
        }
    }

    /// Returns a client of the same API with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        let key = key.to_owned();
        Self {
            key,
            ..self.clone()
        }
    }

    /// Sends a GET with further headers.
    pub(crate) async fn request(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let request = self.client.get(format!("{}{path}", self.url));
        let request = headers
            .iter()
            .fold(request.bearer_auth(&self.key), |request, (name, value)| {
                request.header(*name, *value)
            });
        request.send().await.unwrap()
    }

    /// Sends a GET. Returns the status and the body.
    pub(crate) async fn get(&self, path: &str) -> (u16, Json) {
        status_and_body(self.request(path, &[]).await).await
    }

    /// Sends a GET. Returns the body. Panics unless the status is 200.
    pub(crate) async fn ok(&self, path: &str) -> Json {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Sends a POST. Returns the status and the body.
    pub(crate) async fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        let request = self.client.post(format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.key).json(body);
        status_and_body(request.send().await.unwrap()).await
    }
}

/// Creates a key with these arguments of `api-key create`. Returns what the command prints.
pub(crate) fn create_key(connected: &ConnectedDeployment, arguments: &[&str]) -> Json {
    let arguments = [&["api-key", "create", "--name", "bot"], arguments].concat();
    connected.json(&arguments)
}

/// Reads the events of an event stream.
#[derive(Debug)]
pub(crate) struct EventReader {
    answer: reqwest::Response,
    text: String,
}

impl EventReader {
    /// Returns a reader of an answer. Panics unless the answer is an event stream.
    pub(crate) fn new(answer: reqwest::Response) -> Self {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let text = String::new();
        Self { answer, text }
    }

    /// Returns the fields of the next event, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let fields = event.lines().filter_map(|line| line.split_once(": "));
                let fields = fields
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                self.text = rest.into();
                return Some(fields);
            }
            let chunk = self.answer.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
