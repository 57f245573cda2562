//! The sink for MySQL and MariaDB: its statements, and the transaction they stand in.

pub mod apply;
pub mod copies;
pub mod ddl;
pub mod own_rows;
mod session;
pub mod statements;
pub mod tables;
