//! A proxy in front of a server, which can delay what clients send.
//!
//! Invariant: the proxy changes no byte and no order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A proxy that runs until the test ends.
#[derive(Debug)]
pub(crate) struct SlowProxy {
    /// The port on which the proxy listens.
    pub(crate) port: u16,
    delay_millis: Arc<AtomicU64>,
}

impl SlowProxy {
    /// Starts a proxy to a port of this machine, without a delay.
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let delay_millis = Arc::new(AtomicU64::new(0));
        let delay = delay_millis.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, delay.clone()));
            }
        });
        Self { port, delay_millis }
    }

    /// Delays everything that clients send from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        self.delay_millis.store(millis, Ordering::SeqCst);
    }
}

/// Forwards one connection until one side closes it.
async fn forward(client: TcpStream, server: u16, delay_millis: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            let millis = delay_millis.load(Ordering::SeqCst);
            if millis > 0 {
                let mut interval = tokio::time::interval(Duration::from_millis(millis));
                // The first tick completes immediately.
                interval.tick().await;
                interval.tick().await;
            }
            if to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
