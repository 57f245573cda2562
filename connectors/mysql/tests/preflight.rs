//! Each guard once, on real servers: something is put wrong, one finding more is there.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use mysql_async::Conn;
use secrecy::SecretString;
use support::{FLAVORS, run, store};
use unitflow_change::ddl::Stored;
use unitflow_change::fault::Code;
use unitflow_change::routing::PartitionBy;
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::connect;
use unitflow_mysql::preflight::{
    Finding, Severity, SourceNeeds, TargetNeeds, check_source, check_target,
};

fn source_needs() -> SourceNeeds {
    SourceNeeds {
        databases: vec!["shop".into()],
        ledger_database: "unitflow".into(),
        outage_seconds_max: 3600,
    }
}

fn target_needs(together: &[&str]) -> TargetNeeds {
    let tables = [
        "good",
        "unique_name",
        "folded",
        "no_key",
        "myisam",
        "triggered",
        "parent",
        "child",
        "missing",
    ];
    TargetNeeds {
        tables: tables.iter().map(|table| ("shop".to_owned(), (*table).to_owned())).collect(),
        spread: together
            .iter()
            .map(|table| (("shop".to_owned(), (*table).to_owned()), vec![PartitionBy::Table]))
            .collect(),
        ledger_database: "unitflow".into(),
        ledger_tables: vec!["ledger".into()],
        packet_bytes: 0,
        applies_ddl: false,
        stored_code: vec![],
    }
}

async fn as_user(server: &Mysql, user: &str) -> Conn {
    let mut store = store(server);
    store.user = user.into();
    store.password = Some(SecretString::from("p'w"));
    connect(&store).await.unwrap()
}

async fn start(flavor: Flavor, more: &[&str]) -> Mysql {
    let mut setup = Mysql::setup(flavor).durable(true).setting("binlog_row_metadata", "FULL");
    for argument in more {
        setup = setup.argument(*argument);
    }
    let server = setup.start().await.unwrap();
    let mut root = support::conn(&server).await;
    run(
        &mut root,
        [
            "create database shop character set utf8mb4",
            "create database unitflow",
            "create user capture@'%' identified by 'p\\'w'",
            "create user apply@'%' identified by 'p\\'w'",
            "grant replication slave, replication client on *.* to capture@'%'",
            "grant select, trigger on shop.* to capture@'%'",
            "grant select, insert, update, delete, trigger on shop.* to apply@'%'",
            "grant select, insert, update, delete on unitflow.* to apply@'%'",
            "create table unitflow.ledger (id int primary key)",
        ],
    )
    .await;
    server
}

fn brief(findings: &[Finding]) -> Vec<(Code, Severity, String)> {
    findings
        .iter()
        .map(|finding| (finding.code, finding.severity, finding.subject.clone()))
        .collect()
}

