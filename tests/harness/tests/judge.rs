//! The judge on real servers, without workers: it has to pass what writers did, and to find
//! everything that a test puts wrong by hand.

use std::time::Duration;

use unitflow_harness::judge::{Judged, judge};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Flavor, Load, Mysql, beside, schema};

const LIMIT: Duration = Duration::from_secs(120);

/// The ledger as far as the judge knows it.
const LEDGER: &str = "CREATE DATABASE unitflow; \
    CREATE TABLE unitflow.ledger (log VARCHAR(66) PRIMARY KEY, seq BIGINT); \
    INSERT INTO unitflow.ledger VALUES ('B.shop', 0);";
const MARK: &str = "BEGIN; UPDATE unitflow.ledger SET seq = seq + 1; ";

#[test]
fn mysql() {
    beside("judge on MySQL", LIMIT, on(Flavor::Mysql9));
}

#[test]
fn mariadb() {
    beside("judge on MariaDB", LIMIT, on(Flavor::Mariadb));
}

async fn on(flavor: Flavor) -> anyhow::Result<()> {
    let random = Random::new(seed("judge"));
    let server = Mysql::setup(flavor).start().await?;
    server.sql(&schema::create()).await?;
    server.sql(LEDGER).await?;
    let load = Load::shop().transactions(2000).start(&server, "A", 0, &random).await?;
    let written = load.finish(LIMIT).await?;
    println!("  {} commits at {:.0}/s", written.commits, written.per_second());
    let judged = [Judged { unit: "A", server: &server, left: false }];
    let verdict = judge(&judged, &written).await?;
    println!("  {verdict}");
    assert!(verdict.units[0].own > 2000, "{verdict}");

    // Each finding stays in the log, so each next judgement has one more.
    let wrongs = [
        ("extra", "INSERT INTO shop.orders VALUES ('A', 2000000000, 1, 'x', 1, NULL)".to_owned()),
        ("extra", "UPDATE shop.pulse SET version = version + 1 WHERE number = 0".to_owned()),
        ("out of order", "UPDATE shop.pulse SET version = 1 WHERE number = 50000000".to_owned()),
        ("doubled", "UPDATE shop.pulse SET version = version - 1 WHERE number = 0".to_owned()),
        ("unmarked", "INSERT INTO shop.orders VALUES ('B', 1, 1, 'x', 1, NULL)".to_owned()),
        (
            "echo",
            format!(
                "{MARK}INSERT INTO shop.orders VALUES ('A', 2000000001, 1, 'x', 1, NULL); COMMIT"
            ),
        ),
        (
            "mismarked",
            format!("{MARK}INSERT INTO shop.orders VALUES ('C', 1, 1, 'x', 1, NULL); COMMIT"),
        ),
    ];
    for (finding, statements) in wrongs {
        server.sql(&statements).await?;
        let error = judge(&judged, &written).await.expect_err("something is wrong");
        assert!(format!("{error:#}").contains(finding), "{finding} is missing in {error}");
    }
    let mut more = written.clone();
    let lost = unitflow_harness::Change { number: 2_100_000_000, ..written.acknowledged[0] };
    more.acknowledged.push(lost);
    let error = judge(&judged, &more).await.expect_err("a change is lost");
    assert!(format!("{error:#}").contains("lost"), "{error}");
    println!("  {}", format!("{error:#}").lines().take(4).collect::<Vec<_>>().join("\n  "));
    Ok(())
}
