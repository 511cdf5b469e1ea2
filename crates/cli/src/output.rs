//! The forms of an answer.

use std::io::{IsTerminal, Write, stdout};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::arguments::Format;
use crate::error::CliError;

/// Prints an answer: `table` is what people get.
pub(crate) fn print<T: Serialize>(
    format: Format,
    answer: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => table(answer),
        // Structs of text and numbers always encode.
        Format::Json => serde_json::to_string_pretty(answer).unwrap_or_default(),
        Format::Yaml => serde_yaml::to_string(answer).unwrap_or_default(),
    };
    writeln!(stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// A table like those of `kubectl`.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Whether a person looks.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}