#[tokio::test]
async fn sources_are_guarded() {
    use Severity::{Error, Warning};
    for flavor in FLAVORS {
        let server = start(flavor, &[]).await;
        let mut root = support::conn(&server).await;
        let mut capture = as_user(&server, "capture").await;
        let sound = check_source(&mut capture, &source_needs()).await.unwrap();
        assert_eq!(sound, [], "{flavor:?}");

        let user = "'capture'@'%'";
        let mut cases = vec![
            (
                "set global binlog_format = 'MIXED'",
                "set global binlog_format = 'ROW'",
                Code::Setting,
                Error,
                "binlog_format",
            ),
            (
                "set global binlog_row_image = 'MINIMAL'",
                "set global binlog_row_image = 'FULL'",
                Code::Setting,
                Error,
                "binlog_row_image",
            ),
            (
                "set global binlog_row_metadata = 'MINIMAL'",
                "set global binlog_row_metadata = 'FULL'",
                Code::Setting,
                Error,
                "binlog_row_metadata",
            ),
            (
                "set global binlog_expire_logs_seconds = 3599",
                "set global binlog_expire_logs_seconds = 0",
                Code::Setting,
                Error,
                "binlog_expire_logs_seconds",
            ),
            (
                "set global sync_binlog = 0",
                "set global sync_binlog = 1",
                Code::Setting,
                Warning,
                "sync_binlog",
            ),
            (
                "set global innodb_flush_log_at_trx_commit = 2",
                "set global innodb_flush_log_at_trx_commit = 1",
                Code::Setting,
                Warning,
                "innodb_flush_log_at_trx_commit",
            ),
            (
                "revoke replication slave on *.* from capture@'%'",
                "grant replication slave on *.* to capture@'%'",
                Code::Grant,
                Error,
                user,
            ),
            (
                "grant file on *.* to capture@'%'",
                "revoke file on *.* from capture@'%'",
                Code::Grant,
                Warning,
                user,
            ),
            (
                "revoke replication client on *.* from capture@'%'",
                "grant replication client on *.* to capture@'%'",
                Code::Grant,
                Error,
                user,
            ),
        ];
        match flavor {
            Flavor::Mysql9 => cases.extend([
                (
                    "set global gtid_mode = 'ON_PERMISSIVE'",
                    "set global gtid_mode = 'ON'",
                    Code::Setting,
                    Error,
                    "gtid_mode",
                ),
                (
                    "set global binlog_transaction_compression = 1",
                    "set global binlog_transaction_compression = 0",
                    Code::Setting,
                    Warning,
                    "binlog_transaction_compression",
                ),
            ]),
            Flavor::Mariadb => cases.extend([
                (
                    "set global gtid_strict_mode = 0",
                    "set global gtid_strict_mode = 1",
                    Code::Setting,
                    Error,
                    "gtid_strict_mode",
                ),
                (
                    "revoke select on shop.* from capture@'%'",
                    "grant select on shop.* to capture@'%'",
                    Code::Grant,
                    Error,
                    user,
                ),
                (
                    "revoke trigger on shop.* from capture@'%'",
                    "grant trigger on shop.* to capture@'%'",
                    Code::Grant,
                    Error,
                    user,
                ),
            ]),
        }
        for (wrong, right, code, severity, subject) in cases {
            run(&mut root, [wrong]).await;
            let mut capture = as_user(&server, "capture").await;
            let found = check_source(&mut capture, &source_needs()).await.unwrap();
            run(&mut root, [right]).await;
            assert_eq!(brief(&found), [(code, severity, subject.into())], "{flavor:?} {wrong}");
            assert!(!found[0].remedy.is_empty() && !found[0].actual.is_empty());
        }
        // What a right's remedy says is a statement that mends it.
        run(&mut root, ["revoke replication slave, replication client on *.* from capture@'%'"])
            .await;
        let found =
            check_source(&mut as_user(&server, "capture").await, &source_needs()).await.unwrap();
        assert_eq!(found.len(), 2);
        run(&mut root, found.iter().map(|finding| finding.remedy.as_str())).await;
        let found =
            check_source(&mut as_user(&server, "capture").await, &source_needs()).await.unwrap();
        assert_eq!(found, []);
        // Root has too many.
        let found = check_source(&mut root, &source_needs()).await.unwrap();
        assert!(
            !found.is_empty()
                && found
                    .iter()
                    .all(|finding| finding.code == Code::Grant && finding.severity == Warning),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn logs_that_hide_are_noticed() {
    for flavor in FLAVORS {
        let updates =
            if flavor == Flavor::Mysql9 { "log_replica_updates" } else { "log_slave_updates" };
        let without = format!("--{updates}=OFF");
        for (arguments, expected) in [
            (vec!["--binlog-ignore-db=unitflow"], vec![(Code::LedgerHidden, "binlog_ignore_db")]),
            (vec!["--binlog-do-db=shop"], vec![(Code::LedgerHidden, "binlog_do_db")]),
            (
                vec!["--binlog-ignore-db=shop", without.as_str()],
                vec![(Code::Setting, updates), (Code::Setting, "binlog_do_db, binlog_ignore_db")],
            ),
        ] {
            let server = start(flavor, &arguments).await;
            let found = check_source(&mut as_user(&server, "capture").await, &source_needs())
                .await
                .unwrap();
            let found: Vec<_> =
                found.iter().map(|finding| (finding.code, finding.subject.as_str())).collect();
            assert_eq!(found, expected, "{flavor:?}");
        }
        let server = start(flavor, &["--skip-log-bin"]).await;
        let found =
            check_source(&mut as_user(&server, "capture").await, &source_needs()).await.unwrap();
        assert!(found.iter().any(|finding| finding.subject == "log_bin"), "{flavor:?} {found:?}");
    }
}

#[tokio::test]
async fn targets_are_guarded() {
    use Severity::{Error, Warning};
    for flavor in FLAVORS {
        let server = start(flavor, &[]).await;
        let mut root = support::conn(&server).await;
        run(&mut root, [
            "create table shop.good (id int primary key)",
            "create table shop.unique_name (id int primary key, name varchar(9) unique)",
            "create table shop.folded (name varchar(9) primary key)",
            "create table shop.no_key (id int)",
            "create table shop.myisam (id int primary key) engine = myisam",
            "create table shop.triggered (id int primary key)",
            "create trigger shop.t before insert on shop.triggered for each row set new.id = 1",
            "create table shop.parent (id int primary key)",
            "create table shop.child (id int primary key, foreign key fk (id) references parent (id) on delete cascade)",
        ]).await;
        let mut apply = as_user(&server, "apply").await;
        let found = check_target(&mut apply, &target_needs(&[])).await.unwrap();
        assert_eq!(
            brief(&found),
            [
                (Code::Table, Error, "shop.unique_name".into()),
                (Code::Table, Warning, "shop.folded".into()),
                (Code::NoPrimaryKey, Error, "shop.no_key".into()),
                (Code::Table, Error, "shop.myisam".into()),
                (Code::Table, Error, "shop.triggered".into()),
                (Code::Table, Error, "shop.missing".into()),
            ],
            "{flavor:?}"
        );
        // One lane keeps the order of a unique key's values.
        let found =
            check_target(&mut apply, &target_needs(&["unique_name", "folded"])).await.unwrap();
        assert_eq!(
            brief(&found),
            [
                (Code::NoPrimaryKey, Error, "shop.no_key".into()),
                (Code::Table, Error, "shop.myisam".into()),
                (Code::Table, Error, "shop.triggered".into()),
                (Code::Table, Error, "shop.missing".into()),
            ],
            "{flavor:?}"
        );

        let mut needs = target_needs(&[]);
        needs.tables.truncate(1);
        for (wrong, right, code, severity) in [
            (
                "revoke update on shop.* from apply@'%'",
                "grant update on shop.* to apply@'%'",
                Code::Grant,
                Error,
            ),
            (
                "revoke delete on unitflow.* from apply@'%'",
                "grant delete on unitflow.* to apply@'%'",
                Code::Grant,
                Error,
            ),
            (
                "revoke trigger on shop.* from apply@'%'",
                "grant trigger on shop.* to apply@'%'",
                Code::Grant,
                Warning,
            ),
            (
                "grant drop on *.* to apply@'%'",
                "revoke drop on *.* from apply@'%'",
                Code::Grant,
                Warning,
            ),
            (
                "drop table unitflow.ledger",
                "create table unitflow.ledger (id int primary key)",
                Code::LedgerMissing,
                Error,
            ),
            ("set global read_only = 1", "set global read_only = 0", Code::Setting, Error),
        ] {
            run(&mut root, [wrong]).await;
            let found = check_target(&mut as_user(&server, "apply").await, &needs).await.unwrap();
            run(&mut root, [right]).await;
            assert_eq!(
                found.iter().map(|finding| (finding.code, finding.severity)).collect::<Vec<_>>(),
                [(code, severity)],
                "{flavor:?} {wrong} {found:?}"
            );
        }
        assert_eq!(check_target(&mut as_user(&server, "apply").await, &needs).await.unwrap(), []);

        let of_ddl = TargetNeeds {
            applies_ddl: true,
            stored_code: vec![Stored::View, Stored::Routine, Stored::Event],
            ..needs.clone()
        };
        let found = check_target(&mut as_user(&server, "apply").await, &of_ddl).await.unwrap();
        let said: Vec<&str> = found.iter().map(|finding| finding.remedy.as_str()).collect();
        let definer = if flavor == Flavor::Mysql9 { "SET_ANY_DEFINER" } else { "SET USER" };
        for remedy in [
            "GRANT REPLICATION SLAVE ON *.* TO 'apply'@'%'",
            "GRANT ALTER ROUTINE, CREATE ROUTINE, CREATE VIEW, EVENT ON `shop`.* TO 'apply'@'%'",
            &format!("GRANT {definer} ON *.* TO 'apply'@'%'"),
            "SET GLOBAL log_bin_trust_function_creators=ON",
        ] {
            assert!(said.iter().any(|said| said.starts_with(remedy)), "no {remedy} in {said:#?}");
        }
        for remedy in said {
            run(&mut root, [remedy.split(", and in").next().unwrap()]).await;
        }
        let of_all = check_target(&mut as_user(&server, "apply").await, &of_ddl).await.unwrap();
        assert_eq!(of_all, [], "{flavor:?}");
        run(&mut root, ["revoke replication slave on *.* from apply@'%'"]).await;

        for (packet, code, severity) in
            [("4194304", Code::Setting, Error), ("67108864", Code::TooLarge, Warning)]
        {
            run(&mut root, [format!("set global max_allowed_packet = {packet}").as_str()]).await;
            needs.packet_bytes = 1 << 30;
            let found = check_target(&mut as_user(&server, "apply").await, &needs).await.unwrap();
            assert_eq!(brief(&found), [(code, severity, "max_allowed_packet".into())]);
            assert!(found[0].remedy.contains("=1073741824"), "{found:?}");
        }
    }
}
