//! Guards of two tables: whether the one at a target takes all that the one at a source may send.
//!
//! By names and definitions alone; no row is looked at. A type counts as wide enough only where
//! each value of the source's comes back from it as it was.

use unitflow_change::envelope::is_same_column;
use unitflow_change::fault::Code;

use super::{Finding, Severity};
use crate::schema::{Column, Table, Type};

/// Whether `target` takes the changes of `source`, of which the columns `hidden` do not travel.
#[must_use]
pub fn check_fit(source: &Table, target: &Table, hidden: &[String]) -> Vec<Finding> {
    let is_hidden = |name: &str| hidden.iter().any(|hidden| is_same_column(hidden, name));
    let mut findings = ensure_hidden(source, hidden);
    findings.extend(ensure_same_key(source, target));
    for column in source.columns.iter().filter(|column| !is_hidden(&column.name)) {
        findings.extend(match target.column(&column.name) {
            None => Some(missing(target, column)),
            Some(found) => ensure_holds(target, column, found),
        });
    }
    let comes = |name: &str| {
        !is_hidden(name) && source.columns.iter().any(|column| is_same_column(&column.name, name))
    };
    let left = target.columns.iter().filter(|column| column.required && !comes(&column.name));
    findings.extend(left.map(|column| {
        of(
            target,
            format!(
                "a default for the column {}, which does not come from the source",
                column.name
            ),
            "NOT NULL without a default".into(),
            "give the column a default, or let it take NULL",
        )
    }));
    findings
}

fn of(table: &Table, expected: String, actual: String, remedy: &str) -> Finding {
    Finding {
        code: Code::Table,
        severity: Severity::Error,
        subject: format!("{}.{}", table.database, table.name),
        expected,
        actual,
        remedy: remedy.into(),
    }
}

/// A name that no column has may be a slip, and the column meant travels.
fn ensure_hidden(source: &Table, hidden: &[String]) -> Vec<Finding> {
    let unknown = hidden.iter().filter(|name| source.column(name).is_none());
    let finding = |name: &String| Finding {
        severity: Severity::Warning,
        ..of(
            source,
            format!("the column {name}, which columns hides"),
            "not there".into(),
            "correct the name under columns: what is spelt otherwise travels",
        )
    };
    unknown.map(finding).collect()
}

fn ensure_same_key(source: &Table, target: &Table) -> Option<Finding> {
    let names = |table: &Table| {
        let mut names: Vec<_> =
            table.key_columns().map(|column| column.name.to_lowercase()).collect();
        names.sort_unstable();
        names.join(", ")
    };
    // Tables without a key have a finding of their own.
    let (wanted, found) = (names(source), names(target));
    (wanted != found && !wanted.is_empty() && !found.is_empty()).then(|| {
        of(
            target,
            format!("the source's primary key ({wanted})"),
            format!("({found})"),
            "give the table the same primary key in every unit",
        )
    })
}

fn missing(target: &Table, column: &Column) -> Finding {
    of(
        target,
        format!("the column {} {}", column.name, shown(column)),
        "not there".into(),
        "add the column as it is at the source, or hide it under columns",
    )
}

fn ensure_holds(target: &Table, column: &Column, found: &Column) -> Option<Finding> {
    let differs = |expected: String, actual: String, remedy: &str| {
        Some(of(target, format!("{}: {expected}", column.name), actual, remedy))
    };
    if column.generated.is_none() && found.generated.is_some() {
        return differs(
            "an ordinary column, as at the source".into(),
            "the server computes it".into(),
            "make it an ordinary column, or hide it under columns",
        );
    }
    if found.generated.is_some() {
        return None;
    }
    if column.nullable && !found.nullable {
        return differs(
            "takes NULL, as at the source".into(),
            "NOT NULL".into(),
            "let the column take NULL, or make it NOT NULL at the source",
        );
    }
    if holds(column, found) {
        return None;
    }
    differs(
        format!("holds each value of {}", shown(column)),
        shown(found),
        "give the column the source's type or a wider one of the same kind",
    )
}

