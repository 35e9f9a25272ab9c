//! Every check of `overlay-lab check`, in as many rounds as a test run can afford.

use overlay_lab::{CHECKS, Check, Release};

use super::{lab, skip};

fn check(name: &str, rounds: u32) {
    if lab(1).is_none() {
        return;
    }
    let check = Check::find(name).expect("a check of this name");

    check.run(Some(rounds)).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Invariant 1.
#[test]
fn the_data_path_needs_no_control() {
    check("offline", 1);
}

/// Invariants 1, 5 and 7.
#[test]
fn agents_may_be_killed_at_any_moment() {
    check("restart", 8);
}

/// Invariants 1 and 3.
#[test]
fn agents_are_replaced_without_a_lost_packet() {
    check("upgrade", 4);
}

#[test]
fn what_control_acknowledged_survives_its_death() {
    check("control", 3);
}

/// Invariants 6 and 9.
#[test]
fn a_restored_control_gives_nothing_twice_and_revives_nothing() {
    check("restore", 4);
}

#[test]
fn what_a_host_runs_out_of_kills_nobody() {
    check("exhaustion", 1);
}

#[test]
fn control_is_found_wherever_it_goes() {
    check("control-moves", 2);
}

#[test]
fn what_foreign_hands_break_is_healed() {
    check("foreign", 1);
}

/// Invariant 10.
#[test]
fn the_hosts_firewall_makes_no_difference() {
    check("firewall", 1);
}

/// Invariant 2.
#[test]
fn networks_are_sealed_also_with_one_prefix() {
    check("isolation", 1);
}

/// Defect 1.9.
#[test]
fn a_removed_node_is_refused_by_whoever_hears_one_that_knows() {
    check("evict", 1);
}

#[test]
fn coming_and_going_leaves_nothing() {
    check("churn", 60);
}

/// Invariant 4.
#[test]
fn nobody_speaks_with_the_address_of_another() {
    check("forgery", 1);
}

#[test]
fn root_in_a_container_harms_no_other() {
    check("hostile", 2);
}

#[test]
fn one_hostile_node_slows_nobody_down() {
    check("hostile-node", 2);
}

#[test]
fn no_container_sends_before_its_policy() {
    check("first-packet", 40);
}

#[test]
fn a_policy_changes_everywhere_and_cuts_nothing() {
    check("policy", 9);
}

#[test]
fn a_flood_of_handshakes_stops_nobody() {
    check("flood", 4);
}

#[test]
fn a_thousand_peers_cost_next_to_nothing() {
    check("memory", 5);
}

#[test]
fn idle_networks_cost_next_to_nothing() {
    check("idle", 20);
}

#[test]
fn what_an_underlay_loses_harms_nothing_else() {
    check("loss", 1);
}

#[test]
fn streams_flow_beside_other_tunnels() {
    check("speed", 1);
}

#[test]
fn status_is_the_truth() {
    check("truth", 1);
}

#[test]
fn a_good_day_brings_no_problem() {
    check("healthy", 1);
}

#[test]
fn hosts_behind_nat_are_reached_or_say_why_not() {
    check("nat", 1);
}

#[test]
fn a_hosts_address_may_change_under_load() {
    check("roam", 1);
}

#[test]
fn no_path_is_too_narrow() {
    check("mtu", 1);
}

/// Runs a check on Docker engines, or says why it cannot.
fn check_docker(run: impl FnOnce()) {
    match overlay_lab::DockerDaemon::missing_program() {
        Some(program) => skip(&format!("Docker engines need {program}")),
        None => run(),
    }
}

/// Runs a check on engines that `pick` chooses from those that lab/engines.sh has fetched, the
/// oldest first, or says why it cannot.
fn check_engines(name: &str, rounds: u32, pick: impl FnOnce(&[Release]) -> Vec<Release>) {
    check_docker(|| {
        let fetched = Release::fetched().unwrap_or_else(|error| panic!("{error:#}"));
        if fetched.is_empty() {
            return skip("no other Docker engines are here: lab/engines.sh fetches them");
        }
        if lab(1).is_some() {
            let known = Check::find(name).expect("a check of this name");
            known
                .run_with(Some(rounds), &pick(&fetched), &[])
                .unwrap_or_else(|error| panic!("{error:#}"));
        }
    });
}

#[test]
fn docker_networks_span_hosts_of_an_old_and_a_new_engine() {
    check_engines("docker", 1, |fetched| {
        [&[Release::default()], &fetched[fetched.len() - 1..]].concat()
    });
}

#[test]
fn docker_networks_span_hosts() {
    check_docker(|| check("docker", 4));
}

#[test]
fn docker_networks_do_not_hear_each_other() {
    check_docker(|| check("docker-networks", 1));
}

#[test]
fn docker_networks_are_alike_on_all_hosts() {
    check_docker(|| check("docker-settings", 1));
}

#[test]
fn bridges_of_other_hosts_are_no_obstacle_to_docker_networks() {
    check_docker(|| check("docker-prefixes", 4));
}

#[test]
fn bridges_of_other_hosts_are_no_obstacle_to_newer_engines() {
    check_engines("docker-prefixes", 4, |fetched| fetched[fetched.len() - 1..].to_vec());
}

#[test]
fn docker_containers_are_found_by_all_their_names() {
    check_docker(|| check("docker-names", 1));
}

#[test]
fn docker_boots_whatever_the_agent_does() {
    check_docker(|| check("docker-boot", 1));
}

#[test]
fn no_running_container_loses_its_network() {
    check_docker(|| check("docker-removal", 4));
}

#[test]
fn however_long_docker_takes_nothing_is_lost() {
    check_docker(|| check("docker-slow", 1));
}

#[test]
fn docker_containers_get_back_what_they_lost() {
    check_docker(|| check("docker-lost", 1));
}

#[test]
fn firewalls_make_no_difference_to_docker() {
    check_docker(|| check("docker-firewall", 1));
}

#[test]
fn docker_containers_have_ports_and_ways_out() {
    check_docker(|| check("docker-way-out", 1));
}

#[test]
fn root_in_a_docker_container_harms_no_other() {
    check_docker(|| check("docker-hostile", 2));
}

#[test]
fn streams_flow_with_docker_and_without() {
    check_docker(|| check("docker-speed", 1));
}

#[test]
fn the_plugin_takes_whatever_comes() {
    check("docker-protocol", 10);
}

#[test]
fn docker_containers_come_and_go_and_leave_nothing() {
    check_docker(|| check("docker-churn", 20));
}

#[test]
fn docker_engines_and_agents_may_be_killed() {
    check_docker(|| check("docker-kills", 3));
}

#[test]
fn docker_works_on_while_agents_are_replaced() {
    check_docker(|| check("docker-upgrade", 2));
}

#[test]
fn every_check_is_a_test_here() {
    let own = include_str!("checks.rs");

    for known in CHECKS {
        assert!(
            own.contains(&format!("check(\"{}\", ", known.name)),
            "{} is not run here",
            known.name
        );
    }
}
