-- What gh-ost 1.1 logs while it adds a column to shop.wares, in its order (go/logic/applier.go), with one chunk of rows.
create /* gh-ost */ table `shop`.`_wares_ghc` (id bigint unsigned auto_increment, last_update timestamp not null default current_timestamp on update current_timestamp, hint varchar(64) charset ascii not null, value varchar(4096) charset ascii not null, primary key (id), unique key hint_uidx (hint)) auto_increment=256 comment='gh-ost';
create /* gh-ost */ table `shop`.`_wares_gho` like `shop`.`wares`;
alter /* gh-ost */ table `shop`.`_wares_gho` add column by_gho int not null default 8;
insert /* gh-ost `shop`.`_wares_ghc` */ into `shop`.`_wares_ghc` (id, hint, value) values (null, 'state', 'GhostTableMigrated') on duplicate key update last_update = now(), value = values(value);
insert /* gh-ost `shop`.`wares` */ ignore into `shop`.`_wares_gho` (`id`, `n`, `note`) (select `id`, `n`, `note` from `shop`.`wares` force index (`PRIMARY`) where `id` > 0 lock in share mode);
replace /* gh-ost `shop`.`_wares_gho` */ into `shop`.`_wares_gho` (`id`, `n`, `note`) select `id`, `n`, `note` from `shop`.`wares` where `id` = 1;
create /* gh-ost */ table `shop`.`_wares_del` (id int auto_increment primary key) engine=InnoDB comment='ghost-cut-over-sentry';
drop /* gh-ost */ table if exists `shop`.`_wares_del`;
rename /* gh-ost */ table `shop`.`wares` to `shop`.`_wares_del`, `shop`.`_wares_gho` to `shop`.`wares`;
drop /* gh-ost */ table if exists `shop`.`_wares_ghc`;
drop /* gh-ost */ table if exists `shop`.`_wares_del`;
