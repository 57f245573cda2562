//! Progress on stderr: a line for each step that is done, and below them what is being done. Where stderr is not a
//! terminal only the lines remain.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::demo::crash::Crash;
use crate::demo::load::{Tally, Written};
use crate::demo::seconds;
use crate::demo::watch::Watch;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// How often the load is told of where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Where progress is shown.
#[derive(Clone, Debug)]
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
    coloured: bool,
}

impl Screen {
    /// On stderr.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let coloured =
            terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { bars: MultiProgress::new(), terminal, coloured }
    }

    /// What this is about.
    pub fn title(&self, text: &str) {
        self.line(&format!("\n{}\n", self.paint(BOLD, text)));
    }

    /// Something begins.
    pub fn step(&self, text: &str) -> Step {
        let bar = self.bars.add(ProgressBar::new_spinner().with_message(text.to_owned()));
        bar.set_style(style("  {spinner} {wide_msg}"));
        bar.enable_steady_tick(DRAW_EVERY);
        Step { screen: self.clone(), bar, begun: Instant::now() }
    }

    /// Rows are written in both units.
    pub fn load(&self, rows: u64) -> LoadBars {
        let step = self.step("writing in both units at once, four connections each");
        let bars = ["A", "B"].map(|unit| {
            let bar = self.bars.add(ProgressBar::new(rows).with_prefix(unit));
            bar.set_style(style(
                "    unit {prefix}  {bar:24} {human_pos:>9} of {human_len} rows   {msg}",
            ));
            bar
        });
        LoadBars { step, bars, rows }
    }

    /// It was interrupted.
    pub fn stopping(&self) {
        self.clear();
        self.line(&format!(
            "  {} stopping everything; once more to kill it",
            self.paint(YELLOW, "!")
        ));
    }

    /// What was begun will not be done.
    pub fn clear(&self) {
        // What stands there is of no use any more, and what cannot be cleared does no harm.
        let _ = self.bars.clear();
    }

    fn line(&self, text: &str) {
        if self.terminal {
            let _ = self.bars.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.coloured { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

/// Something that is being done.
#[derive(Debug)]
pub struct Step {
    screen: Screen,
    bar: ProgressBar,
    begun: Instant,
}

impl Step {
    /// How it goes.
    pub fn note(&self, line: &str) {
        if self.screen.terminal {
            self.bar.set_message(line.to_owned());
        } else {
            eprintln!("    {line}");
        }
    }

    /// It is done.
    pub fn done(self, text: impl AsRef<str>) {
        let mark = self.screen.paint(GREEN, "✓");
        let took = self.screen.paint(DIM, &format!("({})", seconds(self.begun.elapsed())));
        self.bar.finish_and_clear();
        self.screen.line(&format!("  {mark} {} {took}", text.as_ref()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Rows being written.
#[derive(Debug)]
pub struct LoadBars {
    step: Step,
    bars: [ProgressBar; 2],
    rows: u64,
}

impl LoadBars {
    /// Shows how it goes, until it is dropped.
    pub async fn follow(&self, tally: &Tally, watch: &Watch) -> Infallible {
        let mut told = Instant::now();
        loop {
            // The place of a unit is the number of the way that leads from it.
            for (place, bar) in self.bars.iter().enumerate() {
                bar.set_position(tally.of(place).inserted.min(self.rows));
                bar.set_message(format!(
                    "{} on their way to the other unit",
                    HumanCount(watch.behind(place))
                ));
            }
            if !self.step.screen.terminal && told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let count = |place| HumanCount(tally.of(place).inserted);
                let behind = |way| HumanCount(watch.behind(way));
                eprintln!(
                    "    rows written: A {}, B {}; on their way: A to B {}, B to A {}",
                    count(0),
                    count(1),
                    behind(0),
                    behind(1)
                );
            }
            sleep(DRAW_EVERY).await;
        }
    }

    /// Tells of the crash.
    pub fn say(&self, crash: &Crash) {
        let screen = &self.step.screen;
        let frozen = if crash.frozen { ", after a freeze since it kept up too well" } else { "" };
        screen.line(&format!(
            "  {} kill -9 of unit B's sink (process {}) with {} rows of A on their way to it{frozen}; started again",
            screen.paint(YELLOW, "!"),
            crash.pid,
            HumanCount(crash.behind)
        ));
    }

    /// All is written.
    pub fn done(self, written: &[Written; 2]) {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
        let count = |place: usize| HumanCount(written[place].inserted);
        self.step.done(format!(
            "the shop wrote {} rows in A and {} in B, at the same time",
            count(0),
            count(1)
        ));
    }
}
