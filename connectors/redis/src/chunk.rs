//! Keys as they are at one moment, and where in the stream of writes that moment lies.
//!
//! # What it guarantees
//!
//! * **One moment.** All that an [`Answer`] holds was true at once: it is read in one transaction of the server's.
//! * **Its place is known.** The transaction sets a *marker*. All that stands before it in the stream is in the answer, and
//!   nothing that stands behind it.
//! * **In pieces.** No value has to fit in memory, as in a snapshot ([`crate::rdb`]). The server puts the whole answer together
//!   first, and serves nobody else meanwhile: few keys at once keep that short.
//!
//! The values are `DUMP`'s: what a snapshot holds of a key.

use tokio::io::AsyncWriteExt as _;
use unitflow_change::fault::{Code, Fault};

use crate::command::Command;
use crate::connect::{Connection, Store};
use crate::rdb::{self, Part, Piece};

/// The longest key or short text in an answer, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// A key: the number of its database, and its name.
pub type Name = (u32, Vec<u8>);

/// What is read at once.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The key that is set, in database 0, and what to.
    pub marker: (Vec<u8>, u64),
    /// Keys of database 0 with short texts.
    pub texts: Vec<Vec<u8>>,
    /// Keys with any value.
    pub keys: Vec<Name>,
}

/// What an answer holds of the wanted keys, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The next key is there; pieces of its value follow.
    Key {
        /// When it expires, in ms since 1970.
        expires_ms: Option<u64>,
    },
    /// More of its value.
    Piece(Piece),
    /// Its value is whole.
    End,
    /// The next key is not there.
    Gone,
}

/// A connection to a store's primary that reads keys.
pub struct Reader {
    connection: Connection,
    database: u32,
}

impl Reader {
    /// Connects to the store's primary.
    ///
    /// # Errors
    /// Those of [`Connection::open`].
    pub async fn open(store: &Store) -> Result<Self, Fault> {
        Ok(Self { connection: Connection::open_primary(store).await?, database: 0 })
    }

    /// Which run of a server this is, and how many keys each of its databases has. A scan ends with the run.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn sizes(&mut self) -> Result<(String, Vec<(u32, u64)>), Fault> {
        let server = self.connection.ask(&Command::of(["INFO", "server"])).await?;
        let keyspace = self.connection.ask(&Command::of(["INFO", "keyspace"])).await?;
        let server = String::from_utf8_lossy(&server).into_owned();
        let run = server.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        let keyspace = String::from_utf8_lossy(&keyspace).into_owned();
        let sizes = keyspace.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("db")?.split_once(":keys=")?;
            Some((name.parse().ok()?, rest.split(',').next()?.parse().ok()?))
        });
        Ok((run.to_owned(), sizes.collect()))
    }

    /// Some keys of a database behind a cursor, and the cursor behind them; 0 begins and ends. A key that is there as long as
    /// the scan lasts comes at least once.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn scan(
        &mut self,
        database: u32,
        cursor: u64,
        about: usize,
    ) -> Result<(u64, Vec<Vec<u8>>), Fault> {
        if self.database != database {
            self.connection.ask(&Command::of(["SELECT", &database.to_string()])).await?;
            self.database = database;
        }
        let (cursor, about) = (cursor.to_string(), about.to_string());
        self.connection.send(&Command::of(["SCAN", &cursor, "COUNT", &about])).await?;
        if self.items().await? != 2 {
            return Err(odd("SCAN"));
        }
        let cursor = String::from_utf8(self.text().await?.unwrap_or_default()).ok();
        let cursor = cursor.and_then(|text| text.parse().ok()).ok_or_else(|| odd("SCAN"))?;
        let mut keys = Vec::new();
        for _ in 0..self.items().await? {
            keys.push(self.text().await?.ok_or_else(|| odd("SCAN"))?);
        }
        Ok((cursor, keys))
    }

    /// About how many bytes of the server's memory each of these keys takes; none where there is no such key.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn memory(&mut self, keys: &[Name]) -> Result<Vec<u64>, Fault> {
        let mut bytes = Vec::new();
        let mut database = self.database;
        let mut selected = Vec::new();
        for (of, key) in keys {
            selected.push(*of != database);
            if *of != database {
                Command::of(["SELECT", &of.to_string()]).write(&mut bytes);
                database = *of;
            }
            Command::of([&b"MEMORY"[..], b"USAGE", key]).write(&mut bytes);
        }
        let sent = self.connection.output.write_all(&bytes).await;
        sent.map_err(|error| {
            Fault::retry(Code::Unreachable, format!("the connection broke: {error}"))
        })?;
        self.database = database;
        let mut sizes = Vec::new();
        for selected in selected {
            if selected {
                self.connection.line().await?;
            }
            let line = self.connection.line().await?;
            let size = line.strip_prefix(b":").and_then(|size| std::str::from_utf8(size).ok());
            // Nothing is `$-1`.
            sizes.push(size.and_then(|size| size.parse().ok()).unwrap_or(0));
        }
        Ok(sizes)
    }

    /// Asks for keys, and waits until the server has answered. Given up, the connection is of no more use.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn ask(mut self, wanted: Wanted) -> Result<Answer, Fault> {
        let mut bytes = Vec::new();
        let mut queued = 0;
        let mut add = |command: Command| {
            command.write(&mut bytes);
            queued += 1;
        };
        if self.database != 0 {
            self.connection.ask(&Command::of(["SELECT", "0"])).await?;
            self.database = 0;
        }
        let (marker, number) = &wanted.marker;
        add(Command::of([&b"SET"[..], marker, number.to_string().as_bytes()]));
        wanted.texts.iter().for_each(|key| add(Command::of([&b"GET"[..], key])));
        let mut database = 0;
        for (of, key) in &wanted.keys {
            if *of != database {
                add(Command::of(["SELECT", &of.to_string()]));
                database = *of;
            }
            add(Command::of([&b"PEXPIRETIME"[..], key]));
            add(Command::of([&b"DUMP"[..], key]));
        }
        if database != 0 {
            add(Command::of(["SELECT", "0"]));
        }
        let mut all = Vec::new();
        Command::of(["MULTI"]).write(&mut all);
        all.append(&mut bytes);
        Command::of(["EXEC"]).write(&mut all);
        let sent = self.connection.output.write_all(&all).await;
        sent.map_err(|error| {
            Fault::retry(Code::Unreachable, format!("the connection broke: {error}"))
        })?;
        let mut refused = None;
        for _ in 0..=queued {
            if let Err(fault) = self.connection.line().await {
                if fault.code == Code::Unreachable {
                    return Err(fault);
                }
                refused.get_or_insert(fault);
            }
        }
        match (self.items().await, refused) {
            (_, Some(fault)) | (Err(fault), None) => Err(fault.at(self.connection.place)),
            (Ok(items), None) if items != queued => Err(odd("EXEC")),
            (Ok(_), None) => Ok(Answer { reader: self, wanted }),
        }
    }

    /// How many parts an answer has.
    async fn items(&mut self) -> Result<usize, Fault> {
        let line = self.connection.line().await?;
        let count = line.strip_prefix(b"*").and_then(|count| std::str::from_utf8(count).ok());
        count.and_then(|count| count.parse().ok()).ok_or_else(|| odd("a question"))
    }

    /// The length of the text that follows; `None` if there is none.
    async fn length(&mut self) -> Result<Option<usize>, Fault> {
        let line = self.connection.line().await?;
        let length = line.strip_prefix(b"$").and_then(|length| std::str::from_utf8(length).ok());
        match length.ok_or_else(|| odd("a question"))? {
            "-1" => Ok(None),
            length => length.parse().map(Some).map_err(|_| odd("a question")),
        }
    }

    async fn text(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(length) = self.length().await? else { return Ok(None) };
        if length > TEXT_BYTES_MAX {
            return Err(odd("a question"));
        }
        let input = &mut self.connection.input;
        let text = input.bytes(length).await?.to_vec();
        input.bytes(2).await?;
        Ok(Some(text))
    }
}

