//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use unitflow_change::name::Name;

/// Replicates MySQL between data centres that all take writes: each change once to every other
/// unit, never back.
#[derive(Debug, Parser)]
#[command(name = "unitflow", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// The mesh's configuration.
    #[arg(long, global = true, default_value = "unitflow.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// How logs are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 differences or findings, 2 wrong use or configuration, 3 failed.
The result goes to stdout, everything else to stderr. RUST_LOG sets the log level (default info).";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create what a new mesh needs: ledger schema, topics, first positions. Safe to repeat.
    ///
    /// Run it once, before the first `run` and while the tables to be replicated hold the same
    /// rows in every unit. What exists is left as it is; a flow that has run is never reset.
    Init(InitArgs),
    /// Examine servers, grants, tables and topics, and list every fault with its remedy.
    ///
    /// Changes nothing, and may run beside workers. Exit code 1 if there are errors; warnings alone
    /// are fine.
    Check(CheckArgs),
    /// Run workers until they are told to stop (SIGTERM or Ctrl-C).
    Run(RunArgs),
    /// Show where every flow stands: positions, lag, last fault.
    ///
    /// Exit code 1 if a role has failed for good or is silent, if a flow is paused, a table parked or
    /// still being filled, if what is to be read next is gone, or if something could not be read.
    Status(StatusArgs),
    /// Wait until a unit has applied all that another has committed by now.
    ///
    /// Exit code 0 once it has, 1 if it has not in time, or if tables are parked or rows of tables that are being
    /// filled come again there.
    Wait(WaitArgs),
    /// Take away what the other units hold about a unit that leaves the mesh.
    ///
    /// Refused while anybody works for it, or while something it has committed is not applied in the
    /// others: exit code 1, with what is still to be done. May be killed and given again.
    Leave(LeaveArgs),
    /// Stop applying a flow, until another order comes.
    ///
    /// With --drain only once the target has applied all that the source has committed by now.
    /// Exit code 1 if it has not in time: then the flow goes on.
    Pause(PauseArgs),
    /// Let a flow go on, and with it parked tables that were brought to the schema their changes expect.
    Resume(ReleaseArgs),
    /// Let a flow go on, and try again what its parked tables failed at, a schema change too.
    Retry(ReleaseArgs),
    /// Let a flow go on, but pass over records that can't be applied; they go to quarantine.
    Skip(SkipArgs),
    /// Bring rows of one unit to others, live: a first copy, a resync, a new unit.
    ///
    /// The unit named by --from is the authority: where units differ, its rows count. All units go on
    /// taking writes; nothing newer than what was read is overwritten. Workers must be running. The command
    /// may be killed and run again; it goes on where it was.
    #[command(subcommand)]
    Resync(ResyncCommand),
    /// Try it: two units on this machine, load on both, a crash, and a comparison.
    ///
    /// Brings MySQL, MariaDB and Kafka into your cache folder the first time (no Docker), starts a MySQL and a
    /// MariaDB with a Kafka each, writes in both at once, kills a sink with `kill -9` while rows are on their way, starts
    /// it again, and lets the servers' own clients compare both databases. Exit code 0 only if they are equal.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Only this unit: its topics, its ledger, the flows that lead to it.
    #[arg(long)]
    pub unit: Option<Name>,
    /// Print settings, SQL, grants, topics and ACLs for an administrator; connects to nothing.
    #[arg(long)]
    pub print: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only this unit.
    #[arg(long)]
    pub unit: Option<Name>,
    /// The findings as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Read this unit's stores into the captured topics.
    Connector,
    /// Tag and route captured changes into the tagged topics.
    Transformer,
    /// In a star's hub: copy the spokes' tagged topics.
    Relay,
    /// Apply the other units' changes to this unit's stores.
    Sink,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The unit to work for.
    #[arg(long)]
    pub unit: Name,
    /// What to do; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub role: Vec<Role>,
    /// Serve metrics at http://ADDRESS/metrics (overrides the configuration).
    #[arg(long, value_name = "ADDRESS")]
    pub prometheus: Option<String>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Again every this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    pub watch: Option<u64>,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The unit whose commits are waited for.
    #[arg(long)]
    pub from: Name,
    /// The unit that is to have applied them.
    #[arg(long)]
    pub to: Name,
    /// Wait for this GTID (or set) instead of all that is committed by now.
    #[arg(long)]
    pub gtid: Option<String>,
    /// Only this store; all that flow from one to the other by default.
    #[arg(long)]
    pub store: Option<Name>,
    /// Give up after this long, with exit code 1.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout_seconds: u64,
}

#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// The unit that leaves.
    #[arg(long)]
    pub unit: Name,
    /// Delete its topics too, and the groups that read them.
    #[arg(long)]
    pub topics: bool,
    /// Only say what would go.
    #[arg(long)]
    pub dry_run: bool,
    /// Its servers are lost, or what they say no longer counts: ask neither them nor its Kafka. What the others
    /// have not applied is lost. With --topics its Kafka has to be there.
    #[arg(long)]
    pub lost: bool,
}

