//! Rows written as a copy has them, whatever stood in their place.
//!
//! A row that is equal to the letter is not touched, so that a copy of what is there already costs the
//! target's log nothing. Where rows take each other's unique values they are removed first and
//! written again.

use std::collections::BTreeMap;

use unitflow_change::envelope::{Envelope, Op, Row};
use unitflow_change::key::Key;
use unitflow_change::{Code, Fault};
use unitflow_mysql::literal::write_literal;

use super::apply::{Applier, bookkeeping};
use super::statements::{
    Call, Expected, odd_choices, refuse_negative_zero, set_odd, write_condition, write_key,
};
use super::tables::{Columns, Target};
use crate::batch::{Batch, Slot};

/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 500;
/// Statements of one call.
const STATEMENTS_PER_CALL: usize = 200;
/// Room for the rest of a statement that compares a row.
const KEY_BYTES_MAX: usize = 64 << 10;
/// Bytes of one call, unless a single row needs more.
const CALL_BYTES_MAX: usize = 1 << 20;

/// How many rows of a batch may turn out not to fit while others are removed and written again. A row
/// that stays keeps its old value, and so keeps the next one out: with more of them it is told outside
/// in which order they fit.
const LEFT_OUT_MAX: usize = 16;

/// Where the rows that could not be written stand in the batch.
pub type Refused = Vec<usize>;

/// What stood in the place of copied rows when they were locked, by their places in the batch.
#[derive(Debug, Default)]
pub struct Standing {
    /// The rows that are there, and whether each is as it is copied, to the letter; never one that is gone
    /// at its source.
    there: BTreeMap<usize, bool>,
}

impl Standing {
    /// Whether this row is there.
    #[must_use]
    pub fn holds(&self, place: usize) -> bool {
        self.there.contains_key(&place)
    }

    fn is_equal(&self, place: usize) -> bool {
        self.there.get(&place) == Some(&true)
    }
}

impl Applier {
    /// Inserts the copied rows of a batch that `wanted` names by their places, inside the open
    /// transaction; `false`, and nothing done, if they are not all new here.
    pub async fn insert_copies(&mut self, batch: &Batch, wanted: &[usize]) -> Result<bool, Fault> {
        if wanted.iter().any(|place| batch.is_gone(*place)) {
            return Ok(false);
        }
        self.insert_all(batch, wanted).await
    }

    /// Locks what stands in the place of these rows. Each row is found by its key in a statement of its
    /// own: one for all might read the whole table, and wait for other lanes' rows while they wait for
    /// these.
    pub async fn lock_copies(
        &mut self,
        batch: &Batch,
        wanted: &[usize],
    ) -> Result<Standing, Fault> {
        let mut standing = Standing::default();
        let mut rest = wanted;
        while !rest.is_empty() {
            let mut call = Call::default();
            let mut taken = 0;
            while taken < rest.len().min(STATEMENTS_PER_CALL) {
                let sql = self.lock_of(batch, rest[taken])?;
                if taken > 0 && call.sql.len() + sql.len() > CALL_BYTES_MAX {
                    break;
                }
                call.add(bookkeeping(0), |out| out.extend_from_slice(&sql));
                taken += 1;
            }
            let found = self.found(&call).await.inspect_err(|_| {
                self.tables.blame(batch.key(&batch.slots()[rest[0]]), None);
            })?;
            for (place, found) in rest.iter().zip(found) {
                if let Some(equal) = found {
                    standing.there.insert(*place, equal);
                }
            }
            rest = &rest[taken..];
        }
        Ok(standing)
    }

    fn lock_of(&mut self, batch: &Batch, place: usize) -> Result<Vec<u8>, Fault> {
        let packet = self.packet_bytes_max;
        self.of_row(batch, place, |sql, target, columns, row| {
            sql.extend_from_slice(b"SELECT ");
            let begin = sql.len();
            if !batch.is_gone(place) {
                write_condition(sql, target, columns, row)?;
            }
            // What is too large to be compared is written again.
            if sql.len() == begin || sql.len() + KEY_BYTES_MAX > packet {
                sql.truncate(begin);
                sql.push(b'0');
            }
            sql.extend_from_slice(format!(" FROM {} WHERE ", target.name).as_bytes());
            write_key(sql, target, columns, row)?;
            sql.extend_from_slice(b" FOR UPDATE");
            Ok(())
        })
    }