/// Whether each value of one column is itself in the other.
fn holds(source: &Column, target: &Column) -> bool {
    use Type::{
        Binary, Bit, Blob, Datetime, Decimal, Enum, Geometry, Inet4, Inet6, Integer, Json, Set,
        Text, Time, Timestamp, Uuid,
    };
    match (&source.kind, &target.kind) {
        (Integer { bits, unsigned }, Integer { bits: wide, unsigned: same })
            if unsigned == same =>
        {
            bits <= wide
        }
        (Integer { bits, unsigned: true }, Integer { bits: wide, unsigned: false }) => bits < wide,
        (Decimal { precision, scale }, Decimal { precision: wide, scale: fine }) => {
            scale <= fine && precision.saturating_sub(*scale) <= wide.saturating_sub(*fine)
        }
        (Bit(bits), Bit(wide)) => bits <= wide,
        (Time(digits), Time(fine))
        | (Datetime(digits), Datetime(fine))
        | (Timestamp(digits), Timestamp(fine) | Datetime(fine)) => digits <= fine,
        (Json, Json | Text { json: true, .. }) | (Text { json: true, .. }, Json) => true,
        (
            Text { charset, fixed, json, .. },
            Text { charset: other, fixed: pads, json: checked, .. },
        ) => {
            covers(other, charset)
                && source.length <= target.length
                // CHAR loses trailing spaces that VARCHAR keeps.
                && (*fixed || !pads)
                && (*json || !checked)
        }
        (Binary(bytes), Binary(same)) => bytes == same,
        (Binary(bytes), Blob(wide)) => u64::from(*bytes) <= *wide,
        (Blob(bytes), Blob(wide)) => bytes <= wide,
        (Enum(members), Enum(wide)) | (Set(members), Set(wide)) => in_order(members, wide),
        (Geometry { .. }, Geometry { .. }) => true,
        // In their text.
        (Uuid, Text { fixed: false, .. }) => target.length >= 36,
        (Inet6, Text { fixed: false, .. }) => target.length >= 39,
        (Inet4, Text { fixed: false, .. }) => target.length >= 15,
        (kind, other) => kind == other,
    }
}

/// Whether one character set has all characters of another.
fn covers(charset: &str, other: &str) -> bool {
    charset == other
        || charset == "utf8mb4"
        || (other == "ascii" && ["latin1", "utf8mb3"].contains(&charset))
        || (other == "latin1" && charset == "utf8mb3")
}

/// Whether the members of an ENUM or SET stand in the same order among those of another: a SET's
/// text names them in its own order.
fn in_order(members: &str, others: &str) -> bool {
    let mut others = split_members(others).into_iter();
    split_members(members).iter().all(|member| others.any(|other| other == *member))
}

/// The members of `enum('a','it''s')`, in their quotes.
fn split_members(kind: &str) -> Vec<&str> {
    let mut members = Vec::new();
    let mut rest = kind;
    while let Some(start) = rest.find('\'') {
        let inside = &rest[start + 1..];
        let mut end = 0;
        while let Some(at) = inside[end..].find('\'') {
            end += at + 1;
            if !inside[end..].starts_with('\'') {
                break;
            }
            end += 1;
        }
        if end == 0 {
            break;
        }
        members.push(&inside[..end - 1]);
        rest = &inside[end..];
    }
    members
}

