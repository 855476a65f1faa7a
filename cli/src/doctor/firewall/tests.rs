use tcpcopy_io::host::Rulesets;

use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;

fn rules(text: &str) -> Rules {
    Rules::read(&Rulesets { iptables: Some(text.to_owned()), ..Rulesets::default() })
}

#[track_caller]
fn says(finding: &Finding, outcome: Outcome, words: &[&str]) {
    assert_eq!(finding.outcome, outcome, "{finding}");
    for word in words {
        assert!(finding.to_string().contains(word), "nothing of {word:?} in {finding}");
    }
}

#[test]
fn the_remedy_is_for_the_table_of_the_rule() {
    let target = Endpoint::from(std::net::SocketAddr::from(([10, 0, 0, 2], 80)));
    let judge = |text: &str| copies(&rules(text), Some([10, 78, 0, 1].into()), target, Transport::Tcp, "eth0");
    let packets = "-d 10.0.0.2 -p tcp --dport 80 -j ACCEPT";
    for (text, outcome, words) in [
        ("*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT", Fine, vec!["there are no rules"]),
        ("*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -j DROP\nCOMMIT", Fine, vec!["no rule ends"]),
        ("*filter\n:OUTPUT DROP [0:0]\nCOMMIT", Failure, vec!["iptables -t filter -I OUTPUT -d", packets]),
        (
            "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DROP\nCOMMIT",
            Failure,
            vec!["iptables -t raw -I OUTPUT -d", packets],
        ),
        (
            "*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j DROP\nCOMMIT",
            Failure,
            vec!["iptables -t mangle -I POSTROUTING -d", packets],
        ),
        (
            "*filter\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n-A OUTPUT -j own\n-A own -j DROP\nCOMMIT",
            Failure,
            vec!["iptables -t filter -I OUTPUT -d", packets],
        ),
        (
            "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j DNAT --to-destination 10.0.0.9\nCOMMIT",
            Failure,
            vec!["its destination", "iptables -t nat -I OUTPUT -d"],
        ),
        (
            "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m owner --uid-owner 1 -j DROP\nCOMMIT",
            Warning,
            vec!["cannot be told"],
        ),
    ] {
        says(&judge(text), outcome, &words);
    }
    let nobody_looked = copies(&Rules::read(&Rulesets::default()), None, target, Transport::Tcp, "eth0");
    says(&nobody_looked, Warning, &["as root"]);
    let nft = r#"{"nftables": [{"chain": {"family": "inet", "table": "t", "name": "c", "hook": "output", "policy": "drop"}}]}"#;
    let of_nft = Rules::read(&Rulesets { nft: Some(nft.to_owned()), ..Rulesets::default() });
    let dropped = copies(&of_nft, None, target, Transport::Tcp, "eth0");
    says(&dropped, Failure, &["policy drop", "nft insert rule inet t c ip daddr 10.0.0.2 accept"]);
}

#[test]
fn a_port_that_nobody_gets_through_to_is_a_failure() {
    let with = |rule: &str| control_port(&rules(&format!("*filter\n:INPUT DROP [0:0]\n{rule}\nCOMMIT")), 36_524);
    says(&with(""), Failure, &["no tcpcopy through", "iptables -I INPUT -p tcp --dport 36524"]);
    says(&with("-A INPUT -p tcp -m tcp --dport 36524 -j ACCEPT"), Fine, &["get through"]);
    says(&with("-A INPUT -s 10.0.0.1/32 -p tcp -j ACCEPT"), Warning, &["may keep"]);
    let nft = r#"{"nftables": [{"chain": {"family": "inet", "table": "t", "name": "c", "hook": "input", "policy": "drop"}}]}"#;
    let of_nft = Rules::read(&Rulesets { nft: Some(nft.to_owned()), ..Rulesets::default() });
    says(&control_port(&of_nft, 36_524), Failure, &["nft insert rule inet t c tcp dport 36524 accept"]);
}
