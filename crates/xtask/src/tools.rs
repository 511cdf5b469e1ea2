//! The programs of a real Kubernetes, built from their Go modules as `tests/tools/*` pin them, so that a machine with Go needs no
//! registry of images or downloads of binaries.
//!
//! Each program is kept in the cache under a key of everything it is made from: module files, Go version, flags. It appears there when
//! it is whole, so that an interrupted build goes on where it was.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::{Context, short_hash};
use crate::failure::{AtPath, Result, told};
use crate::step::{Step, ask};

struct Module {
    /// Its folder in `tests/tools`.
    name: &'static str,
    /// The programs and the packages they are built from.
    programs: &'static [(&'static str, &'static str)],
    /// Whether it contains C.
    has_c: bool,
}

/// What benchmarks compare with; no part of the cluster.
const RQLITE: Module = Module {
    name: "rqlite",
    programs: &[("rqlited", "github.com/rqlite/rqlite/v8/cmd/rqlited")],
    has_c: true,
};

const MODULES: &[Module] = &[
    Module {
        name: "kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        has_c: false,
    },
    Module { name: "etcd", programs: &[("etcd", "go.etcd.io/etcd/server/v3")], has_c: false },
    Module { name: "coredns", programs: &[("coredns", ".")], has_c: false },
    Module { name: "helm", programs: &[("helm", "helm.sh/helm/v4/cmd/helm")], has_c: false },
    Module { name: "pause", programs: &[("pause", ".")], has_c: false },
];

/// Where the built programs are: links of their plain names, in one folder that stays the same across versions.
pub(crate) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Builds what is not in the cache yet.
    pub(crate) fn build(context: &Context) -> Result<Self> {
        Self::build_modules(context, MODULES.iter())
    }

    /// Builds Helm alone: the checks of the chart need nothing else.
    pub(crate) fn build_helm(context: &Context) -> Result<Self> {
        Self::build_modules(context, MODULES.iter().filter(|module| module.name == "helm"))
    }

    /// Builds the API server and its store, and what else comes from the same sources.
    pub(crate) fn build_api_server(context: &Context) -> Result<Self> {
        let needed = |module: &&Module| matches!(module.name, "kubernetes" | "etcd");
        Self::build_modules(context, MODULES.iter().filter(needed))
    }

    /// Builds what benchmarks compare with.
    pub(crate) fn build_rivals(context: &Context) -> Result<Self> {
        let etcd = MODULES.iter().filter(|module| module.name == "etcd");
        Self::build_modules(context, etcd.chain([&RQLITE]))
    }

    fn build_modules<'a>(context: &Context, modules: impl IntoIterator<Item = &'a Module>) -> Result<Self> {
        let go_version = fetch_go_version()?;
        let links = context.cache.join("bin");
        for module in modules {
            let source = context.root.join("tests/tools").join(module.name);
            let flags = build_flags(&source)?;
            let key = build_key(&source, &go_version, &flags)?;
            let folder = context.cache.join("tools").join(format!("{}-{key}", module.name));
            fs::create_dir_all(&folder).at("create", &folder)?;
            for &(program, package) in module.programs {
                let path = folder.join(program);
                if !path.exists() {
                    context.step(&format!("building {program}"), |step| {
                        build_program(step, go_build(&source, &flags, module.has_c), package, &path)
                    })?;
                }
                link(&path, &links.join(program))?;
            }
        }
        Ok(Self { folder: links })
    }

    /// The path of a program by its name.
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        // The version's own path: what runs is not exchanged under its feet, and shows what it is.
        // What is not built here (containerd) is found by its name.
        fs::canonicalize(self.folder.join(program)).unwrap_or_else(|_| PathBuf::from(program))
    }

    /// `PATH` with the programs in front, for what calls them by name.
    pub(crate) fn search_path(&self) -> OsString {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let all = [self.folder.clone()].into_iter().chain(env::split_paths(&inherited));
        env::join_paths(all).unwrap_or(inherited)
    }
}

