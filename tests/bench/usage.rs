//! What a drain took: time, processor time, memory.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::meter::Reading;

/// What one drain took.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Rows of the backlog.
    pub rows: u64,
    /// From start to end.
    pub wall: Duration,
    /// The target server's processor time.
    pub target: Duration,
    /// The broker's, if there is one of ours.
    pub broker: Option<Duration>,
    /// Connector, transformer and sink; none for a native replica.
    pub workers: Vec<Spent>,
    /// How much of the machine's processors went to what is no part of the drain, from 0 to 1.
    pub others: f64,
    /// Whether both sides were equal in the end.
    pub equal: bool,
}

/// What one worker took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Processor time.
    pub cpu: Duration,
    /// The most resident memory.
    pub peak_kib: u64,
}

impl Usage {
    /// One whose rows, processes and outcome are still to be told.
    pub fn new(reading: &Reading) -> Self {
        Self {
            rows: 0,
            wall: reading.wall,
            target: Duration::ZERO,
            broker: None,
            workers: vec![],
            others: reading.others,
            equal: false,
        }
    }

    /// Rows a second.
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.wall.as_secs_f64()
    }

    /// Processor time for each row, in µs.
    pub fn per_row(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.rows as f64
    }

    /// The same of all workers together.
    pub fn together(&self) -> f64 {
        self.per_row(self.workers.iter().map(|worker| worker.cpu).sum())
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (wall, rate) = (self.wall.as_secs_f64(), self.rate());
        write!(
            f,
            "{rate:.0} rows/s in {wall:.1} s; CPU µs a row: target {:.1}",
            self.per_row(self.target)
        )?;
        for worker in &self.workers {
            write!(f, " + {:.1}", self.per_row(worker.cpu))?;
        }
        if let Some(broker) = self.broker {
            write!(f, " + broker {:.1}", self.per_row(broker))?;
        }
        write!(f, "; others took {:.0} % of the machine", self.others * 100.0)
    }
}
