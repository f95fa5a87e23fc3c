//! The curves of `--measure`: quality against number of forwards, as SVG.

use difflow_inference::Row;
use plotters::prelude::*;

/// Pixels of a panel.
const PANEL: (u32, u32) = (540, 380);

/// A panel's title and what it shows of a row: forwards and value.
type Panel = (&'static str, fn(&Row) -> Option<(f64, f64)>);

const PANELS: [Panel; 5] = [
    ("texts that the checker passes", |row| Some((row.nfe, row.pass_rate?))),
    ("stories completed that the checker passes", |row| Some((row.completed_nfe?, row.completed_pass_rate?))),
    ("gaps filled with the answer", |row| Some((row.infill_nfe?, row.infill_exact_match?))),
    ("perplexity under the judge", |row| Some((row.nfe, row.perplexity?))),
    ("distinct word pairs", |row| Some((row.nfe, row.distinct_2))),
];

/// Every panel that has values, over forwards a text, gap or story (logarithmic); a curve a family, named in the last place.
///
/// # Errors
/// When plotters cannot draw.
pub fn draw(rows: &[Row]) -> Result<String, String> {
    let shown: Vec<&Panel> = PANELS.iter().filter(|(_, value)| rows.iter().any(|row| value(row).is_some())).collect();
    let mut families: Vec<&str> = rows.iter().map(|row| row.family).collect();
    families.dedup();
    let color = |family: &str| Palette99::pick(families.iter().position(|&one| one == family).unwrap_or(0)).to_rgba();
    // One place more, for the legend.
    let panel_rows = (shown.len() + 1).div_ceil(2);
    let mut svg = String::new();
    {
        let problem = |e: DrawingAreaErrorKind<_>| e.to_string();
        let area = SVGBackend::with_string(&mut svg, (2 * PANEL.0, panel_rows as u32 * PANEL.1)).into_drawing_area();
        area.fill(&WHITE).map_err(problem)?;
        let parts = area.split_evenly((panel_rows, 2));
        for (part, (title, value)) in parts.iter().zip(&shown) {
            let points: Vec<(&Row, f64, f64)> = rows
                .iter()
                .filter_map(|row| value(row).map(|(nfe, value)| (row, nfe.max(1.0), value)))
                .filter(|(_, _, value)| value.is_finite())
                .collect();
            let bounds = |values: &mut dyn Iterator<Item = f64>| {
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
            };
            let (left, right) = bounds(&mut points.iter().map(|point| point.1));
            let (low, high) = bounds(&mut points.iter().map(|point| point.2));
            let pad = ((high - low) * 0.08).max(1e-3);
            let mut builder = ChartBuilder::on(part);
            builder.caption(title, ("sans-serif", 17)).margin(12).x_label_area_size(34).y_label_area_size(52);
            let x = (left * 0.9..right * 1.1).log_scale();
            let mut chart = builder.build_cartesian_2d(x, low - pad..high + pad).map_err(|e| e.to_string())?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc("forwards").x_label_formatter(&|x| format!("{x:.0}")).light_line_style(TRANSPARENT);
            mesh.draw().map_err(|e| e.to_string())?;
            for family in points.chunk_by(|a, b| a.0.family == b.0.family) {
                let curve = family.iter().map(|&(_, x, y)| (x, y));
                let series = LineSeries::new(curve, color(family[0].0.family).stroke_width(2)).point_size(4);
                chart.draw_series(series).map_err(|e| e.to_string())?;
            }
        }
        let legend = &parts[shown.len()];
        for (number, family) in families.iter().enumerate() {
            let y = 60 + 24 * number as i32;
            legend.draw(&Circle::new((60, y), 5, color(family).filled())).map_err(problem)?;
            let font = ("sans-serif", 15).into_font();
            legend.draw(&Text::new(*family, (76, y - 8), font)).map_err(problem)?;
        }
        area.present().map_err(problem)?;
    }
    Ok(svg)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_has_a_panel() {
        let row = |nfe, pass_rate| Row { family: "random", nfe, pass_rate, distinct_2: 0.5, ..Row::default() };
        let svg = draw(&[row(8.0, Some(0.2)), row(64.0, Some(0.9))]).unwrap();
        assert!(svg.contains("checker passes") && svg.contains("word pairs") && !svg.contains("perplexity"), "{svg}");
        assert!(svg.contains("<polyline") && !svg.contains("NaN"));
        assert!(!draw(&[row(8.0, None)]).unwrap().contains("checker passes"));
    }
}
