use super::*;

use tcpcopy_engine::probe::Course;
use tcpcopy_wire::{Endpoint, Flow, Port};

use crate::doctor::probe::watch::Seen;

fn context() -> Context {
    Context {
        target: Endpoint::new([10, 0, 0, 2].into(), Port(8080)),
        source: [10, 78, 0, 1].into(),
        network: "10.78.0.0/24".to_owned(),
        intercepts: vec![([10, 0, 0, 3], 36_524).into()],
        on_target: false,
        local: false,
        is_borrowed: false,
        own: Some([10, 0, 0, 1].into()),
    }
}

/// A SYN that left `eth0`, and how it ended.
fn evidence(ending: Ending) -> Evidence {
    Evidence {
        course: Course { syns: 1, ending: Some(ending), ..Course::default() },
        seen: Seen { syn_on: vec!["eth0".to_owned()], fin: true, everywhere: true, ..Seen::default() },
        ..Evidence::default()
    }
}

fn accepted(ending: Ending) -> Evidence {
    let mut evidence = evidence(ending);
    evidence.course.accepted_after = Some(Duration::from_micros(1500));
    evidence.reporter = Some(([10, 0, 0, 3], 36_524).into());
    evidence
}

/// What is said of the evidence: text and remedy must have these words.
#[track_caller]
fn assert_said(evidence: &Evidence, context: &Context, outcome: Outcome, text: &[&str], remedy: &str) {
    let found = verdict(evidence, context);
    assert_eq!(found.outcome, outcome, "{found}");
    for words in text {
        assert!(found.text.contains(words), "{words:?} is not in: {found}");
    }
    assert!(found.remedy.clone().unwrap_or_default().contains(remedy), "{remedy:?} is not in: {found}");
}

#[test]
fn a_session_that_gets_through_is_well() {
    let found = verdict(&accepted(Ending::Closed), &context());
    assert_eq!(
        found.text,
        "10.78.0.1 -> 10.0.0.2:8080: SYN left eth0, SYN-ACK reported by intercept 10.0.0.3:36524 after 1.5 ms, closed by \
         both sides"
    );
    assert_eq!((found.outcome, found.remedy), (Outcome::Ok, None));
    assert_said(&accepted(Ending::ClosedByReset), &context(), Outcome::Ok, &["did not close its side"], "");
    let mut second = accepted(Ending::Closed);
    second.course.syns = 2;
    assert_said(&second, &context(), Outcome::Warning, &["SYN-ACK to SYN number 2"], "ip -s link");
    let local = Context { local: true, intercepts: Vec::new(), ..context() };
    assert_said(&accepted(Ending::Closed), &local, Outcome::Ok, &["reported by the capture of responses"], "");
}

#[test]
fn the_example_of_the_manual() {
    let lost = Evidence { direct: Some(Direct::Accepted), from_intercept: Some(true), ..evidence(Ending::NoAnswer) };
    assert_said(
        &lost,
        &context(),
        Outcome::Failure,
        &["SYN left eth0; no SYN-ACK reached intercept 10.0.0.3:36524", "no route for 10.78.0.0/24 via 10.0.0.3"],
        "on 10.0.0.2: ip route add 10.78.0.0/24 via 10.0.0.3",
    );
}

#[test]
fn a_target_on_this_host_needs_a_device_for_its_answers() {
    let here = Context { local: true, intercepts: Vec::new(), own: Some([10, 0, 0, 2].into()), ..context() };
    let lost = Evidence { direct: Some(Direct::Accepted), ..evidence(Ending::NoAnswer) };
    let text = ["no route of this host leads its answers to 10.78.0.0/24"];
    assert_said(&lost, &here, Outcome::Failure, &text, "ip route add 10.78.0.0/24 dev copies0");
    let elsewhere = Context { own: Some([10, 0, 0, 1].into()), ..here };
    assert_said(
        &lost,
        &elsewhere,
        Outcome::Failure,
        &["no route"],
        "on 10.0.0.2: ip route add 10.78.0.0/24 via 10.0.0.1",
    );
}

