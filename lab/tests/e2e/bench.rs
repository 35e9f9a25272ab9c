//! The benchmark, shortened: every column has a figure, and nothing is left behind.

use std::time::Duration;

use super::lab;

const PROGRAM: &str = "overlay-lab";
const SHORT: [&str; 5] =
    ["bench", "--rounds=1", "--seconds=0.3", "--policy", "--only=boringtun-cli"];

#[test]
fn a_short_bench_fills_its_table_and_leaves_its_machine_as_it_was() {
    let Some(outer) = lab(1) else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&["/run", "/etc", "/var/lib"]).unwrap();

    let bench = machine.command(PROGRAM).args(SHORT).args(["--json", "--plot=/run/plot.svg"]);
    let output = bench.deadline(Duration::from_secs(120)).run().unwrap();
    let plot = machine.command("cat").arg("/run/plot.svg").run().unwrap().stdout;
    machine.command("rm").arg("/run/plot.svg").run().unwrap();

    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    for name in ["overlay", "with policy"] {
        let row = report["rows"].as_array().unwrap().iter().find(|row| row["name"] == name);
        let row = row.unwrap();
        // A machine from which the hypervisor takes much time has samples and no medians.
        for metric in [
            "tcp1",
            "tcp4",
            "cost",
            "small",
            "full",
            "trains",
            "idle_median",
            "load_tail",
            "memory",
        ] {
            let first = row["samples"][metric][0]["value"].as_f64();
            assert!(first.is_some_and(|value| value > 0.0), "{metric}: {row}");
        }
    }
    assert!(plot.starts_with("<svg"), "{plot}");
    before.assert_unchanged(|| machine.snapshot(&["/run", "/etc", "/var/lib"])).unwrap();
}
