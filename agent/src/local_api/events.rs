//! `overlayctl events`: what has changed, by comparing each view with the one before, and the
//! problems likewise.
//!
//! Nothing is kept: who wants to know of what was before asks elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::policy::{ClusterPolicy, FilterMode};
use overlay_core::{Endpoint, Name, NetworkId, NodeId, View};
use overlay_proto::{Refusal, v1};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::node_handle::NodeHandle;
use crate::problem::unix_now_ms;
use crate::status;

/// Events that wait for a slow reader; what changes meanwhile is told together, afterwards.
const QUEUE: usize = 64;
/// How often the problems are looked at.
const PROBLEMS: Duration = Duration::from_secs(1);

/// The stream of events.
pub(super) type Events = ReceiverStream<Result<v1::Event, Status>>;

/// Tells what changes from now on, until this node leaves or nobody listens.
pub(super) fn follow(handle: Arc<NodeHandle>) -> Result<Events, Refusal> {
    let joined = handle.joined()?;
    let mut membership = joined.membership.subscribe();
    let (sender, events) = mpsc::channel(QUEUE);

    // Ends with its reader, and when the node leaves.
    tokio::spawn(async move {
        let mut view = Arc::clone(&membership.borrow_and_update().view);
        let mut problems = listed(&handle).await;
        let mut ticks = interval(PROBLEMS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                changed = membership.changed() => match changed {
                    Ok(()) => {
                        let next = Arc::clone(&membership.borrow_and_update().view);
                        let changed = differences(&view, &next);
                        view = next;
                        changed
                    }
                    Err(_) => return,
                },
                _ = ticks.tick() => {
                    let next = listed(&handle).await;
                    let changed = changed_problems(&problems, &next);
                    problems = next;
                    changed
                }
                () = sender.closed() => return,
            };
            let unix_ms = unix_now_ms();
            for event in changed {
                if sender.send(Ok(v1::Event { unix_ms, ..event })).await.is_err() {
                    return;
                }
            }
        }
    });

    Ok(ReceiverStream::new(events))
}

/// Problems by code and text.
type Problems = BTreeSet<(&'static str, String)>;

async fn listed(handle: &NodeHandle) -> Problems {
    let problems = status::status(handle).await.problems;

    problems.into_iter().map(|problem| (problem.code.as_str(), problem.text)).collect()
}

fn changed_problems(before: &Problems, after: &Problems) -> Vec<v1::Event> {
    let event = |kind: v1::EventKind, (code, text): &(&'static str, String)| v1::Event {
        kind: kind.into(),
        name: (*code).to_owned(),
        text: text.clone(),
        ..v1::Event::default()
    };
    let codes = |problems: &Problems| problems.iter().map(|(code, _)| *code).collect::<Vec<_>>();
    let (were, are) = (codes(before), codes(after));
    // A problem whose words change, as they do when they count, is the same one.
    let raised = after.iter().filter(|problem| {
        !before.contains(*problem) && count(&are, problem.0) > count(&were, problem.0)
    });
    let cleared = before.iter().filter(|problem| {
        !after.contains(*problem) && count(&were, problem.0) > count(&are, problem.0)
    });

    let cleared = cleared.map(|problem| event(v1::EventKind::ProblemCleared, problem));
    cleared.chain(raised.map(|problem| event(v1::EventKind::ProblemRaised, problem))).collect()
}

fn count(codes: &[&str], code: &str) -> usize {
    codes.iter().filter(|other| **other == code).count()
}

/// Lists what one view has and the other has not: what is gone first, what is made before what is
/// put onto it.
fn differences(before: &View, after: &View) -> Vec<v1::Event> {
    let mut events = Vec::new();
    // One whose container is stopped is not attached.
    let attached = |view: &View, key| view.endpoints.get(key).is_some_and(|e| !e.is_stopped());
    for (key, endpoint) in &before.endpoints {
        if !endpoint.is_stopped() && !attached(after, key) {
            events.push(endpoint_event(v1::EventKind::EndpointDetached, endpoint, before));
        }
    }
    for (network, node) in before.members.keys().filter(|key| !after.members.contains_key(key)) {
        events.push(member_event(v1::EventKind::MemberRemoved, *network, *node, before));
    }
    for (id, network) in before.networks.iter().filter(|(id, _)| !after.networks.contains_key(id)) {
        events.push(network_event(
            v1::EventKind::NetworkRemoved,
            *id,
            network.prefix.to_string(),
            before,
        ));
    }
    for id in before.nodes.keys().filter(|id| !after.nodes.contains_key(id)) {
        events.push(node_event(v1::EventKind::NodeLeft, *id, before));
    }
    for id in after.nodes.keys().filter(|id| !before.nodes.contains_key(id)) {
        events.push(node_event(v1::EventKind::NodeJoined, *id, after));
    }
    for (id, network) in after.networks.iter().filter(|(id, _)| !before.networks.contains_key(id)) {
        events.push(network_event(
            v1::EventKind::NetworkCreated,
            *id,
            network.prefix.to_string(),
            after,
        ));
    }
    events.extend(policy_event(before.policy.as_deref(), after.policy.as_deref()));
    for (network, node) in after.members.keys().filter(|key| !before.members.contains_key(key)) {
        events.push(member_event(v1::EventKind::MemberAdded, *network, *node, after));
    }
    for (key, endpoint) in after.endpoints.iter().filter(|(_, endpoint)| !endpoint.is_stopped()) {
        match before.endpoints.get(key).filter(|known| !known.is_stopped()) {
            None => events.push(endpoint_event(v1::EventKind::EndpointAttached, endpoint, after)),
            Some(was) if was != endpoint => {
                events.push(endpoint_event(v1::EventKind::EndpointChanged, endpoint, after));
            }
            Some(_) => {}
        }
    }

    events
}

fn node_name(id: NodeId, view: &View) -> String {
    view.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.to_string())
}