/// What a server has answered. It is to be read to its end.
pub struct Answer {
    reader: Reader,
    wanted: Wanted,
}

impl Answer {
    /// What was asked for.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The short texts; `None` where there is none. They come before the values.
    ///
    /// # Errors
    /// Those of the connection, and what the server refuses.
    pub async fn texts(&mut self) -> Result<Vec<Option<Vec<u8>>>, Fault> {
        // The marker is set.
        self.reader.connection.line().await?;
        let mut texts = Vec::new();
        for _ in &self.wanted.texts {
            texts.push(self.reader.text().await?);
        }
        Ok(texts)
    }

    /// The values, behind the texts; the connection can be used again then.
    ///
    /// # Errors
    /// Those of the connection and of the values ([`rdb::read`]), and those of `each`.
    pub async fn values(
        mut self,
        mut each: impl FnMut(&Name, Found) -> Result<(), Fault>,
    ) -> Result<Reader, Fault> {
        let reader = &mut self.reader;
        let mut database = 0;
        for name in &self.wanted.keys {
            if name.0 != database {
                reader.connection.line().await?;
                database = name.0;
            }
            let line = reader.connection.line().await?;
            let expires = line.strip_prefix(b":").and_then(|ms| std::str::from_utf8(ms).ok());
            let expires: i64 =
                expires.and_then(|ms| ms.parse().ok()).ok_or_else(|| odd("PEXPIRETIME"))?;
            let Some(length) = reader.length().await? else {
                each(name, Found::Gone)?;
                continue;
            };
            each(name, Found::Key { expires_ms: u64::try_from(expires).ok() })?;
            let input = &mut reader.connection.input;
            let begun = input.taken();
            let mut part = |part| match part {
                Part::Piece(piece) => each(name, Found::Piece(piece)),
                Part::End => each(name, Found::End),
                _ => Err(odd("DUMP")),
            };
            rdb::read_value(input, &mut part).await?;
            if input.taken() - begun != length as u64 || input.bytes(2).await? != b"\r\n" {
                return Err(odd("DUMP"));
            }
        }
        if database != 0 {
            reader.connection.line().await?;
        }
        Ok(self.reader)
    }
}

fn odd(to: &str) -> Fault {
    Fault::fatal(Code::StreamCorrupt, format!("the server answers {to} with what is none"))
}
