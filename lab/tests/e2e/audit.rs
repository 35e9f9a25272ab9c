//! Who did it: what users do, as the audit log has it.

use std::time::Duration;

use overlay_lab::wait_until;
use serde_json::Value;

use super::cluster;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn an_endpoint_that_is_gone_is_told_with_who_removed_it_and_from_where() {
    let Some(cluster) = cluster(2) else { return };
    cluster.ctl(0, &["network", "create", "shop"]).unwrap();
    cluster.ctl(1, &["attach", "--host", "--network", "shop", "--name", "web"]).unwrap();
    let noted = cluster.ctl(0, &["audit", "verify", "-q"]).unwrap().stdout;
    cluster.ctl(1, &["detach", "--network", "shop", "--name", "web"]).unwrap();
    let nosy = cluster.host(1).command("overlayctl").args(["audit"]).output().expect("it runs");

    let list = |args: &[&str]| -> Vec<Value> {
        let list = cluster.ctl_json(0, &[&["audit"], args].concat()).expect("a list");
        list.as_array().cloned().unwrap_or_default()
    };
    let find = |what: &str| list(&[]).into_iter().find(|record| record["what"] == what);
    wait_until(PATIENCE, "the removal", || find("remove-endpoints").is_some()).unwrap();
    let gone = find("remove-endpoints").expect("it is recorded");
    let created = list(&["--network", "shop"]).remove(0);

    assert_eq!(created["what"], "create-network");
    assert_ne!(created["who"], gone["who"]);
    assert_eq!(gone["which"], "endpoint web on shop");
    assert_ne!(gone["from"], created["from"]);
    assert!(gone["rows"][0]["before"]["addresses"][0].is_string(), "{gone}");
    assert_eq!(nosy.status.code(), Some(1), "{}", nosy.stderr);
    wait_until(PATIENCE, "the refusal", || find("refused").is_some()).unwrap();
    assert_eq!(find("refused").expect("it is recorded")["who"], gone["who"]);
    cluster.ctl(0, &["audit", "verify", "--from-hash", noted.trim()]).unwrap();
}
