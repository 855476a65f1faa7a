use clap::CommandFactory;

use super::super::checks::Check;
use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[test]
fn options_are_those_of_the_real_run_and_two_more() {
    for command in [OfTcpcopy::command(), OfIntercept::command()] {
        command.debug_assert();
    }
    let OfTcpcopy { wanted, copy } =
        parse(words("doctor --json --watch 7 -x 80-10.0.0.2:80,81-10.0.0.2:81 -s 10.0.0.3")).unwrap();
    assert_eq!((wanted.json, wanted.duration().unwrap()), (true, Duration::from_secs(7)));
    assert_eq!(copy.intercept, ["10.0.0.3"]);
    let OfIntercept { wanted, intercept } = parse(words("doctor -i eth0 -o 80")).unwrap();
    assert_eq!((wanted.json, wanted.duration().unwrap()), (false, Duration::from_secs(3)));
    assert_eq!(intercept.device, ["eth0"]);
    let none = Wanted { json: false, watch: Some(0) };
    assert_eq!(none.duration().unwrap_err().exit, Exit::Usage);
}

#[test]
fn findings_are_counted_and_written_as_json() {
    let findings = [
        Check::Device.ok("is up"),
        Check::Mtu.warning("small", "-M 1400"),
        Check::Route.failure("none", "ip route add"),
        Check::Firewall.failure("drops", "iptables"),
    ];
    let summary = Summary::of("tcpcopy", &findings);
    assert_eq!(summary.line(), "1 ok, 1 warning, 2 failures");
    let json: serde_json::Value = serde_json::from_str(&summary.json()).unwrap();
    assert_eq!((&json["ok"], &json["warnings"], &json["failures"]), (&1.into(), &1.into(), &2.into()));
    assert_eq!(json["findings"][2]["check"], "route to target");
    assert_eq!(json["findings"][2]["outcome"], "failure");
    assert_eq!(json["findings"][2]["remedy"], "ip route add");
    assert!(json["findings"][0].get("remedy").is_none());
    assert_eq!(Summary::of("intercept", &[]).line(), "0 ok, 0 warnings, 0 failures");
}

/// docs/doctor.md has one row for each check, in the order in which they are made.
#[test]
fn the_documentation_lists_every_check() {
    let text = include_str!("../../../../docs/doctor.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: Vec<&str> = rows.map(|(name, _)| name).collect();
    let checks: Vec<&str> = Check::ALL.iter().map(|check| check.name()).chain(["probe"]).collect();
    assert_eq!(documented, checks);
}
