//! The images that the cluster runs, made here and handed to its container runtime: no registry is needed.
//!
//! An image's tag is a hash of what it is made from, so that a name always means the same content, a changed program gets another
//! name, and an image that is there already is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::cluster::Cluster;
use crate::context::{Context, short_hash};
use crate::failure::{AtPath, Result};
use crate::rabbitmq;
use crate::step::{Step, ask};
use crate::tools::Tools;

/// An image in a file.
pub(crate) struct Image {
    /// Name with tag, as manifests have to give it.
    pub(crate) name: String,
    pub(crate) archive: PathBuf,
}

/// The project's own images.
pub(crate) struct OwnImages {
    pub(crate) operator: Image,
    pub(crate) heart: Image,
    pub(crate) node: Image,
}

const PREFIX: &str = "localhost/broadcast-operator";
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the three programs as static binaries, and their images.
pub(crate) fn build_own(context: &Context) -> Result<OwnImages> {
    apt::install(context, apt::FOR_OWN_IMAGES)?;
    install_static_target(context)?;
    context.step("building operator, heart and node as static binaries", |step| {
        let mut cargo = context.cargo();
        cargo.args(["build", "--release", "--target", STATIC_TARGET]);
        step.run(cargo.args([
            "--package=broadcast-operator",
            "--package=broadcast-heart",
            "--package=broadcast-node",
        ]))
    })?;
    let folder = context.target.join(STATIC_TARGET).join("release");
    let recipe = context.root.join("deploy/Containerfile");
    let build = |program: &str| build_from_program(context, program, &folder.join(program), &recipe);
    Ok(OwnImages { operator: build("operator")?, heart: build("heart")?, node: build("node")? })
}

/// The image that holds a pod's network.
pub(crate) fn build_pause(context: &Context, tools: &Tools) -> Result<Image> {
    build_from_program(
        context,
        "pause",
        &tools.path("pause"),
        &context.root.join("tests/tools/pause/Containerfile"),
    )
}

/// RabbitMQ 4 out of Debian's packages.
pub(crate) fn build_rabbitmq(context: &Context) -> Result<Image> {
    let recipe = context.root.join("tests/tools/rabbitmq/Containerfile");
    let recipe_text = fs::read(&recipe).at("read", &recipe)?;
    let root = rabbitmq::provide_root(context)?;
    let version = root.file_name().unwrap_or_default().as_encoded_bytes();
    build_image(
        context,
        "rabbitmq",
        &recipe,
        &short_hash([recipe_text.as_slice(), version]),
        |step, folder| {
            let mut tar = Command::new("tar");
            tar.args(["--create", "--numeric-owner", "--exclude=./dev/*", "--exclude=./tmp/*", "--file"]);
            step.run(tar.arg(folder.join("system.tar")).arg("--directory").arg(&root).arg("."))
        },
    )
}

fn install_static_target(context: &Context) -> Result<()> {
    let installed = ask(rustup(context).args(["target", "list", "--installed"]));
    // Without rustup the toolchain is the machine's own affair; cargo says what is missing.
    let Ok(installed) = installed else { return Ok(()) };
    if String::from_utf8_lossy(&installed.stdout).lines().any(|target| target == STATIC_TARGET) {
        return Ok(());
    }
    context.step("installing Rust's target for static binaries", |step| {
        step.run(rustup(context).args(["target", "add", STATIC_TARGET]))
    })
}

fn rustup(context: &Context) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(&context.root);
    command
}

/// An image of one static program.
fn build_from_program(context: &Context, name: &str, program: &Path, recipe: &Path) -> Result<Image> {
    let recipe_text = fs::read(recipe).at("read", recipe)?;
    let binary = fs::read(program).at("read", program)?;
    build_image(context, name, recipe, &short_hash([recipe_text.as_slice(), &binary]), |_, folder| {
        fs::copy(program, folder.join(name)).at("copy", program).map(drop)
    })
}

