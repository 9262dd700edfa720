//! Where events are written down: the journal with fields of its own where the process runs under systemd, and
//! lines on standard error elsewhere.

use log::{Level, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::event::{Event, Severity};
use crate::output::Output;

/// The log. Writing to it never fails: what the journal refuses goes to standard error.
pub struct Log {
    /// The journal's socket, where there is one to write to.
    journal: Option<JournalLog>,
    /// Whether the journal reads standard error.
    stderr_is_journal: bool,
}

impl Log {
    /// Looks where to write: to the journal, if standard error goes there (`JOURNAL_STREAM`) and its socket answers.
    pub fn start() -> Self {
        let stderr_is_journal = connected_to_journal();
        let journal = stderr_is_journal.then(JournalLog::new).and_then(Result::ok);
        Self { journal, stderr_is_journal }
    }

    /// Writes an event. Waits for the journal where that is behind, as a line on standard error does.
    pub fn write(&self, event: &Event) {
        let fields = fields(event);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let sent = self.journal.as_ref().is_some_and(|journal| {
            let mut record = Record::builder();
            record.level(level(event.severity())).target("filter_ctl::daemon").key_values(&fields);
            journal.journal_send(&record.args(format_args!("{}", event.message())).build()).is_ok()
        });
        if !sent {
            Output::stdio().note(&line(event, self.stderr_is_journal));
        }
    }
}

/// The level whose PRIORITY in the journal is 5 (notice), 4 (warning) or 3 (err), as [`priority`] has them.
fn level(severity: Severity) -> Level {
    match severity {
        Severity::Info => Level::Info,
        Severity::Warning => Level::Warn,
        Severity::Alarm => Level::Error,
    }
}

/// The priority of syslog(3).
fn priority(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 5,
        Severity::Warning => 4,
        Severity::Alarm => 3,
    }
}

/// The event as one line. The journal takes the priority from its start (sd-daemon(3)).
fn line(event: &Event, for_journal: bool) -> String {
    let prefix = if for_journal { format!("<{}>", priority(event.severity())) } else { String::new() };
    let fields = event.fields().iter().map(|(name, value)| format!(" {name}={value:?}"));
    // An event is one line: `note` escapes other control characters, and leaves ends of lines.
    let message = event.message().replace('\n', "\\n");
    format!("{prefix}filter-ctl: {}: {message}{}", event.kind().name(), fields.collect::<String>())
}

/// The fields of an event under the names that the journal has for them.
fn fields(event: &Event) -> Vec<(String, &str)> {
    let own = event.fields().iter();
    let own = own.map(|(name, value)| (format!("FILTER_{}", name.to_ascii_uppercase()), value.as_str()));
    [("FILTER_EVENT".to_owned(), event.kind().name())].into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::event::EventKind;

    fn event() -> Event {
        Event::new(EventKind::InterfaceLost, "eth0 is not\nfiltered").with("interface", "eth\n0")
    }

    #[test]
    fn fields_have_names_that_the_journal_takes() {
        let event = event().with("owner", "manual");
        let expected =
            [("FILTER_EVENT", "interface_lost"), ("FILTER_INTERFACE", "eth\n0"), ("FILTER_OWNER", "manual")];
        assert_eq!(fields(&event), expected.map(|(name, value)| (name.into(), value)));
    }

    #[test]
    fn an_event_is_one_line() {
        let text = r#"filter-ctl: interface_lost: eth0 is not\nfiltered interface="eth\n0""#;
        assert_eq!(line(&event(), false), text);
        assert_eq!(line(&event(), true), format!("<3>{text}"));
    }

    #[test]
    fn levels_are_the_priorities() {
        // As systemd-journal-logger numbers levels.
        let of = |level| match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 5,
            Level::Debug => 6,
            Level::Trace => 7,
        };
        for severity in [Severity::Info, Severity::Warning, Severity::Alarm] {
            assert_eq!(of(level(severity)), priority(severity));
        }
    }
}
