use super::super::finding::Outcome::{self, Failure, Ok as Fine, Warning};
use super::*;

fn addresses(text: &str) -> Vec<IpAddr> {
    text.split(',').map(|address| address.parse().unwrap()).collect()
}

/// Online is 10.0.0.1, the target 10.0.0.2, intercept 10.0.0.3, all in one network.
fn judge(given: &str, shared: Option<&str>) -> Vec<Finding> {
    let around = Surroundings {
        local: &addresses("127.0.0.1,10.0.0.1"),
        target: [10, 0, 0, 2].into(),
        shared: shared.map(|net| net.parse().unwrap()),
        intercept: Some([10, 0, 0, 3].into()),
    };
    sources(&addresses(given), around)
}

#[test]
fn addresses_that_cannot_be_clients_are_named() {
    let near = Some("10.0.0.0/24");
    let cases: [(&str, Option<&str>, Outcome, &str); 11] = [
        ("10.78.0.1,10.78.0.2", near, Fine, "ip route add 10.78.0.0/30 via 10.0.0.3"),
        ("127.0.0.5", near, Failure, "127.0.0.5 in -c"),
        ("224.0.0.5", near, Failure, "224.0.0.5 in -c"),
        ("255.255.255.255", near, Failure, "255.255.255.255 in -c"),
        ("10.78.0.1,10.0.0.1", near, Failure, "10.0.0.1 in -c belongs to this host"),
        ("10.0.0.2", near, Failure, "the target itself"),
        ("10.0.0.3", near, Failure, "intercept's own address"),
        ("10.0.0.255", near, Failure, "broadcast"),
        ("10.0.0.0", near, Failure, "the network's own"),
        ("10.0.0.77", near, Warning, "on the target: ip route add 10.0.0.77/32 via 10.0.0.3"),
        ("10.0.0.77", None, Fine, "10.0.0.77"),
    ];
    for (given, shared, outcome, words) in cases {
        let findings = judge(given, shared);
        let found = findings.iter().find(|finding| finding.outcome == outcome && finding.to_string().contains(words));
        assert!(found.is_some(), "-c {given}: {findings:#?}");
        assert_eq!(findings.iter().map(|finding| finding.outcome).max(), Some(outcome), "-c {given}: {findings:#?}");
    }
    assert!(judge("10.78.0.1,10.78.0.2,10.78.0.3,10.78.0.4,10.78.0.5", near)[0].text.contains("and 2 others"));
}

#[test]
fn the_smallest_network_has_all_addresses() {
    for (given, net) in [
        ("10.78.0.1", "10.78.0.1/32"),
        ("10.78.0.1,10.78.0.254", "10.78.0.0/24"),
        ("10.78.0.1,192.168.0.1", "0.0.0.0/0"),
        ("fd78::1,fd78::40", "fd78::/121"),
    ] {
        assert_eq!(network_of(&addresses(given)).to_string(), net);
    }
}

#[test]
fn clouds_that_drop_other_addresses_are_known_by_their_machines() {
    let machine = |vendor: &str, product: &str, asset_tag: &str| Machine {
        vendor: vendor.to_owned(),
        product: product.to_owned(),
        bios: String::new(),
        asset_tag: asset_tag.to_owned(),
    };
    for (machine, outcome, word) in [
        (machine("Amazon EC2", "m5.large", ""), Warning, "--no-source-dest-check"),
        (machine("Google", "Google Compute Engine", ""), Warning, "--can-ip-forward"),
        (machine("Microsoft Corporation", "Virtual Machine", "7783-7084-3265-9085-8269-3286-77"), Warning, "Azure"),
        // Hyper-V at home.
        (machine("Microsoft Corporation", "Virtual Machine", "1234"), Fine, "no cloud"),
        (machine("OpenStack Foundation", "OpenStack Nova", ""), Warning, "allowed-address"),
        (machine("VMware, Inc.", "VMware7,1", ""), Warning, "forged transmits"),
        (machine("Dell Inc.", "PowerEdge R640", ""), Fine, "no cloud"),
        (Machine::default(), Fine, "no cloud"),
    ] {
        let finding = cloud(&machine);
        assert_eq!(finding.outcome, outcome, "{machine:?}: {finding}");
        assert!(finding.to_string().contains(word), "{machine:?}: {finding}");
    }
}
