//! A unit's own names for databases and tables.
//!
//! The mesh has one name for each table, the *canonical* one: patterns, keys and lanes go by it. A
//! unit may call a database or a single table otherwise; what is not named here has the canonical
//! name there too.
//!
//! One to one in both directions: no two canonical names have one local name. Where a mapping
//! takes a name that another table would have had, that table has no place in the unit.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::routing::INTERNAL_DATABASE;

/// Database and table.
type Table = (String, String);

/// Canonical names on the left, local ones on the right: `shop` to `shop_jp`, `shop.orders` to
/// `shop_jp.orders_v2`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Rename {
    databases: BTreeMap<String, String>,
    tables: BTreeMap<Table, Table>,
    databases_back: BTreeMap<String, String>,
    tables_back: BTreeMap<Table, Table>,
}

impl Rename {
    /// Reads and checks the mapping.
    pub fn parse(names: &BTreeMap<String, String>) -> Result<Self, Fault> {
        let mut rename = Self::default();
        for (canonical, local) in names {
            match (split(canonical)?, split(local)?) {
                (Named::Database(from), Named::Database(to)) => {
                    take(&mut rename.databases_back, to, from, local)?;
                    rename.databases.insert(from.to_owned(), to.to_owned());
                }
                (Named::Table(from), Named::Table(to)) => {
                    take(&mut rename.tables_back, to.clone(), from.clone(), local)?;
                    rename.tables.insert(from, to);
                }
                _ => {
                    return Err(bad(format!(
                        "{canonical:?} = {local:?} maps a database to a table"
                    ))
                    .hint("map a database to a database, or database.table to database.table"));
                }
            }
        }
        refuse_cycles(&rename.databases, |name| name.clone())?;
        refuse_cycles(&rename.tables, |(database, table)| format!("{database}.{table}"))?;
        Ok(rename)
    }

    /// Whether all names are the canonical ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.tables.is_empty()
    }

    /// What the unit calls this table; none where another table has that name there.
    #[must_use]
    pub fn local(&self, database: &str, table: &str) -> Option<Table> {
        place(
            &self.databases,
            &self.tables,
            &self.databases_back,
            &self.tables_back,
            database,
            table,
        )
    }

    /// What the mesh calls this table of the unit; none where it has no place in the mesh.
    #[must_use]
    pub fn canonical(&self, database: &str, table: &str) -> Option<Table> {
        place(
            &self.databases_back,
            &self.tables_back,
            &self.databases,
            &self.tables,
            database,
            table,
        )
    }

    /// The mesh's databases of which the unit keeps tables in this one.
    #[must_use]
    pub fn canonical_databases(&self, local: &str) -> BTreeSet<String> {
        let tables = self.tables_back.iter().filter(|((database, _), _)| database == local);
        let named = tables.map(|(_, (canonical, _))| canonical.clone());
        let whole = match self.databases_back.get(local) {
            Some(canonical) => Some(canonical.clone()),
            None => (!self.databases.contains_key(local)).then(|| local.to_owned()),
        };
        named.chain(whole).collect()
    }

    /// The databases in which the unit keeps tables of this canonical database.
    #[must_use]
    pub fn local_databases(&self, database: &str) -> BTreeSet<String> {
        let own = self.databases.get(database).map_or(database, String::as_str);
        let tables = self.tables.iter().filter(|((canonical, _), _)| canonical == database);
        tables.map(|(_, (local, _))| local.clone()).chain([own.to_owned()]).collect()
    }
}

/// Follows one direction of a mapping whose other direction is `…_back`. The most specific mapping
/// wins, on either side: what it takes away, nothing else may have.
fn place(
    databases: &BTreeMap<String, String>,
    tables: &BTreeMap<Table, Table>,
    databases_back: &BTreeMap<String, String>,
    tables_back: &BTreeMap<Table, Table>,
    database: &str,
    table: &str,
) -> Option<Table> {
    let name = (database.to_owned(), table.to_owned());
    if let Some(to) = tables.get(&name) {
        return Some(to.clone());
    }
    let to = match databases.get(database) {
        Some(to) => (to.clone(), name.1),
        None if databases_back.contains_key(database) => return None,
        None => name,
    };
    (!tables_back.contains_key(&to)).then_some(to)
}

enum Named<'a> {
    Database(&'a str),
    Table(Table),
}

fn split(name: &str) -> Result<Named<'_>, Fault> {
    let mut parts = name.split('.');
    let named = match (parts.next(), parts.next(), parts.next()) {
        (Some(database), None, _) => Named::Database(database),
        (Some(database), Some(table), None) if !table.is_empty() => {
            Named::Table((database.to_owned(), table.to_owned()))
        }
        _ => {
            return Err(bad(format!("{name:?} is neither a database nor a database.table"))
                .hint("a name that itself holds a dot can't be mapped"));
        }
    };
    let database = name.split('.').next().unwrap_or_default();
    if database.is_empty() || name.contains(['*', '`']) {
        return Err(bad(format!("{name:?} is neither a database nor a database.table"))
            .hint("write plain names, without patterns and quotes"));
    }
    if database.eq_ignore_ascii_case(INTERNAL_DATABASE) {
        return Err(bad(format!("{name:?}: the database {INTERNAL_DATABASE} keeps its name")));
    }
    Ok(named)
}

