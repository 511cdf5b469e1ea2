//! Files that change all at once, as those of a Secret do in a pod: a folder that is a link, which is replaced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::processes::Folder;

/// A folder whose content is replaced as a whole.
#[derive(Debug, Default)]
pub struct Mount {
    folder: Folder,
    count: AtomicUsize,
}

impl Mount {
    /// One without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The path of a file.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.join("mounted").join(name)
    }

    /// From now on these are the files, and no others.
    pub fn replace(&self, files: &[(&str, &str)]) {
        let version = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        let target = self.folder.join(&version);
        fs::create_dir(&target).unwrap();
        for (name, content) in files {
            fs::write(target.join(name), content).unwrap();
        }
        let link = self.folder.join(format!("{version}.link"));
        symlink(&target, &link).unwrap();
        fs::rename(link, self.folder.join("mounted")).unwrap();
    }
}
