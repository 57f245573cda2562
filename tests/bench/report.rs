//! Progress on stderr, the table on stdout.

use std::fmt::Display;
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};

use unitflow_harness::Flavor;

use crate::arguments::{Applier, Arguments, Drain};
use crate::backlog::{MIX, SEEDED};
use crate::usage::Usage;

/// How many columns say what was measured; the others are figures.
const TITLES: usize = 4;

/// Says what is being done.
pub fn progress(what: &str) {
    eprintln!("{what}");
}

/// All that was measured.
#[derive(Debug)]
pub struct Report {
    begun: Instant,
    rows: u64,
    repeat: u32,
    drains: Vec<(Drain, Vec<Usage>)>,
}

impl Report {
    /// Nothing is measured yet.
    pub fn new(arguments: &Arguments, drains: &[Drain]) -> Self {
        Self {
            begun: Instant::now(),
            rows: arguments.rows,
            repeat: arguments.repeat,
            drains: drains.iter().map(|&drain| (drain, vec![])).collect(),
        }
    }

    /// One more measurement.
    pub fn add(&mut self, drain: &Drain, usage: Usage) {
        if let Some((_, usages)) = self.drains.iter_mut().find(|(of, _)| of == drain) {
            usages.push(usage);
        }
    }

    /// Whether no target was found to differ from its source.
    pub fn all_equal(&self) -> bool {
        self.drains.iter().flat_map(|(_, usages)| usages).all(|usage| usage.equal)
    }

    /// The table, and what one has to know about it.
    pub fn print(&self, markdown: bool) {
        let mut table = Table::new();
        table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
        table.set_header([
            "servers",
            "rows/transaction",
            "target",
            "applied by",
            "rows/s",
            "× serial",
            "× 4 workers",
            "connector",
            "transformer",
            "sink",
            "together",
            "target server",
            "broker",
            "peak MiB",
        ]);
        self.drains.iter().filter(|(_, usages)| !usages.is_empty()).for_each(|(drain, usages)| {
            table.add_row(self.cells(drain, usages));
        });
        table
            .column_iter_mut()
            .skip(TITLES)
            .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        for line in table.lines() {
            println!("{}", line.trim_end());
        }
        println!();
        self.notes().iter().for_each(|note| println!("{}{note}", if markdown { "* " } else { "" }));
    }

    fn cells(&self, drain: &Drain, usages: &[Usage]) -> Vec<String> {
        let per_row =
            |cpu: &dyn Fn(&Usage) -> Option<f64>| Spread::of(usages.iter().filter_map(cpu)).show(1);
        let worker = |place: usize| {
            per_row(&|usage| usage.workers.get(place).map(|worker| usage.per_row(worker.cpu)))
        };
        let ratio = |workers| match (
            Spread::of(usages.iter().map(Usage::rate)),
            self.native(drain, workers),
        ) {
            (Spread::Of { median, .. }, Spread::Of { median: native, .. }) => {
                format!("{:.2}", median / native)
            }
            _ => "–".to_owned(),
        };
        let peaks = (0..3).map_while(|place| {
            let kib = usages
                .iter()
                .filter_map(|usage| usage.workers.get(place))
                .map(|worker| worker.peak_kib)
                .max();
            kib.map(|kib| kib.div_ceil(1024).to_string())
        });
        let peaks = peaks.collect::<Vec<_>>().join(" / ");
        let different = if usages.iter().all(|usage| usage.equal) { "" } else { " DIFFERENT" };
        vec![
            drain.pairing.title(),
            drain.rows_each.to_string(),
            if drain.durable { "durable" } else { "relaxed" }.to_owned(),
            applied_by(drain) + different,
            Spread::of(usages.iter().map(Usage::rate)).show(0),
            ratio(0),
            ratio(crate::arguments::WORKERS),
            worker(0),
            worker(1),
            worker(2),
            per_row(&|usage| (!usage.workers.is_empty()).then(|| usage.together())),
            per_row(&|usage| Some(usage.per_row(usage.target))),
            per_row(&|usage| usage.broker.map(|broker| usage.per_row(broker))),
            if peaks.is_empty() { "–".to_owned() } else { peaks },
        ]
    }

    /// The rate of the native replica on the same servers.
    fn native(&self, drain: &Drain, workers: u32) -> Spread {
        let same = Drain { applier: Applier::Native { workers }, ..*drain };
        let found = self.drains.iter().find(|(of, _)| *of == same);
        Spread::of(found.iter().flat_map(|(_, usages)| usages.iter().map(Usage::rate)))
    }

    fn notes(&self) -> Vec<String> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = || self.drains.iter().flat_map(|(_, usages)| usages);
        let others = Spread::of(all().map(|usage| usage.others * 100.0));
        let others = match others {
            Spread::Of { median, least, most } => format!("{median:.0} % ({least:.0}–{most:.0} %)"),
            Spread::Nothing => "–".to_owned(),
        };
        let equal = all().filter(|usage| usage.equal).count();
        let mut notes = vec![
            format!("{} rows a backlog, {SEEDED} a table before it: {MIX}.", self.rows),
            "Connector to broker: CPU in µs a row; peak: connector / transformer / sink. Native replicas apply with \
             binlog, as all targets."
                .to_owned(),
            format!("{cores} cores for everything; what is no part of a drain took {others} of them meanwhile."),
            format!(
                "Both sides were equal after {equal} of {} drains, by the servers' own clients. It took {:.0} s.",
                all().count(),
                self.begun.elapsed().as_secs_f64()
            ),
        ];
        if self.repeat > 1 {
            notes.insert(1, format!("Medians of {} repetitions (least–most).", self.repeat));
        }
        notes
    }
}

fn applied_by(drain: &Drain) -> String {
    match drain.applier {
        Applier::Native { workers: 0 } if drain.pairing.target == Flavor::Mysql9 => {
            "its replica, serial (1 worker)".to_owned()
        }
        Applier::Native { workers: 0 } => "its replica, serial".to_owned(),
        Applier::Native { workers } => format!("its replica, {workers} workers"),
        Applier::Unitflow => format!("Unitflow, {} lanes", crate::arguments::WORKERS),
    }
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Nothing,
    Of { median: f64, least: f64, most: f64 },
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        match values.as_slice() {
            [] => Self::Nothing,
            [least, ..] => Self::Of {
                median: f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]),
                least: *least,
                most: values[values.len() - 1],
            },
        }
    }

    fn show(self, decimals: usize) -> String {
        let number = |value: f64| {
            if decimals == 0 { thousands(value) } else { format!("{value:.decimals$}") }
        };
        match self {
            Self::Nothing => "–".to_owned(),
            Self::Of { median, least, most } if least.total_cmp(&most).is_eq() => number(median),
            Self::Of { median, least, most } => {
                format!("{} ({}–{})", number(median), number(least), number(most))
            }
        }
    }
}

/// Digits in groups of three.
fn thousands(value: impl Display) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
