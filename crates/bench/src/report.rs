//! What a benchmark found: figures side by side, what they were to be, and plots.

use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;
use crate::plot::Plot;
use crate::statistics::Samples;

/// What one benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name on the command line.
    pub name: &'static str,
    /// What was done, for whoever reads the figures.
    pub about: String,
    /// The figures, in the order in which they are shown.
    pub rows: Vec<Row>,
    /// What the figures were to be.
    pub checks: Vec<Check>,
    /// What else there is to say.
    pub notes: Vec<String>,
    /// Drawn as `NAME-TITLE.svg`.
    pub plots: Vec<Plot>,
}

/// One figure beside its rival's.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Of what.
    pub what: String,
    /// In what.
    pub unit: &'static str,
    /// Ours.
    pub ours: Samples,
    /// The rival's name and figure, where there is one.
    pub rival: Option<(String, Samples)>,
}

/// A figure, or a ratio of two, that was to be something.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was to be.
    pub what: String,
    /// What it is.
    pub found: f64,
    /// What it was to be.
    pub bound: Bound,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Report {
    /// An empty one.
    pub fn new(name: &'static str, about: impl Into<String>) -> Self {
        Self { name, about: about.into(), rows: vec![], checks: vec![], notes: vec![], plots: vec![] }
    }

    /// Adds a figure beside its rival's.
    pub fn compare(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: &Samples,
        rival: impl Into<String>,
        theirs: &Samples,
    ) {
        let rival = Some((rival.into(), theirs.clone()));
        self.rows.push(Row { what: what.into(), unit, ours: ours.clone(), rival });
    }

    /// Adds a figure that stands alone.
    pub fn state(&mut self, what: impl Into<String>, unit: &'static str, ours: &Samples) {
        self.rows.push(Row { what: what.into(), unit, ours: ours.clone(), rival: None });
    }

    /// Adds what a figure was to be.
    pub fn check(&mut self, what: impl Into<String>, found: f64, bound: Bound) {
        self.checks.push(Check { what: what.into(), found, bound });
    }
}

impl Row {
    /// How many times the rival's figure ours is, pair by pair.
    pub fn ratios(&self) -> Option<Samples> {
        self.rival.as_ref().map(|(_, theirs)| self.ours.ratios(theirs))
    }
}

impl Check {
    /// Whether it is as it was to be; what could not be measured is not.
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.found >= bound,
            Bound::AtMost(bound) => self.found <= bound,
        }
    }
}

/// A report as a page.
pub fn render_markdown(machine: &Machine, quick: bool, rounds: usize, report: &Report) -> String {
    let mut page = format!("# Benchmark {}\n\n", report.name);
    let Machine { processor, cores, memory_mib, kernel, file_system, .. } = machine;
    let _infallible = writeln!(
        page,
        "{cores} cores of {processor}, {memory_mib} MiB, Linux {kernel}, stored on {file_system}. Everything runs on this machine \
         and shares it with the generator of the load. Figures are medians (rounds: {rounds}), taken in turn with the rival (each \
         second round the other way round), with the smallest and the largest behind them; a ratio is ours by the rival's, round by round.\n"
    );
    if quick {
        page.push_str(
            "**Made with `--quick`: the figures show that everything works and nothing else.**\n\n",
        );
    }
    for doubt in machine.doubts() {
        let _infallible = writeln!(page, "**{doubt}**\n");
    }
    render_figures(&mut page, report);
    page
}

fn render_figures(page: &mut String, report: &Report) {
    let Report { name, about, rows, checks, notes, plots } = report;
    let _infallible = writeln!(page, "{about}\n");
    if !rows.is_empty() {
        page.push_str("| | unit | ours | rival | | ratio |\n|---|---|--:|---|--:|--:|\n");
    }
    for row in rows {
        let (name, theirs) = match &row.rival {
            Some((name, theirs)) => (name.as_str(), spread(theirs)),
            None => ("", String::new()),
        };
        let ratio = row.ratios().map(|ratios| spread(&ratios)).unwrap_or_default();
        let _infallible = writeln!(
            page,
            "| {} | {} | {} | {name} | {theirs} | {ratio} |",
            row.what,
            row.unit,
            spread(&row.ours)
        );
    }
    if !checks.is_empty() {
        page.push_str("\n| was to be | | is | |\n|---|--:|--:|---|\n");
    }
    for check in checks {
        let bound = match check.bound {
            Bound::AtLeast(bound) => format!("≥ {}", number(bound)),
            Bound::AtMost(bound) => format!("≤ {}", number(bound)),
        };
        let verdict = if check.holds() { "holds" } else { "**falls short**" };
        let _infallible =
            writeln!(page, "| {} | {bound} | {} | {verdict} |", check.what, number(check.found));
    }
    page.push('\n');
    for note in notes {
        let _infallible = writeln!(page, "- {note}");
    }
    for plot in plots {
        let _infallible = writeln!(page, "\n![{}]({})", plot.title, plot.file_name(name));
    }
    page.push('\n');
}

/// The median, and the smallest and the largest where there are several.
fn spread(samples: &Samples) -> String {
    let median = number(samples.median());
    if samples.len() < 2 {
        return median;
    }
    format!("{median} ({} – {})", number(samples.min()), number(samples.max()))
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        100.0.. => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |digits| ("-", digits));
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
            format!("{sign}{}", groups.join(","))
        }
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_the_digits_that_count() {
        for (value, shown) in [
            (1_234_567.0, "1,234,567"),
            (-1_234.4, "-1,234"),
            (100.0, "100"),
            (12.34, "12.3"),
            (0.456, "0.46"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn a_check_that_could_not_be_measured_does_not_hold() {
        let check = |found, bound| Check { what: String::new(), found, bound }.holds();
        assert!(check(5.0, Bound::AtLeast(5.0)) && check(3.0, Bound::AtMost(3.0)));
        assert!(!check(4.9, Bound::AtLeast(5.0)) && !check(3.1, Bound::AtMost(3.0)));
        assert!(!check(f64::NAN, Bound::AtLeast(5.0)) && !check(f64::NAN, Bound::AtMost(3.0)));
    }

    #[test]
    fn the_page_has_every_figure_what_it_was_to_be_and_what_takes_its_worth() {
        let mut report = Report::new("ingest", "Single writes.");
        let samples = |values: &[f64]| -> Samples { values.iter().copied().collect() };
        let (ours, theirs) = (samples(&[5_000.0, 6_000.0, 5_500.0]), samples(&[1_000.0, 1_000.0, 1_100.0]));
        report.compare("64 clients", "writes/s", &ours, "rqlite", &theirs);
        report.state("rows", "rows", &samples(&[12.0]));
        report.check("64 clients: times rqlite", 4.5, Bound::AtLeast(5.0));
        report.notes.push("Noted.".to_owned());
        let machine =
            Machine { load_before: 9.0, cores: 2, file_system: "ext4".to_owned(), ..Machine::look() };
        let page = render_markdown(&machine, true, 3, &report);
        for line in [
            "| 64 clients | writes/s | 5,500 (5,000 – 6,000) | rqlite | 1,000 (1,000 – 1,100) | 5.00 (5.00 – 6.00) |",
            "| rows | rows | 12.0 |  |  |  |",
            "| 64 clients: times rqlite | ≥ 5.00 | 4.50 | **falls short** |",
            "- Noted.",
            "**Made with `--quick`: the figures show that everything works and nothing else.**",
            "**The machine was not quiet: its load average was 9.0 on 2 cores.**",
        ] {
            assert!(page.lines().any(|found| found == line), "no {line:?} in\n{page}");
        }
    }
}
