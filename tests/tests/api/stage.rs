//! What the tests share, and what each has of its own: a namespace, names on the broker, and ways to both of them.

use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use broadcast_api::{BroadcastCluster, ConditionType};
use broadcast_tests::api_server::snapshot::{Snapshot, take_snapshot};
use broadcast_tests::api_server::{ApiServer, OPERATOR, broker_secret, build_kubeconfig, create_namespace};
use broadcast_tests::broker::Broker;
use broadcast_tests::client::wait_for;
use broadcast_tests::crash::{AmqpProxy, BrokerModel, Gate, KubernetesProxy};
use broadcast_tests::operator::{Operator, OperatorSettings};
use broadcast_tests::processes::Folder;
use broadcast_tests::stand_in::StandIn;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

/// How long anything may take that is done within seconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// The user that credentials are rotated to.
pub(crate) const OTHER_USER: &str = "other";

const CLUSTER: &str = "orders";

const SECRET: &str = "rabbitmq";

/// How many operators run at a time.
const AT_A_TIME: usize = 4;

/// Tests have one between them: what one has started may serve another.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);

/// What all tests use together. It ends with its last user.
pub(crate) struct Stage {
    pub(crate) client: Client,
    stand_in: StandIn,
    pub(crate) api_server: Arc<ApiServer>,
    pub(crate) broker: Arc<Broker>,
}

impl Stage {
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Stage>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(stage) = shared.upgrade() {
            return stage;
        }
        let (api_server, broker) = tokio::join!(ApiServer::shared(), Broker::shared());
        broker.control(&["add_user", OTHER_USER, OTHER_USER]).await;
        broker.control(&["set_permissions", OTHER_USER, ".*", ".*", ".*"]).await;
        let client = api_server.client().await;
        let stand_in = StandIn::start(&client).await;
        let stage = Arc::new(Self { client, stand_in, api_server, broker });
        *shared = Arc::downgrade(&stage);
        stage
    }
}

/// A namespace with a resource, and an operator that is killed when a test says so.
pub(crate) struct World {
    stage: Arc<Stage>,
    _turn: SemaphorePermit<'static>,
    pub(crate) namespace: String,
    amqp: AmqpProxy,
    pub(crate) model: BrokerModel,
    folder: Folder,
}

/// A running operator, and what it has done.
pub(crate) struct Gated {
    operator: Operator,
    pub(crate) gate: Gate,
    _proxy: KubernetesProxy,
}

impl Gated {
    pub(crate) fn kill(self) -> Vec<String> {
        self.operator.kill();
        self.gate.done()
    }
}

impl World {
    /// A new one, when it is its turn.
    pub(crate) async fn open(stage: &Arc<Stage>, namespace: &str) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let (living, own) = (stage.stand_in.living(), namespace.to_owned());
        let model = BrokerModel::new(move |queue| {
            queue.rsplit_once("_node_").is_some_and(|(_, id)| living.has(&own, id))
        });
        let amqp = AmqpProxy::start(stage.broker.port(), model.clone()).await;
        create_namespace(&stage.client, namespace).await;
        let world = Self {
            stage: stage.clone(),
            _turn: turn,
            namespace: namespace.to_owned(),
            amqp,
            model,
            folder: Folder::new(),
        };
        let secret = broker_secret(SECRET, &world.url("guest"));
        world.api::<Secret>().create(&PostParams::default(), &secret).await.unwrap();
        world
    }

    /// Starts an operator that may do so much.
    pub(crate) async fn start_operator(&self, actions: usize) -> Gated {
        let gate = Gate::new(actions);
        self.amqp.set_gate(gate.clone());
        let client = self.stage.api_server.operators_client().await;
        let proxy = KubernetesProxy::start(client, gate.clone()).await;
        let kubeconfig = self
            .folder
            .write(&format!("{OPERATOR}.kubeconfig"), &build_kubeconfig(proxy.url(), None, "none"));
        let log = self.folder.join("operator.log");
        let operator = OperatorSettings::new(&kubeconfig, &self.namespace, &log).start();
        Gated { operator, gate, _proxy: proxy }
    }

    /// Makes the resource, with names on the broker that only it has.
    pub(crate) async fn create_cluster(&self, nodes: u32) {
        let resource: BroadcastCluster = serde_json::from_value(json!({
            "apiVersion": "broadcast.dev/v1alpha1",
            "kind": "BroadcastCluster",
            "metadata": {"name": CLUSTER},
            "spec": {
                "rabbitmq": {"secretRef": {"name": SECRET}},
                "exchange": self.namespace,
                "queueName": self.namespace,
                "nodes": {"replicas": nodes, "storage": {"size": "1Gi"}},
            },
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &resource).await.unwrap();
    }

    /// Changes the resource.
    pub(crate) async fn patch_cluster(&self, patch: Value) {
        let api: Api<BroadcastCluster> = self.api();
        api.patch(CLUSTER, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Marks the resource for deletion.
    pub(crate) async fn delete_cluster(&self) {
        let api: Api<BroadcastCluster> = self.api();
        api.delete(CLUSTER, &DeleteParams::default()).await.unwrap();
    }

    /// Lets the resource's Secret name another user.
    pub(crate) async fn rotate_credentials(&self) {
        let secret = broker_secret(SECRET, &self.url(OTHER_USER));
        self.api::<Secret>().patch(SECRET, &PatchParams::default(), &Patch::Merge(&secret)).await.unwrap();
    }

    /// Waits until the resource is ready as it is now.
    pub(crate) async fn wait_until_ready(&self) {
        let api: Api<BroadcastCluster> = self.api();
        wait_for(&format!("{} to be ready", self.namespace), PATIENCE, async || {
            let resource = api.get(CLUSTER).await.map_err(|error| error.to_string())?;
            let status = resource.status.unwrap_or_default();
            let is = |wanted: ConditionType, value| {
                let mut conditions = status.conditions.iter();
                conditions.any(|condition| condition.type_ == wanted.as_str() && condition.status == value)
            };
            let is_current = status.observed_generation == resource.metadata.generation;
            let is_settled = is(ConditionType::Ready, "True") && is(ConditionType::Reconciling, "False");
            if is_current && is_settled { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// All that is in the namespace.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        // The network policy has it, too.
        let port = self.amqp.port().to_string();
        take_snapshot(&self.stage.client, &self.namespace, &[(&port, "PORT")]).await
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.stage.client.clone(), &self.namespace)
    }

    /// The password is the user's name.
    fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}/%2f", self.amqp.port())
    }
}
