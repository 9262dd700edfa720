//! The two texts in which figures are written: OpenMetrics 1.0, and the classic format 0.0.4, which textfile collectors and
//! older scrapers read. The second is made from the first, so that both say the same.

use anyhow::{Context as _, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::{Figures, PREFIX};

/// `Content-Type` of [`openmetrics`].
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `Content-Type` of [`classic`].
pub const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures as OpenMetrics.
///
/// # Errors
///
/// None that figures can cause; the type of the library's has them.
pub fn openmetrics(figures: Figures) -> Result<String> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    encode(&mut text, &registry).context("could not write the figures as text")?;
    Ok(text)
}

/// An OpenMetrics text in the classic format: there metadata has the name of the samples, which of a counter ends in
/// `_total`; neither units nor an end are marked, and `info` is a gauge.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut push = |words: &[&str]| {
        words.iter().for_each(|word| text.push_str(word));
        text.push('\n');
    };
    // It comes before the type, which tells the name.
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            push(&["# HELP ", name, suffix, " ", help]);
            push(&["# TYPE ", name, suffix, " ", kind]);
        } else if !line.starts_with('#') {
            push(&[line]);
        }
    }
    text
}

/// Whether a request with this `Accept` wants OpenMetrics: it names it, and likes it no less than plain text (RFC 9110,
/// section 12.5.1).
pub fn wants_openmetrics(accept: &str) -> bool {
    let quality = |range: &str| {
        let quality = range.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
        });
        quality.unwrap_or(1.0)
    };
    let best = |names: &[&str]| {
        let named = accept.split(',').filter(|range| {
            let name = range.split(';').next().unwrap_or_default().trim();
            names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
        });
        named.map(quality).fold(0.0, f64::max)
    };
    let openmetrics = best(&["application/openmetrics-text"]);
    openmetrics > 0.0 && openmetrics >= best(&["text/plain", "text/*"])
}

#[cfg(test)]
mod tests {
    use super::super::figures::{alone, label};
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        figures.info("build", "Versions", vec![label("version", "1")]);
        figures.counters("bytes", "Bytes", [(vec![label("device", "a\"\\\nb")], 7)]);
        figures.gauges("map_memory_bytes", "Memory", [(vec![label("map", "m")], -1)]);
        figures.gauges("nothing", "Not there", []);
        figures.gauges("attached", "Attached", alone(1));
        figures.seconds("last_duration_seconds", "Duration", 0.25);
        figures
    }

    #[test]
    fn both_texts_say_the_same() {
        let openmetrics = openmetrics(figures()).unwrap();
        assert_eq!(
            openmetrics,
            r#"# HELP xdp_filter_build Versions
# TYPE xdp_filter_build info
xdp_filter_build_info{version="1"} 1
# HELP xdp_filter_bytes Bytes
# TYPE xdp_filter_bytes counter
xdp_filter_bytes_total{device="a\"\\\nb"} 7
# HELP xdp_filter_map_memory_bytes Memory
# TYPE xdp_filter_map_memory_bytes gauge
# UNIT xdp_filter_map_memory_bytes bytes
xdp_filter_map_memory_bytes{map="m"} -1
# HELP xdp_filter_attached Attached
# TYPE xdp_filter_attached gauge
xdp_filter_attached 1
# HELP xdp_filter_last_duration_seconds Duration
# TYPE xdp_filter_last_duration_seconds gauge
# UNIT xdp_filter_last_duration_seconds seconds
xdp_filter_last_duration_seconds 0.25
# EOF
"#
        );
        assert_eq!(
            classic(&openmetrics),
            r#"# HELP xdp_filter_build_info Versions
# TYPE xdp_filter_build_info gauge
xdp_filter_build_info{version="1"} 1
# HELP xdp_filter_bytes_total Bytes
# TYPE xdp_filter_bytes_total counter
xdp_filter_bytes_total{device="a\"\\\nb"} 7
# HELP xdp_filter_map_memory_bytes Memory
# TYPE xdp_filter_map_memory_bytes gauge
xdp_filter_map_memory_bytes{map="m"} -1
# HELP xdp_filter_attached Attached
# TYPE xdp_filter_attached gauge
xdp_filter_attached 1
# HELP xdp_filter_last_duration_seconds Duration
# TYPE xdp_filter_last_duration_seconds gauge
xdp_filter_last_duration_seconds 0.25
"#
        );
    }

    #[test]
    fn openmetrics_is_sent_to_who_asks_for_it() {
        // Prometheus 2.42; Prometheus 3 without protobuf; each with more said or less.
        for accept in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "text/plain;q=0.5, Application/OpenMetrics-Text ; Q=0.5",
            "application/openmetrics-text",
        ] {
            assert!(wants_openmetrics(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "text/plain, application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
            "x-application/openmetrics-text",
        ] {
            assert!(!wants_openmetrics(accept), "{accept}");
        }
    }
}
