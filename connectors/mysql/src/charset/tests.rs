//! Every byte and every sequence of two (three, four) of every character set, compared with what
//! both servers make of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use unitflow_local::{Flavor, Mysql};

use super::Charset;

/// A collation of each set that is not one of Unicode's.
const SETS: &[(&str, u64)] = &[
    ("armscii8", 32),
    ("ascii", 11),
    ("big5", 1),
    ("cp1250", 26),
    ("cp1251", 51),
    ("cp1256", 57),
    ("cp1257", 59),
    ("cp850", 4),
    ("cp852", 40),
    ("cp866", 36),
    ("cp932", 95),
    ("dec8", 3),
    ("eucjpms", 97),
    ("euckr", 19),
    ("gb18030", 248),
    ("gb2312", 24),
    ("gbk", 28),
    ("geostd8", 92),
    ("greek", 25),
    ("hebrew", 16),
    ("hp8", 6),
    ("keybcs2", 37),
    ("koi8r", 7),
    ("koi8u", 22),
    ("latin1", 8),
    ("latin2", 9),
    ("latin5", 30),
    ("latin7", 41),
    ("macce", 38),
    ("macroman", 39),
    ("sjis", 13),
    ("swe7", 10),
    ("tis620", 18),
    ("ujis", 12),
];

const UNICODE: &[(&str, u64)] = &[
    ("utf16", 54),
    ("utf16le", 56),
    ("ucs2", 35),
    ("utf32", 60),
    ("utf8mb4", 45),
    ("utf8mb3", 33),
];

