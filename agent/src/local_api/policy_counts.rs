//! What was counted by the rules of the policy, and by the guard of each network, as the kernel has
//! it at this moment.

use overlay_core::policy::{FilterMode, NetworkFilter, Policy, PolicyAction};
use overlay_core::{LinkAccess, Name, Network, NetworkLink};
use overlay_proto::{Code, Refusal, v1};
use tokio::task::spawn_blocking;

use super::guard_counts;
use crate::endpoint::lifecycle::Endpoints;
use crate::kernel::Pins;
use crate::kernel::nft::{FilterCount, FilterCounts, FilterTable, NftError};
use crate::problem::explain;

/// Reads the counters of all networks of this node.
pub(super) async fn counts(endpoints: &Endpoints) -> Result<v1::PolicyCountsResponse, Refusal> {
    let view = endpoints.memberships.local_view();
    let text = view.policy.as_ref().map_or("", |row| &row.text);
    let policy = Policy::parse(text).map_err(|_| {
        let text = "this agent does not understand the live policy: upgrade it";
        Refusal::new(Code::Unsupported, text)
    })?;
    // Without a policy, what links leave closed is refused.
    let mode = view.policy.as_ref().map_or(FilterMode::Enforced, |row| row.mode);
    let mut networks = Vec::new();
    for member in view.memberships_of(endpoints.node()) {
        let Some(network) = view.networks.get(&member.network) else { continue };
        let is_open = NetworkFilter::new(&policy, &network.name, mode).filter().is_open();
        let is_closed = |link: &NetworkLink| link.access == LinkAccess::PolicyOnly;
        let mut counts = if is_open && !network.settings.links.iter().any(is_closed) {
            let network = network.name.to_string();
            v1::NetworkPolicyCounts { network, ..v1::NetworkPolicyCounts::default() }
        } else {
            let counted = read(endpoints, network).await?;
            network_counts(&policy, mode, &network.name, counted.as_ref())
        };
        counts.guard = guard_counts::read(endpoints, network).await?;
        networks.push(counts);
    }

    Ok(v1::PolicyCountsResponse { networks })
}

/// Reads what is counted in a network; nothing where its policy is not in force.
async fn read(endpoints: &Endpoints, network: &Network) -> Result<Option<FilterCounts>, Refusal> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Refusal::new(Code::Kernel, format!("network {}: {}", network.name, explain(error)))
    };
    let opened = Pins::new(&endpoints.run_dir).open(network.id).map_err(|error| refused(&error))?;
    let Some(netns) = opened else { return Ok(None) };
    // A program is waited for.
    let counting = spawn_blocking(move || {
        let table = FilterTable::new(netns, 0);
        let is_there = table.is_there()?;
        is_there.then(|| table.counts()).transpose()
    });
    let counted: Result<_, NftError> = counting.await.map_err(|error| refused(&error))?;

    counted.map_err(|error| refused(&error))
}

/// Lists the counters in the order in which packets are judged.
fn network_counts(
    policy: &Policy,
    mode: FilterMode,
    network: &Name,
    counted: Option<&FilterCounts>,
) -> v1::NetworkPolicyCounts {
    let rules = policy.rules_of(Some(network)).map(|rule| {
        let counter = v1::PolicyCounter::Rule;
        let count = counted.and_then(|counts| counts.rules.get(&rule.name)).copied();
        policy_count(counter, rule.name.as_str(), rule.action, count)
    });
    let others = [
        (v1::PolicyCounter::Default, policy.default_of(Some(network)), counted.map(|c| c.default)),
        (v1::PolicyCounter::Unknown, PolicyAction::Deny, counted.map(|c| c.unknown)),
        (v1::PolicyCounter::Invalid, PolicyAction::Deny, counted.map(|c| c.invalid)),
    ];
    let others = others.map(|(counter, action, count)| policy_count(counter, "", action, count));

    v1::NetworkPolicyCounts {
        network: network.to_string(),
        mode: v1::PolicyMode::from(mode).into(),
        in_force: counted.is_some(),
        counts: rules.chain(others).collect(),
        guard: Vec::new(),
    }
}

fn policy_count(
    counter: v1::PolicyCounter,
    rule: &str,
    action: PolicyAction,
    count: Option<FilterCount>,
) -> v1::PolicyCount {
    let FilterCount { packets, bytes } = count.unwrap_or_default();

    v1::PolicyCount {
        counter: counter.into(),
        rule: rule.to_owned(),
        refused: action == PolicyAction::Deny,
        packets,
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_the_order_in_which_packets_are_judged() {
        let text = "[network.shop]\ndefault = \"deny\"\n[[rule]]\nname = \"z\"\nfrom = \"any\"\n\
                    to = \"any\"\nallow = [\"tcp\"]\n[[rule]]\nname = \"a\"\nfrom = \"any\"\n\
                    to = \"any\"\ndeny = [\"udp\"]\n[[rule]]\nname = \"o\"\nnetwork = \"ops\"\n\
                    from = \"any\"\nto = \"any\"\ndeny = \"any\"\n";
        let policy = Policy::parse(text).expect("a policy");
        let mode = FilterMode::Shadow;
        let name: Name = "shop".parse().expect("a name");
        let count = |packets| FilterCount { packets, bytes: packets * 100 };
        let counted = FilterCounts {
            rules: [("a".parse().expect("a name"), count(2))].into(),
            default: count(3),
            ..FilterCounts::default()
        };

        let counts = network_counts(&policy, mode, &name, Some(&counted));

        let told: Vec<_> =
            counts.counts.iter().map(|one| (&*one.rule, one.refused, one.packets)).collect();
        let others = [("", true, 3), ("", true, 0), ("", true, 0)];
        assert_eq!(told, [[("z", false, 0), ("a", true, 2)].as_slice(), &others].concat());
        assert!(counts.in_force && counts.mode() == v1::PolicyMode::Shadow);
        assert!(!network_counts(&policy, mode, &name, None).in_force);
    }
}
