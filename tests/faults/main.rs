//! Workers killed, frozen and doubled, a broker and a target lost, while both units keep writing.
//!
//! After each: the judge, equal tables, versions that never went down at a target, totals that
//! stayed where whole transactions are promised, and ledger positions that never were ahead of the
//! data. One test at a time. `UNITFLOW_FULL=1` kills more often; `UNITFLOW_SEED` repeats a run's
//! choices.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::time::sleep;
use unitflow_change::Code;
use unitflow_change::fault::Kind;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::{Running, connect};
use unitflow_harness::plan::Mix;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::watch::{self, Snapshot, Watch};
use unitflow_harness::{Load, Mesh, MeshSetup, Mysql, Worker, Written, alone, schema};
use unitflow_sinks::ledger;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(600);
/// Nor does what was written take longer to arrive.
const QUIET: Duration = Duration::from_secs(120);
/// After a worker was started again, its flow moves on within ten seconds; a machine that is busy
/// with other things gets three times that before the test fails, and the test says so.
const BACK: Duration = Duration::from_secs(30);
const BACK_GOAL: Duration = Duration::from_secs(10);
/// And has caught up with writers that went on within this.
const CAUGHT_UP: Duration = Duration::from_secs(40);
/// Transactions a second that each unit's writers aim at, and what both have to reach together.
const RATE: u32 = 270;
/// The same where a flow is held up for long, so that it does not take long to catch up.
const RATE_LOW: u32 = 100;
/// A worker is killed while no more than so many transactions have piled up from what came before,
/// if that can be had soon.
const PILE: u64 = 100;
const RATE_LEAST: f64 = 500.0;
/// How many positions of a ledger have to be seen, with the data at each.
const POSITIONS: usize = 25;
const ROLES: [&str; 3] = ["connector", "transformer", "sink"];

#[test]
fn kills_at_random_moments() {
    alone("kill -9 at random moments", LIMIT, async {
        let kills = if is_full() { 20 } else { 6 };
        let mut scene = Scene::start(
            MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared(),
            Mix::Brisk,
            RATE,
        )
        .await?;
        scene.kill_some(kills, &ROLES).await?;
        scene.end().await
    });
}

#[test]
fn kills_with_whole_transactions() {
    alone("kill -9 with whole transactions", LIMIT, async {
        let kills = if is_full() { 20 } else { 3 };
        let setup = MeshSetup::new(BINARY, &[Mariadb, Mysql9]).kafka_shared().whole_transactions();
        let mut scene = Scene::start(setup, Mix::Bank, RATE).await?;
        scene.kill_some(kills, &ROLES).await?;
        scene.end().await
    });
}

#[test]
fn kills_of_a_relay() {
    alone("kill -9 of a relay", LIMIT, async {
        let kills = if is_full() { 20 } else { 3 };
        let setup = MeshSetup::new(BINARY, &[Mariadb, Mysql9, Mariadb]).hub("B");
        let mut scene = Scene::start(setup, Mix::Brisk, RATE_LOW).await?;
        scene.kill_some(kills, &["relay"]).await?;
        scene.end().await
    });
}

#[test]
fn deaths_at_named_points() {
    alone("deaths at named points", LIMIT, async {
        let points = [
            ("connector", "die_after_read"),
            ("connector", "die_before_kafka_commit"),
            ("sink", "die_after_begin"),
            ("sink", "die_after_commit_sent"),
        ];
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared();
        let mut scene = Scene::start(setup, Mix::Shop, RATE_LOW).await?;
        for (role, point) in points {
            let unit = scene.some_unit(role);
            scene.die_at(unit, role, point).await?;
        }
        scene.end().await
    });
}

#[test]
fn a_zombie_of_each_role() {
    alone("zombies", LIMIT, async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).whole_transactions();
        let mut scene = Scene::start(setup, Mix::Bank, RATE_LOW).await?;
        for role in ROLES {
            let unit = scene.some_unit(role);
            scene.zombie(unit, role).await?;
        }
        scene.end().await
    });
}

#[test]
fn a_broker_killed_and_started_again() {
    alone("a broker killed", LIMIT, async {
        let setup = || MeshSetup::new(BINARY, &[Mariadb, Mysql9]).kafka_own();
        broker_killed(setup(), Mix::Shop).await?;
        broker_killed(setup().whole_transactions(), Mix::Bank).await
    });
}

