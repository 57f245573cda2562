//! Guards of two tables: whether the one at a target takes all that the one at a source may send.
//!
//! By names and definitions alone; no row is looked at. Which types hold each other's values says
//! [`crate::fit`].

use unitflow_change::envelope::is_same_column;
use unitflow_change::fault::Code;

use super::{Finding, Severity};
use crate::fit::misfit;
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
    let why = misfit(column, found).or_else(|| shorter(column, found))?;
    differs(
        format!("holds each value of {}", shown(column)),
        format!("{}: {why}", shown(found)),
        "give the column the source's type or a wider one of the same kind",
    )
}

/// What the types do not say: how many characters fit.
fn shorter(source: &Column, target: &Column) -> Option<&'static str> {
    let text = |column: &Column| matches!(column.kind, Type::Text { .. });
    (text(source) && text(target) && source.length > target.length).then_some("it is shorter")
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
            bytes: 80,
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
            versioned: false,
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
        let text = || {
            let (charset, collation) = ("utf8mb4".into(), String::new());
            column("t", Type::Text { charset, collation, fixed: false, json: false })
        };
        let long = table(vec![id.clone(), text()]);
        let short = table(vec![id, Column { length: 19, ..text() }]);
        assert!(check_fit(&short, &long, &[]).is_empty());
        assert!(check_fit(&long, &short, &[])[0].actual.ends_with("it is shorter"));
        let other = Table { primary_key: vec![2], ..source.clone() };
        assert_eq!(texts(&other, &[]), ["the source's primary key (id) / (n)"]);
    }
}
