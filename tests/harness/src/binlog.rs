//! Reads what `mysqlbinlog --base64-output=decode-rows -v` (or `-vv`) prints, of MySQL and of
//! MariaDB, line by line.
//!
//! Transactions are told by their GTIDs; of the rows only table, operation and column values are
//! read, as text. Anything else is passed over: the judge needs no more.

use std::fmt;

/// What a line may complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction begins.
    Begin {
        /// Its GTID.
        gtid: String,
    },
    /// A row of the open transaction.
    Row(RowEvent),
    /// The open transaction is committed.
    Commit,
    /// The open transaction ends and was not committed.
    Rollback,
}

/// What happened to the row, in the server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `INSERT INTO`: only `after` has columns.
    Insert,
    /// `UPDATE`: both have.
    Update,
    /// `DELETE FROM`: only `before` has.
    Delete,
}

/// One row event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowEvent {
    /// The schema.
    pub database: String,
    /// The table.
    pub table: String,
    /// What happened.
    pub verb: Verb,
    /// The row before.
    pub before: Image,
    /// The row after.
    pub after: Image,
}

/// Column values as they are printed, without quotes and comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(Vec<(usize, String)>);

impl Image {
    /// The column with this number, counted from 1.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&str> {
        // Full images: the column stands at its own place, unless something is missing.
        let guess = self.0.get(column.wrapping_sub(1)).filter(|(number, _)| *number == column);
        guess
            .or_else(|| self.0.iter().find(|(number, _)| *number == column))
            .map(|(_, value)| value.as_str())
    }
}

/// A line that can't be what it seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable line of mysqlbinlog: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Reads lines in order.
#[derive(Debug, Default)]
pub struct Parser {
    row: Option<RowEvent>,
    after: bool,
    open: bool,
    columns: Option<usize>,
}

impl Parser {
    /// Keeps only so many columns of each row.
    #[must_use]
    pub fn first_columns(columns: usize) -> Self {
        Self { columns: Some(columns), ..Self::default() }
    }

    /// Takes the next line, without its line end; what it completes comes in order.
    pub fn line(&mut self, line: &str) -> Result<[Option<Event>; 2], Unreadable> {
        if let Some(rest) = line.strip_prefix("### ") {
            // Of partitioned tables.
            if rest.starts_with("Extra row info ") {
                return Ok([None, None]);
            }
            return Ok([self.commented(line, rest)?, None]);
        }
        let row = self.row.take().map(Event::Row);
        let event = if let Some(gtid) = gtid(line) {
            self.open = true;
            Some(Event::Begin { gtid: gtid.to_owned() })
        } else if self.open && is(line, "COMMIT") {
            self.open = false;
            Some(Event::Commit)
        } else if self.open && is(line, "ROLLBACK") {
            self.open = false;
            Some(Event::Rollback)
        } else {
            None
        };
        Ok([row, event])
    }

    /// A line of pseudo-SQL. A new row completes the one before it.
    fn commented(&mut self, line: &str, rest: &str) -> Result<Option<Event>, Unreadable> {
        let unreadable = || Unreadable(line.chars().take(200).collect());
        let verbs = [
            ("INSERT INTO ", Verb::Insert),
            ("UPDATE ", Verb::Update),
            ("DELETE FROM ", Verb::Delete),
        ];
        for (words, verb) in verbs {
            if let Some(name) = rest.strip_prefix(words) {
                let (database, table) = table_name(name).ok_or_else(unreadable)?;
                let (before, after) = (Image::default(), Image::default());
                let row = RowEvent { database, table, verb, before, after };
                self.after = verb == Verb::Insert;
                return Ok(self.row.replace(row).map(Event::Row));
            }
        }
        let row = self.row.as_mut().ok_or_else(unreadable)?;
        match rest {
            "WHERE" => self.after = false,
            "SET" => self.after = true,
            column => {
                let column = column.trim_start().strip_prefix('@').ok_or_else(unreadable)?;
                let (number, value) = column.split_once('=').ok_or_else(unreadable)?;
                let number = number.parse().map_err(|_| unreadable())?;
                if self.columns.is_none_or(|columns| number <= columns) {
                    let image = if self.after { &mut row.after } else { &mut row.before };
                    image.0.push((number, bare(value).to_owned()));
                }
            }
        }
        Ok(None)
    }
}

