//! Our own records, as another hand or a broken disk may leave them.

use unitflow_change::condition::Condition;
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::Envelope;
use unitflow_change::key::Key;
use unitflow_change::position::Position;
use unitflow_change::routing::{PartitionBy, Routing, lane_of};
use unitflow_change::tag::Tag;
use unitflow_harness::random::Random;
use unitflow_kafka::control::Order;

use crate::{damage, fuzz};

/// What is read of a record, and examples that workers wrote.
#[derive(Clone, Copy, Debug)]
enum Part {
    Tag,
    Key,
    Envelope,
    Routing,
    Position,
    Order,
    Condition,
    Statement,
}

const EXAMPLES: [(Part, &str); 18] = [
    (
        Part::Tag,
        "1;row;281474976710658;281474976710656;3e11fa47-71ca-11e1-9e33-c80aa9429562:23;0;1;1764000000000000;;",
    ),
    (
        Part::Tag,
        "1;move;281474976710660;281474976710658;0-1-40;17;0;1764000000000000;3:281474976710658;B,C",
    ),
    (Part::Tag, "1;barrier;281474976710656;0;;0;1;0;;"),
    (Part::Key, "[\"shop\",\"orders\",{\"id\":18446744073709551615,\"part\":\"a\\\"b\\\\\"}]"),
    (Part::Key, "[\"shop\",\"plain\",null]"),
    (Part::Envelope, include_str!("corpus/insert.json")),
    (Part::Envelope, include_str!("corpus/update.json")),
    (Part::Envelope, include_str!("corpus/delete.json")),
    (
        Part::Routing,
        "{\"partitions\":4,\"order\":\"key\",\"tables\":[\"shop.*\"],\"exclude\":[\"shop.s*t\"],\"partition_by\":{\"shop.users\":\"table\",\"shop.carts\":{\"columns\":[\"user_id\"]}}}",
    ),
    (
        Part::Routing,
        "{\"partitions\":1,\"order\":\"transaction\",\"tables\":[],\"exclude\":[],\"partition_by\":{}}",
    ),
    (
        Part::Position,
        "{\"done\":\"0-1-40,1-1-2\",\"last\":{\"gtid\":\"0-1-40\",\"rows\":3,\"digest\":\"0000000000000007\",\"before\":\"0-1-39\"},\"open\":{\"gtid\":\"0-1-41\",\"rows\":1,\"digest\":\"ffffffffffffffff\"}}",
    ),
    (
        Part::Position,
        "{\"done\":\"0-1-40\",\"prepared\":[{\"xid\":\"X'61',X'',1\",\"transaction\":{\"gtid\":\"0-1-7\",\"rows\":3,\"digest\":\"0000000000000007\"}}]}",
    ),
    (Part::Position, "{\"done\":\"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7\"}"),
    (
        Part::Order,
        "{\"format\":1,\"action\":\"skip\",\"lane\":2,\"from_seq\":6,\"to_seq\":8,\"by\":\"a\",\"why\":\"b\"}",
    ),
    (
        Part::Order,
        "{\"format\":1,\"action\":\"resume\",\"tables\":[\"shop.orders\"],\"by\":\"a\",\"why\":\"b\"}",
    ),
    (
        Part::Condition,
        "region in ('eu', 'u''s') and not (`a``b` >= -9.5e3 or state is not null and paid != true)",
    ),
    (
        Part::Statement,
        "{\"database\":\"shop\",\"ddl\":\"ALTER TABLE `o``d`.orders ADD COLUMN (a INT /* x */, b ENUM('x','y''z')), RENAME TO shop.other -- end\",\"sql_mode\":4194304}",
    ),
    (
        Part::Statement,
        "{\"database\":\"\",\"ddl\":\"/*!80000 CREATE */ DEFINER=`a`@`%` TRIGGER shop.t BEFORE INSERT ON shop.orders FOR EACH ROW SET @x = 1\",\"sql_mode\":4}",
    ),
];

fn read(part: Part, bytes: &[u8]) -> bool {
    match part {
        Part::Tag => match Tag::parse(bytes) {
            Err(_) => false,
            Ok(tag) => {
                let mut again = Vec::new();
                tag.write(&mut again);
                assert_eq!(Tag::parse(&again).unwrap(), tag);
                true
            }
        },
        Part::Key => match Key::parse(bytes) {
            Err(_) => false,
            Ok(key) => {
                if let Some(columns) = &key.columns {
                    let mut again = Vec::new();
                    key.of_row(columns, &mut again).unwrap();
                    assert_eq!(Key::parse(&again).unwrap().table, key.table);
                }
                let _ = Key::table_part(bytes);
                true
            }
        },
        Part::Envelope => {
            if let Ok((delete, insert)) = Envelope::split(bytes)
                && Envelope::parse(bytes)
                    .is_ok_and(|both| both.before.is_some() && both.after.is_some())
            {
                assert!(Envelope::parse(&delete).unwrap().after.is_none());
                assert!(Envelope::parse(&insert).unwrap().before.is_none());
            }
            match Envelope::parse(bytes) {
                Err(_) => false,
                Ok(envelope) => {
                    let row = envelope.after.as_ref().or(envelope.before.as_ref());
                    let by = PartitionBy::Columns(vec!["id".into()]);
                    let _ = lane_of(&by, b"[\"shop\",\"orders\",null]", row, 4);
                    true
                }
            }
        }
        Part::Routing => Routing::parse(bytes).is_ok_and(|routing| {
            let _ = routing.carries("shop", "secret");
            routing.leads_to(&routing)
        }),
        Part::Order => Order::parse(bytes).is_ok_and(|order| {
            let again = serde_json::to_vec(&order).unwrap();
            assert_eq!(Order::parse(&again).unwrap(), order);
            true
        }),
        Part::Condition => {
            let text = String::from_utf8_lossy(bytes);
            Condition::parse(&text).is_ok_and(|condition| !condition.columns().is_empty())
        }
        Part::Statement => Statement::parse(bytes).is_ok_and(|statement| {
            let _ = (statement.class(), statement.tables());
            true
        }),
        Part::Position => Position::from_json(bytes).is_ok_and(|position| {
            let again = Position::from_json(position.to_json().as_bytes());
            assert_eq!(again.unwrap(), position);
            !position.seen().is_empty() || position.done.is_empty()
        }),
    }
}

#[test]
fn records() {
    for (part, example) in EXAMPLES {
        assert!(read(part, example.trim().as_bytes()), "{part:?} {example}");
    }
    fuzz(
        "records",
        |random: &mut Random| {
            let (part, example) = EXAMPLES[random.place(EXAMPLES.len())];
            let (_, other) = EXAMPLES[random.place(EXAMPLES.len())];
            let mut bytes = example.trim().as_bytes().to_vec();
            damage::text(random, &mut bytes, &[other.as_bytes()]);
            (part, bytes)
        },
        |(part, bytes)| {
            let _ = read(*part, bytes);
        },
        |(part, bytes)| format!("{part:?} {}", bytes.escape_ascii()),
    );
}
