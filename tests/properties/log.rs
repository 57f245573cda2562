//! A random captured log, and what has to come of it.
//!
//! The expectation is worked out here from whole transactions, with no regard to how the
//! transformer goes about it. The history is one that a store can have: rows are inserted before
//! they change, and a move goes to a key that is free.

use std::collections::HashMap;

use proptest::prelude::*;
use unitflow_change::condition::Condition;
use unitflow_change::envelope::Op;
use unitflow_change::form::{self, Form};
use unitflow_change::key::Key;
use unitflow_change::rename::Rename;
use unitflow_change::routing::{Columns, Order, PartitionBy, Routing};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, Kind, Tag};
use unitflow_transformer::Captured;
use xxhash_rust::xxh3::xxh3_64;

/// Keys a table has. Few, so that they meet again.
const KEYS: u8 = 7;
/// Values of the column that the table `items` may be spread by.
const USERS: u8 = 5;

/// The condition that some rows have to meet, and the same for the oracle.
const CHOSEN: &str = "user < 3 and (id >= 0 or id is null)";
const USER_LIMIT: u8 = 3;

fn rename(renamed: bool) -> Rename {
    let names = renamed.then(|| ("shop".to_owned(), "mall".to_owned()));
    Rename::parse(&names.into_iter().collect()).expect("one to one")
}

/// What a source does next.
#[derive(Clone, Debug)]
pub enum Item {
    /// A transaction, of a sink or of the unit itself.
    Transaction { applied: bool, changes: Vec<Wish> },
    /// A watermark.
    Watermark,
    /// A statement; some travel, some stay.
    Statement { travels: bool },
    /// Other filters from here on: a table, a column of all tables, rows of two tables.
    Reroute { exclude_orders: bool, hide_tint: bool, choose: bool },
    /// A new generation, which may spread `items` otherwise, and bind the rows of `orders`.
    Generation { by_user: bool, bind_orders: bool },
}

/// A change that is made if the row's state allows it, or else the nearest one that it allows.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    table: u8,
    key: u8,
    action: u8,
    other: u8,
}

/// Logs of up to `longest` items.
pub fn items(longest: usize) -> impl Strategy<Value = Vec<Item>> {
    let wish = (0..9_u8, 0..KEYS, 0..6_u8, 0..KEYS).prop_map(|(table, key, action, other)| Wish {
        table,
        key,
        action,
        other,
    });
    let item = prop_oneof![
        8 => (proptest::bool::weighted(0.3), proptest::collection::vec(wish, 1..8))
            .prop_map(|(applied, changes)| Item::Transaction { applied, changes }),
        1 => Just(Item::Watermark),
        1 => any::<bool>().prop_map(|travels| Item::Statement { travels }),
        1 => any::<(bool, bool, bool)>().prop_map(|(exclude_orders, hide_tint, choose)| {
            Item::Reroute { exclude_orders, hide_tint, choose }
        }),
        1 => any::<(bool, bool)>()
            .prop_map(|(by_user, bind_orders)| Item::Generation { by_user, bind_orders }),
    ];
    proptest::collection::vec(item, 1..longest)
}

/// How the log is routed at its start.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub lanes: i32,
    pub whole_transactions: bool,
    /// The unit has a name of its own for the database.
    pub renamed: bool,
    pub with_schema: bool,
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    let weighted = proptest::bool::weighted;
    let shape = (1..5_i32, weighted(0.2), weighted(0.3), any::<bool>());
    shape.prop_map(|(lanes, whole, renamed, with_schema)| Shape {
        lanes: if whole { 1 } else { lanes },
        whole_transactions: whole,
        renamed,
        with_schema,
    })
}

/// One record of the captured topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: i64,
    next_offset: i64,
    kind: Kind,
    pub seq: Seq,
    prev: Seq,
    transaction: String,
    index: u64,
    last: bool,
    commit_us: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Entry {
    pub fn captured(&self) -> Captured<'_> {
        let Self { offset, next_offset, key, value, .. } = self;
        Captured { offset: *offset, next_offset: *next_offset, tag: self.tag(), key, value }
    }

    fn tag(&self) -> Tag<'_> {
        Tag {
            kind: self.kind,
            seq: self.seq,
            prev: self.prev,
            transaction: &self.transaction,
            index: self.index,
            last: self.last,
            commit_us: self.commit_us,
            after: Afters::default(),
            to: "",
        }
    }
}

