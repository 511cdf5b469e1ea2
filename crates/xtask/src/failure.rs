//! What can go wrong in a development command. Every message says what to do next, because whoever reads it wants to go on.

use std::path::{Path, PathBuf};

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The machine refused to read or write something.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A program that was run did not succeed. Its output is in `log`, where there is one.
    #[error("`{command}` {outcome}")]
    Program { command: String, outcome: String, log: Option<PathBuf> },
    /// Something is not as it has to be; the text says what, and what to do.
    #[error("{0}")]
    Told(String),
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Turns an IO error into a [`Failure`] that names the file and what was done with it.
pub(crate) trait AtPath<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Failure::Io { what: format!("cannot {doing} {}", path.display()), source })
    }
}

/// Shorthand for a failure that is told in words.
pub(crate) fn told<T>(text: impl Into<String>) -> Result<T> {
    Err(Failure::Told(text.into()))
}
