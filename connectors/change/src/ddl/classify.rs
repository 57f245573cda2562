//! What a statement is about, by its leading words.

use std::iter;

use super::words::Words;
use super::{Class, Stored, Verb};

/// What a statement is about; nothing where it is not recognised.
pub fn classify(mut words: Words<'_>, database: &str) -> Option<Class> {
    let first = words.keyword()?;
    match first.as_str() {
        "CREATE" => create(words, database),
        "ALTER" => alter(words, database),
        "DROP" => drop_(words, database),
        "RENAME" => rename(words, database),
        "TRUNCATE" => {
            words.skip_any(&["TABLE"]);
            Some(Class::Tables(Verb::Truncate, vec![words.table(database)?]))
        }
        "GRANT" | "REVOKE" | "SET" | "FLUSH" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK"
        | "INSTALL" | "UNINSTALL" | "CACHE" => Some(Class::Local),
        _ => None,
    }
}

fn create(mut words: Words<'_>, database: &str) -> Option<Class> {
    words.skip_any(&["OR", "REPLACE", "ONLINE", "OFFLINE"]);
    words.skip_stored_options();
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TEMPORARY" => Class::Local,
        "TABLE" => {
            words.skip_if_exists();
            Class::Tables(Verb::Create, vec![words.table(database)?])
        }
        "UNIQUE" | "FULLTEXT" | "SPATIAL" | "VECTOR" | "INDEX" => {
            if word != "INDEX" {
                words.expect("INDEX")?;
            }
            words.skip_if_exists();
            words.name()?;
            while !words.at("ON") {
                words.next()?;
            }
            words.expect("ON")?;
            Class::Tables(Verb::Index, vec![words.table(database)?])
        }
        "DATABASE" | "SCHEMA" => {
            words.skip_if_exists();
            Class::Database(Verb::Create, words.name()?)
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "RESOURCE" | "UNDO" => Class::Local,
        other => stored(other, words, database)?,
    })
}

fn alter(mut words: Words<'_>, database: &str) -> Option<Class> {
    words.skip_any(&["ONLINE", "IGNORE", "OFFLINE"]);
    words.skip_stored_options();
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TABLE" => {
            words.skip_if_exists();
            let table = words.table(database)?;
            words.skip_wait();
            let parts = words.parts();
            let verb = match () {
                () if parts.iter().all(Words::is_about_indexes) => Verb::Index,
                () if parts.iter().all(|part| part.is_about_indexes() || part.adds_a_column()) => {
                    Verb::Extend
                }
                () => Verb::Alter,
            };
            match parts.iter().find_map(|part| part.new_name(database)) {
                Some(to) => Class::Rename(vec![(table, to)]),
                None => {
                    let partners = parts.iter().filter_map(|part| part.partner(database));
                    Class::Tables(verb, iter::once(table).chain(partners).collect())
                }
            }
        }
        "DATABASE" | "SCHEMA" => {
            let name = words.name().unwrap_or_default();
            let options = ["CHARACTER", "CHARSET", "DEFAULT", "COLLATE", "ENCRYPTION", "READ"];
            let unnamed = options.iter().any(|option| name.eq_ignore_ascii_case(option));
            Class::Database(Verb::Alter, if unnamed { database.to_owned() } else { name })
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "INSTANCE" | "RESOURCE"
        | "UNDO" => Class::Local,
        other => stored(other, words, database)?,
    })
}

fn drop_(mut words: Words<'_>, database: &str) -> Option<Class> {
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TEMPORARY" => Class::Local,
        "TABLE" | "TABLES" => {
            words.skip_if_exists();
            let mut tables = vec![words.table(database)?];
            while words.punctuation(b',') {
                tables.push(words.table(database)?);
            }
            Class::Tables(Verb::Drop, tables)
        }
        "INDEX" => {
            words.skip_if_exists();
            words.name()?;
            words.expect("ON")?;
            Class::Tables(Verb::Index, vec![words.table(database)?])
        }
        "DATABASE" | "SCHEMA" => {
            words.skip_if_exists();
            Class::Database(Verb::Drop, words.name()?)
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "RESOURCE" | "UNDO" | "PREPARE" => {
            Class::Local
        }
        other => stored(other, words, database)?,
    })
}

fn rename(mut words: Words<'_>, database: &str) -> Option<Class> {
    let word = words.keyword()?;
    if matches!(word.as_str(), "USER" | "ROLE") {
        return Some(Class::Local);
    }
    if !matches!(word.as_str(), "TABLE" | "TABLES") {
        return None;
    }
    words.skip_if_exists();
    let mut pairs = Vec::new();
    loop {
        let from = words.table(database)?;
        words.skip_wait();
        words.expect("TO")?;
        pairs.push((from, words.table(database)?));
        if !words.punctuation(b',') {
            return Some(Class::Rename(pairs));
        }
    }
}

/// Stored code, in the database that its name says.
fn stored(word: &str, mut words: Words<'_>, database: &str) -> Option<Class> {
    let kind = match word {
        "VIEW" => Stored::View,
        "TRIGGER" => Stored::Trigger,
        "PROCEDURE" | "FUNCTION" | "AGGREGATE" | "PACKAGE" | "LIBRARY" => Stored::Routine,
        "EVENT" => Stored::Event,
        _ => return None,
    };
    words.skip_any(&["FUNCTION", "BODY"]);
    words.skip_if_exists();
    Some(Class::Stored(kind, words.table(database)?))
}
