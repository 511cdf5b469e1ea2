//! A Kubernetes API server of a test's own, on loopback: its store and itself, and no controllers, scheduler or kubelet.
//! [`StandIn`](crate::stand_in::StandIn) does what of those an operator notices.
//!
//! The programs are those that `cargo xtask tools` builds. Ports, keys and folder are the test's own, so that it gets in no
//! cluster's way; both processes end when this is dropped.

pub mod audit;
pub mod snapshot;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;

use crate::authority::Authority;
use crate::client::wait_for;
use crate::processes::{Folder, Process, free_port};

/// The name by which the API server knows the operator.
pub const OPERATOR: &str = "operator";

/// How long it may take until it answers, on a machine that is busy.
const START_DEADLINE: Duration = Duration::from_mins(3);

/// The key in a [`broker_secret`].
const URI: &str = "uri";

/// What the operator asks for is noted, and when it was answered.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: [operator]}
- {level: None}
";

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    // In the order in which they have to go: without its store the server would not stop.
    server: Process,
    _etcd: Process,
    folder: Folder,
}

impl ApiServer {
    /// Starts one, and teaches it the resource.
    pub async fn start() -> Self {
        let folder = Folder::new();
        let (store, port) = (free_port(), free_port());
        let etcd =
            Process::start("etcd", &mut etcd_command(&folder, store, free_port()), &folder.join("etcd.log"));
        write_keys(&folder, port);
        let mut command = server_command(&folder, store, port);
        let server = Process::start("kube-apiserver", &mut command, &folder.join("api.log"));
        let started = Self { server, _etcd: etcd, folder };
        started.wait_until_ready().await;
        started
    }

    /// One that tests of one program use together, each in namespaces of its own. It ends with its last user.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<ApiServer>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Client {
        client_of(&self.kubeconfig("admin")).await
    }

    /// A client that the server takes for the operator.
    pub async fn operators_client(&self) -> Client {
        client_of(&self.kubeconfig(OPERATOR)).await
    }

    /// The file that lets a program be one of its users.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    /// Where it notes what the operator asks for.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        &self.server
    }

    async fn wait_until_ready(&self) {
        let client = self.client().await;
        let definition: CustomResourceDefinition =
            serde_yaml::from_str(&broadcast_api::crd_yaml().unwrap()).unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        wait_for("the API server to take the definition of the resource", START_DEADLINE, async || {
            match definitions.create(&PostParams::default(), &definition).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        wait_for("the API server to serve the resource", START_DEADLINE, async || {
            let resources: Api<broadcast_api::BroadcastCluster> = Api::all(client.clone());
            resources.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())
        })
        .await;
    }
}

/// Makes a namespace.
pub async fn create_namespace(client: &Client, name: &str) {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
}

/// The Secret through which a resource finds its broker.
pub fn broker_secret(name: &str, url: &str) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([(URI.to_owned(), ByteString(url.as_bytes().to_vec()))].into()),
        ..Secret::default()
    }
}

async fn client_of(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn etcd_command(folder: &Folder, client_port: u16, peer_port: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(tool("etcd"));
    command.arg("--data-dir").arg(folder.join("etcd"));
    // What is thrown away with the machine's power needs no disk to wait for.
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    for (name, url) in [
        ("listen-client-urls", &client),
        ("advertise-client-urls", &client),
        ("listen-peer-urls", &peer),
        ("initial-advertise-peer-urls", &peer),
    ] {
        command.arg(format!("--{name}={url}"));
    }
    command.arg(format!("--initial-cluster=default={peer}"));
    command
}

fn server_command(folder: &Folder, store_port: u16, port: u16) -> Command {
    let mut command = Command::new(tool("kube-apiserver"));
    let path = |name: &str| folder.join(name).display().to_string();
    command.args([
        format!("--etcd-servers=http://127.0.0.1:{store_port}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // Nobody looks for it by its Service.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", path("api.crt")),
        format!("--tls-private-key-file={}", path("api.key")),
        format!("--service-account-key-file={}", path("accounts.crt")),
        format!("--service-account-signing-key-file={}", path("accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", path("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--audit-policy-file={}", path("audit.yaml")),
        format!("--audit-log-path={}", path("audit.log")),
        // In megabytes: what is read from a place on has to stay in one file.
        "--audit-log-maxsize=100000".to_owned(),
        "--service-cluster-ip-range=10.196.0.0/16".to_owned(),
        // They wait for controllers: for a namespace's own account, and for whoever lets a volume claim go.
        "--disable-admission-plugins=ServiceAccount,StorageObjectInUseProtection".to_owned(),
    ]);
    command
}

fn write_keys(folder: &Folder, port: u16) {
    let authority = Authority::new();
    let identity = authority.issue_for_server(&["localhost", "127.0.0.1"]);
    let certificate = folder.write("ca.crt", &authority.certificate);
    folder.write("api.crt", &identity.certificate);
    folder.write("api.key", &identity.key);
    let accounts = authority.issue_for_client("accounts");
    folder.write("accounts.crt", &accounts.certificate);
    folder.write("accounts.key", &accounts.key);
    folder.write("audit.yaml", AUDIT_POLICY);
    let write_user = |user: &str| {
        let token = random_token();
        let text = build_kubeconfig(&format!("https://127.0.0.1:{port}"), Some(&certificate), &token);
        folder.write(&format!("{user}.kubeconfig"), &text);
        format!("{token},{user},{user},\"system:masters\"\n")
    };
    folder.write("tokens.csv", &["admin", OPERATOR].map(write_user).concat());
}

/// A kubeconfig with one way to one server.
pub fn build_kubeconfig(server: &str, authority: Option<&Path>, token: &str) -> String {
    let authority =
        authority.map(|path| format!(", certificate-authority: \"{}\"", path.display())).unwrap_or_default();
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{server}"{authority}}}}}]
users: [{{name: test, user: {{token: "{token}"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
current-context: test
"#
    )
}

fn random_token() -> String {
    use std::hash::{BuildHasher, RandomState};
    let part = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", part(), part())
}

/// A program of the local Kubernetes, as `cargo xtask` keeps it.
fn tool(name: &str) -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("BROADCAST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("broadcast-operator")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/broadcast-operator")));
    let path = cache.expect("HOME is set").join("bin").join(name);
    assert!(path.exists(), "{} is missing: `cargo xtask tools` builds it", path.display());
    path
}