/// The one character of a sequence.
fn ours(charset: Charset, bytes: &[u8]) -> Option<char> {
    let mut characters = Vec::new();
    charset.decode(bytes, &mut |character| characters.push(character)).ok()?;
    match characters[..] {
        [character] => Some(character),
        _ => None,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().map(|digit| (digit as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// All sequences of one byte and of two, and those of three after 0x8f.
async fn fill(server: &Mysql) {
    server
        .sql(
            "create database shop; create table shop.bytes (b binary(1) primary key); \
             create table shop.codes (c varbinary(4) primary key); \
             insert into shop.bytes with recursive n (i) as (select 0 union all select i + 1 from n where i < 255) \
             select unhex(lpad(hex(i), 2, '0')) from n; \
             insert into shop.codes select b from shop.bytes where b > ''; \
             insert into shop.codes select concat(x.b, y.b) from shop.bytes x, shop.bytes y where x.b >= x'80'; \
             insert into shop.codes select concat(x'8f', x.b, y.b) from shop.bytes x, shop.bytes y where x.b >= x'a1' and y.b >= x'a1';",
        )
        .await
        .unwrap();
}

/// What the server reads and writes: only those codes that come back as they were.
async fn theirs(server: &Mysql, set: &str) -> BTreeMap<Vec<u8>, char> {
    // Bytes that are no text are NULL in MySQL and question marks in MariaDB.
    let query = format!(
        "select hex(c), hex(u) from (select c, convert(convert(c using {set}) using utf8mb4) u from shop.codes) t \
         where c = cast(convert(u using {set}) as binary) and char_length(u) = 1"
    );
    let rows = server.sql(&query).await.unwrap();
    rows.lines()
        .map(|row| {
            let (code, text) = row.split_once('\t').unwrap();
            let text = String::from_utf8(unhex(text)).unwrap();
            (unhex(code), text.chars().next().unwrap())
        })
        .collect()
}

/// A code, what we say it is, and what it should be.
type Compared = (Vec<u8>, Option<char>, Option<char>);

/// What differs, in the form that `double` has it: codes to take away, and codes to give.
fn differences(codes: &[Compared]) -> String {
    let number =
        |code: &[u8]| code.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let (mut without, mut with) = (Vec::<(u32, u32)>::new(), Vec::<(u32, String)>::new());
    // Whether a range may go on, and whether a run of characters may.
    let (mut gap, mut run) = (false, None);
    for (code, ours, expected) in codes {
        let code = number(code);
        match (ours, expected) {
            (Some(_), None) => match without.last_mut() {
                Some((_, last)) if gap => *last = code,
                _ => without.push((code, code)),
            },
            (ours, Some(expected)) if ours.as_ref() != Some(expected) => match with.last_mut() {
                Some((_, text)) if run == Some(code) => text.push(*expected),
                _ => with.push((code, expected.to_string())),
            },
            _ => {}
        }
        gap = ours.is_some() != expected.is_some() || (gap && ours.is_none());
        run = (expected.is_some() && ours != expected).then_some(code + 1);
    }
    let mut text = String::new();
    for (first, last) in without {
        let _ = write!(text, "({first:#x}, {last:#x}), ");
    }
    for (first, characters) in with {
        let _ = write!(text, "\n    ({first:#x}, {characters:?}), ");
    }
    text
}

#[tokio::test]
async fn each_code_is_what_both_servers_say() {
    let mut servers = Vec::new();
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor).start().await.unwrap();
        fill(&server).await;
        let known = server.sql("select character_set_name from information_schema.character_sets");
        let known: Vec<String> = known.await.unwrap().lines().map(str::to_owned).collect();
        servers.push((server, known));
    }
    let mut wrong = String::new();
    for &(set, collation) in SETS {
        let charset = Charset::of_collation(collation).unwrap();
        let mut answers = Vec::new();
        for (server, known) in &servers {
            if known.iter().any(|known| known == set) {
                answers.push(theirs(server, set).await);
            }
        }
        let mut compared = Vec::new();
        for first in 0..=255_u8 {
            let single = [vec![first]].into_iter();
            let pairs = (0..=255_u8).filter(|_| first >= 0x80).map(|second| vec![first, second]);
            let triples = (0xa1a1..=0xffff_u16).filter(|_| first == 0x8f).map(|rest| {
                let [second, third] = rest.to_be_bytes();
                vec![first, second, third]
            });
            for code in single.chain(pairs).chain(triples.filter(|code| code[2] >= 0xa1)) {
                let ours = ours(charset, &code);
                // Where the two differ neither is exact.
                let mut said = answers.iter().map(|answer| answer.get(&code).copied());
                let first = said.next().flatten();
                let expected = first.filter(|_| said.all(|other| other == first));
                compared.push((code, ours, expected));
            }
        }
        // By length first: three bytes have a table of their own.
        compared.sort_by_key(|(code, ..)| (code.len(), code.clone()));
        let count = compared.iter().filter(|(_, ours, expected)| ours != expected).count();
        if count > 0 {
            let _ = writeln!(wrong, "{set}: {count} {}", differences(&compared));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn each_character_of_unicode_is_what_both_servers_say() {
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor).start().await.unwrap();
        // The whole first plane but surrogates, and some of each other.
        let limit = match flavor {
            Flavor::Mysql9 => "cte_max_recursion_depth",
            Flavor::Mariadb => "max_recursive_iterations",
        };
        server
            .sql(&format!(
                "create database shop; set session {limit} = 70000; create table shop.points (c binary(4) primary key); \
                 insert into shop.points with recursive n (i) as (select 0 union all select i + 1 from n where i < 65535) \
                 select unhex(lpad(hex(i), 8, '0')) from n where i not between 55296 and 57343; \
                 insert ignore into shop.points with recursive n (i) as (select 65536 union all select i + 257 from n where i < 1113000) \
                 select unhex(lpad(hex(i), 8, '0')) from n;"
            ))
            .await
            .unwrap();
        let mut sets = UNICODE.to_vec();
        if flavor == Flavor::Mysql9 {
            sets.push(("gb18030", 248));
        }
        for (set, collation) in sets {
            let charset = Charset::of_collation(collation).unwrap();
            let query = format!(
                "select hex(c), hex(convert(convert(c using utf32) using {set})) from shop.points \
                 where convert(convert(convert(c using utf32) using {set}) using utf32) = convert(c using utf32) collate utf32_bin"
            );
            let rows = server.sql(&query).await.unwrap();
            let mut wrong = String::new();
            for row in rows.lines() {
                let (point, code) = row.split_once('\t').unwrap();
                let point = char::from_u32(u32::from_str_radix(point, 16).unwrap());
                if ours(charset, &unhex(code)) != point {
                    let _ = write!(wrong, "{code}: {point:?} ");
                }
            }
            let count = rows.lines().count();
            let plane_only = matches!(set, "ucs2" | "utf8mb3");
            assert!(count >= if plane_only { 63_000 } else { 67_000 }, "{flavor:?} {set} {count}");
            assert!(wrong.is_empty(), "{flavor:?} {set}: {wrong:.2000}");
        }
    }
}

#[tokio::test]
async fn each_collation_has_its_character_set() {
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor).start().await.unwrap();
        let query = match flavor {
            Flavor::Mysql9 => "select id, character_set_name from information_schema.collations",
            Flavor::Mariadb => {
                "select id, character_set_name from information_schema.collation_character_set_applicability"
            }
        };
        let named = |set: &str| {
            let all = SETS.iter().chain(UNICODE).chain(&[("binary", 63)]);
            let collation =
                all.clone().find(|(name, _)| *name == set).map(|(_, collation)| *collation);
            Charset::of_collation(collation.unwrap_or_else(|| panic!("{set} is not in the list")))
        };
        let rows = server.sql(query).await.unwrap();
        assert!(rows.lines().count() > 250);
        for row in rows.lines() {
            let (collation, set) = row.split_once('\t').unwrap();
            let number = collation.parse().unwrap();
            assert!(named(set).is_some());
            assert_eq!(Charset::of_collation(number), named(set), "{flavor:?} {row}");
        }
    }
    for number in [0, 2560 + 3000, 100_000] {
        assert_eq!(Charset::of_collation(number), None);
    }
}
