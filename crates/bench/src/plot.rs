//! Plots as SVG: lines over a logarithmic or a linear axis, with a legend.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use serde::Serialize;

use crate::error::{BenchError, Result};

const SIZE: (u32, u32) = (800, 480);

/// Told apart by those who see colours otherwise, too.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// Pixels of a line and of the gap behind it.
const DASH: (i32, i32) = (6, 4);
/// No line is as long as this.
const WITHOUT_GAPS: (i32, i32) = (1 << 20, 1);

/// Lines in one picture; both axes are logarithmic.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What is below, with its unit.
    pub x: String,
    /// What is at the side, with its unit.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Lines of one number have one colour.
    pub colour: usize,
    /// Whether the line has gaps.
    pub is_dashed: bool,
}

impl Plot {
    /// The file of a benchmark's plot.
    pub fn file_name(&self, benchmark: &str) -> String {
        let title = self.title.to_lowercase();
        let words: Vec<&str> =
            title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        format!("{benchmark}-{}.svg", words.join("-"))
    }

    /// The picture. Points that a logarithmic axis has no place for are left out.
    pub fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw_to(&mut svg).map_err(|error| BenchError::Plot(format!("{}: {error}", self.title)))?;
        Ok(svg)
    }

    fn draw_to(&self, svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error + '_>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || self.points().map(|point| of(&point));
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
            if low <= high { low / 1.3..high * 1.3 } else { 0.1..1.0 }
        };
        let (x, y) = (range(|point| point.0), range(|point| point.1));
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        let label = |value: &f64| crate::report::number(*value);
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(RGBColor(235, 235, 235))
            .draw()?;
        for series in &self.series {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let (line, dash) = (colour.stroke_width(2), if series.is_dashed { DASH } else { WITHOUT_GAPS });
            let points: Vec<(f64, f64)> = series.drawable().collect();
            chart
                .draw_series(DashedLineSeries::new(points.iter().copied(), dash.0, dash.1, line))?
                .label(&series.name)
                .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 18, y)], dash.0, dash.1, line));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        root.present()?;
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(Series::drawable)
    }
}

impl Series {
    fn drawable(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0 && x.is_finite() && y.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Plot {
        let series = |name: &str| Series {
            name: name.to_owned(),
            points: points.to_vec(),
            colour: 0,
            is_dashed: name.ends_with("p99"),
        };
        Plot {
            title: "Latency against load".to_owned(),
            x: "writes/s".to_owned(),
            y: "ms".to_owned(),
            series: vec![series("ours, p50"), series("ours, p99")],
        }
    }

    #[test]
    fn a_plot_names_its_axes_and_lines_and_draws_every_point() {
        let svg = plot(&[(10.0, 1.0), (100.0, 2.0), (1_000.0, 40.0)]).draw().unwrap();
        for text in ["Latency against load", "writes/s", "ms", "ours, p50", "ours, p99"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 6);
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        for points in [&[][..], &[(0.0, 1.0), (f64::NAN, 2.0), (3.0, f64::INFINITY)], &[(5.0, 5.0)]] {
            let svg = plot(points).draw().unwrap();
            assert_eq!(svg.matches("<circle").count(), if points.len() == 1 { 2 } else { 0 });
        }
    }

    #[test]
    fn the_file_of_a_plot_is_named_after_it() {
        assert_eq!(plot(&[]).file_name("ingest"), "ingest-latency-against-load.svg");
    }
}
