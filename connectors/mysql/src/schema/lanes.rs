//! Which rows of a table exclude each other, so that they can't be written side by side.
//!
//! A row's key bytes tell it from others, and to the server it may still be equal to one of them:
//! by another unique key, by a collation that folds letters or trailing spaces, or by a key that
//! holds only the start of a text.

use unitflow_change::envelope::is_same_column;
use unitflow_change::routing::PartitionBy;

use super::{Column, Table, Type};

impl Column {
    /// Whether values that differ byte by byte may be equal to the server: by collation, by
    /// trailing spaces, or as zeros of two signs.
    #[must_use]
    pub fn folds(&self) -> bool {
        match &self.kind {
            Type::Text { collation, .. } => {
                !collation.ends_with("_0900_bin") && !collation.ends_with("_nopad_bin")
            }
            Type::Float | Type::Double => true,
            _ => false,
        }
    }
}

impl Table {
    /// The unique key by which rows exclude each other that `by` may send to different lanes, by
    /// its index's name. Rows that have the same value there would then be written in any order.
    ///
    /// A key is safe where it holds all that rows are spread by, so that rows which are equal there
    /// are spread alike. By which columns rows of one primary key may be spread is the
    /// configuration's to know.
    ///
    /// Where there is no primary key, or none to be seen, nothing tells rows apart: `PRIMARY`.
    #[must_use]
    pub fn parted_key(&self, by: &PartitionBy) -> Option<&str> {
        if self.primary_key.is_empty() && *by != PartitionBy::Table {
            return Some("PRIMARY");
        }
        let (spread, by_key): (Option<Vec<usize>>, bool) = match by {
            PartitionBy::Table => return None,
            PartitionBy::Key => (Some(self.primary_key.clone()), true),
            PartitionBy::Columns(names) => {
                let place = |name: &String| {
                    self.columns.iter().position(|column| is_same_column(&column.name, name))
                };
                (names.iter().map(place).collect(), false)
            }
        };
        // Equal in the key means equal in each byte of what rows are spread by.
        let exact = spread.filter(|places| !places.iter().any(|&p| self.columns[p].folds()));
        let safe = |columns: &[usize], partial: bool| {
            let exact = exact.as_ref().filter(|_| !partial);
            exact.is_some_and(|places| places.iter().all(|place| columns.contains(place)))
        };
        let parted = self.unique_keys.iter().find(|key| !safe(&key.columns, key.partial));
        match parted {
            Some(key) => Some(&key.name),
            None => (by_key && !safe(&self.primary_key, self.primary_partial)).then_some("PRIMARY"),
        }
    }

    /// How rows can be spread so that those which exclude each other share a lane: by their key, by
    /// some columns of it, or not at all.
    #[must_use]
    pub fn spread(&self) -> PartitionBy {
        if self.parted_key(&PartitionBy::Key).is_none() {
            return PartitionBy::Key;
        }
        let everywhere = |place: &usize| {
            let exact = !self.columns[*place].folds() && !self.primary_partial;
            exact && self.unique_keys.iter().all(|key| !key.partial && key.columns.contains(place))
        };
        let shared = self.primary_key.iter().copied().filter(everywhere);
        let names: Vec<_> = shared.map(|place| self.columns[place].name.clone()).collect();
        if names.is_empty() { PartitionBy::Table } else { PartitionBy::Columns(names) }
    }

    /// Whether its rows may exclude each other though their primary keys differ byte by byte.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        !self.unique_keys.is_empty()
            || self.primary_partial
            || self.key_columns().any(Column::folds)
    }
}

#[cfg(test)]
mod tests {
    use super::super::UniqueKey;
    use super::*;

    fn column(name: &str, kind: Type) -> Column {
        Column {
            name: name.into(),
            kind,
            nullable: false,
            generated: None,
            invisible: false,
            counted: false,
            required: true,
            length: 0,
            bytes: 0,
        }
    }

    fn text(collation: &str) -> Type {
        Type::Text {
            charset: "utf8mb4".into(),
            collation: collation.into(),
            fixed: false,
            json: false,
        }
    }

