//! The RabbitMQ versions that everything has to work with: Debian 12's package on this machine itself, and Debian 13's, which cannot be
//! installed beside it, in a root of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;

use crate::apt;
use crate::context::{Context, short_hash};
use crate::failure::{AtPath, Result, told};

/// The Debian release that has RabbitMQ 4.0.
pub(crate) const RELEASE: &str = "trixie";

/// A version of RabbitMQ.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RabbitMq {
    /// Debian 12's
    #[value(name = "3.10")]
    Bookworm,
    /// Debian 13's
    #[value(name = "4.0")]
    Trixie,
}

impl RabbitMq {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "3.10",
            Self::Trixie => "4.0",
        }
    }

    /// Brings it to this machine, and gives the root that its programs have to be run in, where that is not this machine's own.
    pub(crate) fn provide(self, context: &Context) -> Result<Option<PathBuf>> {
        apt::install(context, apt::FOR_BROKER_TESTS)?;
        match self {
            Self::Bookworm => Ok(None),
            Self::Trixie => provide_root(context).map(Some),
        }
    }
}

/// A folder with Debian 13's RabbitMQ and all that it needs. Nobody writes into it.
pub(crate) fn provide_root(context: &Context) -> Result<PathBuf> {
    const OPTIONS: &[&str] = &[
        "--variant=essential",
        "--include=rabbitmq-server",
        "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
        "--format=directory",
    ];
    apt::install(context, apt::FOR_ROOTS)?;
    let version = short_hash(OPTIONS.iter().chain([&RELEASE]).map(|option| option.as_bytes()));
    let root = context.cache.join("roots").join(format!("rabbitmq-{RELEASE}-{version}"));
    if root.exists() {
        return Ok(root);
    }
    if !apt::is_root()? {
        return told("unpacking RabbitMQ 4.0 needs root: run the same command as root once");
    }
    context.step("unpacking RabbitMQ 4.0", |step| {
        let partial = root.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).at("remove", &partial)?;
        }
        fs::create_dir_all(&partial).at("create", &partial)?;
        let mut bootstrap = Command::new("mmdebstrap");
        step.run(bootstrap.args(OPTIONS).arg(RELEASE).arg(&partial).args(apt::fetch_mirror()?))?;
        fs::rename(&partial, &root).at("create", &root)
    })?;
    Ok(root)
}
