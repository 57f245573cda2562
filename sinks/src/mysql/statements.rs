//! From a batch to the statements that apply it.
//!
//! Until a table has a conflict policy, each statement touches only rows that are as the source
//! saw them, and says how many it must find: an INSERT fails on a row that exists, an UPDATE and a
//! DELETE name every column of the row as it was. A count that is lower is a conflict.

use unitflow_change::envelope::{Envelope, Op, Row};
use unitflow_change::key::Key;
use unitflow_change::tag::Kind;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::Flavor;
use unitflow_mysql::equality::write_equality;
use unitflow_mysql::literal::{is_no_member, write_lenient, write_literal};
use unitflow_mysql::schema::Type;

use super::tables::{Columns, Tables, Target};
use crate::batch::{Batch, Slot};
use crate::plan::{Plan, Shape};

/// Rows in one statement: more cost no less a row.
const STATEMENT_ROWS_MAX: u64 = 500;
/// Bytes of one statement.
const STATEMENT_BYTES_MAX: usize = 512 << 10;
/// Rows a DELETE names: the server weighs each as a range of its own.
const DELETE_ROWS_MAX: u64 = 100;
/// Bytes of one call, unless a single row needs more; below any server's `max_allowed_packet`
/// ([`unitflow_mysql::preflight`] sees to it).
const CALL_BYTES_MAX: usize = 4 << 20;

/// One statement of a call, and what it must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How many rows it must find.
    pub rows: u64,
    /// The table, by its number; none for the ledger and for BEGIN.
    pub table: Option<usize>,
    /// What it does.
    pub op: Op,
    /// The batch's first record in it.
    pub slot: usize,
}

/// Statements sent together.
#[derive(Debug, Default)]
pub struct Call {
    /// Their text, each but the last followed by a semicolon.
    pub sql: Vec<u8>,
    /// What each of them must do.
    pub expected: Vec<Expected>,
    /// Where each of them starts.
    starts: Vec<usize>,
}

impl Call {
    /// Adds a statement that `write` appends.
    pub fn add(&mut self, expected: Expected, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.expected.is_empty() {
            self.sql.push(b';');
        }
        let start = self.sql.len();
        write(&mut self.sql);
        self.expected.push(expected);
        self.starts.push(start);
    }

    /// Each of its statements as a call of its own.
    pub(super) fn singly(&self) -> impl Iterator<Item = Self> + '_ {
        let ends = self.starts.iter().skip(1).map(|start| start - 1).chain([self.sql.len()]);
        self.starts.iter().zip(ends).zip(&self.expected).map(|((start, end), expected)| {
            let mut call = Self::default();
            call.add(*expected, |sql| sql.extend_from_slice(&self.sql[*start..end]));
            call
        })
    }
}

/// The statements of one group, in order.
#[derive(Debug, Default)]
struct Group {
    statements: Vec<(Vec<u8>, Expected)>,
    /// The last one takes no further row.
    closed: bool,
}

/// Builds statements; buffers are used again.
#[derive(Debug, Default)]
pub struct Statements {
    plan: Plan,
    groups: Vec<Group>,
}