#[test]
fn a_syn_that_does_not_leave_is_stopped_here() {
    for (cause, words, remedy) in [
        (SendError::Forbidden, "a firewall rule of this host drops it", "iptables -S OUTPUT"),
        (SendError::NoRoute, "this host has no route", "ip route get 10.0.0.2"),
        (SendError::NoNeighbour, "no neighbour answers", "ip neigh"),
        (SendError::QueueFull, "queue is full", "tc -s qdisc"),
        (SendError::Other, "the system refuses it", "dmesg"),
    ] {
        let stopped = Evidence { not_sent: Some(cause), ..evidence(Ending::NoAnswer) };
        assert_said(&stopped, &context(), Outcome::Failure, &["did not leave this host", words], remedy);
    }
    let mut unseen = evidence(Ending::NoAnswer);
    unseen.seen.syn_on.clear();
    assert_said(&unseen, &context(), Outcome::Failure, &["though the system took it"], "ip neigh");
    unseen.direct = Some(Direct::Unreachable("No route to host".to_owned()));
    assert_said(&unseen, &context(), Outcome::Failure, &["cannot be reached", "No route to host"], "is 10.0.0.2 up");
    // Where not all devices were watched, what was not seen may have been there.
    unseen.seen.everywhere = false;
    unseen.direct = Some(Direct::NoAnswer);
    assert_said(&unseen, &context(), Outcome::Failure, &["SYN sent; no SYN-ACK reached"], "");
}

#[test]
fn what_comes_back_names_its_sender() {
    let router = IpAddr::from([10, 0, 0, 254]);
    for (cause, words, remedy) in [
        (IcmpCause::HostUnreachable, "host unreachable", "on 10.0.0.254: ip neigh"),
        (IcmpCause::NetUnreachable, "network unreachable", "on 10.0.0.254: ip route get 10.0.0.2"),
        (IcmpCause::Prohibited, "prohibited by a rule", "let packets from 10.78.0.0/24"),
        (IcmpCause::PortUnreachable, "port unreachable", "on 10.0.0.254"),
        (IcmpCause::TooBig(500), "too big", "-M"),
        (IcmpCause::TimeExceeded, "a loop of routes", "tracepath"),
        (IcmpCause::Other(3, 5), "not deliverable", "on 10.0.0.254"),
    ] {
        let flow = Flow { client: Endpoint::new(context().source, Port(700)), server: context().target };
        let mut returned = evidence(Ending::NoAnswer);
        returned.seen.errors.push(IcmpError { from: router, cause, flow });
        let text = ["SYN left eth0; 10.0.0.254 sent it back with an ICMP error", words];
        assert_said(&returned, &context(), Outcome::Failure, &text, remedy);
    }
}

#[test]
fn an_answer_on_the_wrong_host_is_a_wrong_route() {
    let mut here = evidence(Ending::NoAnswer);
    here.seen.answer = Some(("eth1".to_owned(), Flags::SYN | Flags::ACK));
    let wrong_route = ["SYN-ACK came back to this host on eth1", "leads here"];
    assert_said(&here, &context(), Outcome::Failure, &wrong_route, "ip route replace 10.78.0.0/24 via 10.0.0.3");
    let local = Context { local: true, intercepts: Vec::new(), ..context() };
    assert_said(&here, &local, Outcome::Failure, &["came on eth1, where --response-device"], "--response-device eth1");
    here.intercept_is_here = true;
    assert_said(&here, &context(), Outcome::Failure, &["intercept did not report it"], "intercept -i eth1");
}

