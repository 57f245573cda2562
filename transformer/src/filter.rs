//! Takes out of a change what does not travel: columns, and rows that do not meet a condition.
//!
//! A row that comes to meet its condition by an update is new to the other units, and one that no
//! longer meets it is gone there. What is left of a change is decided on the row as the store has
//! it, so a condition may look at columns that do not travel themselves.

use std::borrow::Cow;

use unitflow_change::condition::Condition;
use unitflow_change::envelope::{Envelope, Op, Row, is_same_column};
use unitflow_change::key::Key;
use unitflow_change::routing::Routing;
use unitflow_change::{Code, Fault};

/// What does not travel of one table.
#[derive(Debug)]
pub struct Filter {
    hidden: Vec<String>,
    conditions: Vec<Condition>,
}

/// What is left of a change.
#[derive(Debug, PartialEq, Eq)]
pub struct Left<'a> {
    /// What it is to the other units.
    pub op: Op,
    /// Its envelope.
    pub value: Cow<'a, [u8]>,
}

impl Filter {
    /// The filter of the table with this (canonical) name; none where all of it travels. `key` is
    /// the key of one of its rows: what tells rows apart can't be hidden.
    pub fn of(routing: &Routing, key: &Key<'_>) -> Result<Option<Self>, Fault> {
        let (database, table) = (&*key.database, &*key.table);
        let hidden = routing.hidden(database, table);
        let mut columns = key.columns.iter().flat_map(Row::iter).map(|(name, _)| name);
        let taken = columns.find(|name| hidden.iter().any(|hidden| is_same_column(hidden, name)));
        if let Some(column) = taken {
            return Err(Fault::fatal(
                Code::Routing,
                format!("{database}.{table}: the column {column:?} is hidden, and is part of the primary key"),
            )
            .hint("take it out of columns for this table, or exclude the table"));
        }
        routing.ensure_ordered(database, table)?;
        let conditions: Vec<_> = routing.conditions(database, table).into_iter().cloned().collect();
        let all = hidden.is_empty() && conditions.is_empty();
        Ok((!all).then_some(Self { hidden, conditions }))
    }

    /// What is left of the change; `value` is what `envelope` was read from.
    pub fn narrow<'a>(
        &self,
        envelope: &Envelope<'_>,
        value: &'a [u8],
    ) -> Result<Option<Left<'a>>, Fault> {
        let shown = |row: &Option<Row<'_>>| match row {
            Some(row) => self.meets(row),
            None => Ok(false),
        };
        let op = match (shown(&envelope.before)?, shown(&envelope.after)?) {
            (false, false) => return Ok(None),
            (true, false) => Op::Delete,
            (false, true) if envelope.op == Op::Read => Op::Read,
            (false, true) => Op::Insert,
            (true, true) if self.sees_no_change(envelope) => return Ok(None),
            (true, true) => Op::Update,
        };
        let value = match op == envelope.op && self.hidden.is_empty() {
            true => Cow::Borrowed(value),
            false => Cow::Owned(Envelope::narrow(value, op, &self.hidden)?),
        };
        Ok(Some(Left { op, value }))
    }

    fn meets(&self, row: &Row<'_>) -> Result<bool, Fault> {
        for condition in &self.conditions {
            if !condition.holds(row)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an update changed nothing but hidden columns.
    fn sees_no_change(&self, envelope: &Envelope<'_>) -> bool {
        let (Some(before), Some(after)) = (&envelope.before, &envelope.after) else { return false };
        !self.hidden.is_empty()
            && before.len() == after.len()
            && before.iter().zip(after.iter()).all(|((name, old), (_, new))| {
                old == new || self.hidden.iter().any(|hidden| is_same_column(hidden, name))
            })
    }
}

#[cfg(test)]
mod tests {
    use unitflow_change::routing::{Columns, PartitionBy};

    use super::*;

    const KEY: &[u8] = br#"["shop","orders",{"id":1}]"#;

    fn routing() -> Routing {
        Routing {
            partitions: 2,
            tables: vec!["shop.*".into()],
            columns: [("shop.*".into(), Columns { exclude: vec!["photo".into()] })].into(),
            rows: [("shop.orders".into(), Condition::parse("region = 'eu'").unwrap())].into(),
            ..Routing::default()
        }
    }

    fn row(region: &str, photo: u8, n: u8) -> String {
        format!(r#"{{"id":1,"region":"{region}","photo":{photo},"n":{n}}}"#)
    }

    fn narrow(before: Option<String>, after: Option<String>) -> Option<(Op, String)> {
        let op = match (&before, &after) {
            (None, _) => "c",
            (_, None) => "d",
            _ => "u",
        };
        let text = |row: Option<String>| row.unwrap_or("null".into());
        let value = format!(
            r#"{{"before":{},"after":{},"source":{{}},"op":"{op}","ts_ms":1,"transaction":null}}"#,
            text(before),
            text(after)
        );
        let filter = Filter::of(&routing(), &Key::parse(KEY).unwrap()).unwrap().unwrap();
        let envelope = Envelope::parse(value.as_bytes()).unwrap();
        let left = filter.narrow(&envelope, value.as_bytes()).unwrap()?;
        let text = String::from_utf8(left.value.into_owned()).unwrap();
        assert!(!text.contains("photo"), "{text}");
        Some((left.op, text))
    }

    #[test]
    fn rows_that_enter_come_and_rows_that_leave_go() {
        let (eu, us) = (|n| Some(row("eu", 1, n)), |n| Some(row("us", 1, n)));
        let cases = [
            (None, eu(1), Some(Op::Insert)),
            (None, us(1), None),
            (eu(1), None, Some(Op::Delete)),
            (us(1), None, None),
            (eu(1), eu(2), Some(Op::Update)),
            (eu(1), us(1), Some(Op::Delete)),
            (us(1), eu(1), Some(Op::Insert)),
            (us(1), us(2), None),
        ];
        for (before, after, op) in cases {
            let left = narrow(before.clone(), after.clone());
            assert_eq!(left.as_ref().map(|(op, _)| *op), op, "{before:?} to {after:?}");
            if let Some((op, text)) = left {
                let envelope = Envelope::parse(text.as_bytes()).unwrap();
                assert_eq!(envelope.op, op);
                assert_eq!(envelope.before.is_some(), op != Op::Insert);
                assert_eq!(envelope.after.is_some(), op != Op::Delete);
            }
        }
    }

    #[test]
    fn a_change_of_what_is_hidden_is_none() {
        assert_eq!(narrow(Some(row("eu", 1, 1)), Some(row("eu", 2, 1))), None);
        assert!(narrow(Some(row("eu", 1, 1)), Some(row("eu", 2, 2))).is_some());
    }

    #[test]
    fn keys_can_not_be_hidden_and_spread_rows_not_be_chosen() {
        let key = Key::parse(KEY).unwrap();
        let mut hides = routing();
        hides.columns.insert("*".into(), Columns { exclude: vec!["ID".into()] });
        let fault = Filter::of(&hides, &key).unwrap_err();
        assert_eq!(fault.code, Code::Routing);
        assert!(fault.what.contains("part of the primary key"), "{fault}");

        let mut spread = routing();
        let by = PartitionBy::Columns(vec!["region".into()]);
        spread.partition_by.insert("shop.orders".into(), by);
        assert_eq!(Filter::of(&spread, &key).unwrap_err().code, Code::Routing);
    }

    #[test]
    fn tables_without_filters_have_none() {
        let key = Key::parse(br#"["mall","orders",{"id":1}]"#).unwrap();
        assert!(Filter::of(&routing(), &key).unwrap().is_none());
    }
}
