//! The chart: each ratio with a bound, as a part of what was asked, so that all share one axis.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::results::{Measure, Point, median};

/// Pixels.
const WIDTH: u32 = 1100;
const ROW: u32 = 26;
const MARGIN: u32 = 60;
/// Pixels for the names of the points.
const NAMES: u32 = 640;

/// The axis ends here; longer bars are cut.
const LONGEST: f64 = 4.0;

/// Draws the points that have a bound, as SVG.
pub fn draw(points: &[Point]) -> Result<String> {
    let bars: Vec<(String, f64)> = points.iter().filter_map(bar).collect();
    let mut svg = String::new();
    {
        let height = MARGIN + ROW * u32::try_from(bars.len().max(1))?;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        paint(&area, &bars).map_err(|error| anyhow!("the chart could not be drawn: {error}"))?;
    }
    Ok(svg + "\n")
}

/// Name, and how many times what was asked is reached: over 1 is good.
fn bar(point: &Point) -> Option<(String, f64)> {
    let asked = point.asked?;
    let ratio = median(&point.ratios());
    let reached = match point.measure {
        Measure::Speed | Measure::Rate => ratio / asked,
        Measure::Cost => asked / ratio,
    };
    Some((format!("{}: {} / {} ({ratio:.2}x)", point.part, point.what, point.peer), reached))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(area: &Area<'_>, bars: &[(String, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let text = ("sans-serif", 14).into_font().color(&BLACK);
    let (left, right) = (i32::try_from(NAMES)?, i32::try_from(WIDTH)? - 20);
    let (top, row) = (i32::try_from(MARGIN)? - 20, i32::try_from(ROW)?);
    #[expect(clippy::cast_possible_truncation, reason = "pixels of a chart")]
    let x = |value: f64| left + (f64::from(right - left) * value.min(LONGEST) / LONGEST) as i32;
    area.draw_text("ratio by what was asked of it (right of the line: reached)", &text, (left, 8))?;
    for (index, (name, reached)) in (0..).zip(bars) {
        let y = top + index * row;
        let colour = if *reached >= 1.0 { RGBColor(46, 125, 50) } else { RGBColor(198, 40, 40) };
        area.draw(&Rectangle::new([(left, y + 4), (x(*reached), y + row - 4)], colour.filled()))?;
        area.draw_text(name, &text, (8, y + 6))?;
        let end = if *reached > LONGEST { format!("{reached:.1} →") } else { format!("{reached:.2}") };
        area.draw_text(&end, &text, ((x(*reached) + 4).min(right - 40), y + 6))?;
    }
    let bottom = top + row * i32::try_from(bars.len())?;
    area.draw(&PathElement::new(vec![(x(1.0), top), (x(1.0), bottom)], BLACK.stroke_width(2)))?;
    area.present()?;
    Ok(())
}
