//! Curves as inline SVG.

use plotters::prelude::*;

use crate::curves::{self, Curve, Style};

/// Most points of a line: more than a phone or a screen can show.
const POINTS: usize = 600;
const SIZE: (u32, u32) = (640, 300);

/// A drawing that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the chart `{title}`: {problem}")]
pub struct ChartError {
    title: String,
    problem: String,
}

/// One line of a chart.
pub struct Line {
    pub curve: Curve,
    /// Its values by step.
    pub values: Vec<(u64, f64)>,
}

/// A chart of lines over the step, as an `<svg>` element without namespace (it stands inside HTML); `None` when there are not
/// at least two finite values to draw. Long lines are means of equal spans of steps.
///
/// # Errors
/// When plotters cannot draw.
pub fn chart(title: &str, lines: &[Line], zero: bool) -> Result<Option<String>, ChartError> {
    let lines: Vec<(&Line, Vec<(f64, f64)>)> = lines.iter().map(|line| (line, thin(&line.values))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    if points().count() < 2 {
        return Ok(None);
    }
    let (left, right) = range(points().map(|p| p.0));
    let (low, high) = range(points().map(|p| p.1));
    let low = if zero { low.min(0.0) } else { low };
    let pad = (high - low) * 0.05;
    let y = low - if zero { 0.0 } else { pad }..high + pad;
    let mut svg = String::new();
    draw(&mut svg, &lines, left..right, y).map_err(|problem| ChartError { title: title.to_owned(), problem })?;
    // Inside HTML an svg element needs no namespace, and the report then names no address at all.
    Ok(Some(svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "")))
}

fn draw(
    svg: &mut String,
    lines: &[(&Line, Vec<(f64, f64)>)],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<(), String> {
    let problem = |e: DrawingAreaErrorKind<_>| e.to_string();
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut builder = ChartBuilder::on(&area);
    builder.margin(10).margin_right(18).x_label_area_size(28).y_label_area_size(56);
    let mut chart = builder.build_cartesian_2d(x, y).map_err(problem)?;
    let label = |value: &f64| if value.abs() >= 1000.0 { crate::format::si(*value) } else { plain(*value) };
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(6).y_labels(6).x_label_formatter(&label).y_label_formatter(&label).light_line_style(TRANSPARENT);
    mesh.bold_line_style(RGBColor(225, 228, 232)).axis_style(RGBColor(140, 146, 153));
    mesh.label_style(("sans-serif", 14).into_font().color(&RGBColor(87, 96, 106))).draw().map_err(problem)?;
    for (line, points) in lines {
        let color = match line.curve.color {
            curves::Color::Blue => RGBColor(31, 95, 191),
            curves::Color::Orange => RGBColor(217, 119, 6),
            curves::Color::Green => RGBColor(22, 128, 92),
        };
        let series = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        let series = if line.curve.style == Style::Marks { series.point_size(4) } else { series };
        let drawn = chart.draw_series(series).map_err(problem)?;
        drawn
            .label(line.curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(3)));
    }
    if lines.len() > 1 {
        let mut labels = chart.configure_series_labels();
        labels
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .label_font(("sans-serif", 14));
        labels.draw().map_err(problem)?;
    }
    area.present().map_err(problem)
}

/// The finite values, at most [`POINTS`] of them: means of equal spans of values.
fn thin(values: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = values.iter().filter(|(_, v)| v.is_finite()).map(|(s, v)| (*s as f64, *v)).collect();
    let span = finite.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let (x, y) = chunk.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / chunk.len() as f64, y / chunk.len() as f64)
    };
    finite.chunks(span).map(mean).collect()
}

/// Smallest and largest value, apart even when there is only one.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if high > low { (low, high) } else { (low - low.abs().max(1e-9) * 0.1, high + high.abs().max(1e-9) * 0.1) }
}

/// An axis label with no more digits than it needs.
fn plain(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.001 {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::curves::common;

    fn line(values: Vec<(u64, f64)>) -> Line {
        Line { curve: common()[0].lines[0].clone(), values }
    }

    #[test]
    fn a_chart_is_an_svg_that_names_no_address() {
        let svg = chart("loss", &[line(vec![(1, 5.0), (2, f64::NAN), (3, 4.0)])], false).unwrap().unwrap();
        assert!(
            svg.contains("<svg") && svg.contains("<polyline") && !svg.contains("http") && !svg.contains("NaN"),
            "{svg}"
        );
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert!(chart("x", &[line(vec![(1, f64::NAN), (2, f64::NAN), (3, 1.0)])], false).unwrap().is_none());
    }

    #[test]
    fn equal_values_and_zeros_are_drawn() {
        for value in [0.0, 3e-4, -2.0] {
            let svg = chart("x", &[line(vec![(1, value), (2, value)])], true).unwrap().unwrap();
            assert!(svg.contains("<polyline") && !svg.contains("NaN") && !svg.contains("inf"), "{value}: {svg}");
        }
    }

    #[test]
    fn a_long_line_is_thinned_to_means() {
        let points = thin(&(0..6000).map(|step| (step, f64::from(step as u32 % 2))).collect::<Vec<_>>());
        assert_eq!(points.len(), POINTS);
        assert!(points.iter().all(|(_, y)| *y == 0.5));
    }
}
