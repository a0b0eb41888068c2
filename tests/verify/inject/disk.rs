//! What is done to the disk of an embedded log.

use std::time::Duration;

use tokio::time::sleep;

use crate::fault::DiskFault;
use crate::site::Site;

/// The embedded log's file, and its write-ahead log.
const FILE: &str = "verbatim.db";
const WAL: &str = "verbatim.db-wal";

/// It hits when a call of the node met it.
#[cfg(target_os = "linux")]
pub async fn inject(site: &Site<'_>, fault: DiskFault, lasting: Duration) -> bool {
    let Some(embedded) = &site.embedded else { return false };
    let disk = &embedded.disk;
    disk.take_syncs();
    let met = match fault {
        DiskFault::Fail => {
            disk.fail(WAL);
            "fails "
        }
        DiskFault::Hang => {
            disk.hang(WAL);
            "hangs "
        }
        DiskFault::Bad => {
            disk.spoil(FILE);
            "bad "
        }
        DiskFault::BadWal => {
            disk.spoil(WAL);
            "bad "
        }
    };
    sleep(lasting).await;
    disk.heal();
    disk.take_syncs().iter().any(|line| line.starts_with(met))
}

#[cfg(not(target_os = "linux"))]
pub async fn inject(_: &Site<'_>, _: DiskFault, _: Duration) -> bool {
    false
}
