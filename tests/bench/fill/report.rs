//! The tables on stdout, and the verdict.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::arguments::Arguments;
use crate::load::Pace;
use crate::locks::Seen;
use crate::rows::SHAPE;
use crate::ways::Copied;
use crate::words::{progress, thousands};

/// No worker may have more, in KiB.
const PEAK_KIB_MAX: u64 = 128 << 10;

const COPIED: [&str; 6] =
    ["copied by", "s", "rows/s", "CPU s per million rows", "peak MiB", "table locks seen"];
const WRITTEN: [&str; 6] = ["meanwhile", "writes/s", "p50 ms", "p99 ms", "× p50", "× p99"];

/// All that was measured.
#[derive(Debug)]
pub struct Report<'a> {
    arguments: &'a Arguments,
    /// How the load went before anything else was done.
    pub alone: Option<Pace>,
    /// By the server's own clients.
    pub dump: Option<Copied>,
    /// By us.
    pub resync: Option<Copied>,
}

impl<'a> Report<'a> {
    /// Nothing is measured yet.
    pub const fn new(arguments: &'a Arguments) -> Self {
        Self { arguments, alone: None, dump: None, resync: None }
    }

    /// What must not be: a worker too large, a table lock of ours, rows that differ.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for copied in self.dump.iter().chain(&self.resync) {
            let [here, there] = &copied.digests;
            if here != there {
                faults
                    .push(format!("the rows differ: {here} at the source, {there} at the target"));
            }
        }
        let Some(resync) = &self.resync else { return faults };
        let large = resync.peaks.iter().filter(|(_, kib)| *kib > PEAK_KIB_MAX);
        faults.extend(large.map(|(name, kib)| format!("{name} had {} MiB", mib(*kib))));
        for (server, seen) in ["source", "target"].iter().zip(&resync.locks) {
            if seen.looks == 0 {
                faults.push(format!("nobody looked for locks at the {server}"));
            }
            faults.extend(
                seen.locks.iter().map(|lock| format!("table lock at the {server}: {lock}")),
            );
        }
        faults
    }

    /// The tables, in Markdown as they stand in the README.
    pub fn print(&self) {
        let ways =
            [("`mysqldump \\| mysql`", &self.dump), ("`unitflow resync full`", &self.resync)];
        let copied = ways.iter().filter_map(|(name, way)| Some(self.copied(name, way.as_ref()?)));
        self.table(&COPIED, copied.collect());
        println!();
        let paces = [
            ("nothing else", self.alone),
            ("`mysqldump \\| mysql`", self.dump.as_ref().map(|way| way.pace)),
            ("`unitflow resync full`", self.resync.as_ref().map(|way| way.pace)),
            ("Unitflow, nothing to copy", self.resync.as_ref().and_then(|way| way.idle)),
        ];
        let written = paces.iter().filter_map(|(name, pace)| Some(self.written(name, (*pace)?)));
        self.table(&WRITTEN, written.collect());
        let Arguments { rows, writes_per_second, server, .. } = self.arguments;
        progress(&format!(
            "{} rows, {SHAPE}; {writes_per_second} writes/s meanwhile; {server}.",
            thousands(*rows as f64)
        ));
        for copied in self.dump.iter().chain(&self.resync) {
            let share = copied.others * 100.0;
            let looks = copied.locks[0].looks;
            progress(&format!(
                "What is no part of it took {share:.0} % of the cores; {looks} looks for locks."
            ));
        }
    }

    fn copied(&self, name: &str, way: &Copied) -> Vec<String> {
        let millions = self.arguments.rows as f64 / 1e6;
        let cpu =
            way.cpu.iter().map(|(name, cpu)| format!("{name} {:.1}", cpu.as_secs_f64() / millions));
        let peaks = way.peaks.iter().map(|(name, kib)| format!("{name} {}", mib(*kib)));
        let peaks = peaks.collect::<Vec<_>>().join(", ");
        vec![
            name.to_owned(),
            format!("{:.1}", way.wall.as_secs_f64()),
            thousands(self.arguments.rows as f64 / way.wall.as_secs_f64()),
            cpu.collect::<Vec<_>>().join(", "),
            if peaks.is_empty() { "–".to_owned() } else { peaks },
            locks(&way.locks),
        ]
    }

    fn written(&self, name: &str, pace: Pace) -> Vec<String> {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let times = |of: fn(Pace) -> Duration| match self.alone {
            Some(alone) => format!("{:.2}", ms(of(pace)) / ms(of(alone))),
            None => "–".to_owned(),
        };
        vec![
            name.to_owned(),
            format!("{:.0}", pace.per_second),
            format!("{:.2}", ms(pace.p50)),
            format!("{:.1}", ms(pace.p99)),
            times(|pace| pace.p50),
            times(|pace| pace.p99),
        ]
    }

    fn table(&self, names: &[&str], rows: Vec<Vec<String>>) {
        if self.arguments.markdown {
            println!("| {} |\n|{}", names.join(" | "), "---|".repeat(names.len()));
            rows.iter().for_each(|cells| println!("| {} |", cells.join(" | ")));
            return;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(names).add_rows(rows);
        let figures = table.column_iter_mut().skip(1);
        figures.for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.lines().for_each(|line| println!("{}", line.trim_end()));
    }
}

fn locks([source, target]: &[Seen; 2]) -> String {
    let of = |seen: &Seen| match seen.locks.is_empty() {
        true => "none".to_owned(),
        false => seen.locks.iter().cloned().collect::<Vec<_>>().join(", "),
    };
    format!("source: {}; target: {}", of(source), of(target))
}

const fn mib(kib: u64) -> u64 {
    kib.div_ceil(1024)
}
