use super::*;

const BOTH: [Hook; 2] = [Hook::Output, Hook::Postrouting];

/// A first packet of a copy over TCP to port 80 of 10.0.0.2, from 10.78.0.1, by eth0.
fn copy() -> Packet {
    Packet {
        transport: Transport::Tcp,
        from: Some([10, 78, 0, 1].into()),
        to: [10, 0, 0, 2].into(),
        to_port: 80,
        device: Some("eth0".to_owned()),
        is_first: true,
    }
}

/// The rules of a table of iptables whose chains accept, unless `rules` begin with another policy of OUTPUT.
fn iptables(table: &str, rules: &str) -> Rules {
    let text =
        format!("*{table}\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rules}\nCOMMIT\n");
    Rules::read(&Rulesets { iptables: Some(text), ..Rulesets::default() })
}

fn nft() -> Rules {
    Rules::read(&Rulesets { nft: Some(include_str!("ruleset.json").to_owned()), ..Rulesets::default() })
}

#[test]
fn a_rule_that_drops_copies_is_found() {
    for (rule, dropped) in [
        ("-A OUTPUT -j DROP", true),
        ("-A OUTPUT -d 10.0.0.2/32 -p tcp -m tcp --dport 80 -j DROP", true),
        ("-A OUTPUT -d 10.0.0.0/8 -j REJECT --reject-with icmp-port-unreachable", true),
        ("-A OUTPUT -d 10.0.0.3/32 -j DROP", false),
        ("-A OUTPUT ! -d 10.0.0.3/32 -j DROP", true),
        ("-A OUTPUT -s 10.78.0.0/16 -j DROP", true),
        ("-A OUTPUT ! -s 10.0.0.1/32 -o eth0 -j DROP", true),
        ("-A OUTPUT -o eth1 -j DROP", false),
        ("-A OUTPUT -o eth+ -j DROP", true),
        ("-A OUTPUT -p udp -j DROP", false),
        ("-A OUTPUT -p icmp -j DROP", false),
        ("-A OUTPUT -p tcp -m tcp --dport 81:90 -j DROP", false),
        ("-A OUTPUT -p tcp -m multiport --dports 22,79:81 -m comment --comment \"two words\" -j DROP", true),
        ("-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", true),
        ("-A OUTPUT -m conntrack --ctstate NEW -j DROP", true),
        ("-A OUTPUT -m conntrack --ctstate INVALID -j DROP", false),
        ("-A INPUT -j DROP", false),
        ("-A OUTPUT -p tcp -j ACCEPT\n-A OUTPUT -j DROP", false),
        (":own - [0:0]\n-A OUTPUT -j own\n-A own -p tcp -j DROP", true),
        (":own - [0:0]\n-A OUTPUT -j own\n-A OUTPUT -j DROP\n-A own -p tcp -j ACCEPT", false),
        (":own - [0:0]\n-A OUTPUT -j own\n-A OUTPUT -j DROP\n-A own -p tcp -j RETURN\n-A own -j ACCEPT", true),
        (":own - [0:0]\n-A OUTPUT -g own\n-A OUTPUT -j DROP\n-A own -p udp -j DROP", false),
        (":OUTPUT DROP [0:0]", true),
        (":OUTPUT DROP [0:0]\n-A OUTPUT -p tcp -j ACCEPT", false),
        ("-A OUTPUT -p tcp -j LOG --log-prefix \"x -j DROP \"", false),
    ] {
        let passage = iptables("filter", rule).follow(&copy(), &BOTH);
        assert_eq!(passage.dropped.is_some(), dropped, "{rule}: {passage:?}");
        assert!(passage.possible.is_empty(), "{rule}: {passage:?}");
    }
}

#[test]
fn what_cannot_be_told_is_possible() {
    for rule in [
        "-A OUTPUT -m owner --uid-owner 1000 -j DROP",
        "-A OUTPUT -m limit --limit 5/sec -j ACCEPT\n-A OUTPUT -j DROP",
        "-A OUTPUT -p tcp -j NFQUEUE --queue-num 1",
        ":own - [0:0]\n-A OUTPUT -m set --match-set bad dst -j own\n-A own -j REJECT",
        ":own - [0:0]\n-A OUTPUT -m set --match-set good dst -j own\n-A OUTPUT -j DROP\n-A own -j ACCEPT",
    ] {
        let passage = iptables("filter", rule).follow(&copy(), &BOTH);
        assert_eq!((passage.dropped, passage.possible.len()), (None, 1), "{rule}");
    }
    // Of a client that is not known yet.
    let unknown = Packet { from: None, ..copy() };
    let passage = iptables("filter", "-A OUTPUT ! -s 10.0.0.1/32 -j DROP").follow(&unknown, &BOTH);
    assert_eq!((passage.dropped, passage.possible.len()), (None, 1));
}