    /// Writes the copied rows of a batch that `wanted` names by their places, inside the open
    /// transaction in which they were locked. Those whose unique values other rows hold are given back.
    pub async fn write_copies(
        &mut self,
        batch: &Batch,
        wanted: &[usize],
        standing: &Standing,
    ) -> Result<Refused, Fault> {
        let (gone, there): (Vec<usize>, Vec<usize>) =
            wanted.iter().partition(|place| batch.is_gone(**place));
        let removed: Vec<usize> = gone.into_iter().filter(|place| standing.holds(*place)).collect();
        for place in &removed {
            self.remove(batch, *place).await?;
        }
        // The server here may have taken what was removed for one of the others.
        let without = match removed.is_empty() {
            true => None,
            false => Some(self.lock_copies(batch, &there).await?),
        };
        let standing = without.as_ref().unwrap_or(standing);
        let mut absent = Vec::new();
        let mut refused = Vec::new();
        for place in there {
            if !standing.holds(place) {
                absent.push(place);
            } else if !standing.is_equal(place) {
                match self.overwrite(batch, place).await? {
                    Some(true) => {}
                    Some(false) => absent.push(place),
                    None => refused.push(place),
                }
            }
        }
        if !self.insert_all(batch, &absent).await? {
            for place in absent {
                if !self.insert_all(batch, &[place]).await? {
                    refused.push(place);
                }
            }
        }
        self.replace(batch, refused).await
    }

    /// Removes rows that hold each other's unique values and writes them again, where nothing of
    /// them is this unit's alone. What still does not fit is left as it was, and given back.
    async fn replace(&mut self, batch: &Batch, places: Vec<usize>) -> Result<Refused, Fault> {
        let mut refused = Vec::new();
        let mut wanted = Vec::new();
        let mut left_out = 0;
        for place in places {
            let whole = self.is_whole(batch, place)?;
            if whole { &mut wanted } else { &mut refused }.push(place);
        }
        while !wanted.is_empty() {
            self.plain("SAVEPOINT replaced").await?;
            for place in &wanted {
                self.remove(batch, *place).await?;
            }
            let Some(taken) = self.first_taken(batch, &wanted).await? else { break };
            self.plain("ROLLBACK TO SAVEPOINT replaced").await?;
            refused.push(wanted.remove(taken));
            left_out += 1;
            if left_out == LEFT_OUT_MAX {
                refused.append(&mut wanted);
            }
        }
        Ok(refused)
    }