    /// `id` and `region` are exact, `name` is not.
    fn table(primary_key: &[usize], unique: Option<&[usize]>) -> Table {
        let key = |columns: &[usize]| UniqueKey {
            name: "second".into(),
            columns: columns.to_vec(),
            partial: false,
        };
        Table {
            database: "shop".into(),
            name: "t".into(),
            engine: "InnoDB".into(),
            columns: vec![
                column("id", Type::Integer { bits: 32, unsigned: false }),
                column("region", Type::Integer { bits: 8, unsigned: false }),
                column("name", text("utf8mb4_0900_ai_ci")),
            ],
            primary_key: primary_key.to_vec(),
            primary_partial: false,
            unique_keys: unique.map(key).into_iter().collect(),
            parents: Vec::new(),
            children: Vec::new(),
            triggers: Vec::new(),
            versioned: false,
        }
    }

    #[test]
    fn a_key_is_safe_where_equal_rows_are_spread_alike() {
        let columns = |names: &[&str]| {
            PartitionBy::Columns(names.iter().map(|name| (*name).to_owned()).collect())
        };
        for (primary, unique, by, parted) in [
            (&[0][..], None, PartitionBy::Key, None),
            (&[0], Some(&[1][..]), PartitionBy::Key, Some("second")),
            (&[0], Some(&[1]), PartitionBy::Table, None),
            (&[0], Some(&[1, 2]), columns(&["REGION"]), None),
            (&[0], Some(&[2]), columns(&["region"]), Some("second")),
            (&[0], Some(&[1]), columns(&["region", "gone"]), Some("second")),
            // Who is equal in the second is equal in the first.
            (&[0], Some(&[0, 1]), PartitionBy::Key, None),
            (&[2], None, PartitionBy::Key, Some("PRIMARY")),
            (&[0, 2], None, PartitionBy::Key, Some("PRIMARY")),
            (&[0, 2], None, columns(&["id"]), None),
            (&[0], Some(&[2]), columns(&["name"]), Some("second")),
            (&[], None, PartitionBy::Key, Some("PRIMARY")),
            (&[], Some(&[0]), columns(&["id"]), Some("PRIMARY")),
            (&[], None, PartitionBy::Table, None),
        ] {
            let found = table(primary, unique);
            assert_eq!(found.parted_key(&by), parted, "{primary:?} {unique:?} {by:?}");
            assert_eq!(found.is_serial(), unique.is_some() || primary.contains(&2));
        }
        let partial = Table { primary_partial: true, ..table(&[0], None) };
        assert_eq!(partial.parted_key(&PartitionBy::Key), Some("PRIMARY"));
        assert!(partial.is_serial());
    }

    #[test]
    fn rows_are_spread_by_what_all_keys_share() {
        let columns = |name: &str| PartitionBy::Columns(vec![name.to_owned()]);
        for (primary, unique, by) in [
            (&[0][..], None, PartitionBy::Key),
            (&[0, 2], None, columns("id")),
            (&[2], None, PartitionBy::Table),
            (&[0, 1], Some(&[1, 2][..]), columns("region")),
            (&[0], Some(&[1]), PartitionBy::Table),
            (&[], None, PartitionBy::Table),
            (&[], Some(&[0]), PartitionBy::Table),
        ] {
            let found = table(primary, unique);
            assert_eq!(found.spread(), by, "{primary:?} {unique:?}");
            assert_eq!(found.parted_key(&found.spread()), None, "{primary:?} {unique:?}");
        }
        assert_eq!(
            Table { primary_partial: true, ..table(&[0], None) }.spread(),
            PartitionBy::Table
        );
    }

    #[test]
    fn texts_fold_unless_their_collation_is_by_bytes_without_padding() {
        for (collation, folds) in [
            ("utf8mb4_0900_ai_ci", true),
            ("utf8mb4_bin", true),
            ("utf8mb4_0900_bin", false),
            ("utf8mb4_nopad_bin", false),
        ] {
            assert_eq!(column("c", text(collation)).folds(), folds, "{collation}");
        }
        assert!(!column("c", Type::Binary(4)).folds());
        assert!(column("c", Type::Double).folds());
    }
}
