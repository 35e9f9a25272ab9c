//! Our engine and other implementations of WireGuard, over real sockets, in both directions.

mod driver;
mod protocol;

use std::time::Duration;

use driver::Driver;
use overlay_lab::{Lab, Running, Stock, StockTunnel};

/// Private keys of the two ends.
const OUR_KEY: [u8; 32] = StockTunnel::KEYS[0].0;
const THEIR_KEY: [u8; 32] = StockTunnel::KEYS[1].0;
const PORT: u16 = 51820;
const OURS: &str = "10.9.0.1";
const THEIRS: &str = "10.9.0.2";

/// Makes a lab with `stock` on host 1 and our engine on host 0; returns `None` with a message if
/// that is not possible.
fn pair(stock: Stock, it_calls: bool) -> Option<(Lab, Running, Driver)> {
    let (lab, running) = pair_of(stock, it_calls)?;
    let theirs = (!it_calls).then(|| (lab.host(1).address(), PORT).into());
    let driver = Driver::new(lab.host(0), public(THEIR_KEY), theirs);

    Some((lab, running, driver))
}

/// Makes a lab with `stock` on host 1; returns `None` with a message if that is not possible.
fn pair_of(stock: Stock, it_calls: bool) -> Option<(Lab, Running)> {
    if !stock.is_installed() {
        return skip(&format!("{} is not installed", stock.program()));
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("this test enters a host's network by itself, which needs root");
    }
    let lab = Lab::new(2).unwrap_or_else(|error| panic!("{error:#}"));
    let ours = (lab.host(0).address(), PORT).into();
    let tunnel = StockTunnel {
        private_key: THEIR_KEY,
        peer: *public(OUR_KEY).as_bytes(),
        port: PORT,
        endpoint: it_calls.then_some(ours),
        address: format!("{THEIRS}/24").parse().expect("a prefix"),
        mtu: 1408,
    };
    let running = stock.start(lab.host(1), &tunnel).unwrap_or_else(|error| panic!("{error:#}"));

    Some((lab, running))
}

fn public(private: [u8; 32]) -> overlay_core::PublicKey {
    overlay_dataplane::public_key(&private.into())
}

#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn skip<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

#[test]
fn the_keys_for_tests_belong_together() {
    for (private, public_key) in StockTunnel::KEYS {
        assert_eq!(*public(private).as_bytes(), public_key);
    }
}

fn we_call(stock: Stock) {
    let Some((_lab, _running, mut driver)) = pair(stock, false) else { return };

    for number in 1..=20 {
        driver.ping(number, 1000);
        assert!(
            driver.run_until(Duration::from_secs(10), |driver| driver.answers.contains(&number)),
            "echo {number}"
        );
    }
    assert_eq!(driver.dropped(), 0);
}

fn it_calls(stock: Stock) {
    let Some((lab, _running, mut driver)) = pair(stock, true) else { return };

    let ping = ["ping", "--count=20", "--interval-ms=20", "--size=1300", OURS];
    let mut ping = lab.host(1).command("overlay-lab").args(ping).spawn().expect("the ping runs");
    assert!(driver.run_until(Duration::from_secs(20), |_| !ping.is_running()), "the ping ends");
    let output = ping.wait(Duration::from_secs(1)).expect("the ping runs");
    assert!(output.stdout.contains(" 0 lost"), "{}{}", output.stdout, output.stderr);
    assert_eq!(driver.dropped(), 0);
}

/// Ten minutes of our time, in which packets only keep flowing if the session is renewed.
fn we_renew(stock: Stock) {
    let Some((_lab, _running, mut driver)) = pair(stock, false) else { return };

    let mut handshakes = 0;
    for number in 1..=100 {
        driver.skip(Duration::from_secs(6));
        driver.ping(number, 500);
        assert!(
            driver.run_until(Duration::from_secs(10), |driver| driver.answers.contains(&number)),
            "echo {number}"
        );
        handshakes += usize::from(driver.last_handshake() < Duration::from_secs(6));
    }
    assert!(handshakes >= 4, "600 s hold at least four renewals, not {handshakes}");
}

/// Each side continues from another port; the other follows with the first packet from there.
fn both_roam(stock: Stock) {
    let Some((lab, _running, mut driver)) = pair(stock, false) else { return };
    let mut number = 0;
    let mut expect_echo = |driver: &mut Driver| {
        number += 1;
        driver.ping(number, 500);
        assert!(
            driver.run_until(Duration::from_secs(10), |driver| driver.answers.contains(&number)),
            "echo {number}"
        );
    };
    expect_echo(&mut driver);

    driver.roam(lab.host(0));
    expect_echo(&mut driver);

    let port = PORT + 7;
    let uapi = lab.host(1).command("overlay-lab").args(["uapi", stock.interface()]);
    let uapi = uapi.input(&format!("set=1\nlisten_port={port}\n\n")).expect("it takes input");
    uapi.run().expect("it takes the port");
    let mut ping = lab
        .host(1)
        .command("overlay-lab")
        .args(["ping", "--count=1", OURS])
        .spawn()
        .expect("the ping runs");
    assert!(driver.run_until(Duration::from_secs(10), |_| !ping.is_running()), "the ping ends");
    assert_eq!(driver.underlay(), Some((lab.host(1).address(), port).into()));
    expect_echo(&mut driver);
}

/// Their session gets as old as possible: they renew it, and no packet is lost.
fn it_renews(stock: Stock) {
    let Some((lab, _running, mut driver)) = pair(stock, true) else { return };

    let ping = ["ping", "--count=260", "--interval-ms=500", "--size=500", OURS];
    let mut ping = lab.host(1).command("overlay-lab").args(ping).spawn().expect("the ping runs");
    assert!(driver.run_until(Duration::from_secs(150), |_| !ping.is_running()), "the ping ends");
    let output = ping.wait(Duration::from_secs(1)).expect("the ping runs");

    assert!(output.stdout.contains(" 0 lost"), "{}{}", output.stdout, output.stderr);
    assert!(driver.last_handshake() < Duration::from_secs(30), "{:?}", driver.last_handshake());
}

#[test]
fn wireguard_go_answers_us() {
    we_call(Stock::WireguardGo);
}

#[test]
fn wireguard_go_calls_us() {
    it_calls(Stock::WireguardGo);
}

#[test]
fn wireguard_go_goes_along_when_we_renew() {
    we_renew(Stock::WireguardGo);
}

#[test]
fn wireguard_go_roams_and_follows() {
    both_roam(Stock::WireguardGo);
}

#[test]
fn boringtun_answers_us() {
    we_call(Stock::Boringtun);
}

#[test]
fn boringtun_calls_us() {
    it_calls(Stock::Boringtun);
}

#[test]
fn boringtun_goes_along_when_we_renew() {
    we_renew(Stock::Boringtun);
}

#[test]
fn boringtun_roams_and_follows() {
    both_roam(Stock::Boringtun);
}

/// Both at once, because it is two minutes of waiting.
#[test]
fn each_renews_by_itself() {
    std::thread::scope(|scope| {
        for stock in [Stock::WireguardGo, Stock::Boringtun] {
            scope.spawn(move || it_renews(stock));
        }
    });
}
