//! A store that may be found in several places.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use mysql_async::prelude::Queryable;
use support::{FLAVORS, run, start, store};
use unitflow_change::fault::{Code, Fault};
use unitflow_mysql::connect::connect_to_write;
use unitflow_mysql::{Store, connect};

/// The port of the server that a connection led to.
async fn port(conn: Result<mysql_async::Conn, Fault>) -> u16 {
    conn.unwrap().query_first("select @@port").await.unwrap().unwrap()
}

#[tokio::test]
async fn writers_pass_over_what_is_dead_or_read_only() {
    for flavor in FLAVORS {
        let (replica, primary) = tokio::join!(start(flavor), start(flavor));
        let mut replica_conn = connect(&store(&replica)).await.unwrap();
        run(&mut replica_conn, ["set global read_only = on"]).await;
        let at = |ports: &[u16]| Store {
            endpoints: ports.iter().map(|port| ("127.0.0.1".to_owned(), *port)).collect(),
            ..store(&primary)
        };
        let dead = unitflow_local::free_port().unwrap();
        let all = at(&[dead, replica.port(), primary.port()]);
        assert_eq!(port(connect(&all).await).await, replica.port());
        assert_eq!(port(connect_to_write(&all).await).await, primary.port());

        let fault = connect_to_write(&at(&[dead, replica.port()])).await.unwrap_err();
        assert!(fault.is_retry() && fault.code == Code::Setting, "{fault}");
        assert!(fault.what.contains("read-only"), "{fault}");

        // It becomes the primary while the old one dies.
        run(&mut replica_conn, ["set global read_only = off"]).await;
        primary.kill().await.unwrap();
        assert_eq!(port(connect_to_write(&all).await).await, replica.port());
    }
}
