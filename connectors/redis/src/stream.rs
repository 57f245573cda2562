//! A server's writes as a replica gets them: a snapshot first, or what follows a position.
//!
//! # What it guarantees
//!
//! * **Order.** Commands come in the order in which the server executed them, with the database that each is for.
//!   Those of a transaction stand together, then [`Event::End`]; any other is followed by one at once.
//! * **Nothing twice, nothing left out.** After [`Stream::open`] with a [`Position`], the next command is the one
//!   that followed it; where the server can't go on there, it gives a [`Snapshot`] and says so.
//! * **Positions are whole.** [`Stream::position`] never lies inside a transaction, and knows the database: a server
//!   that goes on does not name it again.
//! * **It is no replica to others.** It announces no port, so nobody can elect it.
//! * **Liveness.** Servers send a sign of life every ten seconds unless told otherwise (`repl-ping-replica-period`);
//!   silence for longer than [`Options::silence`] is a fault. Each second the server is told what was captured.
//!
//! After any fault the stream is of no more use: open another.
//!
//! Source of the protocol: `replication.c` of Redis 7.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use unitflow_change::fault::{Code, Fault};

use crate::command::{Awaited, Command};
use crate::connect::{Connection, Socket, Store};
use crate::input::Input;
use crate::rdb::{self, Part};

/// How often the server is told how far the stream was captured. It begins to send commands behind a snapshot
/// only once it has heard of us.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);
/// The mark at the end of a snapshot whose size was not known before.
const END_MARK_BYTES: usize = 40;
/// The longest line that announces a snapshot.
const LINE_BYTES_MAX: usize = 4 << 10;

/// How to read a server's writes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A server that is silent for longer is taken to be gone.
    pub silence: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { silence: Duration::from_secs(60) }
    }
}

/// Where a server's stream of writes was read up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The history that the offset counts in: 40 hexadecimal digits. It changes with a failover.
    pub history: String,
    /// How many bytes of it were read.
    pub offset: u64,
    /// The database that the next command is for, unless it says otherwise.
    pub database: u32,
}

/// What a server gave.
pub enum Opened {
    /// It goes on behind the position.
    Continued(Stream),
    /// It can't, or was not asked to.
    Full(Snapshot),
}

/// A snapshot that is to be read before the stream goes on behind it.
pub struct Snapshot {
    stream: Stream,
}

impl Snapshot {
    /// What the stream goes on behind.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.stream.position
    }

    /// What the server's clock shows, in µs since 1970.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.stream.now_us()
    }

    /// Reads it, and hands out its parts as they come. The server waits for whoever is slow, but not for ever.
    ///
    /// # Errors
    /// Those of [`rdb::read`]; one that is cut is a fault of the connection.
    pub async fn read(
        mut self,
        mut each: impl FnMut(Part) -> Result<(), Fault>,
    ) -> Result<Stream, Fault> {
        let input = &mut self.stream.input;
        let head = input.line(LINE_BYTES_MAX).await?;
        let odd =
            || Fault::fatal(Code::StreamCorrupt, "no snapshot follows where one was announced");
        let size = head.strip_prefix(b"$").ok_or_else(odd)?;
        let begun = input.taken();
        rdb::read(input, &mut each).await?;
        match size.strip_prefix(b"EOF:") {
            Some(mark) if mark.len() == END_MARK_BYTES => {
                if input.bytes(END_MARK_BYTES).await? != mark {
                    return Err(Fault::fatal(
                        Code::StreamCorrupt,
                        "the snapshot goes on behind its end",
                    ));
                }
            }
            _ => {
                let size = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok());
                if size != Some(input.taken() - begun) {
                    return Err(Fault::fatal(
                        Code::StreamCorrupt,
                        "the snapshot has another size than was announced",
                    ));
                }
            }
        }
        self.stream.begin();
        Ok(self.stream)
    }
}

/// What the stream gives.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A write, for this database.
    Command(u32, &'a Command),
    /// What came since the last end is whole.
    End,
    /// The server is alive and had nothing else to send.
    Alive,
}

