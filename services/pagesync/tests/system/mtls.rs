//! The configurations of nginx and Caddy in `deploy/mtls`, which require Meta's client certificate for
//! webhooks, in front of a running pagesync and with certificates of the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::signing::hmac_sha256;
use hmac::Mac as _;
use model::hex::hex;
use tempfile::TempDir;

use crate::support::deployment::APP_SECRET;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions};
use crate::support::{TestBackend, reserve_port, within};

/// The host in the configurations and in the certificate of the server.
const HOST: &str = "your-app.example";
/// The CN of Meta's client certificate.
const META: &str = "/O=Meta/CN=client.webhooks.fbclientcerts.com";
/// The beginning of the paths in the configurations.
const TLS_DIRECTORY: &str = "/etc/pagesync/tls";

/// A process that ends with the test.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs openssl in a directory.
fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("openssl is missing; ./test installs it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
}

/// Makes a certificate that is signed by itself: `<name>.pem` with its key.
fn self_signed(directory: &Path, name: &str, subject: &str, extension: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let make = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let rest = [
        "-keyout",
        &key,
        "-out",
        &certificate,
        "-days",
        "2",
        "-subj",
        subject,
        "-addext",
        extension,
    ];
    openssl(directory, &[&make[..], &rest[..]].concat());
}

/// Makes a client certificate that `authority` has signed.
fn signed(directory: &Path, name: &str, subject: &str, authority: &str) {
    let file = |kind: &str| format!("{name}.{kind}");
    let (key, request, certificate) = (file("key"), file("csr"), file("pem"));
    let make = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let rest = ["-keyout", &key, "-out", &request, "-subj", subject];
    openssl(directory, &[&make[..], &rest[..]].concat());
    let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
    openssl(
        directory,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-out",
            &certificate,
            "-days",
            "2",
        ],
    );
}

/// Makes the certificates of the test.
fn certificates() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = "basicConstraints=critical,CA:TRUE";
    self_signed(
        path,
        "meta-outbound-api-ca-2025-12",
        "/O=Test/CN=Meta",
        authority,
    );
    self_signed(path, "other", "/O=Test/CN=Other", authority);
    self_signed(
        path,
        "fullchain",
        &format!("/CN={HOST}"),
        &format!("subjectAltName=DNS:{HOST}"),
    );
    std::fs::rename(path.join("fullchain.key"), path.join("privkey.pem")).unwrap();
    let meta = "meta-outbound-api-ca-2025-12";
    signed(path, "good", META, meta);
    signed(path, "suffix", &format!("{META}.evil.example"), meta);
    signed(path, "foreign", META, "other");
    directory
}

/// Returns a configuration of `deploy/mtls` with the paths, the port and the upstream of the test.
fn configuration(name: &str, directory: &Path, port: u16, upstream: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy/mtls")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let replacements = [
        (TLS_DIRECTORY, directory.to_str().unwrap()),
        ("127.0.0.1:5000", upstream),
        ("    listen [::]:443 ssl;\n", ""),
        ("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl")),
        (&format!("{HOST}:443"), &format!("{HOST}:{port}")),
    ];
    replacements
        .into_iter()
        .fold(text, |text, (from, to)| text.replace(from, to))
}

fn start_nginx(directory: &Path, port: u16, upstream: &str) -> Proxy {
    let site = configuration("nginx.conf", directory, port, upstream);
    std::fs::write(directory.join("site.conf"), site).unwrap();
    let d = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {d}/{name};"))
        .concat();
    let main = format!(
        "pid {d}/nginx.pid; daemon off; error_log {d}/error.log; events {{}} http {{ access_log off; {temporary} include {d}/site.conf; }}"
    );
    std::fs::write(directory.join("main.conf"), main).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(directory.join("main.conf"));
    start(command)
}

fn start_caddy(directory: &Path, port: u16, upstream: &str) -> Proxy {
    let site = configuration("Caddyfile", directory, port, upstream);
    let text = format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{site}");
    std::fs::write(directory.join("Caddyfile"), text).unwrap();
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(directory.join("Caddyfile"));
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, directory);
    }
    start(command)
}

fn start(mut command: Command) -> Proxy {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn();
    Proxy(child.unwrap_or_else(|error| panic!("{command:?}: {error}; ./test installs it")))
}

/// Sends a request with curl, with the client certificate `name` if there is one. Returns the status, or
/// 0 if the connection failed.
fn request(directory: &Path, port: u16, name: Option<&str>, path: &str, more: &[&str]) -> u16 {
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("curl");
    command
        .args([
            "--http1.1",
            "--silent",
            "--output",
            "/dev/null",
            "--max-time",
            "20",
        ])
        .args([
            "--write-out",
            "%{http_code}",
            "--cacert",
            &file("fullchain.pem"),
        ])
        .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
        .args(more);
    if let Some(name) = name {
        command.args(["--cert", &file(&format!("{name}.pem"))]);
        command.args(["--key", &file(&format!("{name}.key"))]);
    }
    command.arg(format!("https://{HOST}:{port}{path}"));
    let output = command
        .output()
        .expect("curl is missing; ./test installs it");
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

/// Starts pagesync behind a proxy, and checks who reaches which path.
async fn check(start: fn(&Path, u16, &str) -> Proxy) {
    let connected =
        ConnectedDeployment::start(TestBackend::Embedded, DeploymentOptions::default()).await;
    let upstream = connected.public.trim_start_matches("http://");
    let certificates = certificates();
    let (directory, port): (PathBuf, u16) = (certificates.path().to_owned(), reserve_port());
    let _proxy = start(&directory, port, upstream);
    let send = |name, path: &str, more: &[&str]| {
        tokio::task::block_in_place(|| request(&directory, port, name, path, more))
    };
    within(Duration::from_secs(60), "the proxy", || async {
        (send(None, "/livez", &[]) == 200).then_some(())
    })
    .await;
    let body = r#"{"object":"page","entry":[{"id":"1","time":1750000000,"changes":[{"field":"name","value":"caf\u00e9 \/"}]}]}"#;
    let secret = secrecy::SecretString::from(APP_SECRET.to_owned());
    let tag = hmac_sha256(&secret)
        .chain_update(body)
        .finalize()
        .into_bytes();
    let signature = format!("x-hub-signature-256: sha256={}", hex(&tag));
    let webhook = ["--header", &signature, "--data-binary", body];
    assert_eq!(send(Some("good"), "/facebook/webhook", &webhook), 200);
    for name in [None, Some("suffix")] {
        assert_eq!(send(name, "/facebook/webhook", &webhook), 403, "{name:?}");
    }
    let foreign = send(Some("foreign"), "/facebook/webhook", &webhook);
    assert!([0, 400].contains(&foreign), "{foreign}");
    assert_eq!(
        send(None, "/facebook/login", &[]),
        302,
        "people need no certificate"
    );
    assert_eq!(send(None, "/facebook//webhook", &webhook), 403);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_requires_metas_certificate_for_webhooks_only() {
    check(start_nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_requires_metas_certificate_for_webhooks_only() {
    check(start_caddy).await;
}