/// MySQL: `SET @@SESSION.GTID_NEXT= '<uuid>:<number>'/*!*/;`; at a file's end it says `AUTOMATIC`.
/// MariaDB: `#… server id 1  end_log_pos 385 CRC32 0x…  GTID 0-1-5 trans`.
fn gtid(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '") {
        return rest.split('\'').next().filter(|name| name.contains(':'));
    }
    if !line.starts_with('#') {
        return None;
    }
    let (_, rest) = line.split_once("\tGTID ")?;
    rest.split_whitespace().next().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
}

fn is(line: &str, statement: &str) -> bool {
    line.strip_prefix(statement).is_some_and(|rest| rest.is_empty() || rest.starts_with("/*!*/"))
}

/// `` `database`.`table` ``
fn table_name(text: &str) -> Option<(String, String)> {
    let (database, table) = text.trim_end().strip_prefix('`')?.split_once("`.`")?;
    Some((database.replace("``", "`"), table.strip_suffix('`')?.replace("``", "`")))
}

/// A value without what `-vv` adds, without quotes, and without the second, unsigned reading of a
/// negative number.
fn bare(value: &str) -> &str {
    match value.strip_prefix('\'') {
        // MariaDB does not escape quotes inside: text that has one ends there.
        Some(rest) => rest.split('\'').next().unwrap_or(rest),
        None => value
            .split_once(" /*")
            .map_or(value, |(value, _)| value)
            .split(' ')
            .next()
            .unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Event> {
        let mut parser = Parser::default();
        let lines = text.lines().map(|line| parser.line(line).unwrap());
        lines.flatten().flatten().collect()
    }

    fn begin(gtid: &str) -> Event {
        Event::Begin { gtid: gtid.into() }
    }

    fn row(event: &Event) -> &RowEvent {
        let Event::Row(row) = event else { panic!("{event:?} is no row") };
        row
    }

    #[test]
    fn mysql() {
        let uuid = "8aab2034-e558-11f1-81f3-02fc00000001";
        check(include_str!("binlog/mysql.txt"), &format!("{uuid}:3"), &format!("{uuid}:4"));
    }

    #[test]
    fn mariadb() {
        check(include_str!("binlog/mariadb.txt"), "0-1-3", "0-1-4");
    }

    /// Recorded: two rows inserted by one statement, one updated, a savepoint rolled back; then a
    /// delete.
    fn check(text: &str, first: &str, second: &str) {
        let events = read(text);
        let [begin_first, one, two, update, commit, begin_second, delete, commit_second] =
            &events[..]
        else {
            panic!("{} events: {events:#?}", events.len())
        };
        assert_eq!([begin_first, begin_second], [&begin(first), &begin(second)]);
        assert_eq!([commit, commit_second], [&Event::Commit; 2]);
        let columns = |image: &Image| {
            [1, 2, 3].map(|column| image.get(column).unwrap_or("absent").to_owned())
        };
        let absent = ["absent"; 3].map(str::to_owned);
        for (event, verb, before, after) in [
            (one, Verb::Insert, absent.clone(), ["A", "1", "1"].map(str::to_owned)),
            (two, Verb::Insert, absent.clone(), ["A", "-1294967296", "-1"].map(str::to_owned)),
            (
                update,
                Verb::Update,
                ["A", "1", "1"].map(str::to_owned),
                ["A", "1", "2"].map(str::to_owned),
            ),
            (delete, Verb::Delete, ["A", "1", "2"].map(str::to_owned), absent.clone()),
        ] {
            let row = row(event);
            assert_eq!((row.database.as_str(), row.table.as_str()), ("shop", "or`ders"));
            assert_eq!(
                (row.verb, columns(&row.before), columns(&row.after)),
                (verb, before, after)
            );
        }
        assert_eq!(row(one).after.get(4), Some("NULL"));
    }

    #[test]
    fn pseudo_sql_without_a_row_is_refused() {
        for line in ["### SET", "###   @1=2", "### INSERT INTO shop"] {
            assert!(Parser::default().line(line).is_err(), "{line}");
        }
        let mut parser = Parser::first_columns(1);
        parser.line("### DELETE FROM `a`.`b`").unwrap();
        assert!(parser.line("###   nothing").is_err());
        assert!(parser.line("###   @x=1").is_err());
        parser.line("###   @1=7").unwrap();
        parser.line("###   @2=8").unwrap();
        let [Some(Event::Row(row)), None] = parser.line("# at 4").unwrap() else { panic!("a row") };
        assert_eq!((row.before.get(1), row.before.get(2)), (Some("7"), None));
    }
}
