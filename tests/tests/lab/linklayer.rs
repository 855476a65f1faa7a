//! Copies that leave, or come in, otherwise than by a raw socket's route and a capture of online's own device.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy_io::netns::{Host, Lab, REPLICAS_V4, REPLICAS_V6};
use tcpcopy_tests::copy::{Copy, PORT, Setup, stop};
use tcpcopy_tests::counters::{self, ResetWatch, capture_if_wanted};
use tcpcopy_tests::load;
use tcpcopy_tests::mirror::{MIRROR_PORT, Mirror, Tunnel, VXLAN_PORT};
use tcpcopy_tests::settle;

use crate::harness::Bench;
use crate::replay::replay;
use crate::workloads::{assert_copied, assert_perfect, web_servers};

const REQUESTS: u64 = 3_000;

/// Sends keepalive requests to `online`, and fails unless all of them reach the target. Returns what tcpcopy logged.
fn copies_everything(bench: &Bench<'_>, lab: &Lab, online_addr: IpAddr, start: impl FnOnce() -> Copy) -> String {
    let [online, target] = web_servers(bench, lab);
    let copied_resets = ResetWatch::from_replicas(&lab.target);
    let _captures = [&lab.online, &lab.target].map(|host| capture_if_wanted(host, bench.folder));
    let mut copy = start();
    copy.wait_until_copying(lab, online_addr, || target.requests());
    let before = target.requests();
    let plan = Plan {
        connections: 30,
        rate: Some(1_500.0),
        reuse: Reuse::KeepAlive,
        ..Plan::new(SocketAddr::new(online_addr, PORT), REQUESTS)
    };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_copied(&online, &target, before, REQUESTS);
    let log = copy.stop();
    assert_eq!(copied_resets.count(), 0, "RSTs reached the target; the clients sent none");
    assert!(!log.contains("balance"), "{log}");
    log
}

/// From now on no copy can leave the host by its routes.
fn forbid_by_route(host: &Host) {
    let (network, bits) = REPLICAS_V4;
    host.iptables(&format!("-A OUTPUT -s {network}/{bits} -j DROP")).expect("iptables");
    let (network, bits) = REPLICAS_V6;
    host.output("ip6tables", &["-A", "OUTPUT", "-s", &format!("{network}/{bits}"), "-j", "DROP"]).expect("ip6tables");
}

fn mac(host: &Host) -> String {
    // eth0@if2  UP  02:…  <…>
    let line = host.output("ip", &["-brief", "link", "show", "eth0"]).expect("ip");
    line.split_whitespace().nth(2).expect("a MAC address").to_owned()
}

pub(crate) fn sent_as_frames(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    forbid_by_route(&lab.online);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-o", "eth0");
    let log = copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start(&lab));
    assert!(log.contains(&format!("sending to {} on `eth0`, to {}", lab.target.ipv4, mac(&lab.target))), "{log}");
}

pub(crate) fn sent_to_given_addresses(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    forbid_by_route(&lab.online);
    // The host itself has no way to the target: what is in -x must do.
    let unreachable = format!("route add unreachable {}/32", lab.target.ipv4);
    lab.online.output("ip", &unreachable.split(' ').collect::<Vec<_>>()).expect("ip");
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    let (source, next_hop) = (mac(&lab.online), mac(&lab.target));
    setup.set("-x", &format!("{PORT}@{source}-{}:{PORT}@{next_hop}", lab.target.ipv4));
    setup.set("-o", "eth0");
    copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start(&lab));
}

/// Frames out, a packet socket in, several workers, IPv6.
pub(crate) fn all_of_it_over_ipv6(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    forbid_by_route(&lab.online);
    let mut setup = Setup::ipv6(bench.programs, bench.folder, &lab);
    for (option, value) in [("-o", "eth0"), ("--capture", "raw"), ("--workers", "2")] {
        setup.set(option, value);
    }
    copies_everything(bench, &lab, lab.online.ipv6.into(), || setup.start(&lab));
}

