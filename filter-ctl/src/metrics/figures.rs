//! Figures as a value: families of them with their rows, in the order in which they are written.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// A label.
pub fn label(name: &'static str, value: &str) -> (&'static str, String) {
    (name, value.to_owned())
}

/// The one row of a figure without labels.
pub fn alone<T>(value: T) -> [(Labels, T); 1] {
    [(Labels::new(), value)]
}

/// Figures, family by family. Names lack the prefix, and those of counters their `_total`. Help texts are this program's own,
/// since nothing escapes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<Family>);

#[derive(Clone, Debug, PartialEq)]
struct Family {
    name: &'static str,
    help: &'static str,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq)]
enum Rows {
    Counters(Vec<(Labels, u64)>),
    Gauges(Vec<(Labels, i64)>),
    Seconds(f64),
    Info(Labels),
}

impl Figures {
    /// Adds what only grows.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, Rows::Counters(rows.into_iter().collect()));
    }

    /// Adds what goes up and down.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, i64)>,
    ) {
        self.add(name, help, Rows::Gauges(rows.into_iter().collect()));
    }

    /// Adds a time with its fractions.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, seconds: f64) {
        self.add(name, help, Rows::Seconds(seconds));
    }

    /// Adds what is told by labels alone. The name lacks `_info`.
    pub fn info(&mut self, name: &'static str, help: &'static str, labels: Labels) {
        self.add(name, help, Rows::Info(labels));
    }

    fn add(&mut self, name: &'static str, help: &'static str, rows: Rows) {
        self.0.push(Family { name, help, rows });
    }
}

impl Rows {
    fn kind(&self) -> MetricType {
        match self {
            Self::Counters(_) => MetricType::Counter,
            Self::Gauges(_) | Self::Seconds(_) => MetricType::Gauge,
            Self::Info(_) => MetricType::Info,
        }
    }

    /// A family without rows says nothing, and is not named either.
    fn is_empty(&self) -> bool {
        match self {
            Self::Counters(rows) => rows.is_empty(),
            Self::Gauges(rows) => rows.is_empty(),
            Self::Seconds(_) | Self::Info(_) => false,
        }
    }
}

/// A name without its unit, and the unit that it ends in.
fn unit_of(name: &str) -> (&str, Option<Unit>) {
    let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
    let found = units.into_iter().find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, Some(unit))));
    found.unwrap_or((name, None))
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Family { name, help, rows } in self.0.iter().filter(|family| !family.rows.is_empty()) {
            let (name, unit) = unit_of(name);
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), rows.kind())?;
            match rows {
                Rows::Counters(rows) => {
                    for (labels, value) in rows {
                        family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
                    }
                }
                Rows::Gauges(rows) => {
                    for (labels, value) in rows {
                        family.encode_family(labels)?.encode_gauge(value)?;
                    }
                }
                Rows::Seconds(seconds) => family.encode_gauge(seconds)?,
                Rows::Info(labels) => family.encode_info(labels)?,
            }
        }
        Ok(())
    }
}