async fn broker_killed(setup: MeshSetup, mix: Mix) -> anyhow::Result<()> {
    let mut scene = Scene::start(setup, mix, RATE_LOW).await?;
    scene.let_run(1000).await;
    let kafka = scene.mesh.kafka("A");
    kafka.kill().await?;
    let begin = Instant::now();
    scene.let_run(2000).await;
    scene.mesh.kafka("A").start_again().await?;
    println!("  A's broker was away for {:.1?}", begin.elapsed());
    let goals = [scene.mesh.pulses("A", "A").await?, scene.mesh.pulses("B", "B").await?];
    scene.mesh.wait_for_pulses("A", "B", goals[0], CAUGHT_UP).await?;
    scene.mesh.wait_for_pulses("B", "A", goals[1], CAUGHT_UP).await?;
    println!("  all there {:.1?} after the kill", begin.elapsed());
    // Both ways are watched at work again.
    scene.let_run(4000).await;
    scene.end().await
}

#[test]
fn a_target_rolled_back_to_an_older_copy() {
    alone("a target rolled back", LIMIT, async {
        let random = Random::new(seed("fault"));
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().one_way("A", "B");
        let mut mesh = setup.whole_transactions().start().await?;
        mesh.start_workers()?;
        let load = Load::shop().mix(Mix::Bank).rate(2 * RATE);
        let running = load.start(mesh.server("A"), "A", 0, &random).await?;
        mesh.wait_for_pulses("A", "B", 100, CAUGHT_UP).await?;
        let before = Watches::start(&mesh, "B", Mix::Bank).await?;
        let positions_before = watch::snapshots(mesh.server("B"), "A").await?;
        sleep(Duration::from_secs(2)).await;
        let copy = mesh.folder().join("older");
        mesh.server("B").copy_data_to(&copy).await?;
        let then = mesh.pulses("A", "B").await?;
        let goal = mesh.pulses("A", "A").await? + u64::from(RATE) / 2;
        mesh.wait_for_pulses("A", "B", goal, CAUGHT_UP).await?;
        // What goes back is the target, so what was seen before it does not count behind it.
        before.stop().await?;
        positions_before.wait_for_moves(POSITIONS, CAUGHT_UP).await?;
        let positions_before = positions_before.stop().await?;
        mesh.server("B").restore_from(&copy).await?;
        let after = Watches::start(&mesh, "B", Mix::Bank).await?;
        let positions_after = watch::snapshots(mesh.server("B"), "A").await?;
        let lost = goal.checked_sub(then).filter(|lost| *lost > 0);
        println!(
            "  {} transactions and more were lost with the target",
            lost.context("the copy is not older")?
        );
        let goal = mesh.pulses("A", "A").await?;
        let back = mesh.wait_for_pulses("A", "B", goal, CAUGHT_UP).await?;
        println!("  caught up after {back:.1?}");
        positions_after.wait_for_moves(POSITIONS, CAUGHT_UP).await?;
        let written = running.stop().await?;
        mesh.ensure_done(&written, QUIET).await?;
        after.stop().await?;
        for snapshots in [positions_before, positions_after.stop().await?] {
            ensure_positions(&mesh, "A", snapshots).await?;
        }
        ensure!(
            mesh.worker("B", "sink")?.log()?.contains("target_lost_commits"),
            "the sink did not say that the target lost commits"
        );
        mesh.finish();
        Ok(())
    });
}

/// What a lane makes of a ledger row that is not where it believed, on both servers.
#[test]
fn a_ledger_row_that_is_elsewhere_says_why() {
    alone("a ledger row that is elsewhere", LIMIT, async {
        for flavor in [Mysql9, Mariadb] {
            let server = Mysql::setup(flavor).start().await?;
            for (_, statement) in unitflow_sinks::schema::OBJECTS {
                server.sql(statement).await?;
            }
            let mut conn = connect(&server).await?;
            let log = Log { unit: "A".parse()?, store: "shop".parse()? };
            ledger::create(&mut conn, &log, 0, Seq(8), "topic").await?;
            for (lane, believed, code, kind) in [
                (0, Seq(4), Code::LedgerMoved, Kind::Retry),
                (0, Seq(8), Code::LedgerMoved, Kind::Retry),
                (0, Seq(12), Code::TargetLostCommits, Kind::Retry),
                (1, Seq(8), Code::LedgerMissing, Kind::Fatal),
            ] {
                let fault = ledger::explain(&mut conn, &log, lane, believed).await;
                ensure!((fault.code, fault.kind) == (code, kind), "believed {believed}: {fault}");
            }
        }
        Ok(())
    });
}

