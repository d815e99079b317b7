//! The hostile clients of a run. They take every place of ingress, and send large bodies with a wrong
//! signature, as fast as they are read, while signed webhooks are delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::http::raise_open_file_limit;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Totals;
use crate::load::{Load, wait};
use crate::rounds::{Deployment, TIMEOUT};
use crate::support::within;

/// How many connections send signed webhooks meanwhile.
const SIGNED_CONNECTIONS: usize = 16;
/// How many hostile clients send at the same time: twice as many as ingress has places.
const CLIENTS: u64 = 4096;
/// The length of each body, in bytes: the longest one that is accepted is one byte longer.
const BODY_BYTES: usize = 5 * 1024 * 1024 - 1;
/// How many bytes a client writes at once.
const PART_BYTES: usize = 16 * 1024;
/// The most memory that ingress may use, in bytes. Without a limit on bodies it would use gigabytes.
const MAX_MEMORY: u64 = 300 * 1024 * 1024;

impl Deployment {
    /// Delivers webhooks while hostile clients send. Panics if ingress uses more than
    /// [`MAX_MEMORY`], or if the webhooks are not accepted while the clients send.
    pub(crate) async fn hostile_clients_round(&mut self, totals: &mut Totals) {
        let pages = self.register_next().await;
        let url = self.processes[0].webhook_url();
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        raise_open_file_limit(CLIENTS + 1024);
        let sent = Arc::new(AtomicU64::new(0));
        // The clients have a thread of their own, so that they do not delay the signed webhooks here.
        let hostile = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for n in 0..CLIENTS {
            hostile.spawn(attack(host.to_owned(), n % 2 == 0, sent.clone()));
        }
        within(TIMEOUT, "every hostile client to send", || async {
            (sent.load(Ordering::SeqCst) >= CLIENTS).then_some(())
        })
        .await;
        let load = Load::start(&url, pages.clone(), SIGNED_CONNECTIONS);
        let counts = load.finish().await;
        let attempts = sent.load(Ordering::SeqCst);
        hostile.shutdown_background();
        let memory = self.processes[0].peak_memory();
        println!(
            "hostile clients: {attempts} bodies from {CLIENTS} clients, at most {} MiB of memory, slowest signed answer {} ms",
            memory / 1024 / 1024,
            counts.slowest_answer.load(Ordering::SeqCst)
        );
        assert!(memory < MAX_MEMORY, "ingress used {memory} bytes");
        self.count(&counts, &pages, totals).await;
    }
}

/// Sends one body after the other, each on a connection of its own, until the task is aborted.
async fn attack(host: String, is_chunked: bool, sent: Arc<AtomicU64>) {
    loop {
        // The server closes the connection when it refuses the body.
        if send_body(&host, is_chunked, &sent).await.is_err() {
            wait(Duration::from_millis(10)).await;
        }
    }
}

/// Sends a body with a wrong signature and reads the answer. `sent` counts the bodies of which the
/// first part was sent.
async fn send_body(host: &str, is_chunked: bool, sent: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(host).await?;
    let framing = if is_chunked {
        "transfer-encoding: chunked".to_owned()
    } else {
        format!("content-length: {BODY_BYTES}")
    };
    let signature = "0".repeat(64);
    let head = format!(
        "POST /facebook/webhook HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: sha256={signature}\r\n{framing}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let part = vec![b'x'; PART_BYTES];
    let mut remaining = BODY_BYTES;
    while remaining > 0 {
        let part = &part[..PART_BYTES.min(remaining)];
        if is_chunked {
            let size = format!("{:x}\r\n", part.len());
            stream.write_all(size.as_bytes()).await?;
        }
        stream.write_all(part).await?;
        if is_chunked {
            stream.write_all(b"\r\n").await?;
        }
        if remaining == BODY_BYTES {
            sent.fetch_add(1, Ordering::SeqCst);
        }
        remaining -= part.len();
    }
    if is_chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map(drop)
}
