//! A value as the commands that make it, from the parts of a snapshot.
//!
//! Any server of any version takes them; a payload of `RESTORE` only those of about the same version do. The key is
//! built under another name first, so that nobody sees half of it: who runs these commands renames it behind them.
//!
//! What no command can give comes out otherwise: when a consumer was seen last, and that it was given an entry
//! that is deleted.

use crate::command::Command;
use crate::rdb::{EntryId, Piece};

/// A command is full with so many bytes.
const COMMAND_BYTES: usize = 128 << 10;
/// Or with so many words, so that no command holds a server up.
const COMMAND_WORDS: usize = 1_000;

/// Makes the commands of one key.
pub struct Rebuild {
    key: Vec<u8>,
    /// Collects elements.
    open: Command,
    /// Of a text, how many bytes were given.
    given: u64,
    group: Vec<u8>,
    group_last: EntryId,
    consumer: Vec<u8>,
    has_entries: bool,
}

impl Rebuild {
    /// Makes a value of this kind under `key`.
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            open: Command::default(),
            given: 0,
            group: Vec::new(),
            group_last: (0, 0),
            consumer: Vec::new(),
            has_entries: false,
        }
    }

    /// Takes the next piece; gives the commands that are full.
    pub fn add(&mut self, piece: &Piece) -> Vec<Command> {
        match piece {
            Piece::Text { bytes, of } => vec![self.text(bytes, *of)],
            Piece::Element(element) => self.collect("RPUSH", &[element]),
            Piece::Member(member) => self.collect("SADD", &[member]),
            Piece::Scored(member, score) => self.collect("ZADD", &[score, member]),
            Piece::Field { name, value, expires_ms } => {
                let mut full = self.collect("HSET", &[name, value]);
                if let Some(ms) = expires_ms {
                    full.extend(self.take());
                    full.push(self.command("HPEXPIREAT", [&text(*ms)[..], b"FIELDS", b"1", name]));
                }
                full
            }
            Piece::Entry(id, fields) => {
                self.has_entries = true;
                let mut command = self.command("XADD", [name_of(*id)]);
                for (name, value) in fields {
                    command.push(name);
                    command.push(value);
                }
                vec![command]
            }
            Piece::Log { last, history } => self.log(*last, *history),
            Piece::Group { name, last, read } => {
                self.group.clone_from(name);
                self.group_last = *last;
                let mut command = self.grouped("XGROUP", "CREATE", [name_of(*last)]);
                if let Some(read) = read {
                    command.push("ENTRIESREAD");
                    command.push(text(*read));
                }
                vec![command]
            }
            Piece::Consumer { name } => {
                self.consumer.clone_from(name);
                vec![self.grouped("XGROUP", "CREATECONSUMER", [name])]
            }
            Piece::Pending { id, given_ms, times } => vec![self.pending(*id, *given_ms, *times)],
        }
    }

    /// What was collected, when the value is whole.
    pub fn end(&mut self) -> Option<Command> {
        self.take()
    }

    /// A long text grows by its pieces.
    fn text(&mut self, bytes: &[u8], of: u64) -> Command {
        let name = if self.given == 0 && bytes.len() as u64 == of { "SET" } else { "APPEND" };
        self.given += bytes.len() as u64;
        self.command(name, [bytes])
    }

    fn collect(&mut self, name: &str, words: &[&Vec<u8>]) -> Vec<Command> {
        let size: usize = words.iter().map(|word| word.len()).sum();
        let is_full = self.open.size() + size > COMMAND_BYTES
            || self.open.len() + words.len() > COMMAND_WORDS;
        let full = if is_full { self.take() } else { None };
        if self.open.is_empty() {
            self.open = self.command(name, [&b""[..]; 0]);
        }
        words.iter().for_each(|word| self.open.push(word));
        full.into_iter().collect()
    }

    fn take(&mut self) -> Option<Command> {
        Some(std::mem::take(&mut self.open)).filter(|command| !command.is_empty())
    }

    /// A stream without entries is made by a group that goes again.
    fn log(&mut self, last: EntryId, history: Option<(EntryId, u64)>) -> Vec<Command> {
        let mut commands = Vec::new();
        if !self.has_entries {
            let group = [b"XGROUP", &b"CREATE"[..], &self.key, b"unitflow", b"0", b"MKSTREAM"];
            commands.push(Command::of(group));
            commands.push(Command::of([b"XGROUP", &b"DESTROY"[..], &self.key, b"unitflow"]));
        }
        let mut set = self.command("XSETID", [name_of(last)]);
        if let Some((deleted, added)) = history {
            for word in
                [b"ENTRIESADDED".to_vec(), text(added), b"MAXDELETEDID".to_vec(), name_of(deleted)]
            {
                set.push(word);
            }
        }
        commands.push(set);
        commands
    }

    fn pending(&self, id: EntryId, given_ms: u64, times: u64) -> Command {
        let mut command =
            Command::of([&b"XCLAIM"[..], &self.key, &self.group, &self.consumer, b"0"]);
        for word in [
            name_of(id),
            b"TIME".to_vec(),
            text(given_ms),
            b"RETRYCOUNT".to_vec(),
            text(times),
            b"FORCE".to_vec(),
            b"JUSTID".to_vec(),
            b"LASTID".to_vec(),
            name_of(self.group_last),
        ] {
            command.push(word);
        }
        command
    }

    fn command(&self, name: &str, words: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Command {
        let mut command = Command::of([name.as_bytes(), &self.key]);
        words.into_iter().for_each(|word| command.push(word));
        command
    }

    fn grouped(
        &self,
        name: &str,
        verb: &str,
        words: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Command {
        let mut command = Command::of([name.as_bytes(), verb.as_bytes(), &self.key, &self.group]);
        words.into_iter().for_each(|word| command.push(word));
        command
    }
}

fn text(number: u64) -> Vec<u8> {
    itoa::Buffer::new().format(number).into()
}

fn name_of((ms, number): EntryId) -> Vec<u8> {
    format!("{ms}-{number}").into_bytes()
}
