//! The audit log, over real connections.

use overlay_proto::audit::{AuditRecord, Head, Verifier, Who};
use overlay_proto::{Code, v1};
use tokio::time::{Duration, Instant, sleep};

use crate::harness::{Control, Node, PATIENCE, ask_to_join, csr};

fn head(head: Option<&v1::AuditHead>) -> Head {
    let head = head.expect("a head");

    Head { number: head.number, hash: head.hash.parse().expect("a hash") }
}

/// Reads and verifies all records.
async fn read(admin: &Node) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    let mut page = list(admin, v1::ListAuditRequest::default()).await;
    let mut verifier = Verifier::new(head(page.checkpoint.as_ref()), None).unwrap();
    loop {
        for bytes in &page.records {
            records.push(verifier.accept(bytes).unwrap());
        }
        if page.end {
            assert_eq!(verifier.finish(head(page.head.as_ref())), Ok(true));
            return records;
        }
        let after = page.looked;
        page = list(admin, v1::ListAuditRequest { after, ..Default::default() }).await;
    }
}

async fn list(admin: &Node, request: v1::ListAuditRequest) -> v1::ListAuditResponse {
    admin.client.clone().list_audit(request).await.unwrap().into_inner()
}

fn what(records: &[AuditRecord]) -> Vec<&str> {
    records.iter().map(|record| record.what.as_str()).collect()
}

/// Waits for a record that is written in a moment.
async fn awaited(admin: &Node, is_it: impl Fn(&AuditRecord) -> bool) -> AuditRecord {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(record) = read(admin).await.into_iter().find(&is_it) {
            return record;
        }
        sleep(Duration::from_millis(200)).await;
    }

    panic!("no such record: {:?}", read(admin).await)
}

#[tokio::test]
async fn changes_tell_who_made_them_and_from_where_and_outlive_a_restart() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    admin.create_network("shop", "10.9.0.0/16").await.unwrap();
    let renewed = csr(&admin.key);
    admin.client.clone().renew(v1::RenewRequest { csr: renewed }).await.unwrap();

    let before = read(&admin).await;
    control.stop().await;
    control.serve().await;
    admin.reconnect(control.address).await;
    let records = read(&admin).await;

    assert_eq!(records, before, "nothing is added by a restart");
    let wanted = ["begin", "create-token", "join", "issue-certificate", "create-network"];
    assert_eq!(what(&records), [wanted.as_slice(), &["issue-certificate"]].concat());
    assert_eq!(records[1].who, Who::Operator);
    assert!(matches!(records[2].who, Who::Token { .. }), "{:?}", records[2]);
    let Who::Node { name, role, certificate, id } = &records[4].who else { panic!("{records:?}") };
    assert_eq!((name.as_str(), role.as_str(), id), ("admin", "admin", &admin.id));
    assert_eq!(&records[3].details["certificate"], certificate, "it was issued before");
    assert_eq!(records[4].from, Some([127, 0, 0, 1].into()));
    assert_eq!(records[4].subject(), "network shop");
}

#[tokio::test]
async fn only_admins_read_it_and_whoever_is_refused_is_in_it() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "nosy").await;

    let refused = node.client.clone().list_audit(v1::ListAuditRequest::default()).await;
    assert_eq!(overlay_proto::Refusal::from(refused.unwrap_err()).code, Code::NotAllowed);
    let mut line = control.line.clone();
    line.token_id = "f".repeat(16);
    let key = rcgen::KeyPair::generate().unwrap();
    let refused = ask_to_join(&line, "stranger", &key).await.unwrap_err();
    assert_eq!(refused.code, Code::TokenRefused);

    let of_node = awaited(&admin, |record| record.what == "refused" && record.who != Who::Stranger);
    let of_node = of_node.await;
    assert_eq!(of_node.who.word(), "nosy");
    assert_eq!(of_node.details["refused"]["ListAudit not-allowed"], 1);
    let stranger = awaited(&admin, |record| record.who == Who::Stranger).await;
    assert_eq!(stranger.details["refused"]["Join token-refused"], 1);
    assert_eq!(stranger.from, Some([127, 0, 0, 1].into()));
}

#[tokio::test]
async fn a_removed_node_that_calls_is_named() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "gone").await;
    let request = v1::RemoveNodeRequest { node: "gone".to_owned() };
    admin.client.clone().remove_node(request).await.unwrap();

    node.client.clone().version(v1::VersionRequest {}).await.unwrap_err();

    let refused = awaited(&admin, |record| record.what == "refused").await;
    let Who::Node { name, role, .. } = &refused.who else { panic!("{refused:?}") };
    assert_eq!((name.as_str(), role.as_str()), ("gone", "removed"));
}

#[tokio::test]
async fn records_are_found_by_node_network_and_time_in_both_directions() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "b").await;
    for name in ["one", "two"] {
        let network = node.create_network(name, "").await.unwrap();
        node.enter(&network).await.unwrap();
    }
    let all = v1::ListAuditRequest::default;
    let found = |page: v1::ListAuditResponse| {
        let parse = |bytes: &Vec<u8>| serde_json::from_slice::<AuditRecord>(bytes).unwrap().what;
        page.records.iter().map(parse).collect::<Vec<_>>()
    };

    let of_network = list(&admin, v1::ListAuditRequest { network: "two".into(), ..all() }).await;
    assert_eq!(found(of_network), ["create-network", "enter-network"]);
    let of_node = v1::ListAuditRequest { node: node.id.clone(), before: u64::MAX, ..all() };
    let of_node = list(&admin, of_node).await;
    let wanted = ["enter-network", "create-network", "enter-network", "create-network"];
    assert_eq!(found(of_node)[..4], wanted);
    let never = v1::ListAuditRequest { since_unix: u64::MAX / 2, ..all() };
    assert!(found(list(&admin, never).await).is_empty());
    let ever = v1::ListAuditRequest { since_unix: 1, ..all() };
    assert_eq!(found(list(&admin, ever).await).len(), read(&admin).await.len());
}

#[tokio::test]
async fn whoever_waits_is_told_of_the_next_record() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let after = read(&admin).await.len() as u64;

    let request = v1::ListAuditRequest { after, wait: true, ..Default::default() };
    let (page, created) =
        tokio::join!(list(&admin, request), admin.create_network("shop", "10.9.0.0/16"));

    created.unwrap();
    assert_eq!((page.records.len(), page.looked), (1, after + 1));
}
