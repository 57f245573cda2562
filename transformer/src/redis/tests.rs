use std::borrow::Cow;
use std::collections::BTreeMap;

use unitflow_change::redis::Word;

use super::*;

/// Now, in ms, and a time before it.
const NOW: u64 = 1_000_000;
const PAST: &str = "900000";
const FUTURE: &str = "2000000";

#[derive(Default)]
struct Out(Vec<(String, bool)>);

impl Output for Out {
    fn put(&mut self, _: i32, tag: &Tag<'_>, _: &[u8], value: &[u8]) -> Result<(), Fault> {
        let text = match tag.kind {
            Kind::Command => {
                let write = Write::parse(value)?;
                let words: Vec<_> = write
                    .cmd
                    .iter()
                    .map(|word| String::from_utf8_lossy(&word.0).into_owned())
                    .collect();
                let due = match write.due {
                    Some(Due { ms, sure: true }) => format!(" (due at {ms})"),
                    Some(Due { ms, sure: false }) => format!(" (perhaps due at {ms})"),
                    None => String::new(),
                };
                words.join(" ") + &due
            }
            kind => kind.as_str().to_owned(),
        };
        self.0.push((text, tag.last));
        Ok(())
    }
}

/// A captured log that grows.
struct Log {
    transformer: Transformer,
    out: Out,
    offset: i64,
    seq: Seq,
    generation: u16,
}

impl Log {
    fn new(exclude: &[&str]) -> Self {
        let transformer = Transformer::new(State::start(), Index::default());
        let mut log =
            Self { transformer, out: Out::default(), offset: 0, seq: Seq::NONE, generation: 1 };
        let keyspace = Keyspace {
            partitions: 1,
            keys: vec!["*".into()],
            exclude: exclude.iter().map(ToString::to_string).collect(),
            commands: BTreeMap::new(),
        };
        log.record(Kind::Barrier, (0, true), &serde_json::to_vec(&keyspace).unwrap()).unwrap();
        log.out.0.clear();
        log
    }

    fn record(
        &mut self,
        kind: Kind,
        (index, last): (u64, bool),
        value: &[u8],
    ) -> Result<(), Fault> {
        let seq = match kind {
            Kind::Barrier => Seq::start_of(self.generation),
            _ => self.seq.next_captured(),
        };
        let tag = Tag {
            kind,
            seq,
            prev: self.seq,
            transaction: "",
            index,
            last,
            commit_us: NOW * 1000,
            after: Default::default(),
            to: "",
        };
        self.offset += 1;
        let record =
            Captured { offset: self.offset, next_offset: self.offset + 1, tag, key: b"", value };
        self.seq = seq;
        self.transformer.step(&record, &mut self.out)
    }

    /// One transaction, its commands by semicolon; what came out of it.
    fn run(&mut self, commands: &str) -> Vec<(String, bool)> {
        let commands: Vec<&str> = commands.split("; ").collect();
        for (index, text) in commands.iter().enumerate() {
            let words: Vec<&str> = text.split(' ').collect();
            let keys = match words[0] {
                "DEL" => (1..words.len()).collect(),
                "MSET" => (1..words.len()).step_by(2).collect(),
                "RENAME" | "COPY" | "SUNIONSTORE" => vec![1, 2],
                _ => vec![1],
            };
            let cmd = words.iter().map(|word| Word(Cow::Borrowed(word.as_bytes()))).collect();
            let mut value = Vec::new();
            Write { db: 0, cmd, keys, due: None }.write(&mut value);
            let last = index + 1 == commands.len();
            self.record(Kind::Command, (index as u64, last), &value).unwrap();
        }
        std::mem::take(&mut self.out.0)
    }

