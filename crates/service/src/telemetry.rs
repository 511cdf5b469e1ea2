//! Logs on standard error: `LOG` is a filter (default `info`), `LOG_FORMAT` is `text` or `json`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `LOG` or `LOG_FORMAT` is wrong, or logging was set up before.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `LOG` is not a filter.
    #[error("LOG: {0:?} is not a filter such as \"info\" or \"info,lapin=debug\": {1}")]
    Filter(String, String),
    /// `LOG_FORMAT` is unknown.
    #[error("LOG_FORMAT: {0:?} is neither \"text\" nor \"json\"")]
    Format(String),
    /// Called twice.
    #[error("{0}")]
    AlreadySet(String),
}

/// Sets up logging for the process; `variable` looks up an environment variable.
pub fn init(variable: impl Fn(&str) -> Option<String>) -> Result<(), TelemetryError> {
    let filter = build_filter(variable("LOG").as_deref())?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match variable("LOG_FORMAT").as_deref() {
        None | Some("text" | "") => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Some("json") => subscriber.json().flatten_event(true).try_init(),
        Some(other) => return Err(TelemetryError::Format(other.to_owned())),
    };
    result.map_err(|error| TelemetryError::AlreadySet(error.to_string()))
}

fn build_filter(text: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or("info");
    // The AMQP library logs refusals as errors that are an everyday answer here (a standby's lock, say). All of them
    // come back as values, which are logged where it is known what they mean.
    let text = if text.contains("lapin") { text.to_owned() } else { format!("{text},lapin=off") };
    EnvFilter::try_new(&text).map_err(|error| TelemetryError::Filter(text.clone(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_and_the_broker_library_is_quiet_unless_named() {
        assert_eq!(build_filter(None).unwrap().to_string(), "lapin=off,info");
        assert_eq!(build_filter(Some("lapin=debug")).unwrap().to_string(), "lapin=debug");
        assert!(build_filter(Some("a=b=c")).unwrap_err().to_string().starts_with("LOG: "));
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let error = init(|name| (name == "LOG_FORMAT").then(|| "xml".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "LOG_FORMAT: \"xml\" is neither \"text\" nor \"json\"");
    }
}
