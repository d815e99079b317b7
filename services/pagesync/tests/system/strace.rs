//! Checks the order of the system calls for a webhook. A test that kills the process cannot detect
//! a missing fsync, because the page cache of the kernel survives the kill.

use std::process::{Command, Stdio};
use std::time::Duration;

use common::config::Role;
use simulator::bytes::signature_256;

use crate::support::deployment::{APP_SECRET, TestStorage};
use crate::support::{TestBackend, reserve_port, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_written_and_synced_before_the_answer_200_is_sent() {
    let storage = TestStorage::new(TestBackend::Embedded).await;
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let (public, private) = (reserve_port(), reserve_port());
    let mut environment = storage.environment(Role::Up, &[]);
    environment.insert("PAGESYNC_LISTEN".to_owned(), format!("127.0.0.1:{public}"));
    environment.insert(
        "PAGESYNC_PRIVATE_LISTEN".to_owned(),
        format!("127.0.0.1:{private}"),
    );
    let calls = "trace=pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg";
    let mut traced = Command::new("strace")
        .args(["-f", "-s", "70000", "-e", calls, "-o"])
        .arg(&trace)
        .args([env!("CARGO_BIN_EXE_pagesync"), "up"])
        .env_clear()
        .envs(&environment)
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is missing; ./test installs it");
    let client = crate::support::client();
    let ready = format!("http://127.0.0.1:{private}/readyz");
    within(
        Duration::from_secs(60),
        "the traced process to be ready",
        || async {
            let answer = client.get(&ready).send().await.ok()?;
            answer.status().is_success().then_some(())
        },
    )
    .await;
    let body = r#"{"object":"page","entry":[{"id":"5","time":1750000000,"changes":[{"field":"name","value":"look-for-me"}]}]}"#;
    let answer = client
        .post(format!("http://127.0.0.1:{public}/facebook/webhook"))
        .header(
            "x-hub-signature-256",
            signature_256(APP_SECRET, body.as_bytes()),
        )
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    // SIGTERM goes to the traced process, and strace ends together with it.
    let children = format!("/proc/{0}/task/{0}/children", traced.id());
    let child = std::fs::read_to_string(children).unwrap();
    Command::new("kill")
        .args(["-TERM", child.trim()])
        .status()
        .unwrap();
    traced.wait().unwrap();

    let text = std::fs::read(&trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let find = |from: usize, matches: &dyn Fn(&str) -> bool| {
        let found = lines[from..]
            .iter()
            .position(|line| matches(line))
            .map(|at| from + at);
        found.expect("the trace contains the call")
    };
    let written = find(0, &|line| {
        line.contains("pwrite64(") && line.contains("look-for-me")
    });
    let synced = find(written, &|line| {
        (line.contains("fdatasync(") || line.contains("fdatasync resumed")) && line.ends_with("= 0")
    });
    let answered = find(0, &|line| {
        line.contains("HTTP/1.1 200") && line.contains(r#"\"success\""#)
    });
    assert!(
        written < synced && synced < answered,
        "write {written}, fdatasync {synced}, answer {answered}"
    );
    println!(
        "write at line {written}, fdatasync at {synced}, the answer at {answered} of {}",
        lines.len()
    );
}
