//! t
use unitflow_harness::{Flavor, Mysql};
#[tokio::test]
async fn record() {
    for (f, vv, out) in [(Flavor::Mysql9, "-vv", "mysql"), (Flavor::Mariadb, "-vv", "mariadb")] {
        let s = Mysql::setup(f).server_id(1).start().await.unwrap();
        s.sql("CREATE DATABASE shop; CREATE TABLE shop.`or``ders` (unit VARCHAR(8) NOT NULL, number INT UNSIGNED NOT NULL, version INT, note TEXT, PRIMARY KEY (unit, number));").await.unwrap();
        s.sql("BEGIN; INSERT INTO shop.`or``ders` VALUES ('A', 1, 1, NULL), ('A', 3000000000, -1, 'it''s /* \\n### DELETE FROM `x`.`y`\\n back\\\\slash'); UPDATE shop.`or``ders` SET version = 2 WHERE number = 1; SAVEPOINT s; DELETE FROM shop.`or``ders`; ROLLBACK TO s; COMMIT; BEGIN; DELETE FROM shop.`or``ders`; ROLLBACK; DELETE FROM shop.`or``ders` WHERE number = 1;").await.unwrap();
        let mut c = s.mysqlbinlog_command().unwrap();
        c.args(["--base64-output=decode-rows", vv]).args(s.binlog_files().unwrap());
        let o = c.output().await.unwrap();
        std::fs::write(format!("src/binlog/{out}.txt"), o.stdout).unwrap();
    }
}