fn network_name(id: NetworkId, view: &View) -> String {
    let link = || view.networks.values().find_map(|network| network.link_with(id));
    let name = view.networks.get(&id).map(|network| &network.name);

    name.or_else(|| link().map(|link| &link.name)).map_or_else(|| id.to_string(), Name::to_string)
}

fn node_event(kind: v1::EventKind, id: NodeId, view: &View) -> v1::Event {
    let addresses = view
        .nodes
        .get(&id)
        .map(|node| node.underlay.iter().map(ToString::to_string).collect::<Vec<_>>());
    let name = node_name(id, view);

    v1::Event {
        kind: kind.into(),
        node: name.clone(),
        name,
        text: addresses.unwrap_or_default().join(" "),
        ..v1::Event::default()
    }
}

fn network_event(kind: v1::EventKind, id: NetworkId, prefix: String, view: &View) -> v1::Event {
    let name = network_name(id, view);

    v1::Event {
        kind: kind.into(),
        network: name.clone(),
        name,
        text: prefix,
        ..v1::Event::default()
    }
}

/// Tells that another policy is live. That this node sees more or less of it is no event.
fn policy_event(
    before: Option<&ClusterPolicy>,
    after: Option<&ClusterPolicy>,
) -> Option<v1::Event> {
    let which = |policy: &ClusterPolicy| (policy.revision, policy.mode);
    if before.map(which) == after.map(which) {
        return None;
    }
    let text = match after.map(which) {
        Some((revision, FilterMode::Enforced)) => format!("revision {revision}, enforced"),
        Some((revision, FilterMode::Shadow)) => format!("revision {revision}, shadow"),
        None => "there is none".to_owned(),
    };

    Some(v1::Event {
        kind: v1::EventKind::PolicyReplaced.into(),
        name: "policy".to_owned(),
        text,
        ..v1::Event::default()
    })
}

fn member_event(kind: v1::EventKind, network: NetworkId, node: NodeId, view: &View) -> v1::Event {
    let node = node_name(node, view);
    let network = network_name(network, view);

    v1::Event { kind: kind.into(), name: node.clone(), network, node, ..v1::Event::default() }
}

