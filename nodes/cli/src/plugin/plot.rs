//! Curves in the terminal and as SVG; picture.rs does PNG.

use eyre::{Result, eyre};
use plotters::coord::Shift;
use plotters::prelude::*;

/// One curve.
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// What it is over.
    pub x: String,
    /// Its points, x rising.
    pub points: Vec<(f64, f64)>,
}

/// Size in the terminal, in characters; each holds 2 × 4 dots.
const COLUMNS: usize = 60;
const ROWS: usize = 10;
/// Bits of a braille character by (column, row) of the dot.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// The ends of the axes: y from 0, or lower where the curve goes there.
fn axes(curve: &Curve) -> ((f64, f64), (f64, f64)) {
    let x = range(curve.points.iter().map(|p| p.0));
    let (low, high) = range(curve.points.iter().map(|p| p.1));
    let low = low.min(0.0);
    (x, (low, if high > low { high } else { low + 1.0 }))
}

/// The curve in braille dots, with the ends of its axes.
pub fn terminal(curve: &Curve) -> String {
    let ((left, right), (low, high)) = axes(curve);
    let mut cells = vec![vec![0u32; COLUMNS]; ROWS];
    let place = |value: f64, from: f64, to: f64, dots: usize| {
        (((value - from) / (to - from).max(f64::MIN_POSITIVE)) * (dots - 1) as f64)
            .round()
            .clamp(0.0, (dots - 1) as f64) as usize
    };
    for &(x, y) in &curve.points {
        let (x, y) = (place(x, left, right, 2 * COLUMNS), 4 * ROWS - 1 - place(y, low, high, 4 * ROWS));
        cells[y / 4][x / 2] |= DOTS[x % 2][y % 4];
    }
    // A learning rate may be small.
    let number =
        |value: f64| if value != 0.0 && value.abs() < 0.01 { format!("{value:.2e}") } else { format!("{value:.4}") };
    let mut text = format!("{}\n", curve.name);
    for (row, line) in cells.iter().enumerate() {
        let label = match row {
            0 => number(high),
            row if row == ROWS - 1 => number(low),
            _ => String::new(),
        };
        let dots: String = line.iter().map(|&bits| char::from_u32(0x2800 + bits).unwrap_or(' ')).collect();
        text.push_str(&format!("{label:>10} ┤{dots}\n"));
    }
    let (left, right) = (left.to_string(), format!("{right} {}", curve.x));
    text.push_str(&format!("{:>11} {left}{right:>width$}", "", width = COLUMNS - left.len()));
    text
}

/// Width and height of the picture of some curves.
pub fn size(curves: &[Curve]) -> (u32, u32) {
    (640, 300 * curves.len() as u32)
}

/// The curves below each other as an SVG document.
///
/// # Errors
/// When plotters cannot draw.
pub fn svg(title: &str, curves: &[Curve]) -> Result<String> {
    let mut text = String::new();
    draw(&SVGBackend::with_string(&mut text, size(curves)).into_drawing_area(), title, curves)?;
    Ok(text)
}

/// Draws the curves below each other.
///
/// # Errors
/// When plotters cannot.
pub fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, title: &str, curves: &[Curve]) -> Result<()> {
    let problem = |e: DrawingAreaErrorKind<B::ErrorType>| eyre!("cannot draw: {e}");
    area.fill(&WHITE).map_err(problem)?;
    for (part, curve) in area.split_evenly((curves.len(), 1)).iter().zip(curves) {
        let (x, y) = axes(curve);
        let mut builder = ChartBuilder::on(part);
        builder.margin(10).margin_right(18).x_label_area_size(36).y_label_area_size(56);
        builder.caption(format!("{title}: {}", curve.name), ("sans-serif", 16));
        let mut chart = builder.build_cartesian_2d(x.0..x.1, y.0..y.1).map_err(problem)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_labels(6).y_labels(6).x_desc(curve.x.as_str()).light_line_style(TRANSPARENT).draw().map_err(problem)?;
        let line = LineSeries::new(curve.points.iter().copied(), RGBColor(31, 95, 191).stroke_width(2));
        chart.draw_series(line).map_err(problem)?;
    }
    area.present().map_err(problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn falling() -> Curve {
        let points = (0..=100).map(|i| (f64::from(i) / 100.0, 1.0 - f64::from(i) / 100.0)).collect();
        Curve { name: "α(t)".into(), x: "t".into(), points }
    }

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let drawn = terminal(&falling());
        let lines: Vec<&str> = drawn.lines().collect();
        let at = |line: &str| line.chars().skip(12).position(|c| c != '\u{2800}').unwrap();
        assert!(at(lines[1]) == 0 && at(lines[5]) > 20 && at(lines[10]) > 50, "{drawn}");
        assert!(lines[1].contains("1.0000") && lines[10].contains("0.0000") && lines[11].ends_with("1 t"), "{drawn}");
    }

    #[test]
    fn the_svg_is_a_document_with_one_curve_a_part() {
        let drawn = svg("Linear", &[falling(), falling()]).unwrap();
        assert!(drawn.starts_with("<svg") && drawn.contains("xmlns"));
        assert!(drawn.matches("<polyline").count() >= 2);
    }
}