/// A column's type, for people.
fn shown(column: &Column) -> String {
    match &column.kind {
        Type::Integer { bits, unsigned } => {
            format!("{bits}-bit integer{}", if *unsigned { " unsigned" } else { "" })
        }
        Type::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        Type::Bit(bits) => format!("bit({bits})"),
        Type::Time(digits) => format!("time({digits})"),
        Type::Datetime(digits) => format!("datetime({digits})"),
        Type::Timestamp(digits) => format!("timestamp({digits})"),
        Type::Text { json: true, .. } => "JSON text".to_owned(),
        Type::Text { charset, fixed, .. } => {
            let kind = if *fixed { "char" } else { "text" };
            format!("{kind} of {} characters in {charset}", column.length)
        }
        Type::Binary(bytes) => format!("binary({bytes})"),
        Type::Blob(bytes) => format!("varbinary or blob of {bytes} bytes"),
        Type::Enum(kind) | Type::Set(kind) | Type::Other(kind) => kind.clone(),
        kind => {
            let name = format!("{kind:?}").to_lowercase();
            name.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: Type) -> Column {
        Column {
            name: name.into(),
            kind,
            nullable: true,
            generated: None,
            invisible: false,
            counted: false,
            required: false,
            length: 20,
        }
    }

    fn text(charset: &str, fixed: bool) -> Type {
        Type::Text { charset: charset.into(), collation: String::new(), fixed, json: false }
    }

    #[test]
    fn wider_types_of_one_kind_hold() {
        let int = |bits, unsigned| Type::Integer { bits, unsigned };
        let decimal = |precision, scale| Type::Decimal { precision, scale };
        let choice = |members: &str| Type::Set(format!("set({members})"));
        for (source, target, expected) in [
            (int(32, false), int(64, false), true),
            (int(32, false), int(64, true), false),
            (int(32, true), int(64, false), true),
            (int(64, true), int(64, false), false),
            (decimal(10, 2), decimal(12, 4), true),
            (decimal(10, 2), decimal(10, 4), false),
            (Type::Datetime(3), Type::Datetime(6), true),
            (Type::Datetime(3), Type::Datetime(0), false),
            (Type::Datetime(0), Type::Timestamp(0), false),
            (text("latin1", false), text("utf8mb4", false), true),
            (text("utf8mb4", false), text("latin1", false), false),
            (text("ascii", false), text("ascii", true), false),
            (text("ascii", true), text("ascii", false), true),
            (Type::Binary(4), Type::Binary(8), false),
            (Type::Binary(4), Type::Blob(8), true),
            (choice("'a','b'"), choice("'a','it''s','b'"), true),
            (choice("'a','b'"), choice("'b','a'"), false),
            (Type::Float, Type::Double, false),
            (Type::Json, text("utf8mb4", false), false),
            (Type::Uuid, Type::Uuid, true),
        ] {
            let found = holds(&column("c", source.clone()), &column("c", target.clone()));
            assert_eq!(found, expected, "{source:?} in {target:?}");
        }
    }

    #[test]
    fn each_finding_names_its_column() {
        let id = Column { nullable: false, ..column("id", Type::Date) };
        let table = |columns: Vec<Column>| Table {
            database: "shop".into(),
            name: "t".into(),
            engine: "InnoDB".into(),
            columns,
            primary_key: vec![0],
            primary_partial: false,
            unique_keys: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            triggers: Vec::new(),
        };
        let source = table(vec![id.clone(), column("photo", Type::Date), column("n", Type::Year)]);
        let hidden = ["PHOTO".to_owned()];
        let texts = |target: &Table, hidden: &[String]| -> Vec<String> {
            let found = check_fit(&source, target, hidden).into_iter();
            found.map(|found| format!("{} / {}", found.expected, found.actual)).collect()
        };
        assert!(texts(&source, &hidden).is_empty());
        let same = table(vec![id.clone(), column("N", Type::Year), column("more", Type::Date)]);
        assert!(texts(&same, &hidden).is_empty());
        assert_eq!(texts(&same, &[]), ["the column photo date / not there"]);
        let required =
            |name| Column { required: true, nullable: false, ..column(name, Type::Year) };
        let strict = table(vec![id.clone(), required("photo"), required("n")]);
        assert_eq!(
            texts(&strict, &hidden),
            [
                "n: takes NULL, as at the source / NOT NULL",
                "a default for the column photo, which does not come from the source / NOT NULL without a default",
            ]
        );
        let found = check_fit(&source, &source, &["foto".to_owned()]);
        assert_eq!(found[0].severity, Severity::Warning);
        let other = Table { primary_key: vec![2], ..source.clone() };
        assert_eq!(texts(&other, &[]), ["the source's primary key (id) / (n)"]);
    }
}