#[test]
fn silence_is_told_apart_by_asking_in_other_ways() {
    let asked = |direct, echo, from_intercept| Evidence { direct, echo, from_intercept, ..evidence(Ending::NoAnswer) };
    for (direct, echo, from_intercept, words, remedy) in [
        (Direct::Refused, None, None, "refuses connections from this host's own address", "ss -ltn 'sport = :8080'"),
        (Direct::Accepted, None, Some(false), "intercept does not see the target's answers", "src port 8080"),
        (Direct::Accepted, None, None, "or its answers are not captured", "ip route add"),
        (Direct::NoAnswer, Some(true), None, "a firewall there, or on the way", "to and from port 8080"),
        (Direct::NoAnswer, Some(false), None, "it is down", "ip route get 10.0.0.2"),
        (Direct::NoAnswer, None, None, "it is down", "ip route get 10.0.0.2"),
    ] {
        assert_said(&asked(Some(direct), echo, from_intercept), &context(), Outcome::Failure, &[words], remedy);
    }
    let traditional = Context { on_target: true, intercepts: vec![([10, 0, 0, 2], 36_524).into()], ..context() };
    for (echo, words, remedy) in [
        (Some(true), "get into intercept's queue", "on 10.0.0.2: intercept --nfqueue"),
        (Some(false), "it may be down", "ip route get 10.0.0.2"),
    ] {
        assert_said(&asked(None, echo, None), &traditional, Outcome::Failure, &[words], remedy);
    }
}

#[test]
fn resets_are_told_apart() {
    let refused = evidence(Ending::Refused);
    assert_said(&refused, &context(), Outcome::Failure, &["answered with RST: nothing listens there"], "ss -ltn");
    let rejected = Evidence { direct: Some(Direct::Accepted), ..refused };
    assert_said(&rejected, &context(), Outcome::Failure, &["a rule there rejects 10.78.0.0/24"], "iptables -S INPUT");
    let forwarded = ["SYN-ACK reported by", "somebody has 10.78.0.1", "ip_forward is on"];
    let remedy = "on 10.0.0.3: sysctl -w net.ipv4.ip_forward=0";
    assert_said(&accepted(Ending::ResetByOther), &context(), Outcome::Failure, &forwarded, remedy);
    let unwanted = ["the server at 10.0.0.2:8080 itself reset"];
    assert_said(&accepted(Ending::ResetByTarget), &context(), Outcome::Warning, &unwanted, "the server's log");
}

#[test]
fn a_loop_that_lets_only_syns_pass_is_broken() {
    let behind = accepted(Ending::NotAcknowledged);
    assert_said(&behind, &context(), Outcome::Failure, &["acknowledged nothing that came after"], "NOTRACK");
    let mut here = behind.clone();
    here.seen.fin = false;
    assert_said(
        &here,
        &context(),
        Outcome::Failure,
        &["they did not leave this host"],
        "here: iptables -t raw -I OUTPUT",
    );
    let forbidden = Evidence { not_sent: Some(SendError::Forbidden), ..behind };
    assert_said(&forbidden, &context(), Outcome::Failure, &["this host's firewall forbids them"], "NOTRACK");
}

#[test]
fn other_ends_say_what_they_are() {
    assert_said(&evidence(Ending::Stopped), &context(), Outcome::Warning, &["interrupted"], "");
    let lost = Evidence { links_lost: Some("closed by the other end".to_owned()), ..evidence(Ending::NoAnswer) };
    assert_said(&lost, &context(), Outcome::Failure, &["the link to intercept 10.0.0.3:36524 was lost"], "probe again");
    let nobody = Context { is_borrowed: true, ..context() };
    assert_said(&evidence(Ending::Refused), &nobody, Outcome::Failure, &["which belongs to nobody"], "");
}

#[test]
fn over_ipv6_commands_are_of_ipv6() {
    let context = Context {
        target: Endpoint::new("fd00::2".parse().unwrap(), Port(80)),
        source: "fd78::1".parse().unwrap(),
        network: "fd78::/64".to_owned(),
        intercepts: vec!["[fd00::3]:36524".parse().unwrap()],
        ..context()
    };
    let lost = Evidence { direct: Some(Direct::Accepted), from_intercept: Some(true), ..evidence(Ending::NoAnswer) };
    assert_said(
        &lost,
        &context,
        Outcome::Failure,
        &["fd78::1 -> [fd00::2]:80"],
        "ip -6 route add fd78::/64 via fd00::3",
    );
    let forwarded = accepted(Ending::ResetByOther);
    assert_said(&forwarded, &context, Outcome::Failure, &["somebody has fd78::1"], "net.ipv6.conf.all.forwarding=0");
}
