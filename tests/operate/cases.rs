//! The table.
//!
//! `A` is MySQL 9, `B` is MariaDB, `C` is a MySQL without GTIDs that leaves the ledger out of its
//! log; `{A}`, `{B}`, `{C}` stand for their ports, `{K}` for the broker's address, `{folder}` for the
//! folder with the configuration, `{prefix}` for what the mesh's topics begin with, `{captured}` for
//! what [`Do::KeepPosition`] kept, `{seq}` for the last record there, `{record}` for what
//! [`Do::KeepRecord`] kept.

/// One thing that is done to the world.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// In the configuration of this case, the first text becomes the second.
    Config(&'static str, &'static str),
    /// Statements at a server, by its own client, as its administrator.
    Sql(&'static str, &'static str),
    /// The same, kept out of the server's log.
    Unlogged(&'static str, &'static str),
    /// A query at a server has to give this.
    Holds(&'static str, &'static str, &'static str),
    /// Keeps up to where a unit's store is captured.
    KeepPosition(&'static str),
    /// Another mesh on the same servers, initialised, no worker started.
    NewMesh,
    /// The server forgets all of its log but the last file.
    Purge(&'static str),
    /// Starts all roles of a unit in the background, with the configuration of this case.
    Start(&'static str),
    /// Stops them in order.
    Stop(&'static str),
    /// Ends them by SIGKILL.
    Kill(&'static str),
    /// Freezes them, and lets them go on.
    Freeze(&'static str),
    Thaw(&'static str),
    /// All that the first unit has committed has to arrive in the second.
    Arrives(&'static str, &'static str),
    /// All of it has to have been tagged, and the second unit's sink to be behind.
    Behind(&'static str, &'static str),
    /// Both units have to hold the same rows.
    Equal,
    /// `kafka-consumer-groups --reset-offsets` of the flow from A to B.
    ResetOffsets(&'static str),
    /// A record with this key and value, by Kafka's own producer.
    Produce(&'static str, &'static str, &'static str),
    /// A text has to stand in so many values of a topic.
    Topic(&'static str, &'static str, usize),
    /// Keeps the number of the record that parked a table.
    KeepRecord,
    /// A topic is deleted and created again.
    Recreate(&'static str),
    /// `kafka-delete-records` of all that a topic of four partitions holds.
    Trim(&'static str),
    /// The metrics of a unit's worker have to hold this.
    Measures(&'static str, &'static str),
}

/// What a command may leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// All topics, tables, rows and consumer groups as they were before, with what they hold and where they stand, and no
    /// connection. While workers run in the background: nothing that was not there before.
    Nothing,
    /// That is what it is for.
    What,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub breaking: &'static [Do],
    /// Without the program and `--config`. `status` is asked again until it says what is expected.
    pub command: &'static str,
    pub exit: i32,
    /// All of it has to stand on stdout or stderr; what begins with `!` must not.
    pub says: &'static [&'static str],
    pub leaves: Leaves,
    pub mending: &'static [Do],
}

/// A row that breaks something, sees it named, and mends it.
const fn case(
    name: &'static str,
    breaking: &'static [Do],
    command: &'static str,
    exit: i32,
    says: &'static [&'static str],
) -> Case {
    Case { name, breaking, command, exit, says, leaves: Leaves::Nothing, mending: &[] }
}

impl Case {
    const fn mending(self, mending: &'static [Do]) -> Self {
        Self { mending, ..self }
    }

    const fn leaves_what_it_makes(self) -> Self {
        Self { leaves: Leaves::What, ..self }
    }
}

use Do::{
    Arrives, Behind, Config, Equal, Freeze, Holds, KeepPosition, KeepRecord, Kill, Measures,
    NewMesh, Produce, Purge, Recreate, ResetOffsets, Sql, Start, Stop, Thaw, Topic, Trim, Unlogged,
};

/// With servers as they came and nothing initialised; none of these changes anything, so they run
/// side by side.
#[rustfmt::skip]
pub const BEFORE_INIT: &[Case] = &[
    // The configuration.
    case("no file", &[],
        "--config {folder}/none.toml init", 2, &["[config]", "none.toml", "No such file", "--config"]),
    case("no TOML", &[Config("[units.A]", "[units.A")],
        "init", 2, &["[config]", "TOML parse error at line"]),
    case("an unknown field", &[Config("lanes = 4", "lanez = 4")],
        "init", 2, &["[config]", "unknown field `lanez`", "lanes"]),
    case("an unknown unit is named", &[],
        "run --unit X", 2, &["[config]", "there is no unit X", "A, B"]),
    case("an unknown unit in a flow", &[Config("lanes = 4", "from = [\"X\"]")],
        "init", 2, &["[config] ", "flows.shop: there is no unit X"]),
    case("one unit only", &[Config("[units.B.stores.shop]", "[units.B.stores.other]")],
        "init", 2, &["[config]", "flows.shop: 1 unit has a store of this name; a flow needs two"]),
    case("an endpoint without a port", &[Config("127.0.0.1:{A}", "127.0.0.1")],
        "init", 2, &["[config]", "units.A.stores.shop.endpoints", "is not host:port"]),
    case("no lanes", &[Config("lanes = 4", "lanes = 0")],
        "init", 2, &["[config]", "flows.shop.lanes must be 1 to 1024, not 0"]),
    case("a table pattern without a database", &[Config("\"shop.*\"", "\"orders\"")],
        "init", 2, &["[config]", "is not a database.table pattern"]),
    case("a condition that can't be read", &[Config("lanes = 4", "lanes = 4\nrows = { \"shop.orders\" = \"id > 1 and\" }")],
        "init", 2, &["[config]", "flows.shop.rows.\"shop.orders\": at character 11: expected a column", "the end"]),
    case("two tables of one name", &[
        Config("[units.B.stores.shop]", "[units.B.stores.shop]\nrename = { \"shop\" = \"mall\", \"store\" = \"mall\" }"),
    ],
        "init", 2, &["[config]", "units.B.stores.shop.rename: two names are mapped to \"mall\""]),
    case("a Kafka property that is not the operator's", &[
        Config("replication = 1", "replication = 1, properties = { acks = \"0\" }"),
    ],
        "init", 2, &["[config]", "`acks` is set by Unitflow itself", "remove `acks`"]),
    case("two stores of one name", &[Config("[units.B]", "[units.A.stores.shop]\nkind = \"mysql\"\n[units.B]")],
        "init", 2, &["[config]", "duplicate key"]),
    case("two stores at one endpoint", &[Config("127.0.0.1:{B}", "127.0.0.1:{A}")],
        "init", 2, &["[config]", "are the same server 127.0.0.1:{A}", "each store needs its own"]),
    case("two stores at one server, by two names", &[Config("127.0.0.1:{B}", "localhost:{A}")],
        "init", 2, &["[config]", "units.B.stores.shop and units.A.stores.shop are the same server"]),
    case("two stores at one server, by two names, found by check", &[Config("127.0.0.1:{B}", "localhost:{A}")],
        "check", 1, &["[config] B.shop: server", "the server of A.shop"]),
    case("a secret that others may read", &[Config("{folder}/password", "{folder}/password.open")],
        "init", 2, &["[secret]", "others may read it (mode 644)", "chmod 600"]),
    case("a secret's variable that is not set", &[
        Config("{ file = \"{folder}/password\" }", "{ env = \"NO_SUCH_VARIABLE\" }"),
    ],
        "init", 2, &["[secret]", "the environment has no NO_SUCH_VARIABLE"]),
    // The command line.
    case("an unknown role", &[],
        "run --unit A --role baker", 2, &["invalid value 'baker'", "connector, transformer, relay, sink"]),
    case("a unit with nothing to do", &[Config("lanes = 4", "from = [\"A\"]\nto = [\"B\"]")],
        "run --unit A --role sink", 2, &["[config]", "unit A has nothing to do in these roles", "--role"]),
    case("no relay in a mesh", &[],
        "run --unit A --role relay", 2, &["[config]", "nothing to do"]),
    case("waiting for oneself", &[],
        "wait --from A --to A", 2, &["[config]", "nothing flows from A to A"]),
    case("waiting for a store that does not flow", &[],
        "wait --from A --to B --store other", 2, &["[config]", "no store other flows from A to B"]),
    case("copying to a unit that can't tell what is newer", &[
        Config("[flows.shop]", "[units.C]\nkafka = { bootstrap = \"{K}\", replication = 1 }\n[units.C.stores.shop]\nkind = \"mysql\"\nendpoints = [\"127.0.0.1:{C}\"]\nuser = \"unitflow\"\npassword = { file = \"{folder}/password\" }\ntls = \"off\"\n[flows.shop]\nfrom = [\"A\", \"B\"]\nto = [\"A\", \"B\", \"C\"]"),
    ],
        "resync full --from A --why test", 2, &[
            "[config]", "unit C also applies B.shop, and nothing is captured from it", "flow from C too", "--to",
        ]),
    case("waiting for what is no GTID", &[],
        "wait --from A --to B --gtid nonsense", 2, &["[config]", "--gtid \"nonsense\"", "MySQL: "]),
    // Servers that do not answer or refuse.
    case("a wrong password", &[Config("{folder}/password", "{folder}/password.wrong")],
        "init", 3, &[
            "[denied] units.A.stores.shop at 127.0.0.1:{A}", "Access denied for user 'unitflow'",
            "check user and password",
        ]),
    case("a wrong password, found by check", &[Config("{folder}/password", "{folder}/password.wrong")],
        "check", 1, &["error [denied] A.shop", "error [denied] B.shop", "check user and password"]),
    case("a user that does not exist", &[Config("user = \"unitflow\"", "user = \"nobody\"")],
        "init", 3, &["[denied]", "units.A.stores.shop"]),
    case("a server is down", &[Config("127.0.0.1:{B}", "127.0.0.1:1")],
        "init", 3, &["[unreachable]", "units.B.stores.shop at 127.0.0.1:1", "refused"]),
    case("a server is down, found by check", &[Config("127.0.0.1:{B}", "127.0.0.1:1")],
        "check", 1, &["error [unreachable] B.shop: server", "127.0.0.1:1"]),
    case("the broker is down", &[Config("{K}", "127.0.0.1:1")],
        "init", 3, &["[unreachable]", "Kafka at 127.0.0.1:1"]),
    case("the broker is down, found by check", &[Config("{K}", "127.0.0.1:1")],
        "check", 1, &["error [unreachable] Kafka of A: 127.0.0.1:1", "Kafka of B"]),
    case("the broker is down, seen by status", &[Config("{K}", "127.0.0.1:1")],
        "status", 1, &["[unreachable] Kafka of A at 127.0.0.1:1: no answer within 5 s", "faults are not known"]),
    case("waiting while the broker is down", &[Config("{K}", "127.0.0.1:1")],
        "wait --from A --to B --timeout-seconds 1", 1, &["not yet after 1 s; the connector is behind"]),
    case("more copies than brokers", &[Config("replication = 1", "replication = 3")],
        "init", 3, &["[topic_setting]", "InvalidReplicationFactor"]),
    case("no GTIDs", &[Config("127.0.0.1:{A}", "127.0.0.1:{C}")],
        "init", 3, &["[setting]", "units.A.stores.shop: gtid_mode is OFF, expected ON"]),
    case("no GTIDs, and the ledger left out of the log", &[Config("127.0.0.1:{A}", "127.0.0.1:{C}")],
        "check", 1, &[
            "error [setting] A.shop: gtid_mode", "ON_PERMISSIVE",
            "error [ledger_hidden] A.shop: binlog_ignore_db", "every applied change travels back",
        ]),
    case("metrics where something else listens", &[],
        "run --unit A --prometheus 127.0.0.1:{A}", 3, &["no metrics at 127.0.0.1:{A}", "its own --prometheus", "[topic_missing]"]),
    case("metrics at what is no address", &[],
        "run --unit A --prometheus nonsense", 2, &["[config]", "no metrics at nonsense"]),
    case("a demo without its servers", &[],
        "UNITFLOW_MYSQL_HOME={folder} UNITFLOW_MARIADB_HOME={folder} UNITFLOW_KAFKA_HOME={folder} demo", 3, &[
            "[local]", "{folder} has no program", "UNITFLOW_",
        ]),
    // Nothing is there yet.
    case("check before init", &[],
        "check", 1, &[
            "error [topic_missing] Kafka of A: all topics of this unit", "remedy:   unitflow init",
            "error [ledger_missing] B.shop: unitflow.ledger", "unitflow init --print",
        ]),
    case("run before init", &[],
        "run --unit A", 3, &["[topic_missing]", "A.heartbeat does not exist", "a new flow: unitflow init"]),
    case("status before init", &[],
        "status", 1, &["[topic_missing]", "A.shop.position does not exist"]),
    case("wait before init", &[],
        "wait --from A --to B", 3, &["[topic_missing]", "A.shop.position does not exist", "unitflow init"]),
    case("init by a user who may not create the schema", &[Config("user = \"unitflow\"", "user = \"guest\"")],
        "init", 3, &["[grant]", "may not create the schema", "unitflow init --print"]),
    case("what init would do", &[],
        "init --print --unit A", 0, &[
            "CREATE DATABASE unitflow", "CREATE TABLE unitflow.ledger", "binlog_row_metadata=FULL",
            "gtid_mode=ON", "gtid_strict_mode=ON", "auto_increment_offset=1",
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'unitflow'@'%'", "BINLOG MONITOR",
            "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON `shop`.* TO 'unitflow'@'%'",
            "--topic {prefix}.A.shop.tagged --partitions 4", "kafka-acls --bootstrap-server {K} --add",
            "--transactional-id {prefix}. --resource-pattern-type prefixed", "!units.B",
        ]),
];

/// What tells an older build's schema from this one's, with a row of its time.
const OLDER_SCHEMA: &str = "ALTER TABLE unitflow.ledger DROP COLUMN barrier; ALTER TABLE unitflow.ddl DROP COLUMN session;
    DROP TABLE unitflow.marker; INSERT INTO unitflow.ddl (log, seq, sql_mode, db, ddl, position, done_at)
    VALUES ('X.shop', 1, 0, '', 'CREATE TABLE t (a INT)', '', NOW())";
/// The columns that were added, between those that stand beside them where the schema is new.
const COLUMNS: &str = "SELECT CONCAT(table_name, '.', column_name) FROM information_schema.columns WHERE table_schema = 'unitflow'
    AND ((table_name = 'ledger' AND ordinal_position > 7) OR (table_name = 'ddl' AND ordinal_position BETWEEN 5 AND 7)
    OR table_name = 'marker') ORDER BY table_name, ordinal_position";
const ALL_COLUMNS: &str = "ddl.sql_mode\nddl.session\nddl.position\nledger.applied_at\nledger.barrier\nmarker.name\nmarker.n";
const KEPT: &str = "SELECT ddl, LENGTH(session) FROM unitflow.ddl";

/// Settings and tables as `init`, `check` and starting workers see them, each case on what the one
/// before it left.
#[rustfmt::skip]
pub const SETUP: &[Case] = &[
    // What a mesh could not begin with.
    case("init without a grant", &[Sql("B", "REVOKE INSERT ON shop.* FROM unitflow@'%'")],
        "init", 3, &["[grant] units.B.stores.shop", "missing: INSERT", "GRANT INSERT ON `shop`.`orders` TO 'unitflow'@'%'"])
        .mending(&[Sql("B", "GRANT INSERT ON shop.* TO unitflow@'%'")]),
    case("init with a setting that hides what changes", &[Sql("B", "SET GLOBAL binlog_row_metadata = MINIMAL")],
        "init", 3, &["[setting] units.B.stores.shop", "binlog_row_metadata is MINIMAL, expected FULL", "SET GLOBAL binlog_row_metadata='FULL'"])
        .mending(&[Sql("B", "SET GLOBAL binlog_row_metadata = FULL")]),
    case("init at a server that only reads", &[Sql("A", "SET GLOBAL read_only = ON")],
        "init", 3, &["[setting] units.A.stores.shop at 127.0.0.1:{A}", "the server is read-only", "the unit's primary"]),
    case("a server that only reads, found by check", &[],
        "check", 1, &["error [setting] A.shop: read_only", "expected: OFF", "point the store at the unit's primary"])
        .mending(&[Sql("A", "SET GLOBAL read_only = OFF")]),
    case("init with a table that changes by itself", &[
        Unlogged("B", "CREATE TABLE shop.parent (id INT PRIMARY KEY); CREATE TABLE shop.child (id INT PRIMARY KEY, parent INT,
            CONSTRAINT falls FOREIGN KEY (parent) REFERENCES shop.parent (id) ON DELETE CASCADE)"),
    ],
        "init", 3, &["[table] units.B.stores.shop", "the foreign key falls changes rows by itself", "RESTRICT"])
        .mending(&[Unlogged("B", "DROP TABLE shop.child, shop.parent")]),
    case("init with a filter that can't be followed", &[
        Config("lanes = 4", "lanes = 4\nrows = { \"shop.orders\" = \"colour = 'red'\" }"),
    ],
        "init", 3, &["[routing] units.A.stores.shop", "\"colour\", which the table lacks"]),
    case("init", &[],
        "init", 0, &[
            "created  A: topic {prefix}.A.shop.captured", "created  A.shop to B: 4 lanes in the ledger",
            "initialised: A, B",
        ]).leaves_what_it_makes(),
    case("init again", &[],
        "init", 0, &["initialised before: A, B; nothing was changed", "!created"]),
    case("all is well", &[],
        "check", 0, &["0 errors", "warning [tls] A.shop: tls", "!error ["]),
    // A schema that an older build made: first of this one's tables, then of its columns.
    case("tables and columns that an older build did not make", &[
        Unlogged("A", OLDER_SCHEMA), Unlogged("B", OLDER_SCHEMA),
    ],
        "check", 1, &[
            "error [ledger_missing] A.shop: unitflow.ddl.session", "error [ledger_missing] B.shop: unitflow.ddl.session",
            "error [ledger_missing] A.shop: unitflow.ledger.barrier", "error [ledger_missing] B.shop: unitflow.marker",
            "expected: the column, which this build needs", "an older build made the table",
            "unitflow init, or have a DBA run: ALTER TABLE unitflow.ddl ADD COLUMN session TEXT", "AFTER sql_mode /* unitflow internal */",
        ]),
    case("an older build's schema, met by a sink", &[],
        "run --unit B --role sink", 3, &["[ledger_missing]", "unitflow.ledger.barrier is not there: nobody made it, or an older build the rest", "unitflow init adds what is lacking"])
        .leaves_what_it_makes(),
    case("an older build's schema, and a user who may not alter it", &[
        Unlogged("A", "REVOKE ALTER ON unitflow.* FROM unitflow@'%'"),
    ],
        "init", 3, &["[grant] units.A.stores.shop", "the user may not add unitflow.ledger.barrier", "ALTER TABLE unitflow.ledger ADD COLUMN barrier"])
        .mending(&[Unlogged("A", "GRANT ALTER ON unitflow.* TO unitflow@'%'")]),
    case("an older build's schema becomes this one's", &[],
        "init", 0, &[
            "created  A.shop: unitflow.ledger.barrier", "created  A.shop: unitflow.ddl.session", "created  B.shop: unitflow.ddl.session",
            "created  B.shop: unitflow.ledger.barrier", "created  A.shop: unitflow.marker", "created  B.shop: unitflow.marker", "!lanes",
        ])
        .leaves_what_it_makes()
        .mending(&[
            Holds("A", COLUMNS, ALL_COLUMNS), Holds("B", COLUMNS, ALL_COLUMNS),
            Holds("A", KEPT, "CREATE TABLE t (a INT)\t0"), Holds("B", KEPT, "CREATE TABLE t (a INT)\t0"),
            Unlogged("A", "DELETE FROM unitflow.ddl"), Unlogged("B", "DELETE FROM unitflow.ddl"),
        ]),
    case("an older build's schema, init again", &[],
        "init", 0, &["initialised before: A, B; nothing was changed", "!created"]),
    case("an older build's schema, all is well", &[], "check", 0, &["0 errors", "!error ["]),
    // Settings of the servers.
    case("binlog_format=STATEMENT", &[Sql("A", "SET GLOBAL binlog_format = STATEMENT")],
        "check", 1, &[
            "error [setting] A.shop: binlog_format", "expected: ROW", "actual:   STATEMENT",
            "SET GLOBAL binlog_format='ROW'",
        ])
        .mending(&[Sql("A", "SET GLOBAL binlog_format = ROW")]),
    case("binlog_row_metadata=MINIMAL", &[Sql("B", "SET GLOBAL binlog_row_metadata = MINIMAL")],
        "check", 1, &[
            "error [setting] B.shop: binlog_row_metadata", "actual:   MINIMAL",
            "SET GLOBAL binlog_row_metadata='FULL'",
        ])
        .mending(&[Sql("B", "SET GLOBAL binlog_row_metadata = FULL")]),
    case("binlog_row_image=MINIMAL", &[Sql("A", "SET GLOBAL binlog_row_image = MINIMAL")],
        "check", 1, &[
            "error [setting] A.shop: binlog_row_image", "actual:   MINIMAL",
            "SET GLOBAL binlog_row_image='FULL'",
        ])
        .mending(&[Sql("A", "SET GLOBAL binlog_row_image = FULL")]),
    case("one auto_increment_offset in two units", &[Sql("B", "SET GLOBAL auto_increment_offset = 1")],
        "check", 1, &[
            "error [setting] B.shop: auto_increment_offset", "expected: 1 to 2, another one in each unit", "actual:   1, as A.shop",
            "SET GLOBAL auto_increment_offset=2",
        ])
        .mending(&[Sql("B", "SET GLOBAL auto_increment_offset = 2")]),
    case("auto_increment_increment below the number of units", &[
        Sql("A", "SET GLOBAL auto_increment_increment = 1"),
    ],
        "check", 1, &["error [setting] A.shop: auto_increment_increment", "at least 2"])
        .mending(&[Sql("A", "SET GLOBAL auto_increment_increment = 2")]),
    case("another auto_increment_increment in each unit", &[Sql("B", "SET GLOBAL auto_increment_increment = 3")],
        "check", 1, &[
            "error [setting] A.shop: auto_increment_increment", "expected: 3, the same in all units",
            "SET GLOBAL auto_increment_increment=3", "!B.shop: auto_increment_increment",
        ])
        .mending(&[Sql("B", "SET GLOBAL auto_increment_increment = 2")]),
    case("the ledger hidden by a session setting", &[
        Sql("B", "GRANT BINLOG ADMIN ON *.* TO unitflow@'%'; SET GLOBAL init_connect = 'SET SESSION sql_log_bin = 0'"),
    ],
        "check", 1, &["error [ledger_hidden] B.shop: unitflow.ledger", "did not appear", "init_connect"])
        .mending(&[Sql("B", "SET GLOBAL init_connect = ''; REVOKE BINLOG ADMIN ON *.* FROM unitflow@'%'")]),
    // Grants.
    case("a grant of the capture is missing", &[Sql("A", "REVOKE REPLICATION SLAVE ON *.* FROM unitflow@'%'")],
        "check", 1, &[
            "error [grant] A.shop: 'unitflow'@'%'", "expected: REPLICATION SLAVE ON *.*",
            "GRANT REPLICATION SLAVE ON *.* TO 'unitflow'@'%'",
        ]),
    case("a grant of the capture is missing, met by a worker", &[],
        "run --unit A --role connector", 3, &["[grant]", "GRANT REPLICATION SLAVE ON *.*"])
        .mending(&[Sql("A", "GRANT REPLICATION SLAVE ON *.* TO unitflow@'%'")]),
    case("a grant of the sink is missing", &[Sql("B", "REVOKE INSERT ON shop.* FROM unitflow@'%'")],
        "check", 1, &[
            "error [grant] B.shop: 'unitflow'@'%'", "missing: INSERT",
            "GRANT INSERT ON `shop`.`orders` TO 'unitflow'@'%'",
        ])
        .mending(&[Sql("B", "GRANT INSERT ON shop.* TO unitflow@'%'")]),
    case("a grant too many", &[Sql("A", "GRANT FILE ON *.* TO unitflow@'%'")],
        "check", 0, &[
            "warning [grant] A.shop: 'unitflow'@'%'", "only what Unitflow needs",
            "REVOKE FILE ON *.* FROM 'unitflow'@'%'", "0 errors", "!REVOKE REPLICATION",
        ])
        .mending(&[Sql("A", "REVOKE FILE ON *.* FROM unitflow@'%'")]),
    // Tables.
    case("tables that can't be carried", &[
        Unlogged("B", "CREATE TABLE shop.keyless (a INT); CREATE TABLE shop.old (id INT PRIMARY KEY) ENGINE=MyISAM;
            CREATE TABLE shop.twice (id INT PRIMARY KEY, mail INT UNIQUE); CREATE TABLE shop.watched (id INT PRIMARY KEY);
            CREATE TRIGGER shop.watch AFTER INSERT ON shop.watched FOR EACH ROW SET @x = 1;
            CREATE TABLE shop.parent (id INT PRIMARY KEY); CREATE TABLE shop.child (id INT PRIMARY KEY, parent INT,
            CONSTRAINT falls FOREIGN KEY (parent) REFERENCES shop.parent (id) ON DELETE CASCADE)"),
    ],
        "check --unit B", 1, &[
            "error [no_primary_key] B.shop: shop.keyless", "error [table] B.shop: shop.old",
            "expected: engine InnoDB", "actual:   MyISAM", "error [table] B.shop: shop.twice",
            "no unique key but the primary", "actual:   mail", "error [table] B.shop: shop.watched",
            "no triggers", "actual:   watch", "error [table] B.shop: shop.child",
            "falls cascades from shop.parent",
        ]),
    case("tables that can't be carried in one lane", &[
        Config("lanes = 4", "lanes = 4\npartition_by = { \"shop.twice\" = \"table\" }"),
    ],
        "check --unit B", 1, &["!B.shop: shop.twice", "!routing"])
        .mending(&[
            Unlogged("B", "DROP TABLE shop.keyless, shop.old, shop.twice, shop.watched, shop.child, shop.parent"),
        ]),
    case("tables that differ", &[
        Unlogged("A", "CREATE TABLE shop.extra (id INT PRIMARY KEY, a INT, b VARCHAR(9), c DATETIME(3))"),
        Unlogged("B", "CREATE TABLE shop.extra (id INT PRIMARY KEY, a SMALLINT, d INT NOT NULL, c DATETIME(6))"),
    ],
        "check", 1, &[
            "error [table] A.shop to B: shop.extra", "expected: a: holds each value of 32-bit integer", "actual:   16-bit integer",
            "expected: the column b text of 9 characters", "hide it under columns", "a default for the column d",
            "expected: c: holds each value of datetime(6)", "actual:   datetime(3)", "error [table] B.shop to A: shop.extra",
        ]),
    case("a filter for tables that differ", &[
        Config("lanes = 4", "lanes = 4\ncolumns = { \"shop.extra\" = { exclude = [\"id\", \"foto\"] } }\nrows = { \"shop.extra\" = \"a = 'x' or e is null\" }"),
    ],
        "check --unit A", 1, &[
            "warning [table] B.shop to A: shop.extra", "the column foto, which columns hides",
            "error [routing] A.shop: columns, rows", "\"a\", compared with text", "\"e\", which the table lacks", "part of the primary key",
        ])
        .mending(&[Unlogged("A", "DROP TABLE shop.extra"), Unlogged("B", "DROP TABLE shop.extra")]),
    case("a table that the target lacks", &[Unlogged("A", "CREATE TABLE shop.extra (id INT PRIMARY KEY)")],
        "check", 1, &["error [table] B.shop: shop.extra", "exists, as in A.shop", "create it as in the source"])
        .mending(&[Unlogged("A", "DROP TABLE shop.extra")]),
    // Topics and routing.
    case("records kept for too short a time", &[
        Config("outage_longest_hours = 1", "outage_longest_hours = 100"),
    ],
        "check", 1, &[
            "error [topic_setting] Kafka of A: {prefix}.A.shop.tagged retention.ms",
            "expected: 360000000 or more", "actual:   3600000",
            "kafka-configs --bootstrap-server {K} --alter --topic {prefix}.A.shop.tagged --add-config retention.ms=360000000",
            "error [setting] A.shop: binlog_expire_logs_seconds",
            "warning [position_purged] A.shop: binlog", "an outage of 4 d from now on is bridged",
            "warning [offset_gone] A.shop to B: {prefix}.A.shop.tagged, lane",
        ]),
    case("another form of records", &[Config("lanes = 4", "lanes = 4\nenvelope = \"with-schema\"")],
        "check", 1, &[
            "error [routing] A.shop", "log A.shop runs with envelope = \"plain\"",
            "the configuration says \"with-schema\"", "restore this setting",
        ]),
    case("other lanes, found by check", &[Config("lanes = 4", "lanes = 8")],
        "check", 1, &["error [routing] A.shop", "runs with lanes = 4", "restore these settings", "partitions"]),
    case("other lanes, refused by init", &[Config("lanes = 4", "lanes = 8")],
        "init", 3, &[
            "[routing]", "log A.shop runs with lanes = 4", "the configuration says lanes = 8",
            "restore these settings",
        ]),
    case("other lanes, refused by a worker", &[Config("lanes = 4", "lanes = 8")],
        "run --unit A --role connector", 3, &["[routing]", "log A.shop runs with lanes = 4"]),
    case("a table spread by a column that it lacks", &[
        Config("lanes = 4", "lanes = 4\npartition_by = { \"shop.orders\" = { columns = [\"Id\"] } }"),
    ],
        "check", 1, &[
            "error [routing] A.shop", "shop.orders: partition_by names the column \"Id\", which the table lacks",
            "correct partition_by for this table",
        ]),
    case("a table spread by a column that it lacks, refused by a worker", &[
        Config("lanes = 4", "lanes = 4\npartition_by = { \"shop.orders\" = { columns = [\"Id\"] } }"),
    ],
        "run --unit A --role connector", 3, &["[routing]", "partition_by names the column \"Id\""]),
];

/// A mesh at work: what its workers meet, and what an operator does about it.
#[rustfmt::skip]
pub const AT_WORK: &[Case] = &[
    case("initialised", &[], "init", 0, &["initialised: A, B"]).leaves_what_it_makes(),
    case("both units run", &[
        Start("A"), Start("B"),
        Sql("A", "INSERT INTO shop.orders (note) VALUES ('a'),('b'),('c'),('d'),('e'),('f'),('g'),('h'),('i'),('j'),('k'),('l')"),
        Sql("B", "INSERT INTO shop.orders (note) VALUES ('m'),('n')"),
    ],
        "wait --from A --to B", 0, &["A.shop to B: applied after"]).leaves_what_it_makes()
        .mending(&[Arrives("B", "A"), Equal]),
    case("init beside running workers", &[],
        "init", 0, &["nothing was changed"])
        .mending(&[Sql("A", "INSERT INTO shop.orders (note) VALUES ('after init')"), Arrives("A", "B"), Equal]),
    // In sjis a backslash has two codes, of which the server would write the other.
    case("a copy of what can't be read", &[
        Unlogged("A", "CREATE TABLE shop.odd (id INT PRIMARY KEY, t VARCHAR(9) CHARACTER SET sjis); INSERT INTO shop.odd VALUES (1, x'5C')"),
        Unlogged("B", "CREATE TABLE shop.odd (id INT PRIMARY KEY, t VARCHAR(9) CHARACTER SET sjis)"),
    ],
        "resync full --from A --table shop.odd --why copied --by anna", 3, &["[copy]", "failed: ", "mend it and run the command again"])
        .leaves_what_it_makes()
        .mending(&[Unlogged("A", "UPDATE shop.odd SET t = 'mended'")]),
    case("a copy that was given up, seen by status", &[],
        "status", 1, &["FILLING shop.odd in B from A.shop: 0 rows are not settled", "unitflow resync full --from A --store shop --to B --table shop.odd --why …"]),
    case("what a copy would do", &[],
        "resync full --from A --table shop.odd --why copied --by anna --dry-run", 1, &["TO INSERT", "B     shop.odd  1          0             0", "B: insert [\"shop\",\"odd\",{\"id\":1}]"]),
    case("a copy that was mended", &[],
        "resync full --from A --table shop.odd --why copied --by anna", 0, &["!failed"])
        .leaves_what_it_makes()
        .mending(&[
            Holds("B", "SELECT id, t FROM shop.odd", "1\tmended"), Holds("B", "SELECT COUNT(*) FROM unitflow.filling", "0"),
            Unlogged("A", "DROP TABLE shop.odd"), Unlogged("B", "DROP TABLE shop.odd"),
        ]),
    case("status of a sound mesh", &[],
        "status", 0, &["connector A.shop", "started", "no faults", "A.shop to B", "!FAILED"]),
    case("how long an outage is bridged", &[],
        "status", 0, &["BINLOG LASTS", "TOPIC LASTS", "A.shop  0             2 h           60 min", "!GONE", "!?"]),
    case("status for programs", &[],
        "status --json", 0, &["\"role\": \"sink A.shop\"", "\"state\": \"started\"", "\"unknown\": null"]),
    case("a wait that is in vain", &[Freeze("B"), Sql("A", "INSERT INTO shop.orders (note) VALUES ('late')")],
        "wait --from A --to B --timeout-seconds 5", 1, &["A.shop to B: not yet after 5 s; the sink is behind"]),
    case("a drain that is in vain", &[],
        "pause A-to-B.shop --drain --timeout-seconds 5 --why maintenance --by anna", 1, &[
            "A.shop to B: not yet after 5 s; the sink is behind", "A-to-B.shop: not paused, it goes on",
        ])
        .mending(&[Thaw("B"), Arrives("A", "B")]),
    case("drained and paused", &[Sql("A", "INSERT INTO shop.orders (note) VALUES ('before the pause')")],
        "pause A-to-B.shop --drain --why maintenance --by anna", 0, &[
            "A.shop to B: applied after", "A-to-B.shop: paused",
        ])
        .mending(&[
            Holds("B", "SELECT COUNT(*) FROM shop.orders WHERE note = 'before the pause'", "1"),
            Sql("A", "INSERT INTO shop.orders (note) VALUES ('after the pause')"),
        ]),
    case("what comes after a drain waits", &[Behind("A", "B")],
        "status", 1, &["PAUSED A-to-B.shop by anna: maintenance"])
        .mending(&[Holds("B", "SELECT COUNT(*) FROM shop.orders WHERE note = 'after the pause'", "0")]),
    case("a copy while a flow is paused", &[],
        "resync full --from A --table shop.orders --why copied --by anna", 3, &[
            "[control]", "the flow A-to-B.shop is paused", "unitflow resume A-to-B.shop --why …",
        ])
        .mending(&[
            Holds("A", "SELECT COUNT(*) FROM unitflow.filling", "0"),
            Holds("B", "SELECT COUNT(*) FROM unitflow.filling", "0"),
        ]),
    case("the maintenance is over", &[],
        "resume A-to-B.shop --why done --by anna", 0, &["A-to-B.shop: resumed"])
        .mending(&[Arrives("A", "B"), Equal]),
    case("a unit that leaves while its workers run", &[],
        "leave --unit B --dry-run", 1, &[
            "not yet  a sink of unit B applies A.shop: stop the workers of B",
            "not yet  the connector of B.shop is at work in unit B", "nothing was changed",
        ]),
    case("a row that differs at the target", &[
        Unlogged("B", "UPDATE shop.orders SET note = 'not from A' WHERE id = 1"),
        Sql("A", "UPDATE shop.orders SET note = 'changed' WHERE id = 1; INSERT INTO shop.orders (note) VALUES ('p'),('q'),('r'),('s'),('t'),('u'),('v'),('w'),('x'),('y')"),
    ],
        "status", 1, &[
            "[conflict] in unit B: sink A.shop, lane",
            "`shop`.`orders`: UPDATE did not find the row as the source had it", "nothing was overwritten",
            "FAILED", "B     connector B.shop    started",
        ])
        .mending(&[
            Holds("B", "SELECT note FROM shop.orders WHERE id = 1", "not from A"),
            Holds("B", "SELECT COUNT(*) > 0 FROM shop.orders WHERE note IN ('p','q','r','s','t','u','v','w','x','y')", "1"),
        ]),
    case("a row that differs at the target, after the row was mended", &[
        Unlogged("B", "UPDATE shop.orders SET note = 'a' WHERE id = 1"), Stop("B"), Start("B"),
        Arrives("A", "B"), Equal,
    ],
        "status", 0, &["no faults"]),
    case("an added column that the target lacks", &[
        Sql("A", "ALTER TABLE shop.orders ADD COLUMN more INT; UPDATE shop.orders SET more = 1 WHERE id = 3"),
    ],
        "status", 1, &[
            "PARKED shop.orders in A-to-B.shop, 1 lane [table]", "has no column \"more\"",
            "unitflow resume A-to-B.shop --table shop.orders", "no faults", "!FAILED",
        ])
        .mending(&[Unlogged("B", "ALTER TABLE shop.orders ADD COLUMN more INT")]),
    case("an order to a flow that does not exist", &[],
        "resume B-to-C.shop --why x", 2, &["[config]", "there is no flow B-to-C.shop", "A-to-B.shop"]),
    case("an order without a reason", &[],
        "pause A-to-B.shop --why  --by anna", 2, &["--why"]),
    case("the target has the column now", &[],
        "resume A-to-B.shop --table shop.orders --why mended --by anna", 0, &["A-to-B.shop: resumed"]),
    case("the parked table went on", &[Arrives("A", "B"), Equal], "status", 0, &["no faults", "!PARKED"]),
    case("a schema change that needs a person", &[Sql("A", "ALTER TABLE shop.orders MODIFY note VARCHAR(50)")],
        "status", 1, &[
            "PARKED shop.orders in A-to-B.shop, 4 lanes [ddl]", "ALTER TABLE shop.orders MODIFY note VARCHAR(50)",
        ])
        .mending(&[Sql("A", "UPDATE shop.orders SET more = 2 WHERE id = 3")]),
    case("paused", &[], "pause A-to-B.shop --why later --by anna", 0, &["A-to-B.shop: paused"])
        .mending(&[Unlogged("B", "ALTER TABLE shop.orders MODIFY note VARCHAR(50)")]),
    case("a flow that stands still", &[],
        "status", 1, &["PAUSED A-to-B.shop by anna: later", "PARKED shop.orders"]),
    case("the person came", &[],
        "resume A-to-B.shop --why mended --by anna", 0, &["A-to-B.shop: resumed"]),
    case("all went on", &[Arrives("A", "B"), Equal], "status", 0, &["no faults", "!PARKED", "!PAUSED"]),
    // Orders by any Kafka producer.
    case("an order by any producer", &[
        Produce("{prefix}.B.control", "A-to-B.shop", r#"{"format":1,"action":"pause","by":"bert","why":"by hand"}"#),
    ],
        "status", 1, &["PAUSED A-to-B.shop by bert: by hand", "!NO ORDER"]),
    case("what is no order changes nothing", &[
        Produce("{prefix}.B.control", "A-to-B.shop", r#"{"format":1,"action":"explode","by":"bert","why":"by hand"}"#),
        Produce("{prefix}.B.control", "A-to-X.shop", r#"{"format":1,"action":"pause","by":"bert","why":"elsewhere"}"#),
    ],
        "status", 1, &[
            "of the control topic of B, for \"A-to-B.shop\" [control]", "unknown variant `explode`",
            "for \"A-to-X.shop\" [control]", "no flow of this name leads to unit B", "PAUSED A-to-B.shop by bert: by hand",
        ])
        .mending(&[
            // Again behind it, or the topic's compaction would leave only what is no order.
            Topic("{prefix}.B.control", r#""by":"bert","why":"by hand"}"#, 3),
            Topic("{prefix}.B.control", r#""action":"pause","by":"bert","why":"by hand"}"#, 2),
        ]),
    case("what is no order is taken away by any producer", &[
        Produce("{prefix}.B.control", "A-to-X.shop", "NULL"),
        Produce("{prefix}.B.control", "A-to-B.shop", r#"{"format":1,"action":"resume","by":"bert","why":"reviewed"}"#),
        Sql("A", "UPDATE shop.orders SET more = 4 WHERE id = 3"), Arrives("A", "B"), Equal,
    ],
        "status", 0, &["no faults", "!NO ORDER", "!PAUSED"]),
    // A record that can't be applied.
    case("a value that the target does not hold", &[
        Unlogged("A", "CREATE TABLE shop.small (id INT PRIMARY KEY, note VARCHAR(40))"),
        Unlogged("B", "CREATE TABLE shop.small (id INT PRIMARY KEY, note VARCHAR(4))"),
        Sql("A", "INSERT INTO shop.small VALUES (1,'a'),(2,'far too long'),(3,'c'),(4,'d'),(5,'e'),(6,'f'),(7,'g'),(8,'h');
            INSERT INTO shop.small VALUES (9,'i'),(10,'j'),(11,'k'),(12,'l'),(13,'m'),(14,'n'),(15,'o'),(16,'p')"),
    ],
        "status", 1, &["PARKED shop.small in A-to-B.shop, 1 lane [table]", "record ", "no faults", "!FAILED"])
        .mending(&[Topic("{prefix}.B.quarantine", r#""key":"[\"shop\",\"small\",{\"id\":2}]","code":"table""#, 1)]),
    case("the same again is in vain", &[],
        "retry A-to-B.shop --table shop.small --why perhaps --by anna", 0, &["A-to-B.shop: trying again"]),
    case("a table that stays parked", &[Sql("A", "UPDATE shop.orders SET more = 5 WHERE id = 3"), Equal],
        "status", 1, &["PARKED shop.small in A-to-B.shop, 1 lane [table]"])
        .mending(&[KeepRecord]),
    case("waiting for what is parked", &[], "wait --from A --to B --timeout-seconds 3", 1,
        &["A.shop to B: not yet after 3 s; all is applied but the changes of parked tables: shop.small"]),
    case("the record is passed over", &[],
        "skip A-to-B.shop --seq {record} --why wrong --by anna", 0, &["A-to-B.shop: passed over"]),
    case("the table went on without it", &[Arrives("A", "B")], "status", 0, &["no faults", "!PARKED"])
        .mending(&[
            Holds("B", "SELECT COUNT(*), SUM(id = 2) FROM shop.small", "15\t0"),
            Topic("{prefix}.B.quarantine",
                r#""key":"[\"shop\",\"small\",{\"id\":2}]","code":"control","why":"wrong","by":"anna""#, 1),
            Unlogged("A", "DROP TABLE shop.small"), Unlogged("B", "DROP TABLE shop.small"), Stop("B"),
        ]),
    case("a schema change with ddl = \"ignore\"", &[
        Config("lanes = 4", "lanes = 4\nddl = \"ignore\""), Start("B"),
        Sql("A", "ALTER TABLE shop.orders MODIFY note VARCHAR(60); UPDATE shop.orders SET more = 3 WHERE id = 3"),
    ],
        "wait --from A --to B", 0, &["applied"])
        .mending(&[Equal, Stop("B")]),
    case("workers that were stopped, and what they had met before", &[],
        "status", 0, &["B     connector B.shop    stopped", "B     sink A.shop         stopped", "!FAILED", "no faults"]),
    // Applied sooner than said: who is killed at once has not said that it began.
    case("workers that began again", &[
        Start("B"), Sql("A", "INSERT INTO shop.orders (note) VALUES ('begun')"), Arrives("A", "B"),
    ],
        "status", 0, &["B     connector B.shop    started", "B     sink A.shop         started", "no faults"]),
    case("workers that were killed", &[Kill("B")],
        "status", 1, &[
            "B     connector B.shop    started", "SILENT for", "B     sink A.shop         started", "SILENT: not in its group", "no faults",
        ]),
    case("an offset moved forwards", &[
        Sql("A", "INSERT INTO shop.orders (note) VALUES ('1'),('2'),('3'),('4'),('5'),('6'),('7'),('8'),('9'),('10'),('11'),('12'),('13'),('14'),('15'),('16'),('17'),('18'),('19'),('20'),('21'),('22'),('23'),('24')"),
        Behind("A", "B"), ResetOffsets("--to-latest"),
    ],
        "run --unit B --role sink", 3, &[
            "[offset_forward]", "over records from", "kafka-consumer-groups --reset-offsets",
            "unitflow skip A-to-B.shop --lane",
        ])
        .mending(&[KeepPosition("A")]),
    case("an order for less than all of them", &[],
        "skip A-to-B.shop --seq {seq} --why unwanted --by bert", 0, &["passed over"]),
    case("an offset moved forwards over more than the order names, for machines", &[],
        "run --unit B --role sink --log-format json", 3, &[
            "[offset_forward]", "moved forwards", "unitflow skip A-to-B.shop --lane",
            "\"level\":\"INFO\",\"fields\":{\"message\":\"running\"", "\"unit\":\"B\"",
        ]),
    case("an order for all of them", &[],
        "skip A-to-B.shop --seq 1 --to-seq {seq} --why unwanted --by bert", 0, &["passed over"]),
    case("an offset moved forwards, by order", &[Start("B"), Arrives("A", "B")], "status", 0, &["no faults"])
        .mending(&[
            Holds("B", "SELECT COUNT(*) FROM shop.orders WHERE note BETWEEN '1' AND '9'", "0"),
            Topic("{prefix}.B.quarantine", r#""code":"control","why":"unwanted","by":"bert""#, 24),
            Unlogged("A", "DELETE FROM shop.orders WHERE note BETWEEN '1' AND '9'"), Equal, Stop("B"),
        ]),
    case("an offset moved backwards", &[ResetOffsets("--to-earliest"), Start("B"), Arrives("A", "B"), Equal],
        "status", 0, &["no faults"])
        .mending(&[Stop("B")]),
    case("an offset moved to the end of a flow that has applied all", &[
        ResetOffsets("--to-latest"), Sql("A", "INSERT INTO shop.orders (note) VALUES ('z1'),('z2'),('z3'),('z4'),('z5'),('z6')"),
        Start("B"), Arrives("A", "B"), Equal,
    ],
        "status", 0, &["no faults"])
        .mending(&[Stop("B")]),
    case("ledger rows lost", &[
        Unlogged("B", "CREATE TABLE test_ledger.kept AS SELECT * FROM unitflow.ledger; DELETE FROM unitflow.ledger WHERE log = 'A.shop'"),
    ],
        "run --unit B --role sink", 3, &[
            "[ledger_missing]", "unitflow.ledger has no row for log A.shop, lane", "it",
        ]),
    case("ledger rows lost, not taken for a fresh start by init", &[],
        "init", 3, &[
            "[ledger_missing]", "lacks lanes [0, 1, 2, 3] of log A.shop, which has run before",
            "restore the rows",
        ]),
    case("ledger rows lost, found by check", &[],
        "check --unit B", 1, &[
            "error [ledger_missing] A.shop to B: unitflow.ledger", "none for lanes 0, 1, 2, 3",
        ]),
    case("ledger rows lost, seen by status", &[],
        "status", 1, &["[ledger_missing] unitflow.ledger has no row for lane 0, 1, 2, 3"])
        .mending(&[
            Unlogged("B", "INSERT INTO unitflow.ledger SELECT * FROM test_ledger.kept WHERE log = 'A.shop'"),
            Start("B"), Arrives("A", "B"), Equal, Stop("A"), Stop("B"),
        ]),
    case("a unit that leaves while another one is filled from it", &[
        Unlogged("B", "INSERT INTO unitflow.filling (db, tbl, log, job) VALUES ('shop', 'orders', 'A.shop', 'full-1')"),
    ],
        "leave --unit A", 1, &[
            "not yet  shop.orders is being filled from A.shop in unit B: let the resync come to its end", "nothing was changed",
        ]),
    case("a unit that is lost while another one is filled from it", &[],
        "leave --unit A --lost --dry-run", 0, &[
            "would go  B.shop: shop.orders is no longer filled from A.shop, and half of it may be: compare it",
            "would go  B.shop: 4 lanes of A.shop in the ledger", "nothing was changed (--dry-run)",
        ]),
    case("a wait for rows that were not applied and come again", &[
        Unlogged("B", "INSERT INTO unitflow.unsettled (row_hash, log, lane, seq, db, tbl, row_key, why)
            VALUES (REPEAT('0', 32), 'A.shop', 0, 8, 'shop', 'orders', '[\"shop\",\"orders\",{\"id\":1}]', 'did not fit')"),
    ],
        "wait --from A --to B --timeout-seconds 2", 1, &[
            "not yet after 2 s; all is applied but rows of tables that are being filled, which come again: shop.orders",
        ])
        .mending(&[Unlogged("B", "DELETE FROM unitflow.filling; DELETE FROM unitflow.unsettled")]),
    case("a topic that no longer holds what a sink has to read", &[
        Config("[units.A]", "[telemetry]\nprometheus = \"127.0.0.1:0\"\n[units.A]"), Start("A"),
        Sql("A", "INSERT INTO shop.orders (note) VALUES ('1'),('2'),('3'),('4'),('5'),('6'),('7'),('8'),('9'),('10'),('11'),('12'),('13'),('14'),('15'),('16'),('17'),('18'),('19'),('20'),('21'),('22'),('23'),('24')"),
        Behind("A", "B"), Measures("A", "unitflow_bridge_seconds{by=\"binlog\",log=\"A.shop\""),
        Measures("A", "unitflow_bridge_seconds{by=\"tagged\",log=\"B.shop\""),
        Stop("A"), Trim("{prefix}.A.shop.tagged"),
    ],
        "run --unit B --role sink", 3, &[
            "[offset_gone]", "is gone, the topic begins at", "unitflow resync full --from A --to B",
        ]),
    case("a topic that lost records, found by check", &[],
        "check", 1, &[
            "error [offset_gone] A.shop to B: {prefix}.A.shop.tagged, lane", "it was removed",
            "remedy:   unitflow resync full --from A --to B", "!error [offset_gone] B.shop",
        ]),
    case("a topic that lost records, seen by status", &[],
        "status", 1, &["GONE", "2 h", "60 min"]),
    case("a topic that lost records and has others behind them", &[
        Start("A"),
        Sql("A", "UPDATE shop.orders SET note = 'later' WHERE id BETWEEN 1 AND 30"), Behind("A", "B"), Stop("A"),
    ],
        "run --unit B --role sink", 3, &[
            "[offset_gone]", "but the last one applied is", "unitflow resync full --from A --to B",
        ]),
    case("a topic created again", &[Recreate("{prefix}.A.shop.tagged")],
        "run --unit A --role transformer", 3, &[
            "[topic_recreated]", "{prefix}.A.shop.tagged has the id", "it was created again",
        ]),
    case("a topic created again, met by a sink", &[],
        "run --unit B --role sink", 3, &["[topic_recreated]", "lane", "it was created again"]),
    case("a topic created again, found by check", &[],
        "check", 1, &["error [topic_recreated] A.shop to B: {prefix}.A.shop.tagged"]),
];

/// Logs that say less than they have to, or lost something.
#[rustfmt::skip]
pub const LOGS: &[Case] = &[
    // Sessions that log something else while workers run.
    case("one session with binlog_row_image=MINIMAL", &[
        NewMesh, Start("A"), Start("B"), Arrives("A", "B"),
        Sql("A", "SET SESSION binlog_row_image = MINIMAL; UPDATE shop.orders SET note = 'partial' WHERE id = 3"),
    ],
        "status", 1, &[
            "[row_image] in unit A: connector A.shop", "binlog_row_image", "FAILED",
            "A     transformer A.shop  started", "B     sink A.shop         started",
        ]),
    case("one session with binlog_format=STATEMENT", &[
        Sql("B", "SET SESSION binlog_format = STATEMENT; UPDATE shop.orders SET note = 'statement' WHERE id = 4"),
    ],
        "status", 1, &[
            "connector B.shop", "binlog_format", "B     transformer B.shop  started",
            "A     sink B.shop         started",
        ])
        .mending(&[Stop("A"), Stop("B")]),
    case("one session with binlog_row_image=MINIMAL, met again by a worker of that role alone", &[],
        "run --unit A --role connector", 3, &["[row_image]", "binlog_row_image"]),
    case("one session with binlog_format=STATEMENT, met again by a worker of MariaDB's unit", &[],
        "run --unit B --role connector", 3, &["binlog_format"]),
    case("metadata left out of the log", &[
        NewMesh,
        Sql("A", "SET GLOBAL binlog_row_metadata = MINIMAL; UPDATE shop.orders SET note = 'bare' WHERE id = 5; SET GLOBAL binlog_row_metadata = FULL"),
    ],
        "run --unit A --role connector", 3, &["binlog_row_metadata"]),
    case("metadata left out of MariaDB's log", &[
        Sql("B", "SET GLOBAL binlog_row_metadata = MINIMAL; UPDATE shop.orders SET note = 'bare' WHERE id = 6; SET GLOBAL binlog_row_metadata = FULL"),
    ],
        "run --unit B --role connector", 3, &["binlog_row_metadata"]),
    // Logs that lost something.
    case("a purged position", &[Sql("A", "UPDATE shop.orders SET note = 'purged' WHERE id = 7"), Purge("A")],
        "run --unit A --role connector", 3, &[
            "[position_purged]", "units.A.stores.shop", "no longer keeps what is to be captured next",
            "unitflow resync full --from A --why …, see the runbook",
        ]),
    case("a purged position, found by check", &[],
        "check --unit A", 1, &[
            "error [position_purged] A.shop: binlog", "remedy:   unitflow resync full --from A --why …",
        ]),
    case("a purged position, seen by status", &[], "status", 1, &["GONE"]),
    case("a purged position of MariaDB", &[
        Sql("B", "UPDATE shop.orders SET note = 'purged' WHERE id = 8"), Purge("B"),
    ],
        "run --unit B --role connector", 3, &[
            "[position_purged]", "units.B.stores.shop", "unitflow resync full --from B --why …",
        ]),
    case("a purged position of MariaDB, found by check", &[],
        "check --unit B", 1, &["error [position_purged] B.shop: binlog"]),
    case("a source that was reset", &[KeepPosition("A"), Sql("A", "RESET BINARY LOGS AND GTIDS")],
        "run --unit A --role connector", 3, &[
            "[source_lost_tail]", "what was captured from it: {captured}; its log is empty",
        ]),
    case("a MariaDB source that was reset", &[KeepPosition("B"), Sql("B", "RESET MASTER")],
        "run --unit B --role connector", 3, &[
            "[source_lost_tail]", "what was captured from it: {captured}; its log is empty",
        ]),
];
