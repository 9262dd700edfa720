//! One collection for all who ask within a second, on a thread of its own, and what is counted of offering figures.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::{Figures, alone, text};

/// How old figures may be. Or as old as collecting them took, where that is longer: so that whoever asks without a pause
/// leaves the lock to others for half of the time.
const FRESH: Duration = Duration::from_secs(1);

/// The texts of one collection; or why it failed.
pub type Snapshot = Result<Texts, String>;

/// Figures in both formats.
#[derive(Clone, Debug)]
pub struct Texts {
    /// As [`text::openmetrics`] makes it.
    pub openmetrics: Bytes,
    /// As [`text::classic`] makes it.
    pub classic: Bytes,
}

struct Taken {
    snapshot: Arc<Snapshot>,
    took: Duration,
    at: Instant,
}

/// Collects for all who ask.
pub struct Shared {
    collect: Box<dyn Fn() -> Result<Figures> + Send + Sync>,
    latest: Arc<Mutex<Option<Taken>>>,
    /// Connections that were taken.
    pub taken: AtomicU64,
    /// Connections that were closed at once.
    pub refused: AtomicU64,
    collections: AtomicU64,
    failures: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// With what collects figures, which may wait for the lock, the disk or the kernel.
    pub fn new(collect: impl Fn() -> Result<Figures> + Send + Sync + 'static) -> Self {
        Self {
            collect: Box::new(collect),
            latest: Arc::default(),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            collections: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// What was collected last, or is now. Those who ask meanwhile wait for the same.
    pub async fn snapshot(self: &Arc<Self>) -> Arc<Snapshot> {
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        let took = match latest.as_ref() {
            Some(taken) if taken.at.elapsed() < FRESH.max(taken.took) => return Arc::clone(&taken.snapshot),
            taken => taken.map(|taken| taken.took),
        };
        let its = Arc::clone(self);
        // A task of its own, which holds the turn: a client that goes away must not let another collection begin beside it.
        let collected = tokio::spawn(async move {
            let began = Instant::now();
            let collected = spawn_blocking(move || its.snapshot_now(took)).await;
            let snapshot = Arc::new(collected.unwrap_or_else(|_| Err(PANIC.into())));
            let (took, at) = (began.elapsed(), Instant::now());
            *latest = Some(Taken { snapshot: Arc::clone(&snapshot), took, at });
            snapshot
        });
        collected.await.unwrap_or_else(|_| Arc::new(Err(PANIC.into())))
    }

    fn snapshot_now(&self, took: Option<Duration>) -> Snapshot {
        // Counted before it is known: one that panics has failed.
        self.collections.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        let collected = (self.collect)().and_then(|mut figures| {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            self.add(&mut figures, took);
            text::openmetrics(figures)
        });
        let openmetrics = collected.map_err(|error| format!("{error:#}"))?;
        let classic = text::classic(&openmetrics);
        Ok(Texts { openmetrics: openmetrics.into(), classic: classic.into() })
    }

    /// What is told of collecting itself.
    fn add(&self, figures: &mut Figures, took: Option<Duration>) {
        let count = |counter: &AtomicU64| alone(counter.load(Ordering::Relaxed));
        if let Some(took) = took {
            let help = "How long the collection before this one took";
            figures.seconds("last_collection_duration_seconds", help, took.as_secs_f64());
        }
        figures.counters(
            "collections",
            "Collections of figures, this one included",
            count(&self.collections),
        );
        figures.counters("collections_failed", "Collections of figures that failed", count(&self.failures));
        figures.counters("connections", "Connections of those who ask for figures", count(&self.taken));
        let help = "Connections that were closed at once, since too many were open";
        figures.counters("connections_refused", help, count(&self.refused));
    }
}

/// What is said of a collection that panicked.
const PANIC: &str = "collecting the figures failed in a way that it never should; the journal has more";
