//! Keeps an SVID young: a new one at half of its life, long before the old one ends (V30).
//!
//! The decision when is `trust_bundle::renewal`'s; this is the loop around it. While no new SVID can
//! be had the old one stays in use until it ends by itself.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trust_bundle::{SvidHandle, X509Svid, renewal};

use crate::clock;

/// A refused request is tried again after a tenth of the SVID's life, within these bounds.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A wait is cut into pieces, so that a clock that is set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Renews until told to stop.
pub async fn keep_renewed(
    svid: SvidHandle,
    issue: impl AsyncFn() -> Result<X509Svid, String>,
    shutdown: CancellationToken,
) {
    while shutdown.run_until_cancelled(due(&svid)).await.is_some() {
        match issue().await {
            Ok(fresh) => {
                info!(id = %fresh.id(), expires = %clock::timestamp(fresh.not_after()), "SVID renewed");
                svid.replace(fresh);
            }
            Err(reason) => {
                let current = svid.current();
                let pause = retry_after(&current);
                let expires = clock::timestamp(current.not_after());
                warn!(id = %current.id(), %expires, reason, "SVID not renewed; the old one stays in use until it expires");
                shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

async fn due(svid: &SvidHandle) {
    let at = renewal::due_at(&svid.current(), rand::random());
    loop {
        let left = until(at, clock::unix_now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLEEP_MAX)).await;
    }
}

fn until(at: UnixTime, now: UnixTime) -> Duration {
    Duration::from_secs(at.as_secs().saturating_sub(now.as_secs()))
}

fn retry_after(svid: &X509Svid) -> Duration {
    let life = Duration::from_secs(svid.not_after().as_secs().saturating_sub(svid.not_before().as_secs()));
    (life / 10).clamp(RETRY_MIN, RETRY_MAX)
}