/// One record of the tagged topic, as bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub header: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Record {
    pub fn new(tag: &Tag<'_>, key: &[u8], value: &[u8]) -> Self {
        let mut header = Vec::new();
        tag.write(&mut header);
        Self { header, key: key.to_vec(), value: value.to_vec() }
    }

    pub fn tag(&self) -> Tag<'_> {
        Tag::parse(&self.header).expect("the transformer writes readable headers")
    }

    /// The same without what it waits for: that may be more after a restart, and the sinks show
    /// whether it is enough.
    pub fn without_waits(&self) -> Self {
        Self::new(&Tag { after: Afters::default(), ..self.tag() }, &self.key, &self.value)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        write!(f, "\n  {} {} {}", text(&self.header), text(&self.key), text(&self.value))
    }
}

/// The captured log and the tagged log that belongs to it.
#[derive(Debug, Default)]
pub struct Log {
    pub captured: Vec<Entry>,
    /// By lane, without what the records wait for.
    pub tagged: Vec<Vec<Record>>,
}

/// The row a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    id: u8,
    user: u8,
}

struct Change {
    table: &'static str,
    before: Option<Row>,
    after: Option<Row>,
    number: u64,
}

/// Writes the log.
struct Source {
    log: Log,
    routing: Routing,
    renamed: bool,
    seq: Seq,
    number: u64,
    transactions: u64,
    /// The live rows' users, by table and id.
    rows: HashMap<(&'static str, u8), u8>,
}

/// Builds the log that these items make.
pub fn build(shape: Shape, items: &[Item]) -> Log {
    let lanes = usize::try_from(shape.lanes).expect("lanes are positive");
    let mut source = Source {
        log: Log { captured: Vec::new(), tagged: vec![Vec::new(); lanes] },
        routing: Routing {
            partitions: shape.lanes,
            order: if shape.whole_transactions { Order::Transaction } else { Order::Key },
            tables: vec!["shop.*".into()],
            exclude: vec!["shop.secret".into()],
            partition_by: [("shop.users".to_owned(), PartitionBy::Table)].into(),
            rename: rename(shape.renamed),
            ..Routing::default()
        },
        renamed: shape.renamed,
        seq: Seq::NONE,
        number: 0,
        transactions: 0,
        rows: HashMap::new(),
    };
    source.generation(false, false);
    for item in items {
        source.add(item);
    }
    source.log.number_offsets();
    if shape.with_schema {
        source.log.wrap();
    }
    source.log
}

/// A key or a value of a row, or the value of another record, with a schema.
fn wrapped(kind: Kind, key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if !matches!(kind, Kind::Row | Kind::Move) {
        return (key.to_vec(), Form::WithSchema.of_payload(value));
    }
    let columns = Key::table_part(key).expect("a key").len()..key.len() - 1;
    let row = Key::parse(key).expect("a key");
    let names = [&row.database, &row.table].map(|name| format!("{name:?}"));
    let head = form::key_schema_head(&names[0], &names[1]) + r#","fields":[]},"payload":"#;
    let value = form::join(br#"{"schema":{"type":"struct","payload":0},"payload":"#, value);
    (form::join(head.as_bytes(), &key[columns]), value)
}

impl Source {
    fn add(&mut self, item: &Item) {
        match item {
            Item::Transaction { applied: true, changes } => self.applied(changes),
            Item::Transaction { applied: false, changes } => self.own(changes),
            Item::Watermark => {
                let seq = self.seq.next_captured();
                self.alone(Kind::Watermark, seq, b"", b"{}", true);
            }
            Item::Statement { travels } => {
                // Of an excluded table nobody hears.
                let travels = *travels && !self.routing.exclude.contains(&"shop.orders".into());
                let ddl =
                    if travels { "ALTER TABLE orders DROP x" } else { "GRANT ALL ON *.* TO x" };
                let database = if self.renamed { "mall" } else { "shop" };
                let value = format!(r#"{{"database":"{database}","ddl":"{ddl}"}}"#);
                let seq = self.seq.next_captured();
                self.alone(Kind::Ddl, seq, b"", value.as_bytes(), travels);
            }
            Item::Reroute { exclude_orders, hide_tint, choose } => {
                self.routing.exclude.retain(|pattern| pattern != "shop.orders");
                if *exclude_orders {
                    self.routing.exclude.push("shop.orders".into());
                }
                let tint = || Columns { exclude: vec!["tint".into()] };
                self.routing.columns =
                    hide_tint.then(|| ("shop.*".into(), tint())).into_iter().collect();
                let chosen = || Condition::parse(CHOSEN).expect("a condition");
                self.routing.rows =
                    choose.then(|| ("shop.*rs".into(), chosen())).into_iter().collect();
                let value = serde_json::to_vec(&self.routing).expect("a routing is JSON");
                let seq = self.seq.next_captured();
                self.alone(Kind::Routing, seq, b"", &value, false);
            }
            Item::Generation { by_user, bind_orders } => self.generation(*by_user, *bind_orders),
        }
    }

    fn generation(&mut self, by_user: bool, bind_orders: bool) {
        let orders = || ("shop.orders".to_owned(), PartitionBy::Table);
        self.routing.bound = bind_orders.then(orders).into_iter().collect();
        let items = "shop.items".to_owned();
        if by_user {
            let by = PartitionBy::Columns(vec!["user".into()]);
            self.routing.partition_by.insert(items, by);
        } else {
            self.routing.partition_by.remove(&items);
        }
        let value = serde_json::to_vec(&self.routing).expect("a routing is JSON");
        let seq = Seq::start_of(self.seq.generation() + 1);
        self.alone(Kind::Barrier, seq, b"", &value, true);
    }

    /// A record outside transactions, expected in every lane or in none.
    fn alone(&mut self, kind: Kind, seq: Seq, key: &[u8], value: &[u8], everywhere: bool) {
        let entry = Entry {
            offset: 0,
            next_offset: 0,
            kind,
            seq,
            prev: self.seq,
            transaction: String::new(),
            index: 0,
            last: true,
            commit_us: seq.0 ^ 77,
            key: key.to_vec(),
            value: value.to_vec(),
        };
        if everywhere {
            for lane in 0..self.log.tagged.len() {
                self.expect(lane, &entry.tag(), key, value);
            }
        }
        self.seq = seq;
        self.log.captured.push(entry);
    }

    /// What a sink applied here: its ledger row first, others' rows, now and then the ledger again.
    fn applied(&mut self, wishes: &[Wish]) {
        let ledger = || (Kind::Row, br#"["unitflow","ledger",{"log":"B.shop","lane":0}]"#.to_vec());
        let mut records = vec![ledger()];
        for wish in wishes.iter().filter(|wish| wish.action < 4) {
            let table = if wish.table % 2 == 0 { "orders" } else { "items" };
            let kind = if wish.action == 3 { Kind::Move } else { Kind::Row };
            records.push((kind, self.own_name(key(table, Some(wish.key + 100)))));
        }
        if wishes.len() > 5 {
            records.push(ledger());
        }
        let count = records.len();
        for (index, (kind, key)) in records.into_iter().enumerate() {
            self.record(kind, index, count, key, br#"{"not":"ours"}"#.to_vec());
        }
        self.transactions += 1;
    }

    fn own(&mut self, wishes: &[Wish]) {
        let mut wishes = wishes.to_vec();
        // Behind the first change the ledger is no mark; as the first it would be one.
        if TABLES[usize::from(wishes[0].table)] == "ledger" {
            wishes[0].table = 0;
        }
        let changes: Vec<Change> = wishes.iter().map(|wish| self.grant(*wish)).collect();
        let mut puts = Vec::new();
        let count = changes.len();
        for (index, change) in changes.iter().enumerate() {
            let id = change.before.or(change.after).map(|row| row.id);
            let moves = matches!((change.before, change.after), (Some(b), Some(a)) if b.id != a.id);
            let kind = if moves { Kind::Move } else { Kind::Row };
            let name = key(change.table, keyed(change.table).then_some(id).flatten());
            let name = self.own_name(name);
            self.record(kind, index, count, name, change.value(false));
            self.expected_of(change, index, &mut puts);
        }
        self.transactions += 1;
        for at in 0..puts.len() {
            let lane = puts[at].0;
            let last = puts[at + 1..].iter().all(|(other, ..)| *other != lane);
            let (_, index, seq, ref key, ref value) = puts[at];
            let entry = self.log.captured.last().expect("the transaction's records").clone();
            let tag = Tag { kind: Kind::Row, seq, index, last, ..entry.tag() };
            self.expect(lane, &tag, &key.clone(), &value.clone());
        }
    }

    /// One captured record of a transaction of `count`.
    fn record(&mut self, kind: Kind, index: usize, count: usize, key: Vec<u8>, value: Vec<u8>) {
        let seq = self.seq.next_captured();
        self.log.captured.push(Entry {
            offset: 0,
            next_offset: 0,
            kind,
            seq,
            prev: self.seq,
            transaction: format!("0-1-{}", self.transactions),
            index: u64::try_from(index).expect("small"),
            last: index + 1 == count,
            commit_us: 1_000_000 + self.transactions,
            key,
            value,
        });
        self.seq = seq;
    }

    /// The change that the wish comes to, given the rows that are there.
    fn grant(&mut self, wish: Wish) -> Change {
        let table = TABLES[usize::from(wish.table) % TABLES.len()];
        let id = if keyed(table) { wish.key } else { 0 };
        let user = wish.other % USERS;
        let here = self.rows.get(&(table, id)).map(|&user| Row { id, user });
        let before = here.filter(|_| keyed(table));
        let after = match (before, wish.action) {
            (None, _) => Some(Row { id, user }),
            (Some(_), 0) => None,
            (Some(row), 1 | 2) => Some(Row { id, user: self.other_user(table, row, user) }),
            (Some(row), 3) => {
                let to = wish.other;
                let free = !self.rows.contains_key(&(table, to));
                Some(if free { Row { id: to, user: row.user } } else { row })
            }
            (Some(row), _) => Some(row),
        };
        if let Some(row) = before {
            self.rows.remove(&(table, row.id));
        }
        if let Some(row) = after {
            self.rows.insert((table, row.id), row.user);
        }
        self.number += 1;
        Change { table, before, after, number: self.number }
    }

    /// Rows of `items` may change their lane by it, those of `orders` enter and leave a condition.
    fn other_user(&self, table: &str, row: Row, wished: u8) -> u8 {
        if table == "items" || table == "orders" { wished } else { row.user }
    }

    /// A key as the unit's own log has it.
    fn own_name(&self, key: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8(key).expect("keys are text");
        if self.renamed { text.replacen("\"shop\"", "\"mall\"", 1) } else { text }.into_bytes()
    }

    /// What an own change becomes: nothing, one record, or a delete and an insert.
    fn expected_of(&self, change: &Change, index: usize, puts: &mut Vec<Put>) {
        let carried = match change.table {
            // Each unit makes its own clocks; only their beats travel.
            "heartbeat" => change.before.is_some() && change.after.is_some(),
            "settings" | "secret" | "ledger" => false,
            table => !self.routing.exclude.contains(&format!("shop.{table}")),
        };
        if !carried {
            return;
        }
        let chosen = change.table.ends_with("rs") && !self.routing.rows.is_empty();
        let shown = |row: &Row| !chosen || row.user < USER_LIMIT;
        let hides = !self.routing.columns.is_empty() && change.table != "heartbeat";
        let (before, after) = (change.before.filter(shown), change.after.filter(shown));
        let index = u64::try_from(index).expect("small");
        let seq = self.seq;
        let place = |row: Row| (self.lane(change.table, row), key_of(change.table, row));
        match (before, after) {
            (None, None) => {}
            // Nothing else changed than what is hidden.
            (Some(before), Some(after)) if hides && before == after => {}
            (Some(before), Some(after)) if place(before) != place(after) => {
                let ((from, old_key), (to, new_key)) = (place(before), place(after));
                let gone = Change { after: None, ..*change };
                let come = Change { before: None, ..*change };
                puts.push((from, index, seq, old_key, gone.value(hides)));
                puts.push((to, index, seq.second_half(), new_key, come.value(hides)));
            }
            (Some(row), _) | (None, Some(row)) => {
                let (lane, key) = place(row);
                let left = Change { before, after, ..*change };
                puts.push((lane, index, seq, key, left.value(hides)));
            }
        }
    }

    fn lane(&self, table: &str, row: Row) -> usize {
        if self.routing.order == Order::Transaction {
            return 0;
        }
        let hash = match (table, self.routing.partition_by.contains_key("shop.items")) {
            ("users", _) => xxh3_64(br#"["shop","users","#),
            ("orders", _) if !self.routing.bound.is_empty() => xxh3_64(br#"["shop","orders","#),
            ("items", true) => xxh3_64(format!("{}\0", row.user).as_bytes()),
            _ => xxh3_64(&key_of(table, row)),
        };
        let lanes = u64::try_from(self.log.tagged.len()).expect("small");
        usize::try_from(hash % lanes).expect("small")
    }

    fn expect(&mut self, lane: usize, tag: &Tag<'_>, key: &[u8], value: &[u8]) {
        let prev = self.log.tagged[lane].last().map_or(Seq::NONE, |record| record.tag().seq);
        self.log.tagged[lane].push(Record::new(&Tag { prev, ..*tag }, key, value));
    }
}

/// Lane, index, number, key and value of an expected record.
type Put = (usize, u64, Seq, Vec<u8>, Vec<u8>);

const TABLES: [&str; 9] =
    ["orders", "items", "items", "users", "plain", "secret", "heartbeat", "settings", "ledger"];

fn keyed(table: &str) -> bool {
    table != "plain"
}

fn key(table: &str, id: Option<u8>) -> Vec<u8> {
    let database = if TABLES[6..].contains(&table) { "unitflow" } else { "shop" };
    let columns = id.map_or("null".to_owned(), |id| format!(r#"{{"id":{id}}}"#));
    format!(r#"["{database}","{table}",{columns}]"#).into_bytes()
}

fn key_of(table: &str, row: Row) -> Vec<u8> {
    key(table, keyed(table).then_some(row.id))
}

impl Change {
    /// Its envelope; an image without its tint was written anew.
    fn value(&self, hides: bool) -> Vec<u8> {
        let space = if hides { "" } else { " " };
        let image = |row: Option<Row>, tint: &str| {
            row.map_or("null".to_owned(), |row| {
                let Row { id, user } = row;
                let tint = if hides { "" } else { tint };
                format!(r#"{{"user":{user},"id":{id},"n":{space}{}{tint}}}"#, self.number)
            })
        };
        let op = match (self.before, self.after) {
            (None, _) => Op::Insert,
            (_, None) => Op::Delete,
            _ => Op::Update,
        };
        let before = image(self.before, r#", "tint": "red""#);
        let (after, number) = (image(self.after, r#", "tint": "blue""#), self.number);
        format!(
            r#"{{"before":{before},"after":{after},"source":{{"n": {number}}},"transaction":null,"op":"{}","ts_ms":{number}}}"#,
            op.as_str()
        )
        .into_bytes()
    }
}

impl Log {
    /// Puts `length` records a second time behind the one at `at`, as a writer does that was cut
    /// off before it heard that they had arrived.
    pub fn duplicate(&mut self, at: usize, length: usize) {
        let at = at % self.captured.len();
        let again = self.captured[at.saturating_sub(length)..=at].to_vec();
        self.captured.splice(at + 1..at + 1, again);
        self.number_offsets();
    }

    /// Puts `length` records a second time among themselves, as a writer does that another one has taken over
    /// from and that nobody fences: each writes in order, `turns` says which is next.
    pub fn interleave(&mut self, at: usize, length: usize, turns: u64) {
        let at = at % self.captured.len();
        let both = self.captured[at.saturating_sub(length)..=at].to_vec();
        let both = merge(both.clone(), both, turns);
        self.captured.splice(at.saturating_sub(length)..=at, both);
        self.number_offsets();
    }

    /// The same log with schemas: the same rows in the same lanes.
    fn wrap(&mut self) {
        for entry in &mut self.captured {
            (entry.key, entry.value) = wrapped(entry.kind, &entry.key, &entry.value);
        }
        for record in self.tagged.iter_mut().flatten() {
            let kind = record.tag().kind;
            (record.key, record.value) = wrapped(kind, &record.key, &record.value);
        }
    }

    /// Offsets rise, with holes where Kafka keeps the ends of its transactions.
    fn number_offsets(&mut self) {
        let mut offset = 3;
        for (at, entry) in self.captured.iter_mut().enumerate() {
            // Behind the one before it, or behind a transaction's marker.
            offset += i64::from(at % 5 == 4);
            entry.offset = offset;
            // A large record takes several.
            offset += if at % 7 == 3 { 3 } else { 1 };
            entry.next_offset = offset;
        }
    }
}

/// What two writers wrote, each in its order; the bits of `turns` say whose turn it is, over and over.
pub fn merge<T>(one: Vec<T>, other: Vec<T>, turns: u64) -> Vec<T> {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    let mut both = Vec::new();
    for turn in 0.. {
        let next = match turns >> (turn % 64) & 1 {
            0 if one.peek().is_some() => one.next(),
            _ if other.peek().is_some() => other.next(),
            _ => one.next(),
        };
        match next {
            Some(next) => both.push(next),
            None => break,
        }
    }
    both
}