/// A server's writes.
pub struct Stream {
    input: Input<ReadHalf<Socket>>,
    /// By how many µs the server's clock is before ours.
    ahead_us: i64,
    acknowledging: Acknowledging,
    position: Position,
    /// What [`Input::taken`] was where the position's offset was 0, modulo 2^64.
    base: u64,
    /// The database of the command that comes next, inside a transaction too.
    database: u32,
    command: Command,
    awaited: Awaited,
    in_transaction: bool,
    is_ending: bool,
    /// What was given last.
    given: Given,
}

impl Stream {
    /// Asks a server for what follows the position; for a snapshot where there is none.
    ///
    /// # Errors
    /// Those of [`Connection::open`]; `Retry` while the server is loading, or a replica without its primary.
    pub async fn open(
        store: &Store,
        from: Option<&Position>,
        options: Options,
    ) -> Result<Opened, Fault> {
        let mut connection = Connection::open_primary(store).await?;
        let place = connection.place.clone();
        let opened = async {
            let ahead_us = ahead(&mut connection).await?;
            Ok((Self::synchronize(&mut connection, from).await?, ahead_us))
        };
        let (opened, ahead_us) = opened.await.map_err(|fault: Fault| fault.at(place))?;
        let Connection { mut input, output, .. } = connection;
        input.be_patient_for(options.silence);
        let (position, goes_on) = opened;
        let mut stream = Self {
            input,
            ahead_us,
            acknowledging: Acknowledging::begin(output, position.offset),
            database: position.database,
            position,
            base: 0,
            command: Command::default(),
            awaited: Awaited::default(),
            in_transaction: false,
            is_ending: false,
            given: Given::Alive,
        };
        if goes_on {
            stream.begin();
            return Ok(Opened::Continued(stream));
        }
        Ok(Opened::Full(Snapshot { stream }))
    }

    /// Where the server begins, and whether that is behind the position that was asked for.
    async fn synchronize(
        connection: &mut Connection,
        from: Option<&Position>,
    ) -> Result<(Position, bool), Fault> {
        // A snapshot may come without its size; the history may have changed its name.
        connection.ask(&Command::of(["REPLCONF", "capa", "eof", "capa", "psync2"])).await?;
        let wanted = from.map_or(("?".to_owned(), "-1".to_owned()), |from| {
            (from.history.clone(), (from.offset + 1).to_string())
        });
        connection.send(&Command::of(["PSYNC", &wanted.0, &wanted.1])).await?;
        let line = connection.line().await?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let odd =
            || Fault::fatal(Code::StreamCorrupt, format!("the server answers {line:?} to PSYNC"));
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), from) {
            (Some("+CONTINUE"), history, None, Some(from)) => {
                let mut position = from.clone();
                if let Some(history) = history {
                    position.history = history_of(history).ok_or_else(odd)?;
                }
                Ok((position, true))
            }
            (Some("+FULLRESYNC"), Some(history), Some(offset), _) => {
                let history = history_of(history).ok_or_else(odd)?;
                let offset = offset.parse().map_err(|_| odd())?;
                Ok((Position { history, offset, database: 0 }, false))
            }
            _ => Err(odd()),
        }
    }

    /// The next byte is the one behind the position.
    fn begin(&mut self) {
        self.base = self.input.taken().wrapping_sub(self.position.offset);
    }

    /// Behind which what was given last is whole.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Tells the server that all up to here is safe: what `WAIT` counts there.
    pub fn acknowledge(&self, position: &Position) {
        self.acknowledging.offset.store(position.offset, Ordering::Relaxed);
    }

    /// What the server's clock shows, in µs since 1970: the stream itself has no times.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        now_us().saturating_add_signed(self.ahead_us)
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.in_transaction || self.is_ending
    }

    /// Whether the next event may have to be waited for.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.input.is_drained() && !self.is_ending
    }

    /// The next event. Waiting for it may be given up, and begun again.
    ///
    /// # Errors
    /// `Retry` where the connection is lost or silent; [`Code::StreamCorrupt`].
    pub async fn next(&mut self) -> Result<Event<'_>, Fault> {
        self.given = self.give().await?;
        Ok(self.event())
    }

    /// What was given last.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        match self.given {
            Given::Command => Event::Command(self.database, &self.command),
            Given::End => Event::End,
            Given::Alive => Event::Alive,
        }
    }

    async fn give(&mut self) -> Result<Given, Fault> {
        if self.is_ending {
            self.is_ending = false;
            self.advance();
            return Ok(Given::End);
        }
        loop {
            self.command.read(&mut self.input, &mut self.awaited).await?;
            match self.kind()? {
                Kind::Write => {
                    self.is_ending = !self.in_transaction;
                    return Ok(Given::Command);
                }
                Kind::Begin => self.in_transaction = true,
                Kind::End => {
                    self.in_transaction = false;
                    self.advance();
                    return Ok(Given::End);
                }
                Kind::Select if self.in_transaction => {}
                Kind::Select => self.advance(),
                Kind::Alive => {
                    self.advance();
                    return Ok(Given::Alive);
                }
            }
        }
    }

    fn kind(&mut self) -> Result<Kind, Fault> {
        let odd = |what| Err(Fault::fatal(Code::StreamCorrupt, format!("the stream has {what}")));
        let command = &self.command;
        if command.is("SELECT") {
            let number =
                std::str::from_utf8(command.word(1)).ok().and_then(|text| text.parse().ok());
            return match number {
                Some(number) => {
                    self.database = number;
                    Ok(Kind::Select)
                }
                None => odd("a SELECT of no database"),
            };
        }
        let kind = match () {
            () if command.is("MULTI") => Kind::Begin,
            () if command.is("EXEC") => Kind::End,
            () if command.is("PING") => Kind::Alive,
            () if command.is("REPLCONF") => {
                self.acknowledging.at_once.notify_one();
                Kind::Alive
            }
            () => Kind::Write,
        };
        match (kind, self.in_transaction) {
            (Kind::Begin, true) => odd("a transaction within a transaction"),
            (Kind::End, false) => odd("an end of a transaction that did not begin"),
            (Kind::Alive, true) => odd("a sign of life within a transaction"),
            (kind, _) => Ok(kind),
        }
    }

    fn advance(&mut self) {
        self.position.offset = self.input.taken().wrapping_sub(self.base);
        self.position.database = self.database;
    }
}

