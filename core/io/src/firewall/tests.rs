use std::process::Command;

use super::*;
use crate::netns::{Namespace, has_program};

const HTTP: Answers = Answers { transport: Transport::Tcp, port: 80 };
const DNS: Answers = Answers { transport: Transport::Udp, port: 53 };

#[test]
fn a_person_is_told_a_command_that_can_be_typed() {
    let command = DNS.command(7);
    assert_eq!(command, "iptables -I OUTPUT -p udp --sport 53 -j NFQUEUE --queue-num 7 --queue-bypass");
}

#[test]
fn rules_are_found_in_either_programs_words() {
    // iptables-nft, iptables-legacy, the manual's.
    let nft = "-A OUTPUT -p tcp -m tcp --sport 80 -m comment --comment tcpcopy-intercept-12-345 -c 6 7 -j NFQUEUE --queue-num 9 \
               --queue-bypass";
    let legacy = "-A OUTPUT -p tcp -m tcp --sport 80 -m comment --comment \"tcpcopy-intercept-12-345\" -j NFQUEUE --queue-num 9 \
                  --queue-bypass -c 6 7";
    for line in [nft, legacy] {
        let found = parse(IPV4, line).unwrap();
        assert_eq!((found.queue, found.packets, found.bypass), (9, 6, true));
        assert_eq!(found.tag, Some(Tag { pid: 12, started: 345 }));
        assert!(found.rule.ends_with("--queue-bypass") && !found.rule.contains("-c "), "{}", found.rule);
    }
    let by_hand = parse(IPV4, "-A OUTPUT -p tcp -m tcp --sport 80 -c 1 40 -j NFQUEUE --queue-num 9").unwrap();
    assert_eq!((by_hand.tag, by_hand.bypass), (None, false));
    assert_eq!(parse(IPV4, "-A OUTPUT -p tcp -m tcp --sport 80 -j QUEUE").map(|found| found.queue), Some(0));
    for line in ["-P OUTPUT ACCEPT -c 1 2", "-A OUTPUT -j ACCEPT", "-A OUTPUT -j NFQUEUE --queue-num", "", "-c"] {
        assert_eq!(parse(IPV4, line), None);
    }
    let stranger = parse(IPV4, "-A OUTPUT -m comment --comment tcpcopy-intercept-x -j QUEUE").unwrap();
    assert_eq!(stranger.tag, None);
}

/// A namespace in which there may be rules; `None`, visibly, where that cannot be had.
pub(crate) fn namespace_for_rules() -> Option<Namespace> {
    if !process::has_capability(Capability::NetAdmin) || !has_program("iptables") || !has_program("ip") {
        eprintln!("SKIPPED: rules need CAP_NET_ADMIN, iptables and ip");
        return None;
    }
    let Ok(namespace) = Namespace::new() else {
        eprintln!("SKIPPED: no network namespaces here");
        return None;
    };
    namespace.output("ip", &["link", "set", "lo", "up"]).unwrap();
    Some(namespace)
}

fn namespace() -> Option<Namespace> {
    let namespace = namespace_for_rules()?;
    // Another one's rule, which is to stay in any case.
    namespace.output("iptables", &["-A", "OUTPUT", "-p", "tcp", "--sport", "99", "-j", "DROP"]).unwrap();
    Some(namespace)
}

fn listing(namespace: &Namespace) -> String {
    [IPV4, IPV6].map(|program| namespace.output(program, &["-S"]).unwrap()).concat()
}

#[test]
fn rules_are_there_while_they_are_wanted() {
    let Some(namespace) = namespace() else { return };
    let before = listing(&namespace);
    let rules = namespace.run(|| QueueRules::install(9, &[HTTP, DNS]).unwrap()).unwrap();
    let during = listing(&namespace);
    let found = namespace.run(|| rules_to(9)).unwrap();
    assert_eq!((found.len(), during.matches(TAG).count()), (4, 4), "two for each family:\n{during}");
    assert!(found.iter().all(|rule| rule.bypass && rule.tag.is_some_and(|tag| tag.pid == std::process::id())));
    assert_eq!(namespace.run(|| rules_to(8)).unwrap(), []);
    assert_eq!(namespace.run(remove_leftovers).unwrap(), [], "their process lives");
    namespace.run(|| drop(rules)).unwrap();
    assert_eq!(listing(&namespace), before);
}

#[test]
fn what_a_dead_process_left_is_removed() {
    let Some(namespace) = namespace() else { return };
    let before = listing(&namespace);
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    // A dead one's, and one whose id another process has got.
    let (own, this) = (std::process::id(), started(std::process::id()).unwrap());
    for tag in [Tag { pid: child.id(), started: 1 }, Tag { pid: own, started: this + 1 }] {
        for program in [IPV4, IPV6] {
            namespace.run(|| run(program, "-I", &HTTP.rule(9, Some(&tag.to_string()))).unwrap()).unwrap();
        }
    }
    let left = listing(&namespace);
    assert_eq!(left.matches(TAG).count(), 4, "{left}");
    assert_eq!(namespace.run(remove_leftovers).unwrap().len(), 4);
    assert_eq!(listing(&namespace), before);
}

#[test]
fn a_rule_that_cannot_be_made_leaves_none_behind() {
    let Some(namespace) = namespace() else { return };
    let before = listing(&namespace);
    let mut wrong = DNS.rule(9, Some(&own_tag()));
    wrong.push("--no-such-option".to_owned());
    let refusal = namespace.run(|| {
        let mut rules = QueueRules { installed: Vec::new() };
        rules.add(IPV4, HTTP.rule(9, Some(&own_tag())))?;
        rules.add(IPV4, wrong)
    });
    let text = refusal.unwrap().unwrap_err().to_string();
    assert!(text.contains("iptables -I OUTPUT") && text.contains("failed"), "{text}");
    assert_eq!(listing(&namespace), before);
}

#[test]
fn a_program_that_is_missing_is_named_with_its_package() {
    let refusal = run("iptables-of-another-host", "-S", &[]).unwrap_err();
    assert!(matches!(refusal, FirewallError::Missing { program: "iptables-of-another-host" }), "{refusal:?}");
    assert!(refusal.to_string().contains("package iptables"), "{refusal}");
}