fn take<N: Ord>(
    taken: &mut BTreeMap<N, N>,
    local: impl Into<N>,
    canonical: impl Into<N>,
    shown: &str,
) -> Result<(), Fault> {
    match taken.insert(local.into(), canonical.into()) {
        None => Ok(()),
        Some(_) => Err(bad(format!("two names are mapped to {shown:?}"))),
    }
}

/// Names that go round in a circle are nearly always a slip, and a name mapped to itself is one.
fn refuse_cycles<N: Ord + Clone>(
    names: &BTreeMap<N, N>,
    shown: impl Fn(&N) -> String,
) -> Result<(), Fault> {
    for start in names.keys() {
        let mut at = start;
        while let Some(next) = names.get(at) {
            // One to one: a chain that comes back comes back to where it began.
            if next == start {
                return Err(bad(format!("the mapping of {:?} leads back to it", shown(start)))
                    .hint("give one of them a name of its own"));
            }
            at = next;
        }
    }
    Ok(())
}

fn bad(what: impl Into<String>) -> Fault {
    Fault::fatal(Code::Config, what)
}

impl TryFrom<BTreeMap<String, String>> for Rename {
    type Error = Fault;

    fn try_from(names: BTreeMap<String, String>) -> Result<Self, Fault> {
        Self::parse(&names)
    }
}

impl From<Rename> for BTreeMap<String, String> {
    fn from(rename: Rename) -> Self {
        let tables = rename.tables.into_iter();
        let tables = tables.map(|((a, b), (c, d))| (format!("{a}.{b}"), format!("{c}.{d}")));
        rename.databases.into_iter().chain(tables).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rename(names: &[(&str, &str)]) -> Result<Rename, Fault> {
        let names = names.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Rename::parse(&names)
    }

    fn dotted(table: Option<Table>) -> Option<String> {
        table.map(|(database, table)| format!("{database}.{table}"))
    }

    #[test]
    fn the_nearest_mapping_counts() {
        let rename =
            rename(&[("shop", "shop_jp"), ("shop.orders", "shop_jp.orders_v2"), ("a.t", "b.t")])
                .unwrap();
        for (canonical, local) in [
            ("shop.users", Some("shop_jp.users")),
            ("shop.orders", Some("shop_jp.orders_v2")),
            // Their names there are taken.
            ("shop.orders_v2", None),
            ("shop_jp.users", None),
            ("b.t", None),
            ("b.u", Some("b.u")),
            ("other.t", Some("other.t")),
            ("unitflow.ledger", Some("unitflow.ledger")),
        ] {
            let (database, table) = canonical.split_once('.').unwrap();
            assert_eq!(dotted(rename.local(database, table)).as_deref(), local, "{canonical}");
        }
        for (local, canonical) in [
            ("shop_jp.orders_v2", Some("shop.orders")),
            ("shop_jp.orders", None),
            ("shop.users", None),
            ("a.t", None),
        ] {
            let (database, table) = local.split_once('.').unwrap();
            assert_eq!(dotted(rename.canonical(database, table)).as_deref(), canonical, "{local}");
        }
        let databases: Vec<_> = rename.local_databases("shop").into_iter().collect();
        assert_eq!(databases, ["shop_jp"]);
        assert_eq!(rename.local_databases("a").len(), 2);
    }

    #[test]
    fn what_is_not_one_to_one_is_refused() {
        for (names, says) in [
            (&[("a", "c"), ("b", "c")][..], "two names are mapped to \"c\""),
            (&[("a.t", "c.t"), ("b.t", "c.t")], "two names are mapped to \"c.t\""),
            (&[("a", "b"), ("b", "a")], "leads back"),
            (&[("a.t", "a.t")], "leads back"),
            (&[("a", "b.t")], "maps a database to a table"),
            (&[("a.b.c", "d.e")], "neither"),
            (&[("a.", "d.e")], "neither"),
            (&[("", "d")], "neither"),
            (&[("a.*", "d.e")], "neither"),
            (&[("a", "unitflow")], "keeps its name"),
        ] {
            let fault = rename(names).unwrap_err();
            assert!(fault.code == Code::Config && fault.what.contains(says), "{names:?}: {fault}");
        }
        assert!(rename(&[("a", "b"), ("b", "c")]).is_ok());
    }

    proptest! {
        #[test]
        fn each_way_undoes_the_other(
            names in proptest::collection::btree_map("[a-c](\\.[a-c])?", "[a-c](\\.[a-c])?", 0..5),
            database in "[a-c]", table in "[a-c]",
        ) {
            if let Ok(rename) = Rename::parse(&names) {
                if let Some((d, t)) = rename.local(&database, &table) {
                    prop_assert_eq!(rename.canonical(&d, &t), Some((database.clone(), table.clone())));
                }
                if let Some((d, t)) = rename.canonical(&database, &table) {
                    prop_assert_eq!(rename.local(&d, &t), Some((database, table)));
                }
                let again: BTreeMap<String, String> = rename.clone().into();
                prop_assert_eq!(&again, &names);
            }
        }
    }
}