#[derive(Clone, Copy)]
enum Given {
    Command,
    End,
    Alive,
}

#[derive(Clone, Copy)]
enum Kind {
    Write,
    Select,
    Begin,
    End,
    Alive,
}

/// By how many µs a server's clock is before ours, give or take what the answer was under way.
async fn ahead(connection: &mut Connection) -> Result<i64, Fault> {
    let before = now_us();
    let odd = || Fault::fatal(Code::StreamCorrupt, "the server does not tell its time");
    // Two texts, each with its length before it.
    if connection.ask(&Command::of(["TIME"])).await? != b"*2" {
        return Err(odd());
    }
    let mut parts = [0_u64; 2];
    for part in &mut parts {
        connection.line().await?;
        let line = connection.line().await?;
        *part =
            std::str::from_utf8(&line).ok().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    }
    Ok(ahead_of(parts[0], parts[1], before.midpoint(now_us())))
}

/// By how many µs a clock that shows this is before one that shows `ours_us`.
pub(crate) fn ahead_of(seconds: u64, micros: u64, ours_us: u64) -> i64 {
    let theirs_us = seconds.saturating_mul(1_000_000).saturating_add(micros);
    theirs_us.cast_signed().wrapping_sub(ours_us.cast_signed())
}

pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}

/// A history's name, if that is one.
fn history_of(text: &str) -> Option<String> {
    let is_name = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| text.to_owned())
}

/// Tells the server each second how far the stream was captured, and when it asks.
struct Acknowledging {
    offset: Arc<AtomicU64>,
    at_once: Arc<tokio::sync::Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Acknowledging {
    fn begin(mut output: WriteHalf<Socket>, offset: u64) -> Self {
        let offset = Arc::new(AtomicU64::new(offset));
        let at_once = Arc::new(tokio::sync::Notify::new());
        let (captured, asked) = (offset.clone(), at_once.clone());
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(ACKNOWLEDGE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut bytes = Vec::new();
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = asked.notified() => {}
                }
                bytes.clear();
                let offset = captured.load(Ordering::Relaxed).to_string();
                Command::of(["REPLCONF", "ACK", &offset]).write(&mut bytes);
                // Whoever reads finds out that the connection is lost.
                if output.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        Self { offset, at_once, _task: AbortOnDropHandle::new(task) }
    }
}