/// No answer passes this host, so that the kernel finds all but the first packet of a copy invalid.
#[test]
fn later_packets_are_invalid_unless_they_are_not_tracked() {
    let later = Packet { is_first: false, ..copy() };
    let drop_invalid = "-A OUTPUT -m state --state INVALID -j DROP";
    assert!(iptables("filter", drop_invalid).follow(&later, &BOTH).dropped.is_some());
    let raw = "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 10.0.0.2/32 -p tcp -j CT --notrack\nCOMMIT\n";
    let text = format!("*filter\n:OUTPUT ACCEPT [0:0]\n{drop_invalid}\nCOMMIT\n{raw}");
    let rules = Rules::read(&Rulesets { iptables: Some(text), ..Rulesets::default() });
    let passage = rules.follow(&later, &BOTH);
    assert_eq!((passage.dropped, passage.untracked), (None, true));
    assert!(rules.track_connections());
}

#[test]
fn addresses_that_are_changed_are_found() {
    for (rule, rewritten) in [
        ("-A POSTROUTING -o eth0 -j MASQUERADE", true),
        ("-A POSTROUTING -s 10.78.0.0/16 -j SNAT --to-source 10.0.0.1", true),
        ("-A POSTROUTING -s 10.79.0.0/16 -j MASQUERADE", false),
        ("-A OUTPUT -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.9", true),
        ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080", true),
        ("-A POSTROUTING -d 10.0.0.2/32 -j ACCEPT\n-A POSTROUTING -j MASQUERADE", false),
    ] {
        let passage = iptables("nat", rule).follow(&copy(), &BOTH);
        assert_eq!(passage.rewritten.is_some(), rewritten, "{rule}");
    }
    let text = "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j NOTRACK\nCOMMIT\n\
                *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n";
    let rules = Rules::read(&Rulesets { iptables: Some(text.to_owned()), ..Rulesets::default() });
    assert_eq!(rules.follow(&copy(), &BOTH).rewritten, None, "what is not tracked keeps its addresses");
}

#[test]
fn nftables_are_read() {
    let rules = nft();
    let dropped = |packet: &Packet| rules.follow(packet, &[Hook::Output]).dropped;
    // `oifname "eth0" ip saddr 10.78.0.0/16 reject`
    assert_eq!(dropped(&copy()).as_deref(), Some("nft rule inet mine out handle 8 (rejects it)"));
    let from_elsewhere = Packet { from: Some([10, 79, 0, 1].into()), ..copy() };
    assert_eq!(dropped(&from_elsewhere), None);
    // `ip daddr 10.0.0.2 tcp dport { 80, 443 } ct state invalid drop`
    let later = Packet { is_first: false, ..from_elsewhere.clone() };
    assert_eq!(dropped(&later).as_deref(), Some("nft rule inet mine out handle 6 (drops it)"));
    // `udp dport 53-54 jump more`
    let udp = Packet { transport: Transport::Udp, to_port: 54, ..from_elsewhere.clone() };
    assert_eq!(dropped(&udp).as_deref(), Some("nft rule inet mine more handle 4 (drops it)"));
    assert_eq!(dropped(&Packet { to_port: 55, ..udp }), None);
    // `ip daddr @bad drop`: what is in the set is not looked up.
    assert_eq!(rules.follow(&from_elsewhere, &[Hook::Output]).possible.len(), 1);
    // The other table, asked later.
    let rewritten = rules.follow(&from_elsewhere, &BOTH).rewritten;
    assert_eq!(rewritten.as_deref(), Some("nft rule ip nats post handle 2 (changes its source address)"));
    let ipv6 = Packet { from: None, to: "fd00::2".parse().unwrap(), ..copy() };
    assert_eq!(rules.follow(&ipv6, &BOTH), Passage::default(), "all of it is about IPv4");
}

/// What iptables has made shows in nft, too; its own listing is the better one.
#[test]
fn rules_of_iptables_are_read_once() {
    let of_iptables = r#"{"nftables": [
        {"chain": {"family": "ip", "table": "filter", "name": "OUTPUT", "hook": "output", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "OUTPUT", "handle": 2,
            "expr": [{"xt": {"type": "match", "name": "owner"}}, {"counter": {"packets": 0, "bytes": 0}}, {"drop": null}]}}]}"#;
    let listed = Rulesets { nft: Some(of_iptables.to_owned()), ..Rulesets::default() };
    let passage = Rules::read(&listed).follow(&copy(), &BOTH);
    assert_eq!((passage.dropped, passage.possible.len()), (None, 1));
    let iptables = Some("*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n".to_owned());
    assert!(Rules::read(&Rulesets { iptables, ..listed }).is_empty());
}

#[test]
fn what_is_no_listing_has_no_rules() {
    for text in ["", "garbage", "-A OUTPUT", "*filter\n-A OUTPUT -s", "{\"nftables\": [7, {\"rule\": null}]}"] {
        let listed = |which: usize| {
            let given = |n| (n == which).then(|| text.to_owned());
            Rulesets { iptables: given(0), ip6tables: given(1), nft: given(2) }
        };
        for which in 0..3 {
            assert_eq!(Rules::read(&listed(which)).follow(&copy(), &BOTH).dropped, None, "{text}");
        }
    }
    assert!(Rules::read(&Rulesets::default()).is_unknown);
}

/// A listing that a person has broken, or a kernel that lets chains call each other for ever.
#[test]
fn chains_that_call_each_other_end() {
    let rules = iptables("filter", ":a - [0:0]\n:b - [0:0]\n-A OUTPUT -j a\n-A a -j b\n-A b -j a");
    assert_eq!(rules.follow(&copy(), &BOTH).dropped, None);
}