pub(crate) fn captured_by_a_packet_socket(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--capture", "raw");
    copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start(&lab));
}

/// A host of its own runs tcpcopy; it gets online's traffic in a tunnel and nothing else.
fn copied_from_a_mirror(bench: &Bench<'_>, tunnel: Tunnel, decap: &str, capture: &str) {
    let lab = Lab::with(&["monitor"]).expect("a lab");
    let monitor = &lab.more[0];
    let _mirror = Mirror::start(&lab.online, monitor.ipv4, tunnel);
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--decap", decap);
    setup.set("--capture", capture);
    let log = copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start_with_tcpcopy_on(&lab, monitor));
    assert!(log.contains("taken out of tunnels"), "{log}");
}

pub(crate) fn copied_from_vxlan(bench: &Bench<'_>) {
    copied_from_a_mirror(bench, Tunnel::Vxlan(VXLAN_PORT), "vxlan", "pcap");
}

pub(crate) fn copied_from_vxlan_on_another_port(bench: &Bench<'_>) {
    copied_from_a_mirror(bench, Tunnel::Vxlan(8472), "vxlan:8472,gre", "raw");
}

pub(crate) fn copied_from_gre(bench: &Bench<'_>) {
    copied_from_a_mirror(bench, Tunnel::Gre, "gre", "pcap");
}

pub(crate) fn copied_from_erspan(bench: &Bench<'_>) {
    copied_from_a_mirror(bench, Tunnel::Erspan, "vxlan,erspan", "raw");
}

/// The monitor has a cable of its own to a switch's mirror port, on which it sees frames between others, with tags.
fn copied_from_a_port(bench: &Bench<'_>, kinds: &'static [u16], option: &[&str], capture: &str) {
    let lab = Lab::with(&["monitor"]).expect("a lab");
    let monitor = &lab.more[0];
    lab.cable(&lab.online, monitor, MIRROR_PORT).expect("a cable");
    let _mirror = Mirror::start(&lab.online, monitor.ipv4, Tunnel::Tags(kinds));
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("-i", MIRROR_PORT);
    setup.set("--capture", capture);
    setup.tcpcopy.extend(option.iter().map(|word| (*word).to_owned()));
    copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start_with_tcpcopy_on(&lab, monitor));
}

pub(crate) fn copied_from_a_plain_port(bench: &Bench<'_>) {
    copied_from_a_port(bench, &[], &["--promiscuous"], "pcap");
}

pub(crate) fn copied_from_a_vlan(bench: &Bench<'_>) {
    copied_from_a_port(bench, &[0x8100], &["--decap", "vlan"], "raw");
}

pub(crate) fn copied_from_qinq(bench: &Bench<'_>) {
    copied_from_a_port(bench, &[0x88a8, 0x8100], &["--decap", "vlan,vxlan"], "pcap");
}

pub(crate) fn copied_from_qinq_by_a_packet_socket(bench: &Bench<'_>) {
    copied_from_a_port(bench, &[0x88a8, 0x8100], &["--promiscuous"], "raw");
}