/// The user may write to a replica as well: only what the server says of itself keeps the sink from it.
#[test]
fn a_target_that_fails_over_to_its_replica() {
    alone("a target fails over", LIMIT, async {
        let random = Random::new(seed("fault"));
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mysql9])
            .kafka_shared()
            .one_way("A", "B")
            .start()
            .await?;
        let replica = replica_of(mesh.server("B")).await?;
        let dead = unitflow_local::free_port()?;
        mesh.change_endpoints("B", &[dead, replica.port(), mesh.server("B").port()])?;
        mesh.start_workers()?;
        let running = Load::shop().rate(RATE).start(mesh.server("A"), "A", 0, &random).await?;
        mesh.wait_for_pulses("A", "B", u64::from(RATE), CAUGHT_UP).await?;

        let primary = mesh.server("B");
        primary.sql("SET GLOBAL super_read_only = ON").await?;
        let executed = primary.sql("SELECT REPLACE(@@global.gtid_executed, '\n', '')").await?;
        let wait = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 30)");
        ensure!(replica.sql(&wait).await? == "0", "the replica lags");
        let own = format!("SELECT GTID_SUBTRACT(@@global.gtid_executed, '{executed}')");
        let own = replica.sql(&own).await?;
        ensure!(own.is_empty(), "the replica was written to: {own}");
        primary.kill().await?;
        replica.sql("STOP REPLICA; SET GLOBAL read_only = OFF").await?;

        let more = u64::from(RATE) + mesh.pulses("A", "A").await?;
        mesh.wait_for_pulses("A", "A", more, CAUGHT_UP).await?;
        let written = running.stop().await?;
        ensure!(written.commits > 2 * u64::from(RATE), "{} commits", written.commits);
        mesh.quiesce(QUIET).await?;
        for table in schema::TABLES {
            let rows =
                format!("SELECT * FROM {}.{} ORDER BY {}", schema::DATABASE, table.name, table.key);
            let equal = mesh.server("A").sql(&rows).await? == replica.sql(&rows).await?;
            ensure!(equal, "{} differs between A and the new primary of B", table.name);
        }
        mesh.finish();
        Ok(())
    });
}

/// A read-only replica of a MySQL server, from the beginning of its log.
async fn replica_of(primary: &Mysql) -> anyhow::Result<Mysql> {
    let replica = Mysql::setup(Mysql9).setting("read_only", "ON").start().await?;
    let follow = format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'root', \
         SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA",
        primary.port()
    );
    replica.sql(&follow).await?;
    Ok(replica)
}

/// What is watched at a target from the outside.
struct Watches {
    versions: Watch<u64>,
    /// Where transactions stay whole.
    totals: Option<Watch<u64>>,
}

impl Watches {
    async fn start(mesh: &Mesh, at: &str, mix: Mix) -> anyhow::Result<Self> {
        let versions = watch::versions(mesh.server(at)).await?;
        let totals = match mix {
            Mix::Bank => Some(watch::totals(mesh.server(at)).await?),
            _ => None,
        };
        Ok(Self { versions, totals })
    }

    async fn stop(self) -> anyhow::Result<()> {
        ensure!(self.versions.stop().await? > 50, "the versions were not polled");
        if let Some(totals) = self.totals {
            ensure!(totals.stop().await? > 50, "the totals were not read");
        }
        Ok(())
    }
}

/// The ledger of a unit's log, as it was seen, was never ahead of the data or behind it.
async fn ensure_positions(mesh: &Mesh, from: &str, snapshots: Vec<Snapshot>) -> anyhow::Result<()> {
    let bootstrap = mesh.kafka(from).bootstrap();
    let topic = mesh.topic(&format!("{from}.shop.tagged"));
    let states = tokio::task::spawn_blocking(move || {
        watch::ensure_positions(&snapshots, &bootstrap, &topic)
    });
    let states = states.await??;
    println!("  {from}'s ledger was seen at {states} positions, the data with it");
    ensure!(states >= POSITIONS, "the ledger was seen at {states} positions only");
    Ok(())
}

