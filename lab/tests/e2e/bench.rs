//! The benchmark, shortened: every column has a figure, and nothing is left behind.

use std::time::Duration;

use super::lab;

const PROGRAM: &str = "overlay-lab";
const SHORT: [&str; 4] = ["bench", "--rounds=1", "--seconds=0.3", "--only=bare,boringtun-cli"];
const WITH_POLICY: [&str; 5] =
    ["bench", "--rounds=1", "--only=bare", "--measure=small", "--policy"];

#[test]
fn a_short_bench_fills_its_table_and_leaves_its_machine_as_it_was() {
    let Some(outer) = lab(1) else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&["/run", "/etc", "/var/lib"]).unwrap();

    let bench = machine.command(PROGRAM).args(SHORT).args(["--json", "--plot=/run/plot.svg"]);
    let output = bench.deadline(Duration::from_secs(120)).run().unwrap();
    let plot = machine.command("cat").arg("/run/plot.svg").run().unwrap().stdout;
    machine.command("rm").arg("/run/plot.svg").run().unwrap();
    let with_policy = machine.command(PROGRAM).args(WITH_POLICY).arg("--json");
    let with_policy = with_policy.deadline(Duration::from_secs(60)).run().unwrap();

    let overlay = row(&output.stdout, "overlay");
    // A machine from which the hypervisor takes much time has samples and no medians.
    for metric in
        ["tcp1", "tcp4", "cost", "small", "full", "trains", "idle_median", "load_tail", "memory"]
    {
        let first = overlay["samples"][metric][0]["value"].as_f64();
        assert!(first.is_some_and(|value| value > 0.0), "{metric}: {overlay}");
    }
    let judged = row(&with_policy.stdout, "with policy");
    assert!(judged["samples"]["small"][0]["value"].as_f64().is_some_and(|n| n > 0.0), "{judged}");
    assert!(plot.starts_with("<svg"), "{plot}");
    before.assert_unchanged(|| machine.snapshot(&["/run", "/etc", "/var/lib"])).unwrap();
}

fn row(report: &str, name: &str) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_str(report).expect("a report");
    let rows = report["rows"].as_array().expect("rows");

    rows.iter().find(|row| row["name"] == name).expect("a row of this name").clone()
}
