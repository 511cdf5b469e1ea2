//! Why a benchmark has no result.

/// What went wrong; the text says with what.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The machine refused to read, write or start something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A request got no answer.
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    /// A request could not be made.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// An answer is not what it has to be.
    #[error("not the JSON that was expected: {0}")]
    Json(#[from] serde_json::Error),
    /// The bare database refused something.
    #[error("SQLite: {0}")]
    Database(#[from] rusqlite::Error),
    /// The broker refused something.
    #[error("broker: {0}")]
    Broker(#[from] lapin::Error),
    /// A plot cannot be drawn.
    #[error("cannot draw {0}")]
    Plot(String),
    /// Something took too long.
    #[error("waited {0} s for {1}")]
    TimedOut(u64, String),
    /// Something is not as it has to be.
    #[error("{0}")]
    Told(String),
}

/// What a benchmark's steps give.
pub type Result<T> = std::result::Result<T, BenchError>;

/// A failure that is told in words.
pub fn told<T>(text: impl Into<String>) -> Result<T> {
    Err(BenchError::Told(text.into()))
}