/// Units that all write, with everybody watching.
struct Scene {
    mesh: Mesh,
    rate: u32,
    random: Random,
    load: Vec<Running>,
    watches: Vec<Watches>,
    snapshots: Vec<(&'static str, Watch<Vec<Snapshot>>)>,
}

impl Scene {
    async fn start(setup: MeshSetup, mix: Mix, rate: u32) -> anyhow::Result<Self> {
        let random = Random::new(seed("fault"));
        let mut mesh = setup.start().await?;
        mesh.start_workers()?;
        // In a star what matters is what comes by way of the hub, B.
        let (one, other) = if mesh.units().len() > 2 { ("A", "C") } else { ("A", "B") };
        let ways = [(one, other), (other, one)];
        let (mut watches, mut snapshots) = (Vec::new(), Vec::new());
        for (from, at) in ways {
            watches.push(Watches::start(&mesh, at, mix).await?);
            snapshots.push((from, watch::snapshots(mesh.server(at), from).await?));
        }
        let mut load = Vec::new();
        for unit in mesh.units() {
            let shop = Load::shop().mix(mix).rate(rate);
            load.push(shop.start(&unit.server, &unit.name, 0, &random).await?);
        }
        for (from, at) in ways {
            mesh.wait_for_pulses(from, at, 100, CAUGHT_UP).await?;
        }
        Ok(Self { mesh, rate, random, load, watches, snapshots })
    }

    /// Some time, at most `millis`.
    async fn let_run(&mut self, millis: u64) {
        let millis = millis / 2 + self.random.below(millis / 2 + 1);
        sleep(Duration::from_millis(millis)).await;
    }

    /// Whose changes go where by way of this worker.
    fn way(unit: &'static str, role: &str) -> (&'static str, &'static str) {
        let other = if unit == "A" { "B" } else { "A" };
        match role {
            "relay" => ("A", "C"),
            "sink" => (other, unit),
            _ => (unit, other),
        }
    }

    /// A unit that has such a worker.
    fn some_unit(&mut self, role: &str) -> &'static str {
        match role {
            "relay" => "B",
            _ if self.random.below(2) == 0 => "A",
            _ => "B",
        }
    }

    /// Kills workers of these roles in turn, some time after each other, and starts them again.
    async fn kill_some(&mut self, kills: usize, roles: &[&str]) -> anyhow::Result<()> {
        let mut with_records_in_flight = 0;
        for round in 0..kills {
            let role = roles[round % roles.len()];
            let unit = self.some_unit(role);
            let (from, to) = Self::way(unit, role);
            self.let_run(1200).await;
            self.let_catch_up(from, to).await?;
            // What was written before the kill, less what has arrived a little after it: rather
            // too few than too many.
            let written = self.mesh.pulses(from, from).await?;
            self.mesh.worker(unit, role)?.kill()?;
            let arrived = self.mesh.pulses(from, to).await?;
            let in_flight = written.saturating_sub(arrived);
            with_records_in_flight += usize::from(in_flight > 0);
            self.let_run(600).await;
            self.mesh.start_worker(unit, role, "")?;
            let back = self.come_back((from, to), BACK).await?;
            println!(
                "  {role} of {unit} killed with {in_flight} transactions in flight, back after {back:.1?}"
            );
        }
        println!("  {with_records_in_flight} of {kills} kills with records in flight");
        ensure!(
            2 * with_records_in_flight >= kills,
            "only {with_records_in_flight} of {kills} kills had records in flight"
        );
        Ok(())
    }

