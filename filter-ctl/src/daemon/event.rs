//! What happens to the filter that somebody may want to know: the events that the journal and hooks are given.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Result;
use serde::{Serialize, Serializer};

use crate::output;

/// Most bytes of a message or a field; what is beyond is cut. An event is then a few KiB of JSON at most, which one
/// datagram to the journal and one request hold.
pub const MAX_TEXT: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    #[serde(rename = "event")]
    kind: EventKind,
    severity: Severity,
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Event {
    /// An event that happens now. The message is a sentence for the operator.
    pub fn new(kind: EventKind, message: &str) -> Self {
        let (severity, time) = (kind.severity(), SystemTime::now());
        Self { kind, severity, time, message: cut(message), fields: BTreeMap::new() }
    }

    /// The event with a field, such as `interface`. Names are snake case: the journal has `FILTER_` and the
    /// name in capitals.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.insert(name, cut(value));
        self
    }

    /// What happened.
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// In words; may hold control characters.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What it is about, by name; values may hold control characters.
    pub fn fields(&self) -> &BTreeMap<&'static str, String> {
        &self.fields
    }

    /// The event as a line of JSON, as hooks get it.
    ///
    /// # Errors
    ///
    /// None that an event can cause; serde_json's type has them.
    pub fn json(&self) -> Result<String> {
        output::json_text(self)
    }
}

/// The start of a text that is too long.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// All is well; nobody need look.
    Info,
    /// Something was not as it should be; look when there is time.
    Warning,
    /// Traffic is not filtered as wanted, or the next restart would forget what is wanted.
    Alarm,
}

/// Defines [`EventKind`] and its tables from one list.
macro_rules! kinds {
    ($($variant:ident, $name:literal, $severity:ident, $doc:literal;)*) => {
        /// What happened. Names are an interface: hooks branch on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum EventKind {
            $(#[doc = $doc] $variant,)*
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in JSON, the journal and the environment of hooks.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How much it matters.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    Started, "started", Info, "The daemon began its work.";
    Stopping, "stopping", Info, "The daemon ends; the filter in the kernel goes on.";
    Upgraded, "upgraded", Info, "The programs in the kernel were replaced by those of this build.";
    Drift, "drift", Alarm, "Something in the kernel is not as it should be.";
    Repaired, "repaired", Info, "What had drifted is as wanted again.";
    StoreUnusable, "store_unusable", Alarm, "The store of what is wanted can't be read or written.";
    StoreRecovered, "store_recovered", Info, "The store can be used again.";
    HistoryUnusable, "history_unusable", Warning, "The history can't be written, or was damaged and begun anew.";
    RecordUnusable, "record_unusable", Warning, "What the flight recorder has can't be written to files.";
    InterfaceFiltered, "interface_filtered", Info, "An interface is filtered from now on.";
    InterfaceGone, "interface_gone", Warning, "The device of a filtered interface is gone.";
    InterfaceLost, "interface_lost", Alarm, "An interface is there and not filtered, though it should be.";
    ListTaken, "list_taken", Info, "A new generation of a list is in force.";
    ListRefused, "list_refused", Warning, "A list could not be fetched or read, or is out of bounds; the generation before stays in force.";
    CrowdsecFailed, "crowdsec_failed", Warning, "CrowdSec's decisions can't be had or enforced; what is blocked stays until its deadline.";
    CrowdsecRecovered, "crowdsec_recovered", Info, "CrowdSec's decisions are followed again.";
    CrowdsecSkipped, "crowdsec_skipped", Warning, "A decision of CrowdSec's is not enforced: it would cut off this host, its gateway or an SSH session, or makes no sense.";
    MetricsUnusable, "metrics_unusable", Warning, "Figures can't be offered where they were to be; that is tried again.";
    HookFailed, "hook_failed", Warning, "A hook was not told of an event. No hook is told of this.";
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_a_schema_and_all_that_is_known() {
        let event = Event::new(EventKind::InterfaceLost, "eth0 is not filtered").with("interface", "eth0");
        let json: serde_json::Value = serde_json::from_str(&event.json().unwrap()).unwrap();
        let time = json["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        let expected = serde_json::json!({
            "schema": 1, "event": "interface_lost", "severity": "alarm", "time": time,
            "message": "eth0 is not filtered", "fields": {"interface": "eth0"},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let event =
            Event::new(EventKind::Drift, &"é".repeat(MAX_TEXT)).with("interface", &"€".repeat(MAX_TEXT));
        assert_eq!(event.message().len(), MAX_TEXT);
        assert_eq!(event.fields()["interface"].len(), MAX_TEXT - 1);
    }

    #[test]
    fn names_are_unique_snake_case() {
        let names: std::collections::BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
