//! A network with a policy of many rules, of which the last lets all its containers speak.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;

/// The network that it is for.
pub(super) const NETWORK: &str = "judged";
/// How many rules it has.
const RULES: u32 = 500;
/// The last rule.
const LAST: &str = "last";

/// Makes the network, with the policy.
pub(super) fn apply(cluster: &Cluster) -> Result<()> {
    cluster.ctl(0, &["network", "create", NETWORK])?;

    cluster.put_policy("apply", &document()).map(drop)
}

/// Takes the policy away.
///
/// # Errors
///
/// If the packets that came were not judged by it, or those of another network were, too.
pub(super) fn remove(cluster: &Cluster) -> Result<()> {
    let counts = cluster.ctl_json(1, &["policy", "counts"])?;
    let rows = counts.as_array().context("no counts")?;
    let is_of_policy = |row: &&serde_json::Value| row["counter"] != "guard";
    let elsewhere = rows.iter().filter(is_of_policy).find(|row| row["network"] != NETWORK);
    ensure!(elsewhere.is_none(), "the policy is in force elsewhere, too: {elsewhere:?}");
    let last = rows.iter().find(|row| row["rule"] == LAST);
    let last = last.context("the policy is not in force")?;
    let judged = last["packets"].as_u64().unwrap_or_default();
    ensure!(judged > 0, "no packet was judged by the policy: {last}");

    cluster.ctl(0, &["policy", "rollback", "0"]).map(drop)
}

fn document() -> String {
    let mut text = format!("[network.{NETWORK}]\ndefault = \"deny\"\n");
    let mut rule = |name: &str, from: &str, to: &str, allow: &str| {
        // Infallible for a `String`.
        let _written = writeln!(
            text,
            "[[rule]]\nname = \"{name}\"\nnetwork = \"{NETWORK}\"\nfrom = {from}\nto = {to}\n\
             allow = {allow}"
        );
    };
    for n in 1..RULES {
        let [from, to] = [n, n * 7].map(|role| format!("{{ role = \"{role}\" }}"));
        rule(&format!("r{n}"), &from, &to, &format!("[\"tcp/{n}\"]"));
    }
    rule(LAST, "\"any\"", "\"any\"", "\"any\"");

    text
}
