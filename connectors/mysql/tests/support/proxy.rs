//! A way to a server that ends at a chosen byte, or is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Passes connections on to a server, until the server has sent as many bytes as it may.
pub struct Proxy {
    pub port: u16,
    left: Arc<AtomicU64>,
    pause_us: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let pause_us = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let shared = (Arc::clone(&left), Arc::clone(&pause_us));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let to = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                connections.spawn(pass(client, to, shared.clone()));
            }
        });
        Self { port, left, pause_us, _tasks: tasks }
    }

    /// A pause after each 16 KiB that a server has sent, in each connection.
    pub fn slow(&self, pause: std::time::Duration) {
        self.pause_us.store(u64::try_from(pause.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// Lets that many bytes more through, over all connections together.
    pub fn allow(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// How many bytes may still come.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    (left, pause_us): (Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = tokio::io::copy(&mut from_client, &mut to_server);
    let back = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let pause = pause_us.load(Ordering::SeqCst) * read as u64 / buffer.len() as u64;
            tokio::time::sleep(std::time::Duration::from_micros(pause)).await;
            let whole = left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    Some(left.saturating_sub(read as u64))
                })
                .unwrap();
            let some = read.min(usize::try_from(whole).unwrap_or(usize::MAX));
            if to_client.write_all(&buffer[..some]).await.is_err() || some < read {
                break;
            }
        }
        // An end in good order, as where the server's process went away.
        let _ = to_client.shutdown().await;
    };
    tokio::select! { _ = there => {}, () = back => {} }
}
