//! Renewal: claims are kept while their jobs run, and let go of in time when they can't be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causelist_core::JobId;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::claim;
use crate::driver::Shared;
use crate::line::Line;

/// Renews every held claim three times per lease, and lets go of those that could not be renewed
/// before their lease ends: by then another worker may have their jobs.
pub(crate) async fn keep_leases(pool: PgPool, shared: Arc<Shared>, lease: Duration, stop: CancellationToken) {
    let period = lease / 3;
    let mut line = Line::new(&pool, period, false);
    let mut next = tokio::time::interval(period);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = next.tick() => {}
        }
        let (fences, ids): (Vec<i64>, Vec<JobId>) = {
            let leases = shared.leases();
            (
                leases.keys().copied().collect(),
                leases.values().flat_map(|l| l.jobs.keys().copied()).collect(),
            )
        };
        if fences.is_empty() {
            continue;
        }
        let sent = Instant::now();
        match line.with(async |db| claim::renew(db, &fences, &ids, lease).await).await {
            Ok(renewed) => {
                // A row is also gone when its last jobs were settled while the renewal was on its
                // way: only one that is missing twice is lost.
                let mut gone = Vec::new();
                for (fence, held) in shared.leases().iter_mut().filter(|(f, _)| fences.contains(f)) {
                    if renewed.held.contains(fence) {
                        held.deadline = sent + lease;
                        held.missed = false;
                    } else if std::mem::replace(&mut held.missed, true) {
                        gone.push(*fence);
                    }
                    for id in &renewed.cancel {
                        if let Some(stop) = held.jobs.get(id) {
                            stop.cancel();
                        }
                    }
                }
                for fence in gone {
                    shared.lose(fence);
                }
            }
            Err(error) => tracing::warn!(%error, "could not renew leases"),
        }
        let margin = lease / 6;
        let over: Vec<i64> = {
            let leases = shared.leases();
            leases
                .iter()
                .filter(|(_, l)| l.deadline < Instant::now() + margin)
                .map(|(f, _)| *f)
                .collect()
        };
        for fence in over {
            shared.lose(fence);
        }
    }
}
