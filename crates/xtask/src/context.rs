//! Where things are: the checkout, the cache outside of it, cargo's target folder.
//!
//! The cache holds what is slow to make and does not depend on the state of the checkout's sources: it is keyed by version, so that
//! several checkouts can share it, and an entry appears in it only when it is whole.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{AtPath, Result, told};

/// The folders that every command works with.
pub(crate) struct Context {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// `$BROADCAST_CACHE`, else `$XDG_CACHE_HOME/broadcast-operator`, else `~/.cache/broadcast-operator`.
    pub(crate) cache: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
}

impl Context {
    pub(crate) fn from_environment() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let Some(cache) =
            cache_folder(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
        else {
            return told(
                "neither HOME nor BROADCAST_CACHE is set: set one, it says where built programs are kept",
            );
        };
        fs::create_dir_all(&cache).at("create", &cache)?;
        Ok(Self { root, cache, target })
    }

    /// Waits until no other `cargo xtask` changes the cache or the cluster, and keeps others out until the answer is dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.cache.join("lock");
        let file = File::create(&path).at("create", &path)?;
        if file.try_lock().is_err() {
            eprintln!("another `cargo xtask` is at work; waiting until it has finished");
            file.lock().at("lock", &path)?;
        }
        Ok(file)
    }

    /// A cargo command in the checkout, for the toolchain that runs this program.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // Set by the cargo that runs this program; they would make the inner one rebuild what the outer one built.
        for (name, _) in env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
            {
                command.env_remove(name);
            }
        }
        command
    }
}

fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("BROADCAST_CACHE").or_else(|| {
        let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(base.join("broadcast-operator"))
    })
}

/// Writes a file so that a reader sees the old content or the new, never a part; its folder is made when missing.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).at("create", folder)?;
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial).at("create", &partial)?;
    file.write_all(content).at("write", &partial)?;
    drop(file);
    fs::rename(&partial, path).at("create", path)
}

/// The first 12 hex digits of a hash over all parts: enough to tell versions apart in a file name or an image tag.
pub(crate) fn short_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_the_most_specific_variable() {
        let all = [("BROADCAST_CACHE", "/b"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let expected =
            [Some("/b"), Some("/x/broadcast-operator"), Some("/h/.cache/broadcast-operator"), None];
        for (missing, expected) in expected.into_iter().enumerate() {
            let variables = &all[missing..];
            let variable = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(cache_folder(variable), expected.map(PathBuf::from), "{variables:?}");
        }
    }

    #[test]
    fn a_hash_depends_on_where_one_part_ends() {
        assert_ne!(short_hash([b"ab".as_slice(), b"c"]), short_hash([b"a".as_slice(), b"bc"]));
        assert_eq!(short_hash([b"ab".as_slice()]).len(), 12);
    }
}
