//! Does a server answer? Each question reaches the very server that was started, and no other that may hold the port:
//! by the socket in its folder, or by an identity that it was given. Only of a program that is no server of a kind we know
//! is no more asked than that it listens.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// A server that has opened its door but does not answer yet is asked again after this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    /// The greeting that MySQL and MariaDB send to whoever connects, once they accept.
    MysqlGreeting { socket: PathBuf },
    /// PING.
    RedisPing { socket: PathBuf },
    /// The cluster's metadata: the broker is in it when it may serve.
    KafkaMetadata { port: u16, cluster: String },
    /// It accepts connections, of whatever protocol.
    Accepts { port: u16 },
}

impl Probe {
    pub async fn answers(&self) -> bool {
        let answer = async {
            match self {
                Self::MysqlGreeting { socket } => mysql_greets(socket).await,
                Self::RedisPing { socket } => redis_pongs(socket).await,
                Self::KafkaMetadata { port, cluster } => kafka_serves(*port, cluster).await,
                Self::Accepts { port } => {
                    TcpStream::connect(("127.0.0.1", *port)).await.map(|_| true)
                }
            }
        };
        matches!(timeout(PATIENCE, answer).await, Ok(Ok(true)))
    }
}

/// Three bytes of length, one of sequence, then the protocol's version; an error packet has 255 there.
async fn mysql_greets(socket: &PathBuf) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    Ok(head[4] == 10)
}

/// A server that wants a password is up as well; one that is loading says so, and is not.
async fn redis_pongs(socket: &PathBuf) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"+PONG") || head.starts_with(b"-NOAUTH"))
}

/// Metadata, version 4 (<https://kafka.apache.org/protocol#The_Messages_Metadata>), about no topic at all. A broker is
/// listed once the controller has unfenced it, which is later than the opening of its port.
async fn kafka_serves(port: u16, cluster: &str) -> io::Result<bool> {
    const REQUEST: [u8; 19] = [
        0, 0, 0, 15, // length
        0, 3, 0, 4, // Metadata, version 4
        0, 0, 0, 1, // correlation
        0xff, 0xff, // no client id
        0, 0, 0, 0, // no topics
        0, // create none
    ];
    /// An answer about one broker and no topic has some hundred bytes.
    const LONGEST: u32 = 64 * 1024;

    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&REQUEST).await?;
    let length = stream.read_u32().await?;
    let mut answer = (&mut stream).take(u64::from(length.min(LONGEST)));
    let _correlation = answer.read_u32().await?;
    let _throttle = answer.read_u32().await?;
    let brokers = answer.read_u32().await?;
    let mut rest = Vec::new();
    answer.read_to_end(&mut rest).await?;
    // Behind the brokers stands the cluster's id, which nothing else in so small an answer can look like.
    Ok(brokers > 0 && rest.windows(cluster.len()).any(|bytes| bytes == cluster.as_bytes()))
}
