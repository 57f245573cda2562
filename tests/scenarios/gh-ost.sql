-- What gh-ost 1.1.7 (--ok-to-drop-table) runs to add a column to shop.wares: its statements as a server's general log
-- recorded them, with this table's names and a chunk of its own. One session stands for its three.
use shop;
drop /* gh-ost */ table if exists `shop`.`_wares_ghc`;
create /* gh-ost */ table `shop`.`_wares_ghc` (
			id bigint unsigned auto_increment,
			last_update timestamp not null DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
			hint varchar(64) charset ascii not null,
			value varchar(4096) charset ascii not null,
			primary key(id),
			unique key hint_uidx(hint)
		) auto_increment=256 comment='gh-ost changelog';
START TRANSACTION;
SET SESSION time_zone = '+08:00', sql_mode = CONCAT(@@session.sql_mode, ',NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES');
create /* gh-ost */ table `shop`.`_wares_gho` like `shop`.`wares`;
COMMIT;
START TRANSACTION;
SET SESSION time_zone = '+08:00', sql_mode = CONCAT(@@session.sql_mode, ',NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES');
alter /* gh-ost */ table `shop`.`_wares_gho` add column by_gho int not null default 8;
COMMIT;
alter /* gh-ost */ table `shop`.`_wares_gho` AUTO_INCREMENT=6000001;
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(2, 0), 'state', 'GhostTableMigrated') on duplicate key update last_update=NOW(), value=VALUES(value);
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(0, 0), 'state at 1758165000000000001', 'GhostTableMigrated') on duplicate key update last_update=NOW(), value=VALUES(value);
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(1, 0), 'heartbeat', '2025-09-18T03:10:00.1Z') on duplicate key update last_update=NOW(), value=VALUES(value);
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(1, 0), 'heartbeat', '2025-09-18T03:10:00.2Z') on duplicate key update last_update=NOW(), value=VALUES(value);

-- Meanwhile somebody writes to the table.
insert into shop.wares (id, n, note, by_pt) values (5000001, 1, 'written meanwhile', 7), (5000002, 1, 'written meanwhile', 7), (5000003, 1, 'written meanwhile', 7);
update shop.wares set n = 2 where id = 5000001;
update shop.wares set id = 5000004 where id = 5000002;
delete from shop.wares where id = 5000003;

-- The tool reads that from the binlog and does it to its copy: a changed key is a delete and a replace.
SET /* gh-ost */ SESSION time_zone = '+00:00', sql_mode = CONCAT(@@session.sql_mode, ',NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES');
START TRANSACTION;
replace /* gh-ost `shop`.`_wares_gho` */ into `shop`.`_wares_gho` (`id`, `n`, `note`, `by_pt`) values (5000001, 1, 'written meanwhile', 7);
replace /* gh-ost `shop`.`_wares_gho` */ into `shop`.`_wares_gho` (`id`, `n`, `note`, `by_pt`) values (5000002, 1, 'written meanwhile', 7);
replace /* gh-ost `shop`.`_wares_gho` */ into `shop`.`_wares_gho` (`id`, `n`, `note`, `by_pt`) values (5000003, 1, 'written meanwhile', 7);
update /* gh-ost `shop`.`_wares_gho` */ `shop`.`_wares_gho` set `id`=5000001, `n`=2, `note`='written meanwhile', `by_pt`=7 where ((`id` = 5000001));
delete /* gh-ost `shop`.`_wares_gho` */ from `shop`.`_wares_gho` where ((`id` = 5000002));
replace /* gh-ost `shop`.`_wares_gho` */ into `shop`.`_wares_gho` (`id`, `n`, `note`, `by_pt`) values (5000004, 1, 'written meanwhile', 7);
delete /* gh-ost `shop`.`_wares_gho` */ from `shop`.`_wares_gho` where ((`id` = 5000003));
COMMIT;
START TRANSACTION;
SET SESSION time_zone = '+08:00', sql_mode = CONCAT(@@session.sql_mode, ',NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES');
insert /* gh-ost `shop`.`wares` */ ignore
		into
			`shop`.`_wares_gho`
			(`id`, `n`, `note`, `by_pt`)
		(
			select `id`, `n`, `note`, `by_pt`
			from
				`shop`.`wares`
			force index (`PRIMARY`)
			where
				(((`id` > 1) or ((`id` = 1))) and ((`id` < 6000000) or ((`id` = 6000000))))
				lock in share mode
		);
COMMIT;

-- The cut-over.
START TRANSACTION;
create /* gh-ost */ table `shop`.`_wares_del` (
			id int auto_increment primary key
		) engine=InnoDB comment='ghost-cut-over-sentry';
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(2, 0), 'state', 'AllEventsUpToLockProcessed:1758165000000000002') on duplicate key update last_update=NOW(), value=VALUES(value);
lock /* gh-ost */ tables `shop`.`wares` write, `shop`.`_wares_del` write;
drop /* gh-ost */ table if exists `shop`.`_wares_del`;
unlock /* gh-ost */ tables;
rename /* gh-ost */ table `shop`.`wares` to `shop`.`_wares_del`, `shop`.`_wares_gho` to `shop`.`wares`;
ROLLBACK;
insert /* gh-ost */ into `shop`.`_wares_ghc` (id, hint, value) values (NULLIF(2, 0), 'state', 'Migrated') on duplicate key update last_update=NOW(), value=VALUES(value);
drop /* gh-ost */ table if exists `shop`.`_wares_ghc`;
drop /* gh-ost */ table if exists `shop`.`_wares_del`;