/// Builds an image unless its file is in the cache. `collect` puts what the recipe needs into a folder.
fn build_image(
    context: &Context,
    name: &str,
    recipe: &Path,
    tag: &str,
    collect: impl FnOnce(&Step, &Path) -> Result<()>,
) -> Result<Image> {
    let archive = context.cache.join("images").join(format!("{name}-{tag}.tar"));
    let image = Image { name: format!("{PREFIX}/{name}:{tag}"), archive };
    if image.archive.exists() {
        return Ok(image);
    }
    context.step(&format!("building the image of {name}"), |step| {
        let workshop = Workshop::open(context, name)?;
        let materials = workshop.folder.join("materials");
        fs::create_dir_all(&materials).at("create", &materials)?;
        collect(step, &materials)?;
        let mut build = workshop.buildah(&["build", "--tag", &image.name, "--target", name]);
        step.run(build.arg("--file").arg(recipe).arg(&materials))?;
        workshop.export(step, &image)
    })?;
    Ok(image)
}

/// A store of buildah's own that is gone afterwards.
struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    fn open(context: &Context, name: &str) -> Result<Self> {
        let folder = context.cache.join("workshop").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).at("remove", &folder)?;
        }
        fs::create_dir_all(&folder).at("create", &folder)?;
        Ok(Self { folder })
    }

    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--storage-driver=vfs").arg("--root").arg(self.folder.join("root"));
        command.arg("--runroot").arg(self.folder.join("run")).args(arguments);
        command
    }

    /// Writes the image to its file, which appears when it is whole; files of the same image's older versions go.
    fn export(&self, step: &Step, image: &Image) -> Result<()> {
        let partial = self.folder.join("image.tar");
        let target = format!("oci-archive:{}:{}", partial.display(), image.name);
        step.run(&mut self.buildah(&["push", &image.name, &target]))?;
        let folder = image.archive.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).at("create", folder)?;
        for entry in fs::read_dir(folder).at("read", folder)?.flatten() {
            if is_version_of(&image.archive, &entry.path()) {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        fs::rename(&partial, &image.archive).at("create", &image.archive)
    }
}

/// Whether two files are versions of one image: `heart-12ab.tar` and `heart-34cd.tar`.
fn is_version_of(one: &Path, other: &Path) -> bool {
    let image = |path: &Path| path.file_stem()?.to_str()?.rsplit_once('-').map(|(image, _)| image.to_owned());
    image(one).is_some() && image(one) == image(other)
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Left behind, it would only take room until the next image is built.
        let _ignored = fs::remove_dir_all(&self.folder);
    }
}

/// Brings images to where the cluster's nodes find them, and gives the names that they have there: a local cluster is given them
/// directly, any other one pulls them from `registry`.
pub(crate) fn deliver<const N: usize>(
    context: &Context,
    cluster: &Cluster,
    registry: Option<&str>,
    what: &str,
    images: [&Image; N],
) -> Result<[String; N]> {
    context.step(&format!("handing {what} to the cluster"), |step| {
        let mut names = images.each_ref().map(|image| image.name.clone());
        for (image, name) in images.iter().zip(&mut names) {
            step.say(name.clone());
            match (cluster.socket(), registry) {
                (Some(socket), _) => import(step, &socket, image)?,
                (None, Some(registry)) => *name = push(step, image, registry)?,
                (None, None) => {}
            }
        }
        Ok(names)
    })
}

fn push(step: &Step, image: &Image, registry: &str) -> Result<String> {
    let name = image.name.replacen(PREFIX, registry.trim_end_matches('/'), 1);
    let mut push = Command::new("buildah");
    push.args(["--storage-driver=vfs", "push"]).arg(format!("oci-archive:{}", image.archive.display()));
    step.run(push.arg(format!("docker://{name}")))?;
    Ok(name)
}

/// Gives the image to a container runtime, unless that has it.
pub(crate) fn import(step: &Step, socket: &Path, image: &Image) -> Result<()> {
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images"]).args(arguments);
        command
    };
    let known = ask(&mut ctr(&["list", "--quiet", &format!("name=={}", image.name)]))?;
    if known.stdout.is_empty() {
        step.run(ctr(&["import"]).arg(&image.archive))?;
    }
    Ok(())
}
