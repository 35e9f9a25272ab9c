//! The policy: who may replace it, who sees what of it, and what outlives a restart.

use overlay_core::View;
use overlay_core::policy::{FilterMode, MAX_POLICY};
use overlay_proto::{Code, Refusal, v1};

use crate::harness::{Control, Node};

/// Says something of a network for everyone, of one for databases, and of labels.
pub(crate) const DOCUMENT: &str = r#"# Who may do what.
[network.open]
default = "deny"

[network.secret]
default = "deny"

[[rule]]
name = "ping"
from = [{ network = "secret" }, { role = "web" }]
to = "any"
allow = ["icmp"]

[[rule]]
name = "vault"
network = "secret"
from = "any"
to = { name = "vault" }
allow = ["tcp/8200"]
"#;
/// What a node sees of it that may not enter the network `secret`.
const VISIBLE: &str = r#"[network.open]
default = "deny"

[[rule]]
name = "ping"
from = { role = "web" }
to = "any"
allow = ["icmp"]
"#;
const OTHER: &str = "[network.open]\ndefault = \"allow\"\n";

pub(crate) async fn apply(node: &Node, document: &str) -> Result<v1::PolicyReplaced, Refusal> {
    apply_as(node, document, v1::PolicyMode::Enforced, None).await
}

async fn apply_as(
    node: &Node,
    document: &str,
    mode: v1::PolicyMode,
    expected: Option<u64>,
) -> Result<v1::PolicyReplaced, Refusal> {
    let document = document.to_owned();
    let request = v1::ApplyPolicyRequest { document, mode: mode.into(), expected, strict: false };

    Ok(node.client.clone().apply_policy(request).await?.into_inner())
}

async fn roll_back(node: &Node, to: u64) -> Result<v1::PolicyReplaced, Refusal> {
    let request = v1::RollbackPolicyRequest { to, expected: None };

    Ok(node.client.clone().rollback_policy(request).await?.into_inner())
}

async fn show(node: &Node, revision: Option<u64>) -> Result<v1::ShowPolicyResponse, Refusal> {
    let request = v1::ShowPolicyRequest { revision };

    Ok(node.client.clone().show_policy(request).await?.into_inner())
}

async fn history(node: &Node) -> Result<Vec<v1::AppliedPolicy>, Refusal> {
    let request = v1::ListPoliciesRequest {};

    Ok(node.client.clone().list_policies(request).await?.into_inner().policies)
}

async fn create(node: &Node, name: &str, nodes: &str) -> v1::Network {
    let request = v1::CreateNetworkRequest {
        name: name.to_owned(),
        mode: v1::NetworkMode::L3.into(),
        settings: Some(v1::NetworkSettings { nodes: nodes.to_owned(), ..Default::default() }),
        ..Default::default()
    };

    node.client.clone().create_network(request).await.unwrap().into_inner().network.unwrap()
}

fn code<T>(refused: Result<T, Refusal>) -> Option<Code> {
    refused.err().map(|refusal| refusal.code)
}

#[tokio::test]
async fn a_policy_is_applied_shown_and_listed() {
    let control = Control::start().await;
    let admin = control.admin().await;

    let nothing = show(&admin, None).await.unwrap();
    let first = apply(&admin, DOCUMENT).await.unwrap();
    let again = apply(&admin, DOCUMENT).await.unwrap();
    let second = apply_as(&admin, OTHER, v1::PolicyMode::Shadow, Some(1)).await.unwrap();

    assert_eq!(nothing, v1::ShowPolicyResponse::default());
    let live = first.policy.clone().unwrap();
    assert!(first.changed && live.live && live.applied_unix > 1_700_000_000);
    let by = live.by.clone().unwrap();
    assert_eq!((&by.node, by.node_name.as_str()), (&admin.id, "admin"));
    let warnings = first.warnings.join("\n");
    assert!(warnings.contains("there is no network open"), "{warnings}");
    assert_eq!((again.changed, again.revision), (false, first.revision));
    assert_eq!(second.policy.unwrap().revision, 2);
    let shown = show(&admin, Some(1)).await.unwrap();
    let revision = shown.policy.as_ref().map(|policy| (policy.revision, policy.live));
    assert_eq!((revision, shown.document.as_str()), (Some((1, false)), DOCUMENT));
    assert!(!shown.partial && shown.text.starts_with("[network.open]"), "{}", shown.text);
    let live = show(&admin, None).await.unwrap();
    assert_eq!((live.document.as_str(), live.text.as_str()), (OTHER, OTHER));
    let listed = history(&admin).await.unwrap();
    let listed = listed.iter().map(|policy| (policy.revision, policy.mode(), policy.live));
    assert_eq!(
        listed.collect::<Vec<_>>(),
        [(2, v1::PolicyMode::Shadow, true), (1, v1::PolicyMode::Enforced, false)]
    );
    assert_eq!(code(show(&admin, Some(3)).await), Some(Code::NotFound));
}

