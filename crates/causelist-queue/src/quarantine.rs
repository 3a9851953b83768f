//! Who is to blame for a crash. Jobs whose worker died a second time, or before their last attempt, are
//! suspects. A suspect runs alone
//! among the jobs of its claim, and as the only suspect of its worker; before it starts, its claim says
//! that it is being tried. If the worker dies then, the crash is counted for that one only: a job that
//! kills its worker ends among the dead letters, and those that were claimed beside it run.
//!
//! A claim without a suspect takes no part in this.

use causelist_core::JobError;
use sqlx::PgPool;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::claim::Claimed;
use crate::family::marks;

/// One for each worker.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(RwLock<()>);

/// A job's leave to run; held until it has ended.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// No suspect is in its claim.
    Free,
    /// A suspect is in its claim, and waits.
    Beside { _guard: RwLockReadGuard<'a, ()> },
    /// A suspect.
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl Quarantine {
    /// Waits until the job may run, and says so in its claim if it is a suspect.
    pub(crate) async fn begin(&self, pool: &PgPool, job: &Claimed) -> Result<Turn<'_>, JobError> {
        if !job.among_suspects {
            return Ok(Turn::Free);
        }
        if job.marks & marks::SUSPECT == 0 {
            return Ok(Turn::Beside {
                _guard: self.0.read().await,
            });
        }
        let turn = Turn::Alone {
            _guard: self.0.write().await,
        };
        let said = sqlx::query("update causelist.claim set trying = $2 where id = $1 and $2 = any (ids)")
            .bind(job.fence)
            .bind(job.id)
            .execute(pool)
            .await;
        match said {
            Ok(done) if done.rows_affected() == 0 => Err(JobError::LeaseLost),
            Ok(_) => Ok(turn),
            Err(error) => Err(JobError::Snooze(
                std::time::Duration::from_secs(1),
                format!("was not started, since the database could not be told: {error}"),
            )),
        }
    }

    /// The job has ended, though it may not be settled: from here on a crash is not its fault.
    pub(crate) async fn end(turn: Turn<'_>, pool: &PgPool, job: &Claimed) {
        if !matches!(turn, Turn::Alone { .. }) {
            return;
        }
        let said = sqlx::query("update causelist.claim set trying = 0 where id = $1 and trying = $2")
            .bind(job.fence)
            .bind(job.id)
            .execute(pool)
            .await;
        if let Err(error) = said {
            tracing::debug!(%error, "could not say that a suspect has ended");
        }
    }
}