impl Statements {
    /// Appends to `calls` what applies the batch. With `singly`, each change stands alone and in
    /// the batch's order, so that a failure names it.
    pub fn build(
        &mut self,
        batch: &Batch,
        tables: &mut Tables,
        singly: bool,
        calls: &mut Vec<Call>,
    ) -> Result<(), Fault> {
        self.plan.clear();
        self.groups.clear();
        for (number, slot) in batch.slots().iter().enumerate() {
            if slot.kind == Kind::Row {
                self.add(batch, slot, number, tables, singly).map_err(|fault| {
                    tables.blame(batch.key(slot), Some(number));
                    fault.at(format!("record {} at offset {}", slot.seq, slot.offset))
                })?;
            }
        }
        for group in self.plan.in_order() {
            for (sql, expected) in self.groups[group].statements.drain(..) {
                match calls.last_mut().filter(|call| call.sql.len() + sql.len() < CALL_BYTES_MAX) {
                    Some(call) => call.add(expected, |out| out.extend_from_slice(&sql)),
                    None => {
                        let mut call = Call::default();
                        call.add(expected, |out| *out = sql);
                        calls.push(call);
                    }
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        batch: &Batch,
        slot: &Slot,
        number: usize,
        tables: &mut Tables,
        singly: bool,
    ) -> Result<(), Fault> {
        let key = batch.key(slot);
        let change = Envelope::parse(batch.value(slot))?;
        let table = tables.number(key)?;
        let image = change.after.as_ref().or(change.before.as_ref());
        let image = image.ok_or_else(|| Fault::fatal(Code::Bug, "an envelope without images"))?;
        let columns = tables.columns_number(table, image)?;
        let target = tables.target(table);
        // One identity for all makes every change wait for the one before it.
        let identity = match (singly, target.serial) {
            (true, _) => &b""[..],
            (_, true) => Key::table_part(key)?,
            _ => key,
        };
        let group = self.plan.place(identity, Shape { columns, op: change.op });
        if group == self.groups.len() {
            self.groups.push(Group::default());
        }
        let expected = Expected { rows: 1, table: Some(table), op: change.op, slot: number };
        let columns = tables.columns(columns);
        if let Some(after) = &change.after {
            refuse_negative_zero(target, columns, after)?;
        }
        let group = &mut self.groups[group];
        match (change.op, &change.before, &change.after) {
            (Op::Insert, _, Some(after)) => group.insert(target, columns, after, expected, singly),
            (Op::Update, Some(before), Some(after)) => {
                group.update(target, columns, before, after, expected)
            }
            (Op::Delete, Some(before), _) => {
                group.delete(target, columns, before, expected, singly)
            }
            _ => Err(Fault::fatal(Code::Bug, "an envelope lacks an image")),
        }
    }
}

impl Group {
    fn insert(
        &mut self,
        target: &Target,
        columns: &Columns,
        row: &Row<'_>,
        expected: Expected,
        singly: bool,
    ) -> Result<(), Fault> {
        let odd = odd_choices(target, columns, row);
        let sql = match self.open(singly || !odd.is_empty(), STATEMENT_ROWS_MAX) {
            Some(sql) => {
                sql.push(b',');
                sql
            }
            None => {
                let sql = self.start(format!("INSERT INTO {} (", target.name), expected);
                sql.extend_from_slice(&columns.insert_list);
                sql.extend_from_slice(b") VALUES ");
                sql
            }
        };
        sql.push(b'(');
        let mut first = true;
        for (place, (_, value)) in columns.places.iter().zip(row.iter()) {
            let Some(place) = place else { continue };
            if !first {
                sql.push(b',');
            }
            first = false;
            if odd.contains(place) {
                // Any member will do for now.
                sql.push(b'1');
            } else {
                write_literal(sql, target.column(*place), value)?;
            }
        }
        sql.push(b')');
        self.set_odd(target, columns, &odd, row, expected)
    }

    fn update(
        &mut self,
        target: &Target,
        columns: &Columns,
        before: &Row<'_>,
        after: &Row<'_>,
        expected: Expected,
    ) -> Result<(), Fault> {
        let sql = self.start(format!("UPDATE {} SET ", target.name), expected);
        let length = sql.len();
        let odd = odd_choices(target, columns, after);
        for ((place, (_, old)), (_, new)) in
            columns.places.iter().zip(before.iter()).zip(after.iter())
        {
            let changed = place.filter(|place| old != new && !odd.contains(place));
            let Some(place) = changed else { continue };
            if sql.len() > length {
                sql.push(b',');
            }
            sql.extend_from_slice(&target.quoted[place]);
            sql.push(b'=');
            write_literal(sql, target.column(place), new)?;
        }
        if sql.len() == length {
            // Nothing differs but what the target computes itself: the row must still be there.
            let key = &target.quoted[target.table.primary_key[0]];
            sql.extend_from_slice(key);
            sql.push(b'=');
            sql.extend_from_slice(key);
        }
        sql.extend_from_slice(b" WHERE ");
        write_condition(sql, target, columns, before)?;
        self.set_odd(target, columns, &odd, after, expected)
    }

    /// Gives ENUM columns the value that is no member of theirs, in a statement of its own.
    fn set_odd(
        &mut self,
        target: &Target,
        columns: &Columns,
        odd: &[usize],
        row: &Row<'_>,
        expected: Expected,
    ) -> Result<(), Fault> {
        if odd.is_empty() {
            return Ok(());
        }
        write_odd(self.start(String::new(), expected), target, columns, odd, row)?;
        // No other row may be added to this one.
        self.closed = true;
        Ok(())
    }

    fn delete(
        &mut self,
        target: &Target,
        columns: &Columns,
        row: &Row<'_>,
        expected: Expected,
        singly: bool,
    ) -> Result<(), Fault> {
        let sql = match self.open(singly, DELETE_ROWS_MAX) {
            Some(sql) => {
                sql.extend_from_slice(b" OR ");
                sql
            }
            None => self.start(format!("DELETE FROM {} WHERE ", target.name), expected),
        };
        sql.push(b'(');
        write_condition(sql, target, columns, row)?;
        sql.push(b')');
        Ok(())
    }

    /// The last statement, one row longer, if it has room for it.
    fn open(&mut self, singly: bool, rows_max: u64) -> Option<&mut Vec<u8>> {
        let closed = std::mem::take(&mut self.closed);
        let (sql, expected) = self.statements.last_mut()?;
        if closed || singly || expected.rows >= rows_max || sql.len() >= STATEMENT_BYTES_MAX {
            return None;
        }
        expected.rows += 1;
        Some(sql)
    }

    fn start(&mut self, head: String, expected: Expected) -> &mut Vec<u8> {
        let place = self.statements.len();
        self.statements.push((head.into_bytes(), expected));
        &mut self.statements[place].0
    }
}

/// MariaDB's columns hold no negative zero, and it makes one positive without a word.
pub(super) fn refuse_negative_zero(
    target: &Target,
    columns: &Columns,
    row: &Row<'_>,
) -> Result<(), Fault> {
    if target.flavor != Flavor::Mariadb || !target.has_doubles {
        return Ok(());
    }
    for (place, (_, value)) in columns.places.iter().zip(row.iter()) {
        let Some(column) = place.map(|place| target.column(place)) else { continue };
        let negative_zero = matches!(column.kind, Type::Float | Type::Double)
            && value.starts_with('-')
            && value.parse() == Ok(0.0_f64);
        if negative_zero {
            return Err(Fault::poison(
                Code::Table,
                format!(
                    "{} column {}: a negative zero, which MariaDB does not hold",
                    target.name, column.name
                ),
            )
            .hint("write 0 in its place at the source"));
        }
    }
    Ok(())
}

/// The places of ENUM columns whose value is no member of theirs.
pub(super) fn odd_choices(target: &Target, columns: &Columns, row: &Row<'_>) -> Vec<usize> {
    if !target.has_choices {
        return Vec::new();
    }
    let values = columns.places.iter().zip(row.iter());
    let odd = values.filter_map(|(place, (_, value))| {
        place.filter(|place| is_no_member(target.column(*place), value))
    });
    odd.collect()
}

/// Gives ENUM columns the value that is no member of theirs, which no strict statement can.
fn write_odd(
    sql: &mut Vec<u8>,
    target: &Target,
    columns: &Columns,
    odd: &[usize],
    row: &Row<'_>,
) -> Result<(), Fault> {
    if odd.iter().any(|place| target.in_key[*place]) {
        return Err(Fault::poison(
            Code::Table,
            format!("{}: a key's ENUM column holds what is no member of it", target.name),
        )
        .hint("mend the row at the source"));
    }
    write_lenient(sql, target.flavor);
    sql.extend_from_slice(target.name.as_bytes());
    for (i, place) in odd.iter().enumerate() {
        sql.extend_from_slice(if i == 0 { b" SET " } else { b"," });
        sql.extend_from_slice(&target.quoted[*place]);
        sql.extend_from_slice(b"=0");
    }
    sql.extend_from_slice(b" WHERE ");
    write_key(sql, target, columns, row)
}

/// The same behind another statement, where there is something to give.
pub(super) fn set_odd(
    sql: &mut Vec<u8>,
    target: &Target,
    columns: &Columns,
    odd: &[usize],
    row: &Row<'_>,
) -> Result<(), Fault> {
    if odd.is_empty() {
        return Ok(());
    }
    sql.push(b';');
    write_odd(sql, target, columns, odd, row)
}

/// The row's key by equality.
pub(super) fn write_key(
    sql: &mut Vec<u8>,
    target: &Target,
    columns: &Columns,
    row: &Row<'_>,
) -> Result<(), Fault> {
    let mut first = true;
    for (place, (_, value)) in columns.places.iter().zip(row.iter()) {
        let Some(place) = place.filter(|place| target.in_key[*place]) else { continue };
        if !std::mem::take(&mut first) {
            sql.extend_from_slice(b" AND ");
        }
        sql.extend_from_slice(&target.quoted[place]);
        sql.push(b'=');
        write_literal(sql, target.column(place), value)?;
    }
    Ok(())
}

/// The row as it was: the key by equality, so that its index finds it, then every column to the
/// letter.
pub(super) fn write_condition(
    sql: &mut Vec<u8>,
    target: &Target,
    columns: &Columns,
    row: &Row<'_>,
) -> Result<(), Fault> {
    let mut first = true;
    let mut and = |sql: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            sql.extend_from_slice(b" AND ");
        }
    };
    let written = columns.places.iter().zip(row.iter());
    let written = written.filter_map(|(place, (_, value))| Some(((*place)?, value)));
    for (place, value) in written.clone().filter(|(place, _)| target.in_key[*place]) {
        and(sql);
        sql.extend_from_slice(&target.quoted[place]);
        sql.push(b'=');
        write_literal(sql, target.column(place), value)?;
    }
    for (place, value) in written {
        let column = target.column(place);
        // A number that is equal is equal to the letter.
        if target.in_key[place] && !matches!(column.kind, Type::Text { .. }) {
            continue;
        }
        and(sql);
        if is_no_member(column, value) {
            sql.extend_from_slice(&target.quoted[place]);
            sql.extend_from_slice(b"=0");
            continue;
        }
        write_equality(sql, column, &target.quoted[place], value)?;
    }
    Ok(())
}