#[tokio::test]
async fn what_is_live_stays_when_another_is_refused() {
    let control = Control::start().await;
    let admin = control.admin().await;
    apply(&admin, OTHER).await.unwrap();
    let test = "\n[[test]]\nfrom = { a = \"b\" }\nto = { a = \"b\" }\ndeny = [\"tcp/80\"]\n";

    let mistaken = apply(&admin, "\nx = 1").await.unwrap_err();
    let failing = apply(&admin, &format!("{OTHER}{test}")).await.unwrap_err();
    let moved = apply_as(&admin, DOCUMENT, v1::PolicyMode::Enforced, Some(0)).await.unwrap_err();
    let no_mode = apply_as(&admin, DOCUMENT, v1::PolicyMode::Unspecified, None).await.unwrap_err();
    let long = apply(&admin, &"#".repeat(MAX_POLICY + 1)).await.unwrap_err();
    let too_long = apply(&admin, &"#".repeat(overlay_control::MAX_REQUEST)).await;

    assert!(mistaken.message.starts_with("line 2, column 1: x: "), "{mistaken}");
    assert!(failing.message.starts_with("line 4: test 1: tcp/80 from { a = \"b\" }"), "{failing}");
    assert_eq!((mistaken.code, failing.code), (Code::InvalidInput, Code::InvalidInput));
    assert_eq!((moved.code, no_mode.code), (Code::WrongState, Code::Unsupported));
    assert_eq!(long.message, "the policy has 1048577 bytes, more than 1048576");
    assert!(too_long.is_err());
    assert_eq!(history(&admin).await.unwrap().len(), 1);
    assert_eq!(show(&admin, None).await.unwrap().text, OTHER);
}

/// Invariant 12.
#[tokio::test]
async fn a_node_sees_of_the_policy_what_it_may_and_changes_nothing() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let web = control.node(&admin, "web").await;
    create(&admin, "open", "").await;
    create(&admin, "secret", "role=db").await;
    let applied = apply(&admin, DOCUMENT).await.unwrap();
    let mut watcher = web.watch(View::default()).await.unwrap();
    watcher.reach(applied.revision).await;

    let refused = [
        code(apply(&web, OTHER).await),
        code(roll_back(&web, 0).await),
        code(roll_back(&web, 1).await),
        code(history(&web).await),
        code(show(&web, Some(1)).await),
    ];
    let shown = show(&web, None).await.unwrap();

    assert_eq!(refused, [Some(Code::NotAllowed); 5]);
    assert_eq!((shown.text.as_str(), shown.document.as_str()), (VISIBLE, ""));
    assert!(shown.partial);
    let seen = watcher.view.policy.clone().unwrap();
    assert_eq!((seen.revision, seen.mode, &*seen.text), (1, FilterMode::Enforced, VISIBLE));

    // The network is opened: the node learns what the policy says of it in the same step.
    let request = v1::SetNetworkRequest {
        network: "secret".into(),
        nodes: Some(String::new()),
        ..Default::default()
    };
    let opened = admin.client.clone().set_network(request).await.unwrap().into_inner().revision;
    watcher.reach(opened).await;
    let seen = watcher.view.policy.clone().unwrap();
    assert!(seen.text.contains("vault") && seen.text.contains("network = \"secret\""));
    let request = v1::RemoveNetworkRequest { network: "secret".into(), force: true };
    let removed = admin.client.clone().remove_network(request).await.unwrap().into_inner().revision;
    watcher.reach(removed).await;
    assert_eq!(watcher.view.policy.clone().unwrap().text, VISIBLE);
    let gone = roll_back(&admin, 0).await.unwrap();
    watcher.reach(gone.revision).await;
    assert_eq!(watcher.view.policy, None);
    assert_eq!(watcher.snapshots, 1);
}

#[tokio::test]
async fn a_rollback_is_not_held_up_by_tests_that_fail() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let open = create(&admin, "open", "").await;
    let member = admin.enter(&open).await.unwrap();
    let address = member.blocks[0].prefix.replace(".0/24", ".9");
    admin.put(vec![admin.endpoint(&open, 7, "shop", &address)]).await.unwrap();
    let test = "\n[[test]]\nfrom = \"shop\"\nto = \"shop\"\nallow = [\"tcp/80\"]\n";
    apply(&admin, &format!("{OTHER}{test}")).await.unwrap();
    apply(&admin, DOCUMENT).await.unwrap();
    let request = v1::RemoveEndpointsRequest {
        endpoints: vec![v1::EndpointKey { network: open.id, endpoint: format!("{:012x}", 7) }],
    };
    admin.client.clone().remove_endpoints(request).await.unwrap();

    let refused = apply(&admin, &format!("{OTHER}{test}")).await.unwrap_err();
    let back = roll_back(&admin, 1).await.unwrap();

    assert!(refused.message.contains("test 1: there is no endpoint shop"), "{refused}");
    let policy = back.policy.unwrap();
    assert_eq!((policy.revision, policy.rolled_back_to), (3, Some(1)));
    assert!(back.warnings[0].starts_with("test 1: there is no endpoint shop"));
    assert_eq!(show(&admin, None).await.unwrap().text, OTHER);
}

#[tokio::test]
async fn policies_outlive_a_restart_and_the_latest_32_are_kept() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    for n in 1..=33 {
        apply(&admin, &format!("# {n}\n{OTHER}")).await.unwrap();
    }
    roll_back(&admin, 7).await.unwrap();
    let before = history(&admin).await.unwrap();
    let mut watched = admin.watch(View::default()).await.unwrap();
    watched.step().await.unwrap();

    control.stop().await;
    control.serve().await;
    admin.reconnect(control.address).await;

    assert_eq!(history(&admin).await.unwrap(), before);
    assert_eq!((before.len(), before[0].revision, before[31].revision), (32, 34, 3));
    assert_eq!(show(&admin, None).await.unwrap().document, format!("# 7\n{OTHER}"));
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    assert_eq!(watcher.view.policy, watched.view.policy);
    assert_eq!(code(roll_back(&admin, 2).await), Some(Code::NotFound));
    assert_eq!(apply(&admin, DOCUMENT).await.unwrap().policy.unwrap().revision, 35);
}
