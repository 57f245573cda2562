//! The result on stdout: what happened, and what it means.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use crate::demo::compare::Compared;
use crate::demo::crash::Crash;
use crate::demo::load::Written;
use crate::demo::seconds;
use crate::demo::watch::Ages;

/// All that is told.
#[derive(Debug)]
pub struct Story {
    /// Name and server of each unit.
    pub units: Vec<(&'static str, String)>,
    /// By unit.
    pub written: [Written; 2],
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
    /// From the start of the servers.
    pub took: Duration,
}

impl Story {
    /// Whether both units hold the same.
    pub fn is_equal(&self) -> bool {
        self.compared.iter().all(|compared| compared.difference.is_none())
    }

    fn rows(&self) -> u64 {
        self.compared.iter().map(|compared| compared.rows[0]).sum()
    }
}

/// For people.
pub fn text(story: &Story) -> String {
    let mut text = format!("\nWhat happened\n\n{}\n\n", numbers(story));
    let lines = [
        "Arrived: rows of the other unit that are here now, counted in this unit's database.".to_owned(),
        "Echoes: what Unitflow applies here, and the mark it puts into each of its transactions, stand in this server's"
            .to_owned(),
        "  binlog like any other change. This unit's transformer told them by the mark, and sent none of them back.".to_owned(),
        format!(
            "Lag: the age of the newest order that had arrived here from the other unit, looked at 20 times a second \
             \n  while both wrote ({} and {} looks). Unit B's includes the time without its sink. The rest took {} at the end.",
            story.ages[1].samples(),
            story.ages[0].samples(),
            seconds(story.waited)
        ),
        crash(story),
    ];
    for line in lines {
        text += &format!("  {line}\n");
    }
    text += &format!(
        "\nBoth databases by their own clients, SELECT … ORDER BY the primary key\n\n{}\n\n",
        tables(story)
    );
    text + &verdict(story)
}

fn crash(story: &Story) -> String {
    format!(
        "Crash: unit B's sink was killed (kill -9) while {} rows of A were on their way, and started again. It read from\
         \n  unitflow.ledger in B, written in the same transactions as the rows, where to go on.",
        HumanCount(story.crash.behind)
    )
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
    table
}

fn verdict(story: &Story) -> String {
    let took = seconds(story.took);
    let Some((compared, [first, second])) =
        story.compared.iter().find_map(|compared| Some((compared, compared.difference.as_ref()?)))
    else {
        return format!(
            "EQUAL: the same {} rows in both units. Took {took}.\n",
            HumanCount(story.rows())
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
