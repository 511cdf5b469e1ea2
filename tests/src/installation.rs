//! Where RabbitMQ is installed: on this machine itself (Debian's package), or in a root of its own, which holds another release's.
//!
//! `BROADCAST_RABBITMQ_ROOT` names such a root; `cargo xtask test broker` makes it and sets the variable.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's wrapper beside it would change the user and the folders.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

const VARIABLE: &str = "BROADCAST_RABBITMQ_ROOT";

/// Becomes a program in a root, with this machine's temporary folder where it is here. What it mounts goes with the process, for it has
/// a mount namespace of its own; every step is an `exec`, so that the process which is started is the program itself in the end.
const ENTER: &str = r#"set -e; root=$1; temporary=$2; shift 2
mkdir -p "$root$temporary"
for folder in /dev /proc "$temporary"; do mount --rbind "$folder" "$root$folder"; done
exec chroot "$root" "$@""#;

/// An installed RabbitMQ.
#[derive(Debug)]
pub struct Installation {
    root: Option<PathBuf>,
}

impl Installation {
    /// The one that the environment names. Panics when it is not there.
    pub fn chosen() -> Self {
        let root = std::env::var_os(VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from);
        let server = root.as_deref().unwrap_or(Path::new("/")).join(&SERVER[1..]);
        let advice = match &root {
            None => "apt-get install rabbitmq-server".to_owned(),
            Some(_) => format!("`cargo xtask test broker --rabbitmq 4.0` makes what {VARIABLE} names"),
        };
        assert!(server.exists(), "{} is missing: {advice}", server.display());
        Self { root }
    }

    /// The command that runs the server.
    pub fn server(&self) -> Command {
        self.command(SERVER)
    }

    /// The command that runs a program of it, with nothing of this process's environment.
    pub fn command(&self, program: &str) -> Command {
        let Some(root) = &self.root else { return with_clean_environment(program) };
        let mut command = with_clean_environment("unshare");
        let enter = ["--mount", "--propagation=private", "--", "sh", "-c", ENTER, "sh"];
        command.args(enter).arg(root).arg(std::env::temp_dir()).arg(program);
        command
    }
}

fn with_clean_environment(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    command
}
