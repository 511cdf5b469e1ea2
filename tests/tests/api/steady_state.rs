//! Resources of which nothing changes cost the API server no write, whether their nodes are ready or never will be.

use std::time::Duration;

use broadcast_api::ConditionType;
use broadcast_tests::api_server::OPERATOR;
use broadcast_tests::api_server::audit::Mark;
use broadcast_tests::fleet::Fleet;
use broadcast_tests::operator::OperatorSettings;
use broadcast_tests::processes::Folder;
use broadcast_tests::report::tell;
use broadcast_tests::stand_in::IDLE;

use crate::stage::{PATIENCE, RUNTIME, Stage};

/// Four probes of the broker.
const QUIET: Duration = Duration::from_mins(1);

/// What is written when all is done: numbers that are found 15 s later at the earliest, by the first look after that.
const SETTLING: Duration = Duration::from_secs(45);

#[test]
fn fifty_resources_of_which_nothing_changes_are_not_written_for_a_minute() {
    RUNTIME.block_on(async {
        let stage = Stage::shared().await;
        let url = stage.broker.url();
        let idle = format!("{IDLE}fleet");
        let (busy_fleet, idle_fleet) = tokio::join!(
            Fleet::create(&stage.client, "fleet", 25, 2, &url),
            Fleet::create(&stage.client, &idle, 25, 2, &url),
        );
        let folder = Folder::new();
        let log = folder.join("operator.log");
        let kubeconfig = stage.api_server.kubeconfig(OPERATOR);
        let mut settings = OperatorSettings::new(&kubeconfig, &format!("fleet,{idle}"), &log);
        settings.lease = Some("fleet".to_owned());
        let operator = settings.start();
        busy_fleet.wait_until(ConditionType::Ready, PATIENCE).await;
        idle_fleet.wait_until(ConditionType::TopologyDeclared, PATIENCE).await;
        tokio::time::sleep(SETTLING).await;

        let mark = Mark::now(&stage.api_server.audit_log());
        tokio::time::sleep(QUIET).await;
        let (writes, reads) = (mark.writes_in(&["fleet", &idle]), mark.reads().values().sum::<usize>());
        tell(&format!(
            "50 resources for {QUIET:?}: writes {writes:?}; all operators here read {reads} times"
        ));
        assert!(writes.is_empty(), "{writes:#?}");
        operator.kill();
    });
}
