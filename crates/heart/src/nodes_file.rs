//! The list of the cluster's nodes, read again every few seconds: a scale-up changes what `quorum` and `all` mean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broadcast_protocol::config::{ConfigError, NodesFile};
use broadcast_protocol::names::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::census::Census;
use crate::memory::SharedMemory;

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

/// Reads the file.
pub fn read(path: &Path) -> Result<NodesFile, NodesFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| NodesFileError::Unreadable { path: path.to_owned(), source })?;
    Ok(NodesFile::parse(&path.display().to_string(), &text)?)
}

/// Tells everybody what the file says.
pub fn apply(file: NodesFile, census: &watch::Sender<Census>, memory: &SharedMemory) {
    let members: BTreeSet<NodeId> = file.node_ids.into_iter().collect();
    memory.with(|memory| {
        memory.members = Some(members.clone());
        memory.accept_loss(file.accepted_loss);
    });
    census.send_if_modified(|census| census.replace_members(members));
}

/// Keeps census and memory as the file says; while the file is wrong, the last good one counts.
pub async fn follow(
    path: PathBuf,
    census: watch::Sender<Census>,
    memory: SharedMemory,
    stop: CancellationToken,
) -> Result<(), NodesFileError> {
    let mut problem = None;
    while stop.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
        let file = path.clone();
        let Ok(result) = tokio::task::spawn_blocking(move || read(&file)).await else { continue };
        match result {
            Ok(file) => {
                apply(file, &census, &memory);
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
    fn what_a_good_file_says_counts_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.yaml");
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.starts_with("nodes_file ") && missing.contains("nodes.yaml"), "{missing}");
        std::fs::write(&path, "node_ids: [2, 1, 2]").unwrap();
        let (census, memory) = (watch::channel(Census::default()).0, SharedMemory::new(true, 1));
        apply(read(&path).unwrap(), &census, &memory);
        let members = |memory: &SharedMemory| memory.with(|memory| memory.members.clone()).unwrap();
        assert_eq!(members(&memory).into_iter().map(NodeId::get).collect::<Vec<_>>(), [1, 2]);
        std::fs::write(&path, "node_ids: [1]\naccepted_loss: 1041").unwrap();
        apply(read(&path).unwrap(), &census, &memory);
        assert!(memory.with(|memory| memory.accepts(1041)));
        std::fs::write(&path, "node_ids: [0]").unwrap();
        let wrong = read(&path).unwrap_err().to_string();
        assert!(wrong.contains("nodes.yaml") && wrong.contains("a node id is 1 to"), "{wrong}");
    }
}
