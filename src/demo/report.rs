//! The result on stdout: what happened, and what it means.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use crate::demo::cache::{CachesCompared, Used};
use crate::demo::compare::Compared;
use crate::demo::crash::Crash;
use crate::demo::load::Written;
use crate::demo::seconds;
use crate::demo::watch::Ages;

/// Where the legend's lines end, in characters.
const LEGEND_WIDTH: u16 = 110;

/// All that is told.
#[derive(Debug)]
pub struct Story {
    /// Name and server of each unit.
    pub units: Vec<(&'static str, String)>,
    /// By unit.
    pub written: [Written; 2],
    /// What was written to the caches, by unit.
    pub used: [Used; 2],
    /// Rows of the other unit that arrived, by way.
    pub crossed: [u64; 2],
    /// Changes that were not sent back, by unit.
    pub echoes: [u64; 2],
    /// By way.
    pub ages: [Ages; 2],
    /// What was killed.
    pub crash: Crash,
    /// How long both units needed for the rest once nobody wrote any more.
    pub waited: Duration,
    /// By table.
    pub compared: Vec<Compared>,
    /// Both caches.
    pub caches: CachesCompared,
    /// From the start of the servers.
    pub took: Duration,
}

impl Story {
    /// Whether both units hold the same.
    pub fn is_equal(&self) -> bool {
        let tables_are = self.compared.iter().all(|compared| compared.difference.is_none());
        tables_are && self.caches.difference.is_none() && self.counter_is_exact()
    }

    /// Whether the counter to which both units added shows all of it, once.
    fn counter_is_exact(&self) -> bool {
        let added = self.used.iter().map(|used| used.visits).sum::<i64>();
        self.caches.visits.iter().all(|visits| *visits == added)
    }

    fn rows(&self) -> u64 {
        self.compared.iter().map(|compared| compared.rows[0]).sum()
    }
}

/// For people.
pub fn text(story: &Story) -> String {
    format!(
        "\nWhat happened\n\n{}\n\n{}\n\n\
         What the servers' own clients print for SELECT … ORDER BY the primary key, compared byte for byte\n\n{}\n\n{}",
        numbers(story),
        legend(story),
        tables(story),
        verdict(story)
    )
}

/// What the numbers mean, and why they matter.
fn legend(story: &Story) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(LEGEND_WIDTH);
    let mut row = |name: &str, text: String| _ = table.add_row([name.to_owned(), text]);
    row(
        "arrived",
        "Rows of the other unit that are here now, counted in this unit's database.".to_owned(),
    );
    let echoes = "What Unitflow applies here stands in this server's binlog like any other change, heartbeats and the mark of \
                  each transaction too. This unit's transformer tells them by that mark, and sends none of them back.";
    row("echoes", echoes.to_owned());
    row(
        "lag",
        format!(
            "The age of the newest order that had arrived here from the other unit, looked at 20 times a second while both \
         wrote ({} and {} looks). Unit B's includes the time without its sink. What was on its way when the writing \
         ended had arrived {} later.",
            story.ages[1].samples(),
            story.ages[0].samples(),
            seconds(story.waited)
        ),
    );
    row(
        "counter",
        format!(
            "Both units added to one Redis counter, visits, at the same time: {} in A and {} in B. It shows {} in A and {} in B{}",
            story.used[0].visits,
            story.used[1].visits,
            story.caches.visits[0],
            story.caches.visits[1],
            if story.counter_is_exact() { ": each addition once." } else { ", WHICH MUST NOT BE." }
        ),
    );
    row(
        "crash",
        format!(
            "Unit B's sink was killed (kill -9) while {} rows of A were on their way{}, and started again. It went on from \
         unitflow.ledger in B, which is written in the same transactions as the rows: nothing lost, nothing twice.",
            HumanCount(story.crash.behind),
            if story.crash.frozen { " (frozen before, for it kept up too well)" } else { "" }
        ),
    );
    table
}

fn numbers(story: &Story) -> Table {
    let mut header = vec![String::new()];
    header.extend(story.units.iter().map(|(name, server)| format!("unit {name}, {server}")));
    let mut table = new_table(header);
    let count = |number: u64| HumanCount(number).to_string();
    let mut row = |name: &str, cells: [String; 2]| {
        let [first, second] = cells;
        table.add_row([name.to_owned(), first, second]);
    };
    row("rows written here", story.written.map(|written| count(written.inserted)));
    row("later updated", story.written.map(|written| count(written.updated)));
    row("later deleted", story.written.map(|written| count(written.deleted)));
    row("in transactions", story.written.map(|written| count(written.transactions)));
    row("Redis commands written here", story.used.map(|used| count(used.commands)));
    // The way to a unit has the number of the other one.
    row("rows arrived from the other unit", [count(story.crossed[1]), count(story.crossed[0])]);
    row("echoes stopped", story.echoes.map(count));
    let lag = |percent| [1, 0].map(|way: usize| milliseconds(story.ages[way].percentile(percent)));
    row("lag, p50", lag(50));
    row("lag, p99", lag(99));
    table
}

fn tables(story: &Story) -> Table {
    let mut header = vec!["table".to_owned()];
    header.extend(story.units.iter().map(|(name, _)| format!("rows in {name}")));
    header.extend(["bytes compared".to_owned(), "result".to_owned()]);
    let mut table = new_table(header);
    for compared in &story.compared {
        let [first, second] = compared.rows.map(|rows| HumanCount(rows).to_string());
        let result = if compared.difference.is_none() { "equal" } else { "DIFFERENT" };
        table.add_row([
            compared.table.to_owned(),
            first,
            second,
            HumanBytes(compared.bytes).to_string(),
            result.to_owned(),
        ]);
    }
    let [first, second] = story.caches.keys.map(|keys| HumanCount(keys).to_string());
    let result = if story.caches.difference.is_none() { "equal" } else { "DIFFERENT" };
    let digests = "by digest".to_owned();
    table.add_row(["cache (keys)".to_owned(), first, second, digests, result.to_owned()]);
    table
}

fn verdict(story: &Story) -> String {
    let took = seconds(story.took);
    if let Some(key) = &story.caches.difference {
        return format!(
            "DIFFERENT, which must not be. The first key of the caches that differs: {key}\nTook {took}.\n"
        );
    }
    if !story.counter_is_exact() {
        return format!(
            "DIFFERENT, which must not be: the counter lost or doubled additions.\nTook {took}.\n"
        );
    }
    let Some((compared, [first, second])) =
        story.compared.iter().find_map(|compared| Some((compared, compared.difference.as_ref()?)))
    else {
        return format!(
            "EQUAL: the same {} rows and {} keys in both units. Took {took}.\n",
            HumanCount(story.rows()),
            HumanCount(story.caches.keys[0])
        );
    };
    format!(
        "DIFFERENT, which must not be. The first rows of {} that differ:\n  {}: {first}\n  {}: {second}\nTook {took}.\n",
        compared.table, story.units[0].0, story.units[1].0
    )
}

fn new_table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
