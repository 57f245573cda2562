//! A tagged topic that takes whole transactions from the one writer that holds it, and the workers
//! that write it.

use unitflow_change::Fault;
use unitflow_change::tag::Tag;
use unitflow_transformer::{Output, State, Transformer};

use crate::log::{Entry, Record};

/// The topic with the state stored beside it.
pub struct Broker {
    pub partitions: Vec<Vec<Record>>,
    pub state: State,
    epoch: u32,
}

/// A transformer with what it has put out and not committed.
pub struct Worker {
    epoch: u32,
    transformer: Transformer,
    /// The next captured entry to read.
    at: usize,
    open: Puts,
}

/// Collects what a transformer puts out.
#[derive(Default)]
pub struct Puts(pub Vec<(usize, Record)>);

impl Output for Puts {
    fn put(
        &mut self,
        partition: i32,
        tag: &Tag<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Fault> {
        let partition = usize::try_from(partition).expect("partitions are not negative");
        self.0.push((partition, Record::new(tag, key, value)));
        Ok(())
    }
}

impl Broker {
    pub fn new(lanes: usize) -> Self {
        Self { partitions: vec![Vec::new(); lanes], state: State::start(), epoch: 0 }
    }

    /// Starts a worker, which fences all before it, from the stored state. That goes through
    /// JSON, as it does in the position topic.
    pub fn start(&mut self, captured: &[Entry]) -> Worker {
        self.epoch += 1;
        let json = serde_json::to_vec(&self.state).expect("a state is JSON");
        let state: State = serde_json::from_slice(&json).expect("a state can be read back");
        let at = captured.partition_point(|entry| entry.offset < state.offset);
        let transformer = Transformer::new(state);
        Worker { epoch: self.epoch, transformer, at, open: Puts::default() }
    }
}

impl Worker {
    /// Reads up to `count` records.
    pub fn read(&mut self, captured: &[Entry], count: usize) -> Result<(), Fault> {
        let end = captured.len().min(self.at.saturating_add(count));
        for entry in &captured[self.at..end] {
            self.transformer.step(&entry.captured(), &mut self.open)?;
            self.at += 1;
        }
        Ok(())
    }

    /// Is given the last `count` records again.
    pub fn rewind(&mut self, count: usize) {
        self.at = self.at.saturating_sub(count);
    }

    /// Ends the Kafka transaction; `false` where another worker has taken over.
    #[must_use]
    pub fn commit(&mut self, broker: &mut Broker) -> bool {
        if self.epoch != broker.epoch {
            return false;
        }
        for (partition, record) in self.open.0.drain(..) {
            broker.partitions[partition].push(record);
        }
        broker.state = self.transformer.state();
        true
    }
}
