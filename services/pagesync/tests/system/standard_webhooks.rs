//! The posts of changes are verified with the packages of the Standard Webhooks project for Python and
//! Node, which are installed from their registries.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::sdk::{node_packages, python_packages};
use crate::support::TestBackend;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions};
use crate::support::receiver::Receiver;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Reads a post from a file, verifies it, and prints its type.
const PYTHON: &str = "
import json, sys
from standardwebhooks.webhooks import Webhook
post = json.load(open(sys.argv[1]))
print(Webhook(sys.argv[2]).verify(post['body'], post['headers'])['type'])
";

/// The same for Node.
const NODE: &str = "
const { Webhook } = require('standardwebhooks');
const post = JSON.parse(require('fs').readFileSync(process.argv[1], 'utf8'));
console.log(new Webhook(process.argv[2]).verify(post.body, post.headers).type);
";

/// Runs a verification of the post in a file. Returns whether it succeeded with the type of a change.
fn is_verified(command: &mut Command, file: &Path) -> bool {
    let output = command.arg(file).arg(SECRET).output().unwrap();
    output.status.success() && output.stdout == b"page.changed\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packages_of_standard_webhooks_verify_a_post_and_refuse_a_changed_one() {
    let receiver = Receiver::start().await;
    let options = DeploymentOptions {
        extra: &[
            ("PAGESYNC_CHANGES_URL", &receiver.url),
            ("PAGESYNC_CHANGES_SECRET", SECRET),
        ],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(TestBackend::Embedded, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let post = receiver.wait_for(1).await.remove(0);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, body: &str| {
        let path = directory.path().join(name);
        let text = json!({"body": body, "headers": post.headers}).to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let right = write("right.json", &post.body);
    let changed = write("changed.json", &post.body.replace("Page ", "Pagf "));
    tokio::task::block_in_place(|| {
        let python = python_packages("standard-webhooks", "standardwebhooks==1.1.0");
        let modules = node_packages("standard-webhooks", &["standardwebhooks@1.1.1"]);
        let with_python = || {
            let mut command = Command::new(&python);
            command.args(["-c", PYTHON]);
            command
        };
        let with_node = || {
            let mut command = Command::new("node");
            command.current_dir(&modules).args(["-e", NODE]);
            command
        };
        assert!(is_verified(&mut with_python(), &right), "Python");
        assert!(is_verified(&mut with_node(), &right), "Node");
        assert!(!is_verified(&mut with_python(), &changed), "Python");
        assert!(!is_verified(&mut with_node(), &changed), "Node");
    });
    connected.finish().await;
}
