//! Buffered reading from a connection, with a count of the bytes: offsets of the replication stream are
//! counted in them, and a snapshot's checksum runs over them.

use std::io::ErrorKind;
use std::time::Duration;

use crc::{CRC_64_REDIS, Crc, Digest, Table};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};
use unitflow_change::fault::{Code, Fault};

/// How much is asked of the connection at once.
const READ_BYTES: usize = 64 << 10;

/// CRC-64 as Redis computes it (Jones).
static CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// What comes from a server.
pub struct Input<R> {
    from: R,
    /// Silence for longer is a fault.
    patience: Duration,
    /// Since when more is waited for; a wait that is given up and begun again goes on.
    waiting_since: Option<Instant>,
    buffer: Vec<u8>,
    at: usize,
    /// Bytes taken so far.
    taken: u64,
    digest: Option<Digest<'static, u64, Table<16>>>,
}

impl<R: AsyncRead + Unpin> Input<R> {
    /// Reads from `from`, which may be silent for so long at most.
    pub fn new(from: R, patience: Duration) -> Self {
        Self {
            from,
            patience,
            waiting_since: None,
            buffer: Vec::new(),
            at: 0,
            taken: 0,
            digest: None,
        }
    }

    /// From here on it may be silent for so long.
    pub fn be_patient_for(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// How many bytes were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// From here on bytes that are taken go into a checksum.
    pub fn begin_checksum(&mut self) {
        self.digest = Some(CHECKSUM.digest());
    }

    /// The checksum of what was taken since [`Input::begin_checksum`].
    pub fn end_checksum(&mut self) -> u64 {
        self.digest.take().map_or(0, |digest| digest.finalize())
    }

    /// Whether nothing is buffered, so that the next read may wait.
    pub fn is_drained(&self) -> bool {
        self.at == self.buffer.len()
    }

    /// The bytes that are here already.
    pub fn ready(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Waits until so many bytes are here.
    pub async fn need(&mut self, count: usize) -> Result<(), Fault> {
        while self.buffer.len() - self.at < count {
            self.more(count).await?;
        }
        Ok(())
    }

    /// Waits for more than is here, with room for `count` bytes in all.
    pub async fn more(&mut self, count: usize) -> Result<(), Fault> {
        self.buffer.drain(..self.at);
        self.at = 0;
        // What a length promises is not trusted with memory before it comes.
        let room = count.saturating_sub(self.buffer.len()).clamp(READ_BYTES, 16 * READ_BYTES);
        self.buffer.reserve(room);
        let until = *self.waiting_since.get_or_insert_with(Instant::now) + self.patience;
        let read = timeout_at(until, self.from.read_buf(&mut self.buffer)).await;
        self.waiting_since = None;
        match read {
            Ok(Ok(0)) => Err(Fault::retry(Code::Unreachable, "the server closed the connection")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                Err(Fault::retry(Code::Tls, format!("the connection broke: {error}")))
            }
            Ok(Err(error)) => {
                Err(Fault::retry(Code::Unreachable, format!("the connection broke: {error}")))
            }
            Err(_) => Err(Fault::retry(
                Code::Unreachable,
                format!("the server has been silent for {} s", self.patience.as_secs()),
            )),
        }
    }

    /// Takes bytes that are here: at most [`Input::ready`].
    pub fn take(&mut self, count: usize) -> &[u8] {
        let end = (self.at + count).min(self.buffer.len());
        let taken = &self.buffer[self.at..end];
        if let Some(digest) = &mut self.digest {
            digest.update(taken);
        }
        self.taken += taken.len() as u64;
        self.at = end;
        taken
    }

    /// The next `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Result<&[u8], Fault> {
        self.need(count).await?;
        Ok(self.take(count))
    }

    /// The next `N` bytes.
    pub async fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut all = [0; N];
        all.copy_from_slice(self.bytes(N).await?);
        Ok(all)
    }

    /// The next byte.
    pub async fn byte(&mut self) -> Result<u8, Fault> {
        self.array::<1>().await.map(|[byte]| byte)
    }

    /// A line up to CR LF, which are taken and not returned. A lone LF before it is a sign of life and no line.
    pub async fn line(&mut self, longest: usize) -> Result<Vec<u8>, Fault> {
        loop {
            self.need(1).await?;
            if self.ready()[0] != b'\n' {
                break;
            }
            self.take(1);
        }
        let mut looked = 0;
        loop {
            let ready = self.ready();
            match ready[looked..].iter().position(|byte| *byte == b'\n') {
                Some(place) => {
                    let line = self.take(looked + place + 1);
                    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
                    return Ok(line.to_vec());
                }
                None if ready.len() > longest => {
                    return Err(Fault::fatal(
                        Code::StreamCorrupt,
                        format!("a line of more than {longest} bytes"),
                    ));
                }
                None => looked = ready.len(),
            }
            self.more(looked + 1).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_checksum_is_that_of_redis() {
        // The self-test of Redis' crc64.c.
        let mut input = Input::new(&b"123456789"[..], Duration::from_secs(1));
        input.begin_checksum();
        input.bytes(4).await.unwrap();
        input.bytes(5).await.unwrap();
        assert_eq!(input.end_checksum(), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(input.taken(), 9);
    }

    #[tokio::test]
    async fn signs_of_life_are_no_lines() {
        let mut input = Input::new(&b"\n\n+OK\r\n\n$3\r\n"[..], Duration::from_secs(1));
        assert_eq!(input.line(16).await.unwrap(), b"+OK");
        assert_eq!(input.line(16).await.unwrap(), b"$3");
        assert!(input.line(16).await.is_err());
    }
}