    /// What came out, as one text.
    fn told(&mut self, commands: &str) -> String {
        let out = self.run(commands);
        let ends = out.iter().filter(|(_, last)| *last).count();
        assert!(out.is_empty() || (ends == 1 && out[out.len() - 1].1), "{out:?}");
        out.into_iter().map(|(text, _)| text).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn what_a_sink_wrote_stays() {
    let mut log = Log::new(&[]);
    assert_eq!(log.told("SET unitflow:ledger:B.cache:0 {}; INCR a; INCR b"), "");
    assert_eq!(log.told("SET unitflow:ledger:B.cache:0 {}"), "");
    assert_eq!(log.told("DEL x; DEL y; SET unitflow:ledger:B.cache:0 {}; INCR a"), "");
    assert_eq!(log.told("INCR a; INCR b"), "INCR a; INCR b");
    // A mark that comes late is nobody's.
    assert_eq!(log.told("INCR a; SET unitflow:ledger:B.cache:0 {}; INCR b"), "INCR a; INCR b");
    assert_eq!(log.told("DEL x; DEL y"), "DEL x; DEL y");
    assert_eq!(log.told("DEL x; INCR a"), "DEL x; INCR a");
    let many = vec!["DEL x"; DELETIONS_BEFORE_MARK + 1].join("; ");
    assert_eq!(log.told(&format!("{many}; SET unitflow:ledger:B.cache:0 {{}}")), many);
    assert_eq!(log.transformer.counts().echoes, 8);
}

#[test]
fn an_expiry_is_told_from_a_deletion() {
    let mut log = Log::new(&[]);
    for set in [
        format!("SET k v PXAT {PAST}"),
        format!("SET unitflow:ledger:B.c:0 x; SET k v PXAT {PAST}"),
    ] {
        log.run(&set);
        assert_eq!(log.told("DEL k"), "DEL k (due at 900000)", "{set}");
        // It is gone, so this one is a client's.
        assert_eq!(log.told("DEL k"), "DEL k");
    }
    log.run(&format!("SET k v PXAT {FUTURE}"));
    assert_eq!(log.told("DEL k"), "DEL k");
    for renewed in
        ["SET k w", "PERSIST k", "MSET k 1 l 2", "SUNIONSTORE k l", "PEXPIREAT k 2000000"]
    {
        log.run(&format!("SET k v PXAT {PAST}"));
        log.run(renewed);
        assert_eq!(log.told("UNLINK k"), "UNLINK k", "{renewed}");
    }
    log.run(&format!("SET k v PXAT {PAST}"));
    log.run("SET k w KEEPTTL");
    log.run("RENAME k l");
    assert_eq!(log.told("DEL k"), "DEL k");
    assert_eq!(log.told("DEL l"), "DEL l (due at 900000)");
}

#[test]
fn an_expiry_keeps_its_place() {
    let mut log = Log::new(&[]);
    log.run(&format!("SET k 7 PXAT {PAST}"));
    assert_eq!(log.told("DEL k; INCR k"), "DEL k (due at 900000); INCR k");
    // It has none any more.
    assert_eq!(log.told("DEL k; INCR k"), "DEL k; INCR k");
    log.run(&format!("SET k 7 PXAT {PAST}"));
    assert_eq!(log.told("DEL k; SET unitflow:ledger:B.c:0 x; INCR k"), "");
}

#[test]
fn what_may_have_been_emptied_is_doubted() {
    let mut log = Log::new(&[]);
    log.run("RPUSH k a");
    log.run(&format!("PEXPIREAT k {PAST}"));
    log.run("LPOP k");
    log.run("RPUSH k b");
    assert_eq!(log.told("DEL k"), "DEL k (perhaps due at 900000)");
    assert_eq!(log.told("DEL k"), "DEL k");
    log.run("RPUSH k a");
    log.run(&format!("PEXPIREAT k {PAST}"));
    assert_eq!(log.told("DEL k"), "DEL k (due at 900000)");
    // So soon it is an expiry all the same.
    log.run("RPUSH k a");
    log.run(&format!("PEXPIREAT k {}", NOW - 500));
    log.run("LPOP k");
    assert_eq!(log.told("DEL k"), format!("DEL k (due at {})", NOW - 500));
}

#[test]
fn what_was_due_long_ago_is_forgotten() {
    let mut index = Index::default();
    index.expires(0, b"old", 1);
    index.expires(0, b"new", expiry::FORGOTTEN_AFTER_MS);
    let cmd = vec![Word(Cow::Borrowed(&b"GET"[..]))];
    let write = Write { db: 0, cmd, keys: vec![], due: None };
    for _ in 0..expiry::SWEEP_AFTER {
        assert_eq!(index.len(), 2);
        index.learn(&write, expiry::FORGOTTEN_AFTER_MS + 2);
    }
    assert!(index.len() == 1 && index.get(0, b"new").is_some());
}

#[test]
fn keys_that_are_left_out_stay() {
    let mut log = Log::new(&["tmp:*"]);
    assert_eq!(log.told("SET tmp:1 a"), "");
    assert_eq!(log.told("SET a 1; SET tmp:1 a"), "SET a 1");
    assert_eq!(log.told("DEL tmp:1 a tmp:2 b"), "DEL a b");
    assert_eq!(log.told("MSET tmp:1 x a 1"), "MSET a 1");
    assert_eq!(log.transformer.counts().filtered, 2);
}

#[test]
fn the_index_is_as_it_was_after_a_restart() {
    let mut log = Log::new(&[]);
    log.run(&format!("SET k v PXAT {PAST}"));
    log.run("RPUSH l a");
    log.run(&format!("PEXPIREAT l {PAST}"));
    log.run("LPOP l");
    log.run(&format!("SET gone v PXAT {PAST}"));
    let mut stored = Vec::new();
    let mut store = |index: &mut Index| {
        index
            .store(|key, value| {
                stored.push((key.to_vec(), value.map(<[u8]>::to_vec)));
                Ok(())
            })
            .unwrap();
    };
    store(log.transformer.index());
    log.run("DEL gone");
    store(log.transformer.index());
    let mut index = Index::default();
    for (key, value) in &stored {
        index.restore(key, value.as_deref()).unwrap();
    }
    assert_eq!(index.len(), 2);
    for key in [&b"k"[..], b"l"] {
        assert_eq!(index.get(0, key), log.transformer.index.get(0, key));
    }
    assert!(index.restore(b"x", None).is_err() && index.restore(b"1", Some(b"?")).is_err());
    let state = log.transformer.state().clone();
    let text = serde_json::to_vec(&state).unwrap();
    assert_eq!(serde_json::from_slice::<State>(&text).unwrap(), state);
}

#[test]
fn expiries_of_a_snapshot_are_known_and_gaps_stop() {
    let mut log = Log::new(&[]);
    let mut value = Vec::new();
    let expires = vec![(Word(Cow::Borrowed(&b"k"[..])), 900_000)];
    Expiries { db: 0, expires }.write(&mut value);
    log.record(Kind::Expiry, (0, true), &value).unwrap();
    assert_eq!(log.told("DEL k"), "DEL k (due at 900000)");
    log.run(&format!("SET k v PXAT {PAST}"));
    let keyspace = serde_json::to_vec(log.transformer.state().keyspace.as_ref().unwrap()).unwrap();
    log.generation += 1;
    log.record(Kind::Barrier, (0, true), &keyspace).unwrap();
    log.out.0.clear();
    assert_eq!(log.told("DEL k"), "DEL k");
    log.seq = log.seq.next_captured();
    assert_eq!(log.record(Kind::Watermark, (0, true), b"{}").unwrap_err().code, Code::Gap);
}
