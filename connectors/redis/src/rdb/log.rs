//! Streams in a snapshot: entries in packed runs, then what the stream knows, then its groups.

use tokio::io::AsyncRead;
use unitflow_change::fault::Fault;

use super::{EntryId, Part, Piece, Snapshot, corrupt, packed};

/// An entry's flags.
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

impl<R: AsyncRead + Unpin, F: FnMut(Part) -> Result<(), Fault>> Snapshot<'_, R, F> {
    /// A stream: type 15, 19 (since version 10) or 21 (since version 11).
    pub(super) async fn log(&mut self, code: u8) -> Result<(), Fault> {
        for _ in 0..self.length().await? {
            let master = self.text().await?;
            let master = entry_id(&master).ok_or_else(|| corrupt("a stream's run has no name"))?;
            let packed = self.text().await?;
            self.run(master, packed::listpack(&packed)?).await?;
        }
        // How many entries it has.
        self.length().await?;
        let last = self.id().await?;
        let history = match code {
            15 => None,
            _ => {
                let _first = self.id().await?;
                Some((self.id().await?, self.length().await?))
            }
        };
        self.give(Piece::Log { last, history }).await?;
        for _ in 0..self.length().await? {
            self.group(code).await?;
        }
        Ok(())
    }

    /// Entries that were written one after the other: names and fields count from the first one's.
    async fn run(&mut self, master: EntryId, mut all: packed::Elements<'_>) -> Result<(), Fault> {
        let count = all.expect()?.number()?;
        let deleted = all.expect()?.number()?;
        let mut common = Vec::new();
        for _ in 0..all.expect()?.number()? {
            common.push(all.expect()?.to_vec());
        }
        all.expect()?;
        let total =
            count.checked_add(deleted).ok_or_else(|| corrupt("a stream's run has no end"))?;
        for _ in 0..total {
            let flags = all.expect()?.number()?;
            let (ms, number) = (all.expect()?.number()?, all.expect()?.number()?);
            let id = (master.0.wrapping_add_signed(ms), master.1.wrapping_add_signed(number));
            let mut fields = Vec::new();
            if flags & SAME_FIELDS != 0 {
                for name in &common {
                    fields.push((name.clone(), all.expect()?.to_vec()));
                }
            } else {
                for _ in 0..all.expect()?.number()? {
                    fields.push((all.expect()?.to_vec(), all.expect()?.to_vec()));
                }
            }
            // How many elements it has, for who reads backwards.
            all.expect()?;
            if flags & DELETED == 0 {
                self.give(Piece::Entry(id, fields)).await?;
            }
        }
        match all.next()? {
            None => Ok(()),
            Some(_) => Err(corrupt("a stream's run has more entries than it says")),
        }
    }

    async fn group(&mut self, code: u8) -> Result<(), Fault> {
        let name = self.text().await?;
        let last = self.id().await?;
        // -1 where it is not known.
        let read = match code {
            15 => None,
            _ => Some(self.length().await?).filter(|read| *read != u64::MAX),
        };
        self.give(Piece::Group { name, last, read }).await?;
        // Each pending entry comes twice: here with its history, at its consumer by its name alone.
        let mut pending = std::collections::HashMap::new();
        for _ in 0..self.length().await? {
            let id = self.raw_id().await?;
            let given_ms = self.time().await?;
            pending.insert(id, (given_ms, self.length().await?));
        }
        for _ in 0..self.length().await? {
            let name = self.text().await?;
            // When it was seen, and when it was active.
            self.time().await?;
            if code == 21 {
                self.time().await?;
            }
            self.give(Piece::Consumer { name }).await?;
            for _ in 0..self.length().await? {
                let id = self.raw_id().await?;
                let (given_ms, times) = pending.remove(&id).ok_or_else(|| {
                    corrupt("a consumer has an entry that its group does not know")
                })?;
                self.give(Piece::Pending { id, given_ms, times }).await?;
            }
        }
        match pending.is_empty() {
            true => Ok(()),
            false => Err(corrupt("a group has pending entries of no consumer")),
        }
    }

    async fn id(&mut self) -> Result<EntryId, Fault> {
        Ok((self.length().await?, self.length().await?))
    }

    async fn raw_id(&mut self) -> Result<EntryId, Fault> {
        let bytes: [u8; 16] = self.input.array().await?;
        entry_id(&bytes).ok_or_else(|| corrupt("a pending entry has no name"))
    }
}

/// An entry's name in 16 bytes, high byte first.
fn entry_id(bytes: &[u8]) -> Option<EntryId> {
    let (ms, rest) = bytes.split_first_chunk::<8>()?;
    let number: &[u8; 8] = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*ms), u64::from_be_bytes(*number)))
}