    /// Gives the flow some time to work off what has piled up.
    async fn let_catch_up(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + BACK_GOAL;
        while Instant::now() < deadline {
            let arrived = self.mesh.pulses(from, to).await?;
            if arrived + PILE > self.mesh.pulses(from, from).await? {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until something has arrived that is written only now, and then until the target has
    /// caught up. Gives the time that the former took.
    async fn come_back(
        &mut self,
        (from, to): (&str, &str),
        within: Duration,
    ) -> anyhow::Result<Duration> {
        let now = self.mesh.pulses(from, from).await?;
        let back = self.mesh.wait_for_pulses(from, to, now + 1, within).await;
        self.mesh.ensure_alive()?;
        let back = back?;
        if back > BACK_GOAL && within == BACK {
            println!("  slow: back after {back:.1?}");
        }
        let now = self.mesh.pulses(from, from).await?;
        let caught_up = self.mesh.wait_for_pulses(from, to, now, CAUGHT_UP).await;
        self.mesh.ensure_alive()?;
        caught_up?;
        Ok(back)
    }

    /// Replaces a worker by one that dies at a named point, and that by a sound one.
    async fn die_at(&mut self, unit: &'static str, role: &str, point: &str) -> anyhow::Result<()> {
        let (from, to) = Self::way(unit, role);
        self.mesh.worker(unit, role)?.stop(BACK).await?;
        self.mesh.start_worker(unit, role, point)?;
        let status = self.mesh.worker(unit, role)?.wait(CAUGHT_UP).await?;
        ensure!(status.code().is_none(), "{role} of {unit} ended with {status}, not at {point}");
        self.mesh.start_worker(unit, role, "")?;
        let back = self.come_back((from, to), BACK).await?;
        println!("  {role} of {unit} died at {point}, back after {back:.1?}");
        Ok(())
    }

    /// Freezes a worker, lets another take over, and wakes the frozen one up: one of the two has to
    /// hear that the other has its place.
    async fn zombie(&mut self, unit: &'static str, role: &str) -> anyhow::Result<()> {
        let way = Self::way(unit, role);
        let mut zombie = self.freeze(unit, role).await?;
        self.mesh.start_worker(unit, role, "")?;
        let back = self.come_back(way, BACK).await?;
        zombie.resume()?;
        self.ensure_fenced(&zombie, unit, role).await?;
        self.come_back(way, BACK).await?;
        let fate = zombie.ended().map_or("lives".to_owned(), |status| format!("ended: {status}"));
        println!("  {role} of {unit} replaced after {back:.1?}; woken up, the zombie {fate}");
        // A sink that woke up is a member of the group again and may have its share of the lanes.
        zombie.stop(BACK).await?;
        self.come_back(way, BACK).await?;
        Ok(())
    }

    /// A sink is frozen with changes in hand, so that it has something to try when it wakes up.
    async fn freeze(&mut self, unit: &'static str, role: &str) -> anyhow::Result<Worker> {
        if role == "sink" {
            self.mesh.worker(unit, role)?.stop(BACK).await?;
            self.mesh.start_worker(unit, role, "dawdle")?;
            self.come_back(Self::way(unit, role), BACK).await?;
            self.let_run(800).await;
            return self.mesh.freeze_sink(unit).await;
        }
        self.let_run(800).await;
        let mut zombie = self.mesh.take_worker(unit, role)?;
        zombie.suspend().await?;
        Ok(zombie)
    }

    /// A sink's fence is the ledger: it shows only to who comes late. A writer's is Kafka's: a
    /// zombie that has lost its connections meanwhile takes its place back, and the other one hears.
    async fn ensure_fenced(
        &mut self,
        zombie: &Worker,
        unit: &str,
        role: &str,
    ) -> anyhow::Result<()> {
        if role == "sink" {
            return zombie.says("code=ledger_moved", BACK).await;
        }
        let successor = self.mesh.worker(unit, role)?;
        tokio::select! {
            Ok(()) = zombie.says("code=fenced", BACK) => Ok(()),
            Ok(()) = successor.says("code=fenced", BACK) => Ok(()),
            else => bail!("neither the zombie nor its successor, {role} of {unit}, was fenced"),
        }
    }

    /// Stops writing when enough was seen, and sees whether everything holds.
    async fn end(mut self) -> anyhow::Result<()> {
        for (from, watch) in &self.snapshots {
            let moved = watch.wait_for_moves(POSITIONS, CAUGHT_UP).await;
            moved.with_context(|| format!("{from}'s ledger"))?;
        }
        let mut written = Written::default();
        let mut rate = 0.0;
        for load in std::mem::take(&mut self.load) {
            let of_unit = load.stop().await?;
            rate += of_unit.per_second();
            written.add(of_unit);
        }
        println!("  {rate:.0} commits a second acknowledged");
        ensure!(
            rate >= RATE_LEAST || self.rate < RATE,
            "only {rate:.0} commits a second were acknowledged"
        );
        self.mesh.ensure_done(&written, QUIET).await?;
        for watches in self.watches {
            watches.stop().await?;
        }
        for (from, watch) in self.snapshots {
            ensure_positions(&self.mesh, from, watch.stop().await?).await?;
        }
        self.mesh.finish();
        Ok(())
    }
}