/// Frames that do not fit the way to the monitor with a tunnel's headers come in fragments.
pub(crate) fn copied_from_fragments(bench: &Bench<'_>) {
    const POSTS: u64 = 300;
    let lab = Lab::with(&["monitor"]).expect("a lab");
    let monitor = &lab.more[0];
    // Segments that are merged to 64 KB would not fit a datagram with the mirror's header.
    let merge_less = "link set eth0 gso_max_segs 2";
    lab.client.output("ip", &merge_less.split(' ').collect::<Vec<_>>()).expect("ip");
    let [online, target] = web_servers(bench, &lab);
    let _mirror = Mirror::start(&lab.online, monitor.ipv4, Tunnel::Vxlan(VXLAN_PORT));
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--decap", "vxlan");
    let mut copy = setup.start_with_tcpcopy_on(&lab, monitor);
    copy.wait_until_copying(&lab, lab.online.ipv4.into(), || target.requests());
    let before = target.requests();
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let plan = Plan { connections: 5, rate: Some(100.0), body_len: |_| 20_000, ..Plan::new(server, POSTS) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    assert_copied(&online, &target, before, POSTS);
    let log = copy.stop();
    let fragments = log.lines().find_map(|line| line.trim().strip_prefix("fragments of tunnels' packets"));
    let fragments: Option<u64> = fragments.and_then(|count| count.trim().parse().ok());
    assert!(fragments.is_some_and(|count| count > POSTS), "{log}");
}

/// A capture of the mirror, taken on the host that receives it.
pub(crate) fn replayed_from_a_mirror(bench: &Bench<'_>) {
    let lab = Lab::with(&["monitor"]).expect("a lab");
    let monitor = &lab.more[0];
    let [online, target] = web_servers(bench, &lab);
    let mirror = Mirror::start(&lab.online, monitor.ipv4, Tunnel::Vxlan(VXLAN_PORT));
    let file = bench.folder.join("mirror.pcap");
    let mut tcpdump = counters::capture(monitor, &file, &[&format!("udp port {VXLAN_PORT}")]);
    let server = SocketAddr::new(lab.online.ipv4.into(), PORT);
    let plan = Plan { connections: 10, rate: Some(500.0), ..Plan::new(server, 1_000) };
    assert_eq!(load::run(&lab.client, &plan).failures, [], "online did not answer");
    // It gets what it has captured up to a second later, and forgets what it has not got when it ends.
    settle(u64::MAX, Duration::from_secs(3), || fs::metadata(&file).expect("the capture").len());
    stop("tcpdump", &mut tcpdump);
    drop(mirror);

    let setup = Setup::new(bench.programs, bench.folder, &lab);
    let _intercept = setup.start_intercept(&lab.assistant);
    let words =
        format!("{} --decap vxlan -I 100", setup.tcpcopy.join(" ").replace("eth0", &file.display().to_string()));
    let (printed, _) = replay(monitor, &bench.programs.tcpcopy, bench.folder, &words);
    assert!(printed.contains("requests: found 1000, replayed 1000, skipped 0"), "{printed}");
    assert_perfect(&online.received(), &target.received(), 1_000);
}

/// The kernel mirrors what online receives and sends into a tunnel of its own making.
pub(crate) fn copied_from_the_kernels_vxlan(bench: &Bench<'_>) {
    let lab = Lab::with(&["monitor"]).expect("a lab");
    let monitor = &lab.more[0];
    let run = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        lab.online.output(words[0], &words[1..])
    };
    let mirror = [
        format!("ip link add mirror0 type vxlan id 42 remote {} dstport {VXLAN_PORT} dev eth0", monitor.ipv4),
        "ip link set mirror0 up".to_owned(),
        "tc qdisc add dev eth0 clsact".to_owned(),
        "tc filter add dev eth0 ingress protocol ip u32 match ip protocol 6 0xff action mirred egress mirror dev mirror0"
            .to_owned(),
        "tc filter add dev eth0 egress protocol ip u32 match ip protocol 6 0xff action mirred egress mirror dev mirror0"
            .to_owned(),
    ];
    for line in mirror {
        if let Err(error) = run(&line) {
            eprintln!("SKIPPED: this kernel cannot mirror into VXLAN: {error}");
            return;
        }
    }
    let mut setup = Setup::new(bench.programs, bench.folder, &lab);
    setup.set("--decap", "vxlan");
    setup.set("-o", "eth0");
    let log = copies_everything(bench, &lab, lab.online.ipv4.into(), || setup.start_with_tcpcopy_on(&lab, monitor));
    assert!(log.contains("taken out of tunnels"), "{log}");
}
