//! The plot: bars for throughput and cost. Pure.

use std::fmt::Write as _;

use super::competitor::{BARE, OVERLAY};
use super::metric::Metric;
use super::report::BenchReport;

const WIDTH: f64 = 640.0;
/// Where bars begin; the names are left of it.
const LEFT: f64 = 130.0;
/// The length of the longest bar; the figures are right of the bars.
const LONGEST: f64 = 420.0;
const ROW: f64 = 22.0;

/// Draws a report as SVG, readable on light and dark pages.
pub(super) fn draw(report: &BenchReport) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for (metric, title) in [
        (Metric::Tcp1, "One TCP stream, Gbit/s (more is better)"),
        (Metric::Cost, "Processor seconds of both agents for each GB (less is better)"),
    ] {
        y = chart(&mut body, report, metric, title, y);
    }

    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

fn chart(body: &mut String, report: &BenchReport, metric: Metric, title: &str, top: f64) -> f64 {
    let rows = report.rows.iter().filter(|row| row.name != BARE);
    let bars: Vec<_> = rows.filter_map(|row| Some((row.name, row.median(metric)?.value))).collect();
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top + ROW;
    // Writing to a string cannot fail.
    let _ = writeln!(body, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>", y - 6.0);
    for (name, value) in bars {
        let (width, text) = (value / most * LONGEST, metric.show(value));
        let colour = if name == OVERLAY { "#2266cc" } else { "#aab4c0" };
        let base = y + 15.0;
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{name}</text>",
            LEFT - 8.0
        );
        let _ = writeln!(
            body,
            "<rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>",
            y + 2.0
        );
        let _ = writeln!(body, "<text x=\"{:.1}\" y=\"{base}\">{text}</text>", LEFT + width + 6.0);
        y += ROW;
    }

    y + 10.0
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_longest_bar_is_the_largest_figure() {
        let svg = draw(&report());

        assert!(svg.contains("width=\"420.0\" height=\"16\" fill=\"#2266cc\""), "{svg}");
        assert!(svg.contains("width=\"105.0\" height=\"16\" fill=\"#aab4c0\""), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
