//! A copy is under way while every worker gives way to one of the next build.

use anyhow::ensure;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::{MeshSetup, beside};

use crate::{BINARY, Copy, GOODS, fill, kill_each, limit};

/// A point at which a worker knows the format after this build's, and writes it.
const NEXT: &str = "next_format";
/// Who reads what another writes comes first.
const ORDER: [(&str, &str); 6] = [
    ("B", "sink"),
    ("A", "sink"),
    ("A", "transformer"),
    ("B", "transformer"),
    ("B", "connector"),
    ("A", "connector"),
];

#[test]
fn a_copy_goes_on_through_a_rolling_upgrade() {
    beside("a copy through a rolling upgrade", limit(), async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &fill()).start().await?;
        mesh.start_workers()?;
        let mut copy = Copy::begin(&mesh).await?;
        kill_each(&mut mesh, &mut copy.command, &ORDER, 700, NEXT).await?;
        let ended = copy.command.try_wait()?;
        ensure!(ended.is_none(), "the copy had ended before all were upgraded");
        copy.end(&mut mesh).await?;
        mesh.finish();
        Ok(())
    });
}
