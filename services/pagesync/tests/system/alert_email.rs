//! Messages about problems go to a mail server: the package `aiosmtpd` of Python, which is installed from its
//! registry.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use common::config::Role;

use crate::sdk::python_packages;
use crate::support::TestBackend;
use crate::support::eventually;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions};

/// Accepts mail from `ops` with a password, and prints one line of JSON for each message.
const SERVER: &str = "
import asyncio, email, email.policy, json
from aiosmtpd.smtp import SMTP, AuthResult
class Handler:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(json.dumps({'from': envelope.mail_from, 'to': envelope.rcpt_tos,
            'subject': message['subject'], 'text': message.get_content()}), flush=True)
        return '250 OK'
def authenticate(server, session, envelope, mechanism, data):
    is_right = (data.login, data.password) == (b'ops', b'p@ss word')
    return AuthResult(success=is_right, handled=False)
async def main():
    factory = lambda: SMTP(Handler(), hostname='localhost', authenticator=authenticate, auth_required=True, auth_require_tls=False)
    server = await asyncio.get_running_loop().create_server(factory, '127.0.0.1', 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
";

/// The process of the mail server, which ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_gets_a_message_about_a_login_that_ended_and_one_about_its_end() {
    let python = tokio::task::block_in_place(|| python_packages("alert-email", "aiosmtpd==1.4.6"));
    let mut server = Server(
        Command::new(python)
            .args(["-c", SERVER])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap();
    let (sender, mails) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<serde_json::Value>(&line).unwrap());
        }
    });
    let smtp_url = format!("smtp://ops:p%40ss%20word@127.0.0.1:{port}");
    let extra = [
        (
            "PAGESYNC_ALERT_EMAIL",
            "oncall@example.com,boss@example.com",
        ),
        ("PAGESYNC_ALERT_FROM", "pagesync@example.com"),
        ("PAGESYNC_SMTP_URL", &*smtp_url),
    ];
    let options = DeploymentOptions {
        extra: &extra,
        clock: crate::support::facebook::manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(TestBackend::Embedded, options).await;
    assert_eq!(
        connected.text(&["alert", "test"]),
        "email: accepted a test message\n"
    );
    assert_eq!(connected.connect().await.0, 200);
    connected.end_login("200000000000001");
    connected.advance(std::time::Duration::from_secs(120));
    connected.read_again(0).await;
    let next = async || eventually("a mail", || async { mails.try_recv().ok() }).await;
    for recipient in ["oncall@example.com", "boss@example.com"] {
        let test = next().await;
        assert_eq!(test["subject"], "pagesync: test message");
        assert_eq!(test["to"], serde_json::json!([recipient]));
    }
    let mail = next().await;
    assert_eq!(mail["subject"], "pagesync: a login has ended");
    assert_eq!(mail["from"], "pagesync@example.com");
    // The other recipient gets the same.
    assert_eq!(next().await["text"], mail["text"]);
    let text = mail["text"].as_str().unwrap();
    let link = format!("To log in again: {}", connected.login());
    assert!(text.contains(&link), "{text}");
    assert!(text.contains("the person changed their password"), "{text}");
    assert_eq!(connected.connect().await.0, 200);
    let resolved = next().await;
    assert_eq!(resolved["subject"], "pagesync: resolved: a login has ended");

    let wrong = smtp_url.replace("p%40ss", "wrong");
    let mut command = connected.command(Role::Up, &["alert", "test"]);
    command.env("PAGESYNC_SMTP_URL", wrong);
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("email: the mail server refused"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    connected.finish().await;
}
