//! The forms of an answer. Colours and progress are for terminals only, and colours not even there where `NO_COLOR` is set.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::arguments::Format;
use crate::error::CliError;

/// Between columns.
const GAP: usize = 3;

/// How often progress is shown.
const TICK: Duration = Duration::from_secs(1);

/// Forgets what is on a terminal's line from its beginning.
const CLEAR_LINE: &str = "\r\u{1b}[K";

/// What something looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// As it should be.
    Good,
    /// On its way, or not known.
    Doubtful,
    /// Not as it should be.
    Bad,
}

/// Whether text may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Colours(bool);

impl Colours {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    /// As whoever reads standard output wants it.
    pub(crate) fn wanted() -> Self {
        Self::decide(is_terminal(), std::env::var_os("NO_COLOR").as_deref())
    }

    fn decide(is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        Self(is_terminal && no_color.is_none_or(OsStr::is_empty))
    }

    fn paint(self, text: &str, look: Look) -> String {
        let code = match look {
            _ if !self.0 || text.is_empty() => return text.to_owned(),
            Look::Good => 32,
            Look::Doubtful => 33,
            Look::Bad => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// A place in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    look: Option<Look>,
}

impl Cell {
    /// Text that looks like something.
    pub(crate) fn looking(text: impl Into<String>, look: Look) -> Self {
        Self { look: Some(look), ..Self::from(text.into()) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        // What others say may have several lines, or move the cursor.
        let text = text.replace(|c: char| c.is_control(), " ");
        Self { text, look: None }
    }
}

impl<T: ToString> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        Self::from(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
    }
}

/// A table like those of `kubectl`.
pub(crate) fn table(header: &[&str], rows: &[Vec<Cell>], colours: Colours) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain(header.get(column).map(|title| title.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let titles: Vec<Cell> = header.iter().map(|title| Cell::from((*title).to_owned())).collect();
    let mut lines = Vec::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &cell.look.map_or_else(|| cell.text.clone(), |look| colours.paint(&cell.text, look));
            line += &" ".repeat(width - cell.text.chars().count() + GAP);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Prints an answer: `table` is what people get.
pub(crate) fn print<T: Serialize>(
    format: Format,
    answer: &T,
    table: impl FnOnce(&T, Colours) -> String,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => table(answer, Colours::wanted()),
        // Structs of text and numbers always encode.
        Format::Json => serde_json::to_string_pretty(answer).unwrap_or_default(),
        Format::Yaml => serde_yaml::to_string(answer).unwrap_or_default(),
    };
    writeln!(stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// Prints one of many answers: a line, or a document of its own.
pub(crate) fn print_one_of_many<T: Serialize>(
    format: Format,
    answer: &T,
    line: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => line(answer),
        Format::Json => serde_json::to_string(answer).unwrap_or_default(),
        Format::Yaml => format!("---\n{}", serde_yaml::to_string(answer).unwrap_or_default()),
    };
    writeln!(stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// Whether a person reads standard output.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Shows a person that something takes its time, and how long it has taken.
pub(crate) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !stderr().is_terminal() {
        return work.await;
    }
    let started = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                show(CLEAR_LINE);
                return done;
            }
            _ = ticks.tick() => {
                let mut line = CLEAR_LINE.to_owned();
                // Writing to a string cannot fail.
                let _ = write!(line, "{what} … {} s", started.elapsed().as_secs());
                show(&line);
            }
        }
    }
}

/// Progress that nobody sees is no reason to stop.
fn show(text: &str) {
    let mut terminal = stderr();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_whatever_its_colour() {
        let rows = [
            vec![Cell::looking("ready", Look::Good), Cell::from(Some(7)), Cell::from("ü".to_owned())],
            vec![
                Cell::looking("diverged", Look::Bad),
                Cell::from(None::<u64>),
                Cell::from("a\nb".to_owned()),
            ],
        ];
        let plain = table(&["STATE", "N", "TEXT"], &rows, Colours::NONE);
        assert_eq!(plain, "STATE      N   TEXT\nready      7   ü\ndiverged   -   a b");
        let coloured = table(&["STATE", "N", "TEXT"], &rows, Colours(true));
        assert!(coloured.contains("\u{1b}[32mready\u{1b}[0m      7"), "{coloured:?}");
        assert!(coloured.contains("\u{1b}[31mdiverged\u{1b}[0m   -"), "{coloured:?}");
    }

    #[test]
    fn colours_are_for_terminals_on_which_nobody_declines_them() {
        for (is_terminal, no_color, wanted) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)]
        {
            assert_eq!(Colours::decide(is_terminal, no_color.map(OsStr::new)), Colours(wanted));
        }
    }
}
