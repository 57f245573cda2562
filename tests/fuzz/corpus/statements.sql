-- What the logs beside this file hold: run by the server's own client on a new server with
-- binlog_row_metadata=FULL, the first log then copied from the data folder. The statement behind
-- the comment on MySQL's documents ran at MySQL only.
CREATE DATABASE shop CHARACTER SET utf8mb4;
USE shop;
CREATE TABLE numbers (a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT, d INT UNSIGNED, e BIGINT PRIMARY KEY, f BIGINT UNSIGNED,
  g FLOAT, h DOUBLE, i DECIMAL(65,30), j DECIMAL(9,0), k BIT(1), l BIT(64), m YEAR);
INSERT INTO numbers VALUES
  (-128, 65535, -8388608, 4294967295, -9223372036854775808, 18446744073709551615, -1.5e30, 1.7976931348623157e308,
   -12345678901234567890123456789012345.012345678901234567890123456789, 999999999, b'1', b'1010', 2155),
  (NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE numbers SET a = 127, i = 0.000000000000000000000000000001, m = 0 WHERE e < 1;
CREATE TABLE times (a DATE, b TIME(6), c DATETIME(6), d TIMESTAMP(3) NULL, e TIME, f DATETIME, g TIMESTAMP NULL, h INT PRIMARY KEY);
INSERT INTO times VALUES ('2026-11-21', '-838:59:58.999999', '9999-12-31 23:59:59.999999', '2026-11-21 10:11:12.345',
  '838:59:59', '1000-01-01 00:00:00', '1970-01-02 00:00:01', 1);
DELETE FROM times;
CREATE TABLE texts (id VARCHAR(20) CHARACTER SET latin1, a CHAR(60) CHARACTER SET utf8mb4, b VARCHAR(300) CHARACTER SET latin1,
  c TEXT CHARACTER SET utf8mb3, d LONGTEXT CHARACTER SET ascii, e BINARY(16), f VARBINARY(300), g BLOB, h ENUM('x', 'é', 'z'),
  i SET('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'), j GEOMETRY, PRIMARY KEY (id));
INSERT INTO texts VALUES ('é', 'a', 'ü\'\\', 'wörter', 'ascii', x'0100', x'00ff', REPEAT(x'00ff', 700), 'é', 'a,i', ST_GeomFromText('POINT(1 2)')),
  ('f', REPEAT('😀', 60), REPEAT('b', 300), '', NULL, NULL, '', '', 'z', '', ST_GeomFromText('LINESTRING(1 2, 3 4)'));
BEGIN;
UPDATE texts SET id = CONCAT(id, 'x'), g = NULL, h = 3;
SAVEPOINT s;
DELETE FROM texts WHERE id = 'fx';
COMMIT;
CREATE TABLE pairs (id INT, part INT, name VARCHAR(9), UNIQUE (name, part), PRIMARY KEY (part, id)) PARTITION BY HASH (part) PARTITIONS 3;
INSERT INTO pairs VALUES (1, 1, 'a'), (1, 2, 'b'), (1, 3, 'c'), (2, 1, NULL);
UPDATE pairs SET part = part + 1, name = NULL ORDER BY part DESC;
ALTER TABLE pairs ADD COLUMN more JSON;
INSERT INTO pairs VALUES (9, 9, 'z', '{"a": 1}');
TRUNCATE TABLE pairs;
CREATE TABLE plain (a INT, b VARCHAR(20));
INSERT INTO plain VALUES (1, 'a'), (1, 'a'), (NULL, NULL);
DELETE FROM plain LIMIT 2;
DROP TABLE plain;
CREATE TABLE documents (id INT NOT NULL PRIMARY KEY, document JSON NOT NULL);
INSERT INTO documents VALUES (1, '{}'), (2, '[]'), (3, 'null'), (4, '[1, -1, 65536, -65537, 4294967296, 18446744073709551615, 0.1, 1e300]'),
  (5, '{"a": {"b": {"c": [[[["deep", true, false, null]]]]}}}'), (6, '"a text with \\"quotes\\" and é 漢 😀"'), (7, '[12345.678, -0.0, 1E-7]'),
  (8, '{"": "", "ключ": [{}, []], "k": "v"}');
INSERT INTO documents VALUES (9, JSON_ARRAY(REPEAT('x', 200), REPEAT('y', 300))), (10, JSON_OBJECT('large', REPEAT('z', 66000), 'n', 1));
-- MySQL's documents hold values of SQL's types.
INSERT INTO documents VALUES (11, JSON_ARRAY(CAST('2026-01-02' AS DATE), CAST('03:04:05.678' AS TIME(3)), CAST('2026-01-02 03:04:05' AS DATETIME), CAST(1.50 AS DECIMAL(10,2)))),
  (12, JSON_OBJECT('bytes', CAST(x'00ff10' AS BINARY), 'point', ST_GeomFromText('POINT(1 2)')));
UPDATE documents SET document = JSON_SET(document, '$.k', 'other') WHERE id = 8;
DELETE FROM documents WHERE id < 3;
CREATE TABLE copied AS SELECT 1 AS one;
CREATE VIEW seen AS SELECT * FROM copied;
DROP USER IF EXISTS somebody;
DROP VIEW seen;
XA START 'a', 'b', 7;
INSERT INTO copied VALUES (2), (3);
XA END 'a', 'b', 7;
XA PREPARE 'a', 'b', 7;
XA COMMIT 'a', 'b', 7;
XA START 'c';
DELETE FROM copied;
XA END 'c';
XA COMMIT 'c' ONE PHASE;
FLUSH BINARY LOGS;
