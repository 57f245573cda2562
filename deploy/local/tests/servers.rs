//! Real servers, as this crate starts them: those that are missing are brought first.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use unitflow_local::{Component, Fault, Flavor, Kafka, Mysql, Program, Redis};

type Outcome = Result<(), Fault>;

const TOPIC: &str = "kept";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_survives_a_kill() -> Outcome {
    let (mysql, mariadb, kafka, redis) = tokio::try_join!(
        timed("MySQL", Mysql::setup(Flavor::Mysql9).start()),
        timed("MariaDB", Mysql::setup(Flavor::Mariadb).start()),
        timed("Kafka", Kafka::setup().own().start()),
        timed("Redis", Redis::setup().start()),
    )?;
    for server in [&mysql, &mariadb] {
        server
            .sql("CREATE DATABASE shop; CREATE TABLE shop.item (id INT PRIMARY KEY, name TEXT)")
            .await?;
        server.sql("INSERT INTO shop.item VALUES (1, 'tea ☕')").await?;
    }
    kafka.run_tool("kafka-topics", ["--create", "--topic", TOPIC, "--partitions", "2"]).await?;
    kafka.run_tool_with("kafka-console-producer", ["--topic", TOPIC], "one\n").await?;
    redis.cli(["SET", "key", "value"]).await?;

    tokio::try_join!(mysql.kill(), mariadb.kill(), kafka.kill(), redis.kill())?;
    assert!(mysql.pid().is_none() && kafka.pid().is_none());
    assert!(matches!(redis.kill().await, Err(Fault::NotRunning { .. })));
    tokio::try_join!(
        timed("MySQL again", mysql.start_again()),
        timed("MariaDB again", mariadb.start_again()),
        timed("Kafka again", kafka.start_again()),
        timed("Redis again", redis.start_again()),
    )?;

    for server in [&mysql, &mariadb] {
        assert_eq!(server.sql("SELECT id, name FROM shop.item").await?, "1\ttea ☕");
        let log = server.mysqlbinlog(["--database=shop"]).await?;
        assert!(log.contains("INSERT INTO `shop`.`item`"), "{log}");
        assert_eq!(server.binlog_files()?.len(), 2, "one of each start");
    }
    let read =
        ["--topic", TOPIC, "--from-beginning", "--max-messages", "1", "--timeout-ms", "20000"];
    assert_eq!(kafka.run_tool("kafka-console-consumer", read).await?.trim(), "one");
    assert_eq!(redis.cli(["GET", "key"]).await?, "value");

    tokio::try_join!(
        timed("MySQL stops", mysql.stop()),
        timed("MariaDB stops", mariadb.stop()),
        timed("Kafka stops", kafka.stop()),
        timed("Redis stops", redis.stop()),
    )?;
    timed("Kafka after a stop", kafka.start_again()).await?;
    Ok(())
}

#[tokio::test]
async fn several_brokers_are_apart() -> Outcome {
    let (one, other) = tokio::try_join!(
        Kafka::setup().own().start(),
        Kafka::setup().own().link("127.0.0.1:9").start()
    )?;
    assert_eq!(other.link_ports().len(), 1);
    one.run_tool("kafka-topics", ["--create", "--topic", TOPIC]).await?;
    assert_eq!(one.run_tool("kafka-topics", ["--list"]).await?.trim(), TOPIC);
    assert_eq!(other.run_tool("kafka-topics", ["--list"]).await?.trim(), "");
    Ok(())
}

#[tokio::test]
async fn settings_reach_a_server_that_root_reaches_by_tcp() -> Outcome {
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor)
            .server_id(7)
            .durable(true)
            .auto_increment(3, 2)
            .setting("binlog_row_image", "MINIMAL")
            .setting("innodb_page_size", "8K")
            .start()
            .await?;
        let read = "SELECT @@server_id, @@sync_binlog, @@innodb_flush_log_at_trx_commit, @@auto_increment_increment, \
                    @@auto_increment_offset, @@binlog_row_image, @@innodb_page_size, @@time_zone";
        assert_eq!(server.sql(read).await?, "7\t1\t1\t3\t2\tMINIMAL\t8192\t+00:00");

        let mut client = server.client()?;
        let port = format!("--port={}", server.port());
        client.args([
            "--protocol=TCP",
            "--host=127.0.0.1",
            &port,
            "-N",
            "-e",
            "SELECT CURRENT_USER()",
        ]);
        let answer = client.output().await.map_err(|source| Fault::Io {
            doing: "run",
            path: "client".into(),
            source,
        })?;
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "root@127.0.0.1", "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_binlog_can_be_left_out() -> Outcome {
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor).argument("--skip-log-bin").start().await?;
        assert_eq!(server.sql("SELECT @@log_bin").await?, "0");
    }
    Ok(())
}

