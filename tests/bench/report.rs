//! The table on stdout.

use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};

use unitflow_harness::Flavor;

use crate::arguments::{Applier, Arguments, Drain};
use crate::backlog::{MIX, SEEDED};
use crate::usage::Usage;
use crate::words::{progress, thousands};

const COLUMNS: [&str; 10] = [
    "servers",
    "rows a transaction",
    "target",
    "applied by",
    "rows/s",
    "× serial",
    "× 4 workers",
    "connector + transformer + sink, µs a row",
    "target, µs a row",
    "peak MiB",
];
/// How many of them say what was measured; the others are figures.
const TITLES: usize = 4;

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
        self.usages().all(|usage| usage.equal)
    }

    /// The table, and what one has to know about it: in Markdown, as they stand in the README.
    pub fn print(&self, markdown: bool) {
        let measured = self.drains.iter().filter(|(_, usages)| !usages.is_empty());
        let rows = measured.map(|(drain, usages)| self.cells(drain, usages));
        if markdown {
            println!("{}\n", self.summary());
            println!("| {} |\n|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
            rows.for_each(|cells| println!("| {} |", cells.join(" | ")));
        } else {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(COLUMNS).add_rows(rows);
            let figures = table.column_iter_mut().skip(TITLES);
            figures.for_each(|column| column.set_cell_alignment(CellAlignment::Right));
            table.lines().for_each(|line| println!("{}", line.trim_end()));
            println!("\n{}", self.summary());
        }
        self.notes().iter().for_each(|note| progress(note));
    }

    fn cells(&self, drain: &Drain, usages: &[Usage]) -> Vec<String> {
        let per_row =
            |cpu: &dyn Fn(&Usage) -> Option<f64>| Spread::of(usages.iter().filter_map(cpu)).show(1);
        let worker = |place: usize| {
            per_row(&|usage| usage.workers.get(place).map(|worker| usage.per_row(worker.cpu)))
        };
        let together = per_row(&|usage| (!usage.workers.is_empty()).then(|| usage.together()));
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
            match drain.applier {
                Applier::Native { .. } => "–".to_owned(),
                Applier::Unitflow => {
                    format!("{} + {} + {} = {together}", worker(0), worker(1), worker(2))
                }
            },
            per_row(&|usage| Some(usage.per_row(usage.target))),
            if peaks.is_empty() { "–".to_owned() } else { peaks },
        ]
    }

    /// The rate of the native replica on the same servers.
    fn native(&self, drain: &Drain, workers: u32) -> Spread {
        let same = Drain { applier: Applier::Native { workers }, ..*drain };
        let found = self.drains.iter().find(|(of, _)| *of == same);
        Spread::of(found.iter().flat_map(|(_, usages)| usages.iter().map(Usage::rate)))
    }

    /// What every reader of the table has to know.
    fn summary(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let equal = self.usages().filter(|usage| usage.equal).count();
        let runs = match self.repeat {
            0 | 1 => "once each".to_owned(),
            runs => format!("medians of {runs} runs each (least–most)"),
        };
        format!(
            "{cores} cores ran everything, servers and broker too; {runs}, {equal} of {} equal. *Durable*: the target \
             syncs at each commit. Peaks are of connector / transformer / sink.",
            self.usages().count()
        )
    }

    /// What else was seen, for whoever measures.
    fn notes(&self) -> Vec<String> {
        let share = match Spread::of(self.usages().map(|usage| usage.others * 100.0)) {
            Spread::Of { median, least, most } => format!("{median:.0} % ({least:.0}–{most:.0} %)"),
            Spread::Nothing => "–".to_owned(),
        };
        let broker = self.usages().filter_map(|usage| Some(usage.per_row(usage.broker?)));
        vec![
            format!("{} rows a backlog, {SEEDED} a table before it: {MIX}.", self.rows),
            "Native replicas apply with binlog, as all targets.".to_owned(),
            format!("The broker took {} µs a row.", Spread::of(broker).show(1)),
            format!("What is no part of a drain took {share} of the cores meanwhile."),
            format!("It took {:.0} s.", self.begun.elapsed().as_secs_f64()),
        ]
    }

    fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.drains.iter().flat_map(|(_, usages)| usages)
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