/// Makes or moves a link, so that there is always either the old one or the new one.
fn link(path: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == path) {
        return Ok(());
    }
    let folder = link.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).at("create", folder)?;
    let partial = link.with_extension("partial");
    if partial.is_symlink() {
        fs::remove_file(&partial).at("remove", &partial)?;
    }
    std::os::unix::fs::symlink(path, &partial).at("create", &partial)?;
    fs::rename(&partial, link).at("create", link)
}

fn fetch_go_version() -> Result<String> {
    match ask(Command::new("go").args(["env", "GOVERSION"])) {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        _ => told(
            "the cluster's programs are built with Go 1.26 or newer: install it and put `go` on the PATH",
        ),
    }
}

/// The flags that decide what comes out. Kubernetes takes its own version from the linker and answers with a made-up one without it.
fn build_flags(source: &Path) -> Result<Vec<String>> {
    let manifest = source.join("go.mod");
    let text = fs::read_to_string(&manifest).at("read", &manifest)?;
    let linker = if let Some(version) = module_version(&text, "k8s.io/kubernetes") {
        let variable = "-X k8s.io/component-base/version.git";
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        format!("-s -w {variable}Version={version} {variable}Major={major} {variable}Minor={minor}")
    } else {
        "-s -w".to_owned()
    };
    let fixed = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags"];
    Ok(fixed.into_iter().map(str::to_owned).chain([linker]).collect())
}

fn module_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim_start_matches("require").split_whitespace();
        (words.next() == Some(module))
            .then(|| words.next())
            .flatten()
            .filter(|version| version.starts_with('v'))
    })
}

fn build_key(source: &Path, go_version: &str, flags: &[String]) -> Result<String> {
    let mut parts = vec![go_version.as_bytes().to_vec(), flags.join(" ").into_bytes()];
    for name in ["go.mod", "go.sum", "main.go"] {
        let path = source.join(name);
        if path.exists() {
            parts.push(fs::read(&path).at("read", &path)?);
        }
    }
    Ok(short_hash(parts.iter().map(Vec::as_slice)))
}

fn go_build(source: &Path, flags: &[String], has_c: bool) -> Command {
    let mut go = Command::new("go");
    let cgo = if has_c { "1" } else { "0" };
    go.current_dir(source).env("CGO_ENABLED", cgo).env("GOFLAGS", "").arg("build").args(flags);
    go
}

fn build_program(step: &Step, mut go: Command, package: &str, path: &Path) -> Result<()> {
    let partial = path.with_extension("partial");
    step.run(go.arg("-o").arg(&partial).arg(package))?;
    fs::rename(&partial, path).at("create", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_module_is_read_from_either_form_of_require() {
        let single = "module x\n\nrequire k8s.io/kubernetes v1.36.3\n";
        let block = "require (\n\tk8s.io/api v0.36.3\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        for go_mod in [single, block] {
            assert_eq!(module_version(go_mod, "k8s.io/kubernetes"), Some("v1.36.3"));
        }
        assert_eq!(module_version("tool (\n\tk8s.io/kubernetes/cmd/kubectl\n)\n", "k8s.io/kubernetes"), None);
    }

    #[test]
    fn every_program_is_pinned_by_a_module_of_the_checkout() {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools");
        for module in MODULES.iter().chain([&RQLITE]) {
            let go_mod = fs::read_to_string(tools.join(module.name).join("go.mod")).unwrap();
            for (program, package) in module.programs {
                let pinned = *package == "."
                    || go_mod.lines().any(|line| line.trim_start_matches("tool").trim() == *package);
                assert!(pinned, "{program}: no `tool` line for {package}");
            }
        }
    }

    #[test]
    fn another_go_version_makes_another_key() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/pause");
        let flags = build_flags(&source).unwrap();
        assert_ne!(
            build_key(&source, "go1.26.0", &flags).unwrap(),
            build_key(&source, "go1.27.0", &flags).unwrap()
        );
    }
}
