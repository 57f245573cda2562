//! Puts what is copied into the log, where it has its place.

use futures_util::FutureExt as _;
use unitflow_change::copy::{Chunk, Part};
use unitflow_change::redis::{write as write_value, write_key};
use unitflow_change::tag::Kind;
use unitflow_change::{Code, Fault};
use unitflow_redis::chunk::{Found, Name};
use unitflow_redis::rdb::Piece;
use unitflow_redis::rebuild::Rebuild;
use unitflow_redis::{Command, Stream, commands};

use super::{Capture, json};
use crate::pipeline::redis::copier::{After, Due, Over};

/// The key of a chunk that is being put into the log.
struct KeyCopy<'a> {
    asked_us: u64,
    to: &'a str,
    /// As records name it.
    key: Vec<u8>,
    rebuild: Rebuild,
    expires_ms: Option<u64>,
    /// How many records of it are written, and the next one, which may be its last.
    index: u64,
    held: Option<Vec<u8>>,
}

impl<'a> KeyCopy<'a> {
    fn new(asked_us: u64, to: &'a str) -> Self {
        Self {
            asked_us,
            to,
            key: Vec::new(),
            rebuild: Rebuild::new(""),
            expires_ms: None,
            index: 0,
            held: None,
        }
    }
}

impl Capture {
    /// Puts into the log what is copied and has its place here; begins what comes next.
    pub(super) async fn copy(&mut self, stream: &Stream) -> Result<(), Fault> {
        if !self.is_whole(stream) {
            return Ok(());
        }
        if self.copier.is_due()
            && let Some(due) = self.copier.due().await
        {
            self.put_chunk(due, stream).await?;
        } else {
            // Beside a stream that never pauses nobody waits for it.
            let _ = self.copier.ready().now_or_never();
        }
        let (progress, keyspace) = (&mut self.state.copy, &self.state.keyspace);
        if let Some(over) = self.copier.next(progress, keyspace, stream.now_us()) {
            self.put_over(over, stream)?;
        }
        Ok(())
    }

    /// A job is over once this record has passed.
    fn put_over(&mut self, Over { head, to }: Over, stream: &Stream) -> Result<(), Fault> {
        let value = json(&head)?;
        self.copied_record((Kind::Chunk, (0, true), &to), stream.now_us(), None, &value)?;
        self.state.copy.done.insert(head.job, self.state.seq);
        self.commit(stream)
    }

    /// Puts a chunk into the log as it comes from the server. Where it breaks off, what was put before is passed over.
    async fn put_chunk(&mut self, due: Due, stream: &Stream) -> Result<(), Fault> {
        let Due { job, to, asked_us, mut answer, after } = due;
        let head = async {
            let ledger = self.copier.standing(&answer.texts().await?)?;
            Ok(Chunk { job: job.clone(), part: Part::Rows, tables: Vec::new(), ledger })
        };
        let head: Chunk = match head.await {
            Ok(head) => head,
            Err(fault) => return self.chunk_broke(&job, &fault),
        };
        let value = json(&head)?;
        self.copied_record((Kind::Chunk, (0, true), &to), asked_us, None, &value)?;
        let keys = answer.wanted().keys.len();
        let mut copy = KeyCopy::new(asked_us, &to);
        // What Kafka does not take is no fault of the chunk's.
        let mut refused = None;
        let read = answer.values(|name, found| {
            ensure_carried(name, &found)?;
            let put = self.put_found(&mut copy, name, found);
            let put = put.and_then(|()| match self.grouping.is_full(&self.writer) {
                true => self.commit(stream),
                false => Ok(()),
            });
            put.inspect_err(|fault| refused = Some(fault.clone()))
        });
        match (read.await, refused) {
            (Ok(reader), _) => self.copier.written(reader, keys),
            (Err(_), Some(fault)) => return Err(fault),
            (Err(fault), None) => return self.chunk_broke(&job, &fault),
        }
        match after {
            After::Over => {
                let over = self.copier.over(&mut self.state.copy, &job, to);
                self.put_over(over, stream)
            }
            After::Scan(scan) => {
                self.state.copy.scan = Some(scan);
                Ok(())
            }
            After::SameScan => Ok(()),
        }
    }

    fn chunk_broke(&mut self, job: &str, fault: &Fault) -> Result<(), Fault> {
        match fault.is_retry() {
            true => self.copier.begin_again(fault),
            false => self.copier.fail(&mut self.state.copy, job, fault),
        }
        self.grouping.pending();
        Ok(())
    }

    /// Puts what is found of a key into the log: the commands that make it, one held back to know the last; of a key that is
    /// gone an empty word.
    fn put_found(
        &mut self,
        copy: &mut KeyCopy<'_>,
        (db, key): &Name,
        found: Found,
    ) -> Result<(), Fault> {
        match found {
            Found::Key { expires_ms } => {
                (copy.index, copy.expires_ms, copy.held) = (0, expires_ms, None);
                copy.rebuild = Rebuild::new(key.clone());
                copy.key.clear();
                write_key(&mut copy.key, *db, key);
            }
            Found::Piece(piece) => {
                for command in copy.rebuild.add(&piece) {
                    self.put_made(copy, *db, command)?;
                }
            }
            Found::End => {
                if let Some(command) = copy.rebuild.end() {
                    self.put_made(copy, *db, command)?;
                }
                if let Some(ms) = copy.expires_ms {
                    let ms = ms.to_string();
                    let made = Command::of([b"PEXPIREAT", &key[..], ms.as_bytes()]);
                    self.put_made(copy, *db, made)?;
                }
                if let Some(value) = copy.held.take() {
                    self.put_copy(copy, true, &value)?;
                }
            }
            Found::Gone => {
                copy.index = 0;
                copy.key.clear();
                write_key(&mut copy.key, *db, key);
                self.put_copy(copy, true, b"")?;
            }
        }
        Ok(())
    }

    fn put_made(&mut self, copy: &mut KeyCopy<'_>, db: u32, made: Command) -> Result<(), Fault> {
        let mut value = Vec::new();
        let keys = commands::form(&made)?.keys(&made)?;
        write_value(&mut value, db, made.words(), &keys);
        match copy.held.replace(value) {
            Some(before) => self.put_copy(copy, false, &before),
            None => Ok(()),
        }
    }

    fn put_copy(&mut self, copy: &mut KeyCopy<'_>, last: bool, value: &[u8]) -> Result<(), Fault> {
        let place = (Kind::Copy, (copy.index, last), copy.to);
        self.copied_record(place, copy.asked_us, Some(&copy.key), value)?;
        copy.index += 1;
        Ok(())
    }
}

/// Whether what is found of a key can be copied.
fn ensure_carried((_, key): &Name, found: &Found) -> Result<(), Fault> {
    match found {
        Found::Piece(Piece::Field { expires_ms: Some(_), .. }) => Err(Fault::fatal(
            Code::Command,
            format!(
                "the hash {} has fields that expire, which are not carried yet",
                key.escape_ascii()
            ),
        )
        .hint("leave such keys out, under exclude of the flow")),
        _ => Ok(()),
    }
}
