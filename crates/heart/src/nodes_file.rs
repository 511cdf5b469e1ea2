//! The list of the cluster's nodes, read again every few seconds: a scale-up changes what `quorum` and `all` mean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broadcast_protocol::config::{ConfigError, NodesFile};
use broadcast_protocol::names::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::census::Census;

const READ_EVERY: Duration = Duration::from_secs(2);

/// The file cannot be read, or is wrong.
#[derive(Debug, thiserror::Error)]
pub enum NodesFileError {
    /// The file cannot be read.
    #[error("nodes_file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

/// Reads the list.
pub fn read(path: &Path) -> Result<BTreeSet<NodeId>, NodesFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| NodesFileError::Unreadable { path: path.to_owned(), source })?;
    Ok(NodesFile::parse(&path.display().to_string(), &text)?.node_ids.into_iter().collect())
}

/// Keeps the census' list as the file says; while the file is wrong, the last good list counts.
pub async fn follow(
    path: PathBuf,
    census: watch::Sender<Census>,
    stop: CancellationToken,
) -> Result<(), NodesFileError> {
    let mut problem = None;
    while stop.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
        let file = path.clone();
        let Ok(result) = tokio::task::spawn_blocking(move || read(&file)).await else { continue };
        match result {
            Ok(members) => {
                census.send_if_modified(|census| census.replace_members(members));
                problem = None;
            }
            Err(error) => {
                let text = error.to_string();
                if problem.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "keeping the last list of nodes");
                }
                problem = Some(text);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_set_of_ids_and_a_wrong_one_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.yaml");
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.starts_with("nodes_file ") && missing.contains("nodes.yaml"), "{missing}");
        std::fs::write(&path, "node_ids: [2, 1, 2]").unwrap();
        assert_eq!(read(&path).unwrap().into_iter().map(NodeId::get).collect::<Vec<_>>(), [1, 2]);
        std::fs::write(&path, "node_ids: [0]").unwrap();
        let wrong = read(&path).unwrap_err().to_string();
        assert!(wrong.contains("nodes.yaml") && wrong.contains("a node id is 1 to"), "{wrong}");
    }
}