fn endpoint_event(kind: v1::EventKind, endpoint: &Endpoint, view: &View) -> v1::Event {
    v1::Event {
        kind: kind.into(),
        name: endpoint.name.to_string(),
        network: network_name(endpoint.network, view),
        node: node_name(endpoint.node, view),
        text: endpoint.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ..v1::Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{EndpointId, Network, NetworkMode, NetworkSettings, Node, Role, Runtime};

    use super::*;

    fn view() -> View {
        let mut view = View::default();
        let node = Node {
            id: NodeId::from_random(1),
            name: "host-a".parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: vec!["192.0.2.1".parse().expect("an address")],
            lane_ports: vec![51820],
        };
        let network = Network {
            id: NetworkId::from_random(1),
            name: "web".parse().expect("a name"),
            prefix: "10.9.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        };
        view.nodes.insert(node.id, node);
        view.networks.insert(network.id, network);

        view
    }

    fn endpoint(address: &str) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(1),
            network: NetworkId::from_random(1),
            node: NodeId::from_random(1),
            name: "service2".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![address.parse().expect("an address")],
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }
    }

    fn kinds(before: &View, after: &View) -> Vec<v1::EventKind> {
        differences(before, after).iter().map(v1::Event::kind).collect()
    }

    #[test]
    fn another_policy_is_told_once_and_another_part_of_it_is_not() {
        let with = |revision, mode, text: &str| {
            let policy = ClusterPolicy { revision, mode, text: text.to_owned() };
            View { policy: Some(policy.into()), ..view() }
        };
        let told = |before: &View, after: &View| {
            differences(before, after).into_iter().map(|event| event.text).collect::<Vec<_>>()
        };
        let first = with(1, FilterMode::Enforced, "");

        assert_eq!(told(&view(), &first), ["revision 1, enforced"]);
        assert_eq!(told(&first, &with(2, FilterMode::Shadow, "")), ["revision 2, shadow"]);
        assert_eq!(told(&first, &view()), ["there is none"]);
        assert!(told(&first, &with(1, FilterMode::Enforced, "# more")).is_empty());
    }

    #[test]
    fn what_comes_and_goes_is_told_in_an_order_that_makes_sense() {
        use v1::EventKind::{
            EndpointAttached, EndpointChanged, EndpointDetached, NetworkCreated, NetworkRemoved,
            NodeJoined, NodeLeft,
        };
        let (none, some) = (View::default(), view());
        let (mut one, mut other) = (view(), view());
        let key = (NetworkId::from_random(1), EndpointId::from_random(1));
        one.endpoints.insert(key, endpoint("10.9.0.2"));
        other.endpoints.insert(key, endpoint("10.9.0.3"));

        assert_eq!(kinds(&none, &one), [NodeJoined, NetworkCreated, EndpointAttached]);
        assert_eq!(kinds(&one, &none), [EndpointDetached, NetworkRemoved, NodeLeft]);
        assert_eq!(kinds(&one, &other), [EndpointChanged]);
        assert_eq!(kinds(&some, &some), []);
        let attached = differences(&some, &one).remove(0);
        assert_eq!(
            (
                attached.name.as_str(),
                attached.network.as_str(),
                attached.node.as_str(),
                attached.text.as_str()
            ),
            ("service2", "web", "host-a", "10.9.0.2")
        );
    }

    #[test]
    fn an_endpoint_whose_container_stops_is_detached() {
        let (mut running, mut stopped) = (view(), view());
        let key = (NetworkId::from_random(1), EndpointId::from_random(1));
        let container = Some("5df66f04e09f".parse().expect("an id"));
        let endpoint = Endpoint { container, ..endpoint("10.9.0.2") };
        stopped.endpoints.insert(key, endpoint.stopped());
        running.endpoints.insert(key, endpoint);

        assert_eq!(kinds(&running, &stopped), [v1::EventKind::EndpointDetached]);
        assert_eq!(kinds(&stopped, &view()), []);
        assert_eq!(kinds(&stopped, &running), [v1::EventKind::EndpointAttached]);
    }

    #[test]
    fn a_problem_is_raised_and_cleared_once_whatever_its_words_count() {
        let problems =
            |texts: &[&str]| texts.iter().map(|text| ("peer-lost", (*text).to_owned())).collect();
        let changed = |before: &[&str], after: &[&str]| {
            let events = changed_problems(&problems(before), &problems(after));
            events.iter().map(|event| (event.kind(), event.text.clone())).collect::<Vec<_>>()
        };

        assert_eq!(
            changed(&[], &["b is lost"]),
            [(v1::EventKind::ProblemRaised, "b is lost".to_owned())]
        );
        assert_eq!(
            changed(&["b is lost"], &[]),
            [(v1::EventKind::ProblemCleared, "b is lost".to_owned())]
        );
        assert_eq!(changed(&["b is lost for 1 s"], &["b is lost for 2 s"]), []);
    }
}
