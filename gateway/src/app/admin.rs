//! The admin API answers when the data plane's threads are busy: it has its own.

use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::admin::Admin;

/// Requests in flight get this long once the process ends.
pub(super) const END_TIME_MAX: Duration = Duration::from_secs(5);

pub(super) fn start(
    admin: Admin,
    stop: CancellationToken,
    broken: CancellationToken,
) -> thread::JoinHandle<()> {
    let overdue = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(END_TIME_MAX).await;
        }
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            // Dropped in any case, also by a panic; once told to stop nobody listens any more.
            let _broken = broken.drop_guard();
            let serving = async {
                tokio::select! {
                    served = admin.run(stop) => served,
                    () = overdue => Ok(()),
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Err(error) = runtime.and_then(|runtime| runtime.block_on(serving)) {
                error!(%error, "the admin API ended");
            }
        })
        .expect("a process that starts may have one more thread")
}
