//! Whether a column of one unit holds every value of the same column in another.
//!
//! Where it does, whatever is written arrives exactly. Where it does not, most values may still fit:
//! the first that does not is refused by the sink. `check` says it before.

use crate::schema::{Column, Type};

/// Why some value of `source` has no equal in `target`; `None` where each has one.
#[must_use]
pub fn misfit(source: &Column, target: &Column) -> Option<&'static str> {
    // What the target computes itself is not written.
    if target.generated.is_some() {
        return None;
    }
    if source.nullable && !target.nullable {
        return Some("it takes no NULL");
    }
    misfit_of_types(&source.kind, &target.kind)
}

fn misfit_of_types(source: &Type, target: &Type) -> Option<&'static str> {
    let when = |fits: bool, why| if fits { None } else { Some(why) };
    match (source, target) {
        (Type::Other(_), _) | (_, Type::Other(_)) => Some("values of this type can't be carried"),
        (Type::Integer { .. }, _) => when(holds_integer(source, target), "it has a smaller range"),
        (Type::Decimal { precision, scale }, Type::Decimal { precision: all, scale: behind }) => {
            when(behind >= scale && all - behind >= precision - scale, "it has fewer digits")
        }
        (Type::Float, Type::Float | Type::Double) | (Type::Double, Type::Double) => None,
        (Type::Bit(bits), Type::Bit(wide)) => when(wide >= bits, "it has fewer bits"),
        (Type::Bit(1), Type::Integer { .. }) => None,
        (Type::Year, Type::Integer { bits, .. }) => when(*bits > 8, "it has a smaller range"),
        (Type::Year, Type::Year) | (Type::Date, Type::Date | Type::Datetime(_)) => None,
        (Type::Time(digits), Type::Time(more))
        | (Type::Datetime(digits) | Type::Timestamp(digits), Type::Datetime(more))
        | (Type::Timestamp(digits), Type::Timestamp(more)) => {
            when(more >= digits, "it has fewer digits behind the second")
        }
        (Type::Datetime(_), Type::Timestamp(_)) => Some("it begins in 1970 and ends in 2038"),
        (Type::Text { .. }, _) => misfit_of_text(source, target),
        (Type::Binary(length), Type::Binary(other)) => {
            when(length == other, "it fills values up to another length")
        }
        (Type::Binary(length), Type::Blob(most)) => {
            when(u64::from(*length) <= *most, "it is shorter")
        }
        (Type::Blob(length), Type::Blob(most)) => when(length <= most, "it is shorter"),
        (Type::Blob(_), Type::Binary(_)) => Some("it fills values up to its length"),
        (Type::Enum(members), Type::Enum(more)) | (Type::Set(members), Type::Set(more)) => {
            when(begins_with(more, members), "it lacks members, or has them in another order")
        }
        (Type::Enum(_) | Type::Set(_), Type::Text { charset, .. }) => {
            when(holds_unicode(charset), "its character set lacks characters")
        }
        // Of these some values are refused one by one: see the module `literal`.
        (Type::Json, Type::Json | Type::Text { .. })
        | (Type::Geometry { .. }, Type::Geometry { .. })
        | (Type::Vector, Type::Vector | Type::Blob(_))
        | (Type::Uuid, Type::Uuid | Type::Text { .. })
        | (Type::Inet6, Type::Inet6 | Type::Text { .. })
        | (Type::Inet4, Type::Inet4 | Type::Text { .. }) => None,
        _ => Some("it is of another type"),
    }
}

fn holds_integer(source: &Type, target: &Type) -> bool {
    let Type::Integer { bits, unsigned } = *source else { return false };
    let magnitude = bits - u8::from(!unsigned);
    match *target {
        Type::Integer { bits: wide, unsigned: true } => unsigned && wide >= bits,
        Type::Integer { bits: wide, unsigned: false } => wide > magnitude,
        // 20 digits hold the largest of 64 bits.
        Type::Decimal { precision, scale } => {
            let digits = match bits {
                8 => 3,
                16 => 5,
                24 => 8,
                32 => 10,
                _ => 20,
            };
            precision - scale >= digits
        }
        Type::Double => bits <= 32,
        Type::Float => bits <= 24 && magnitude <= 24,
        _ => false,
    }
}

fn misfit_of_text(source: &Type, target: &Type) -> Option<&'static str> {
    match (source, target) {
        (Type::Text { fixed: false, .. }, Type::Text { fixed: true, .. }) => {
            Some("CHAR does not keep spaces at the end")
        }
        (Type::Text { json: false, .. }, Type::Text { json: true, .. }) => {
            Some("it takes JSON documents only")
        }
        (Type::Text { charset, .. }, Type::Text { charset: other, .. }) => {
            let ascii = charset == "ascii" && other != "swe7";
            let fits = charset == other || ascii || holds_unicode(other);
            if fits { None } else { Some("its character set lacks characters") }
        }
        (Type::Text { json: true, .. }, Type::Json) => None,
        _ => Some("it is of another type"),
    }
}

fn holds_unicode(charset: &str) -> bool {
    matches!(charset, "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030")
}

/// Whether `enum('a','b')` begins with the members of `enum('a')`.
fn begins_with(definition: &str, members: &str) -> bool {
    let stem = members.strip_suffix(')').unwrap_or(members);
    definition.strip_prefix(stem).is_some_and(|rest| rest.starts_with([')', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(charset: &str, fixed: bool) -> Type {
        Type::Text { charset: charset.into(), collation: String::new(), fixed, json: false }
    }

    #[test]
    fn what_holds_every_value_and_what_does_not() {
        let int = |bits, unsigned| Type::Integer { bits, unsigned };
        for (source, target, fits) in [
            (int(32, false), int(32, false), true),
            (int(32, true), int(32, false), false),
            (int(32, true), int(64, false), true),
            (int(32, false), int(64, true), false),
            (int(24, true), int(32, false), true),
            (int(64, true), Type::Decimal { precision: 20, scale: 0 }, true),
            (int(64, true), Type::Decimal { precision: 20, scale: 1 }, false),
            (int(64, false), Type::Double, false),
            (int(32, true), Type::Double, true),
            (
                Type::Decimal { precision: 9, scale: 2 },
                Type::Decimal { precision: 10, scale: 3 },
                true,
            ),
            (
                Type::Decimal { precision: 9, scale: 2 },
                Type::Decimal { precision: 9, scale: 3 },
                false,
            ),
            (Type::Double, Type::Float, false),
            (Type::Time(6), Type::Time(3), false),
            (Type::Timestamp(3), Type::Datetime(3), true),
            (Type::Datetime(0), Type::Timestamp(0), false),
            (text("latin1", false), text("utf8mb4", false), true),
            (text("utf8mb4", false), text("utf8mb3", false), false),
            (text("ascii", true), text("gbk", false), true),
            (text("utf8mb4", false), text("utf8mb4", true), false),
            (Type::Binary(4), Type::Blob(4), true),
            (Type::Blob(4), Type::Binary(4), false),
            (Type::Enum("enum('a','b')".into()), Type::Enum("enum('a','b','c')".into()), true),
            (Type::Enum("enum('a','b')".into()), Type::Enum("enum('b','a')".into()), false),
            (Type::Enum("enum('a')".into()), Type::Enum("enum('a''b')".into()), false),
            (Type::Inet6, text("ascii", false), true),
            (Type::Inet6, int(64, false), false),
            (Type::Vector, Type::Blob(99), true),
            (Type::Json, Type::Blob(99), false),
        ] {
            assert_eq!(misfit_of_types(&source, &target).is_none(), fits, "{source:?} {target:?}");
        }
    }
}