    /// Inserts rows up to the first whose place, or unique value, is taken.
    async fn first_taken(
        &mut self,
        batch: &Batch,
        places: &[usize],
    ) -> Result<Option<usize>, Fault> {
        for (number, place) in places.iter().enumerate() {
            if !self.insert_all(batch, &[*place]).await? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Writes over a row; `Some(false)` if there is none, `None` if a unique value is taken.
    async fn overwrite(&mut self, batch: &Batch, place: usize) -> Result<Option<bool>, Fault> {
        let sql = self.of_row(batch, place, |sql, target, columns, row| {
            refuse_negative_zero(target, columns, row)?;
            let odd = odd_choices(target, columns, row);
            sql.extend_from_slice(format!("UPDATE {} SET ", target.name).as_bytes());
            let mut first = true;
            for (place, (_, value)) in columns.places.iter().zip(row.iter()) {
                let Some(place) = place.filter(|place| !odd.contains(place)) else { continue };
                if !std::mem::take(&mut first) {
                    sql.push(b',');
                }
                sql.extend_from_slice(&target.quoted[place]);
                sql.push(b'=');
                write_literal(sql, target.column(place), value)?;
            }
            sql.extend_from_slice(b" WHERE ");
            write_key(sql, target, columns, row)?;
            set_odd(sql, target, columns, &odd, row)
        })?;
        let mut call = Call::default();
        call.add(self.copied(batch, place, 1)?, |out| out.extend_from_slice(&sql));
        let found = self.counts_unless_taken(batch, place, &call).await?;
        Ok(found.map(|found| found.first() == Some(&1)))
    }

    /// Inserts rows; `false`, and nothing done, if one of them, or a unique value of it, is there.
    async fn insert_all(&mut self, batch: &Batch, places: &[usize]) -> Result<bool, Fault> {
        if places.is_empty() {
            return Ok(true);
        }
        self.plain("SAVEPOINT copies").await?;
        let mut rest = places;
        while !rest.is_empty() {
            let (call, taken) = self.insert_call(batch, rest)?;
            if self.counts_unless_taken(batch, rest[0], &call).await?.is_none() {
                self.plain("ROLLBACK TO SAVEPOINT copies").await?;
                return Ok(false);
            }
            rest = &rest[taken..];
        }
        Ok(true)
    }

    /// One INSERT of the first of these rows, as far as they have one shape.
    fn insert_call(&mut self, batch: &Batch, places: &[usize]) -> Result<(Call, usize), Fault> {
        let mut insert = Vec::new();
        let mut behind = Vec::new();
        let mut shape = None;
        let mut taken = 0;
        for place in places.iter().take(ROWS_PER_INSERT) {
            if taken > 0 && insert.len() >= CALL_BYTES_MAX {
                break;
            }
            let table = self.tables.number(batch.key(&batch.slots()[*place]))?;
            let fits = with_row(batch, *place, |row| {
                let number = self.tables.columns_number(table, row)?;
                if shape.is_some_and(|shape| shape != number) {
                    return Ok(false);
                }
                let (target, columns) = (self.tables.target(table), self.tables.columns(number));
                if shape.replace(number).is_none() {
                    insert.extend_from_slice(format!("INSERT INTO {} (", target.name).as_bytes());
                    insert.extend_from_slice(&columns.insert_list);
                    insert.extend_from_slice(b") VALUES ");
                } else {
                    insert.push(b',');
                }
                refuse_negative_zero(target, columns, row)?;
                let odd = odd_choices(target, columns, row);
                write_values(&mut insert, target, columns, row, &odd)?;
                set_odd(&mut behind, target, columns, &odd, row)?;
                Ok(true)
            })?;
            if !fits {
                break;
            }
            taken += 1;
        }
        let mut call = Call::default();
        call.add(self.copied(batch, places[0], taken)?, |out| {
            out.append(&mut insert);
            out.append(&mut behind);
        });
        Ok((call, taken))
    }

    /// What a statement that writes so many copied rows is: who is too large has a name.
    fn copied(&mut self, batch: &Batch, place: usize, rows: usize) -> Result<Expected, Fault> {
        let table = Some(self.tables.number(batch.key(&batch.slots()[place]))?);
        Ok(Expected { rows: rows as u64, table, op: Op::Read, slot: place })
    }

    async fn remove(&mut self, batch: &Batch, place: usize) -> Result<(), Fault> {
        let sql = self.of_row(batch, place, |sql, target, columns, row| {
            sql.extend_from_slice(format!("DELETE FROM {} WHERE ", target.name).as_bytes());
            write_key(sql, target, columns, row)
        })?;
        let mut call = Call::default();
        call.add(bookkeeping(0), |out| out.extend_from_slice(&sql));
        self.counts(&call).await.map(drop)
    }

    /// Whether a copied row has every column of the target's that can be written.
    fn is_whole(&mut self, batch: &Batch, place: usize) -> Result<bool, Fault> {
        let (table, columns) = self.shape_of(batch, place)?;
        let (target, columns) = (self.tables.target(table), self.tables.columns(columns));
        let mut all = target.table.columns.iter().enumerate();
        Ok(all.all(|(place, column)| {
            column.generated.is_some() || columns.places.contains(&Some(place))
        }))
    }

    /// The numbers of the row's table and columns; of one that is gone only the key's are known.
    fn shape_of(&mut self, batch: &Batch, place: usize) -> Result<(usize, usize), Fault> {
        let table = self.tables.number(batch.key(&batch.slots()[place]))?;
        let tables = &mut self.tables;
        let columns = with_row(batch, place, |row| tables.columns_number(table, row))?;
        Ok((table, columns))
    }

    fn of_row(
        &mut self,
        batch: &Batch,
        place: usize,
        write: impl FnOnce(&mut Vec<u8>, &Target, &Columns, &Row<'_>) -> Result<(), Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let slot = &batch.slots()[place];
        let placed =
            |fault: Fault| fault.at(format!("record {} at offset {}", slot.seq, slot.offset));
        let mut sql = Vec::new();
        let written = self.shape_of(batch, place).and_then(|(table, columns)| {
            let (target, columns) = (self.tables.target(table), self.tables.columns(columns));
            with_row(batch, place, |row| write(&mut sql, target, columns, row))
        });
        match written {
            Ok(()) => Ok(sql),
            Err(fault) => {
                self.tables.blame(batch.key(slot), Some(place));
                Err(placed(fault))
            }
        }
    }
}

fn write_values(
    sql: &mut Vec<u8>,
    target: &Target,
    columns: &Columns,
    row: &Row<'_>,
    odd: &[usize],
) -> Result<(), Fault> {
    sql.push(b'(');
    let mut first = true;
    for (place, (_, value)) in columns.places.iter().zip(row.iter()) {
        let Some(place) = place else { continue };
        if !std::mem::take(&mut first) {
            sql.push(b',');
        }
        if odd.contains(place) {
            // Any member will do for now.
            sql.push(b'1');
        } else {
            write_literal(sql, target.column(*place), value)?;
        }
    }
    sql.push(b')');
    Ok(())
}

/// Calls `with` with a copied row, or with its key's columns where there is none any more.
fn with_row<T>(
    batch: &Batch,
    place: usize,
    with: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let slot: &Slot = &batch.slots()[place];
    let value = batch.value(slot);
    let lacks = || Fault::poison(Code::Record, "a copied row lacks its image");
    if value.is_empty() {
        return with(Key::parse(batch.key(slot))?.columns.as_ref().ok_or_else(lacks)?);
    }
    let envelope = Envelope::parse(value)?;
    match (envelope.op, &envelope.after) {
        (Op::Read, Some(row)) => with(row),
        _ => Err(lacks()),
    }
}