#[derive(Debug, Args)]
pub struct OrderArgs {
    /// The flow, as `status` names it: A-to-B.shop.
    pub flow: String,
    /// Why; it stays on record.
    #[arg(long)]
    pub why: String,
    /// Who gives the order; whoever is logged in by default.
    #[arg(long)]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    pub order: OrderArgs,
    /// First let the target apply all that the source has committed by now.
    #[arg(long)]
    pub drain: bool,
    /// Give up draining after this long.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", requires = "drain")]
    pub timeout_seconds: u64,
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    pub order: OrderArgs,
    /// Only this parked table (database.table), may be given several times; all by default.
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SkipArgs {
    #[command(flatten)]
    pub order: OrderArgs,
    /// The record's number, as the fault names it.
    #[arg(long)]
    pub seq: u64,
    /// The last one of a range.
    #[arg(long)]
    pub to_seq: Option<u64>,
    /// Only in this lane.
    #[arg(long)]
    pub lane: Option<i32>,
}

#[derive(Debug, Subcommand)]
pub enum ResyncCommand {
    /// Whole tables: every row is compared, what differs is written, what the authority lacks is removed.
    ///
    /// Of a Redis store all keys that travel. Where the log can't go on (position_purged), or a unit has lost its ledger keys,
    /// that is mended first.
    Full(ResyncFullArgs),
    /// Single rows, or Redis keys, by their keys.
    Keys(ResyncKeysArgs),
    /// Fill a new, empty unit and let it take part.
    ///
    /// Creates the unit's topics, schema and ledger (as init does for a new mesh), its tables where the server is
    /// of the same kind, and then copies all rows. Name the unit in the configuration first, and restart the
    /// other units' workers with it.
    Join(ResyncJoinArgs),
    /// List what a unit has lost that went back in time, and give it back.
    ///
    /// For a unit whose connector stopped with source_lost_tail: its server was restored, or replaced by one that
    /// lacks the end. Its log goes on behind what the server still has; rows that it lost come back from the
    /// unit named by --from, but where the unit has written a row since, that counts and goes to the others.
    Lost(ResyncLostArgs),
    /// Let the log of a Redis store go on behind what the store holds now.
    ///
    /// For a connector that stopped with position_purged: what the store wrote since it was captured last is not carried;
    /// resync full brings that, and does this too where it has to.
    Anew(ResyncAnewArgs),
    /// End copies that are under way from a unit; what they have brought stays.
    ///
    /// Their tables stay half filled until the command that status shows is given. To copy slower, give the same
    /// command again with another --rows-per-second.
    Stop(ResyncStopArgs),
}

#[derive(Debug, Args)]
pub struct ResyncWays {
    /// The unit whose rows count.
    #[arg(long)]
    pub from: Name,
    /// The units to bring them to; all that it flows to by default.
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<Name>,
    /// The store, where the unit has several.
    #[arg(long)]
    pub store: Option<Name>,
    /// Why; it stays on record.
    #[arg(long)]
    pub why: String,
    /// Who gives the order; whoever is logged in by default.
    #[arg(long)]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct ResyncFullArgs {
    #[command(flatten)]
    pub ways: ResyncWays,
    /// Only this table (database.table, `*` for any text), may be given several times; all by default.
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Read no faster than this.
    #[arg(long, value_name = "ROWS")]
    pub rows_per_second: Option<u32>,
    /// Change nothing: compare, and say what would be written or removed. Rows that are under way
    /// at that moment show too. Exit code 1 if anything differs.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ResyncKeysArgs {
    #[command(flatten)]
    pub ways: ResyncWays,
    /// A row's key as it stands in the topics, ["shop","orders",{"id":7}], or a Redis key, [0,"user:7"]. May be given several times.
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,
    /// A file with one such key a line.
    #[arg(long, value_name = "FILE")]
    pub keys_file: Option<PathBuf>,
    /// Change nothing: compare, and say what would be written or removed. Exit code 1 if anything
    /// differs.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ResyncLostArgs {
    /// The unit that has lost something.
    pub unit: Name,
    /// The unit that gives it back.
    #[arg(long)]
    pub from: Name,
    /// The store, where the unit has several.
    #[arg(long)]
    pub store: Option<Name>,
    /// Change nothing: list the rows that the others hold and the unit lacks. Exit code 1 if there are any.
    #[arg(long)]
    pub dry_run: bool,
    /// Why; it stays on record.
    #[arg(long)]
    pub why: String,
    /// Who gives the order; whoever is logged in by default.
    #[arg(long)]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct ResyncAnewArgs {
    /// The unit whose log goes on.
    #[arg(long)]
    pub from: Name,
    /// The Redis store.
    #[arg(long)]
    pub store: Name,
    /// Why; it stands in the log of this command.
    #[arg(long)]
    pub why: String,
}

#[derive(Debug, Args)]
pub struct ResyncStopArgs {
    /// The unit whose rows are copied.
    #[arg(long)]
    pub from: Name,
    /// The store, where the unit has several.
    #[arg(long)]
    pub store: Option<Name>,
    /// Of a Redis store: also forget that units are half filled, so that another one can fill them. What does not fit stops a lane
    /// again from then on.
    #[arg(long)]
    pub give_up: bool,
    /// Why; it stays on record.
    #[arg(long)]
    pub why: String,
    /// Who gives the order; whoever is logged in by default.
    #[arg(long)]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct ResyncJoinArgs {
    /// The new unit.
    pub unit: Name,
    /// The unit whose rows it takes.
    #[arg(long)]
    pub from: Name,
    /// The store, where the unit has several.
    #[arg(long)]
    pub store: Option<Name>,
    /// Read no faster than this.
    #[arg(long, value_name = "ROWS")]
    pub rows_per_second: Option<u32>,
    /// Why; it stays on record.
    #[arg(long)]
    pub why: String,
    /// Who gives the order; whoever is logged in by default.
    #[arg(long)]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Rows inserted in each unit, by a paced load of about 20 seconds or more; 5000 at least.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(5_000..))]
    pub rows: u64,
    /// Leave everything running and say how to look around, and how to stop it.
    #[arg(long)]
    pub keep: bool,
}
