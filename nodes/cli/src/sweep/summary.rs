//! What came of a sweep: a table with the spread over seeds, and a picture.

use std::collections::BTreeMap;

use difflow_schema::measures::MEASURES;
use eyre::{Result, eyre};
use plotters::prelude::*;

use crate::sweep::file::{Column, Trial};

/// Metrics of the finished runs of a trial.
pub struct Row<'a> {
    pub trial: &'a Trial,
    pub runs: Vec<BTreeMap<String, f64>>,
}

impl Row<'_> {
    fn values(&self, column: &Column) -> Vec<f64> {
        self.runs.iter().filter_map(|run| run.get(&column.metric).copied()).filter(|x| x.is_finite()).collect()
    }
}

/// The columns of a table without any of its own: those of `difflow runs` that some run has.
pub fn usual_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let there = |name: &str| rows.iter().flat_map(|row| &row.runs).any(|run| run.contains_key(name));
    let measured = MEASURES.iter().filter(|measure| !measure.column.is_empty() && there(measure.name));
    let column = |name: &str, title: &str| Column { metric: name.to_owned(), title: Some(title.to_owned()), digits: 3 };
    measured.map(|measure| column(measure.name, measure.column)).collect()
}

/// A Markdown table: means over seeds, with the standard deviation between seeds.
pub fn table(rows: &[Row<'_>], columns: &[Column]) -> String {
    let titles: Vec<&str> = columns.iter().map(Column::title).collect();
    let mut lines = vec![format!("| trial | runs | {} |", titles.join(" | ")), "|---".repeat(columns.len() + 2) + "|"];
    for row in rows {
        let cell = |column: &Column| spread(&row.values(column), column.digits);
        let cells: Vec<String> = columns.iter().map(cell).collect();
        lines.push(format!("| {} | {} | {} |", row.trial.title, row.runs.len(), cells.join(" | ")));
    }
    lines.join("\n")
}

/// Mean ± standard deviation of a sample.
fn spread(values: &[f64], digits: usize) -> String {
    let count = values.len() as f64;
    if values.is_empty() {
        return "-".to_owned();
    }
    let mean = values.iter().sum::<f64>() / count;
    if values.len() == 1 {
        return format!("{mean:.digits$}");
    }
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    format!("{mean:.digits$} ± {deviation:.digits$}")
}

/// Pixels of the picture's width, of a row, and of what is around the rows of a panel.
const WIDTH: u32 = 760;
const LINE: u32 = 26;
const AROUND: u32 = 84;

/// A panel for each column as SVG: a row a trial, with a point for each run, the mean, and a line from the lowest to the highest.
///
/// # Errors
/// When plotters cannot draw.
pub fn picture(rows: &[Row<'_>], columns: &[Column]) -> Result<String> {
    let there = |column: &&Column| rows.iter().any(|row| !row.values(column).is_empty());
    let shown: Vec<&Column> = columns.iter().filter(there).collect();
    if shown.is_empty() {
        return Err(eyre!("there is nothing to draw: no run has one of the columns"));
    }
    let height = rows.len() as u32 * LINE + AROUND;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height * shown.len() as u32)).into_drawing_area();
        let problem = |e: DrawingAreaErrorKind<_>| eyre!("cannot draw: {e}");
        area.fill(&WHITE).map_err(problem)?;
        for (part, column) in area.split_evenly((shown.len(), 1)).iter().zip(shown) {
            let all: Vec<f64> = rows.iter().flat_map(|row| row.values(column)).collect();
            let (low, high) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
            let room = ((high - low) * 0.05).max(1e-9 * high.abs().max(1e-9));
            let mut builder = ChartBuilder::on(part);
            builder.caption(column.title(), ("sans-serif", 17)).margin(10).x_label_area_size(30).y_label_area_size(250);
            let count = rows.len() as f64;
            let mut chart = builder
                .build_cartesian_2d(low - room..high + room, -0.5..count - 0.5)
                .map_err(|e| eyre!("cannot draw: {e}"))?;
            let title = |at: &f64| {
                // The first is on top.
                let row = (count - 1.0 - at).round();
                let whole = (at - at.round()).abs() < 1e-6 && row >= 0.0;
                rows.get(row as usize).filter(|_| whole).map(|row| row.trial.title.clone()).unwrap_or_default()
            };
            let mut mesh = chart.configure_mesh();
            mesh.x_labels(7).y_labels(2 * rows.len() + 1).y_label_formatter(&title).light_line_style(TRANSPARENT);
            mesh.disable_y_mesh().draw().map_err(|e| eyre!("cannot draw: {e}"))?;
            for (number, row) in rows.iter().enumerate() {
                let (y, values) = (count - 1.0 - number as f64, row.values(column));
                if values.is_empty() {
                    continue;
                }
                let (low, high) =
                    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let color = Palette99::pick(number).to_rgba();
                let line = PathElement::new(vec![(low, y), (high, y)], color.stroke_width(2));
                chart.draw_series([line]).map_err(|e| eyre!("cannot draw: {e}"))?;
                let point = |x: f64| Circle::new((x, y), 3, color.stroke_width(1));
                chart.draw_series(values.into_iter().map(point)).map_err(|e| eyre!("cannot draw: {e}"))?;
                chart
                    .draw_series([Circle::new((mean, y), 5, color.filled())])
                    .map_err(|e| eyre!("cannot draw: {e}"))?;
            }
        }
        area.present().map_err(problem)?;
    }
    Ok(svg)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sweep::file::Keys;

    fn trial(name: &str) -> Trial {
        Trial { name: name.to_owned(), title: format!("trial {name}"), keys: Keys::new() }
    }

    fn column(metric: &str) -> Column {
        Column { metric: metric.to_owned(), title: None, digits: 2 }
    }

    fn runs(values: &[f64]) -> Vec<BTreeMap<String, f64>> {
        values.iter().map(|&value| BTreeMap::from([("nelbo".to_owned(), value)])).collect()
    }

    #[test]
    fn a_table_has_means_and_the_spread_of_a_sample() {
        let (a, b, c) = (trial("a"), trial("b"), trial("c"));
        let rows = [
            Row { trial: &a, runs: runs(&[1.0, 2.0, 6.0]) },
            Row { trial: &b, runs: runs(&[0.5]) },
            Row { trial: &c, runs: Vec::new() },
        ];
        let found = table(&rows, &[column("nelbo"), column("pass_rate")]);
        let wanted = "| trial | runs | nelbo | pass_rate |\n|---|---|---|---|\n| trial a | 3 | 3.00 ± 2.65 | - |\n\
                      | trial b | 1 | 0.50 | - |\n| trial c | 0 | - | - |";
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_picture_names_every_trial_and_shows_every_run() {
        let (a, b) = (trial("a"), trial("b"));
        let rows = [Row { trial: &a, runs: runs(&[1.0, 2.0]) }, Row { trial: &b, runs: runs(&[3.0]) }];
        let svg = picture(&rows, &[column("nelbo"), column("pass_rate")]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 + 1 + 2, "three runs and two means: {svg}");
        assert!(svg.contains("trial a") && svg.contains("trial b") && !svg.contains("pass_rate"), "{svg}");
        assert!(picture(&rows, &[column("pass_rate")]).is_err());
    }
}