#[tokio::test]
async fn servers_share_no_identity() -> Outcome {
    let (one, other) = tokio::try_join!(
        Mysql::setup(Flavor::Mysql9).start(),
        Mysql::setup(Flavor::Mysql9).start()
    )?;
    let identity = "SELECT @@server_uuid, @@server_id";
    let (one, other) = (one.sql(identity).await?, other.sql(identity).await?);
    let (one, other) =
        (one.split_once('\t').expect("two columns"), other.split_once('\t').expect("two columns"));
    assert!(one.0 != other.0 && one.1 != other.1, "{one:?} {other:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_goes_back_in_time() -> Outcome {
    for flavor in [Flavor::Mysql9, Flavor::Mariadb] {
        let server = Mysql::setup(flavor).start().await?;
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.item (id INT PRIMARY KEY); INSERT INTO shop.item VALUES (1)").await?;
        let earlier = server.folder().join("earlier");
        server.copy_data_to(&earlier).await?;
        server.sql("INSERT INTO shop.item VALUES (2)").await?;
        server.restore_from(&earlier).await?;
        assert_eq!(server.sql("SELECT id FROM shop.item").await?, "1");
    }
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_is_silent_until_it_goes_on() -> Outcome {
    let redis = Redis::setup().start().await?;
    redis.suspend().await?;
    assert!(timeout(Duration::from_millis(300), redis.cli(["PING"])).await.is_err());
    redis.resume()?;
    assert_eq!(redis.cli(["PING"]).await?, "PONG");
    redis.suspend().await?;
    redis.stop().await
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let fault = Mysql::setup(Flavor::Mariadb)
        .setting("no_such_variable", 1)
        .start()
        .await
        .expect_err("must not start");
    assert!(
        matches!(&fault, Fault::Start { log, .. } if log.contains("no_such_variable")),
        "{fault}"
    );
}

#[tokio::test]
async fn statements_that_fail_carry_the_servers_message() -> Outcome {
    let server = Mysql::setup(Flavor::Mariadb).start().await?;
    let fault = server.sql("SELECT 1;\nSELECT nonsense").await.expect_err("must fail");
    assert!(fault.to_string().contains("Unknown column 'nonsense'"), "{fault}");
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_is_gone_with_its_folder() -> Outcome {
    let redis = Redis::setup().start().await?;
    let trace = Trace { pid: redis.pid().expect("it runs"), folder: redis.folder().to_owned() };
    drop(redis);
    assert!(trace.is_gone());
    Ok(())
}

#[tokio::test]
async fn nothing_outlives_an_owner_that_was_killed() {
    all_go(left_by_a_killed_owner("owner_of_servers", 4).await).await;
}

/// Whichever guard comes first removes the folder in which the others have work to do.
#[tokio::test]
async fn programs_in_one_folder_all_go_when_their_owner_is_killed() {
    all_go(left_by_a_killed_owner("owner_of_programs", PROGRAMS.len()).await).await;
}

async fn all_go(traces: Vec<Trace>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(left) = traces.iter().find(|trace| !trace.is_gone()) {
        assert!(Instant::now() < deadline, "still there: {left:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_kept_server_outlives_its_owner_until_its_script_stops_it() {
    let trace = left_by_a_killed_owner("owner_of_a_kept_server", 1).await.remove(0);
    sleep(Duration::from_millis(500)).await; // what must not happen would have happened by now
    assert!(trace.runs());
    let status = Command::new(trace.folder.join("stop")).status().expect("the script runs");
    assert!(status.success() && trace.is_gone(), "{status}: {trace:?}");
}

#[test]
fn a_broker_of_others_is_not_ours_to_kill() {
    let status = role("owner_of_a_foreign_broker").env("UNITFLOW_KAFKA", "192.0.2.1:9092").status();
    assert!(status.expect("this test binary runs").success());
}

// ---- the roles that this binary plays in processes of its own ------------------------------------------------------

#[tokio::test]
#[ignore = "a role in other tests"]
async fn owner_of_servers() -> Outcome {
    let mysql = Mysql::setup(Flavor::Mysql9).start().await?;
    let mariadb = Mysql::setup(Flavor::Mariadb).start().await?;
    let kafka = Kafka::setup().own().start().await?;
    let redis = Redis::setup().start().await?;
    redis.suspend().await?; // a frozen one has to go as well
    for (pid, folder) in [
        (mysql.pid(), mysql.folder()),
        (mariadb.pid(), mariadb.folder()),
        (kafka.pid(), kafka.folder()?),
        (redis.pid(), redis.folder()),
    ] {
        println!("\n{TRACE}{} {}", pid.expect("it runs"), folder.display());
    }
    std::future::pending().await
}

const PROGRAMS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

#[tokio::test]
#[ignore = "a role in other tests"]
async fn owner_of_programs() -> Outcome {
    let folder = unitflow_local::new_folder("programs")?;
    unitflow_local::ensure(&[Component::Redis], |_| {}).await?;
    let binary = Component::Redis.home()?.program("redis-server")?;
    let mut programs = Vec::new();
    for name in PROGRAMS {
        let port = unitflow_local::free_port()?;
        let setup = Program::setup(name, &binary).arguments([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
        ]);
        programs.push(setup.start(folder.path(), port).await?);
    }
    programs[0].kill().await?;
    programs[0].start_again().await?;
    assert!(programs[0].log_end().contains("Ready to accept connections"));
    for program in &programs {
        println!("\n{TRACE}{} {}", program.pid().expect("it runs"), folder.path().display());
    }
    std::future::pending().await
}

#[tokio::test]
#[ignore = "a role in other tests"]
async fn owner_of_a_kept_server() -> Outcome {
    let kept = Mysql::setup(Flavor::Mariadb).start().await?.keep()?;
    println!("\n{TRACE}{} {}", kept.pid, kept.folder.display());
    std::future::pending().await
}

#[tokio::test]
#[ignore = "a role in other tests"]
async fn owner_of_a_foreign_broker() -> Outcome {
    let kafka = Kafka::setup().start().await?;
    assert_eq!(kafka.bootstrap(), "192.0.2.1:9092");
    assert!(!kafka.is_ours() && kafka.pid().is_none());
    assert!(matches!(kafka.kill().await, Err(Fault::NotOurs { .. })));
    let own = Kafka::setup().own().start().await?;
    assert!(own.is_ours() && own.bootstrap() != kafka.bootstrap());
    Ok(())
}

#[tokio::test]
#[ignore = "a role in other tests"]
async fn owner_of_the_first_server() -> Outcome {
    assert_eq!(Redis::setup().start().await?.cli(["PING"]).await?, "PONG");
    Ok(())
}

const TRACE: &str = "server: ";

/// What a server leaves if it is not taken down.
#[derive(Debug)]
struct Trace {
    pid: u32,
    folder: PathBuf,
}

impl Trace {
    fn runs(&self) -> bool {
        Path::new(&format!("/proc/{}/cwd", self.pid))
            .read_link()
            .is_ok_and(|cwd| cwd.starts_with(&self.folder))
    }

    fn is_gone(&self) -> bool {
        !self.runs() && !self.folder.exists()
    }
}

fn role(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this test binary"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command
}

async fn left_by_a_killed_owner(name: &str, servers: usize) -> Vec<Trace> {
    let mut owner = role(name).stdout(Stdio::piped()).spawn().expect("this test binary runs");
    let output = BufReader::new(owner.stdout.take().expect("its output"));
    let read = move || {
        let lines = output.lines().map_while(Result::ok);
        let traces = lines.filter_map(|line| {
            let (pid, folder) = line.strip_prefix(TRACE)?.split_once(' ')?;
            Some(Trace { pid: pid.parse().ok()?, folder: folder.into() })
        });
        traces.take(servers).collect::<Vec<_>>()
    };
    let traces = tokio::task::spawn_blocking(read).await.expect("the reader ends");
    assert_eq!(traces.len(), servers, "the owner ended early");
    assert!(traces.iter().all(Trace::runs), "{traces:?}");
    owner.kill().expect("it can be killed");
    owner.wait().expect("it ends");
    traces
}

async fn timed<T>(what: &str, start: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let from = Instant::now();
    let outcome = start.await;
    eprintln!("{what}: {:.2} s", from.elapsed().as_secs_f64());
    outcome
}

/// What the others begin with, at most once a machine.
#[tokio::test]
async fn all_components_are_here_or_brought() -> Outcome {
    unitflow_local::ensure(&Component::ALL, |line| eprintln!("{line}")).await?;
    let mut lines = Vec::new();
    unitflow_local::ensure(&Component::ALL, |line| lines.push(line.to_owned())).await?;
    assert!(lines.is_empty(), "nothing is left to do: {lines:#?}");
    for component in Component::ALL {
        assert!(component.home()?.folder().is_dir(), "{component:?}");
    }
    Ok(())
}

/// As several test binaries do on a fresh machine.
#[test]
fn processes_that_miss_the_same_component_bring_it_once() {
    let cache = unitflow_local::new_folder("cache").expect("a folder");
    let start = || {
        let mut command = role("owner_of_the_first_server");
        command.env("UNITFLOW_HOME", cache.path()).env_remove("UNITFLOW_REDIS_HOME");
        command.stderr(Stdio::piped()).spawn().expect("this test binary runs")
    };
    let owners = [start(), start(), start()];
    let said = owners.map(|owner| {
        let output = owner.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    });
    let fetched = said.iter().filter(|text| text.contains("redis: fetching redis-server ")).count();
    assert_eq!(fetched, 1, "{said:#?}");
}
