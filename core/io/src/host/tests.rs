use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tcpcopy_wire::control::Fate;

use super::path::{PathSize, measure};
use super::route::{NextHop, fate, way_to};
use super::*;
use crate::netns::{Host, Lab, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
const COPY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));

/// The hosts of a lab, or a visible word that a test did not run, and why.
fn lab() -> Option<Lab> {
    Lab::new().map_err(|error| eprintln!("SKIPPED: {error}")).ok()
}

fn on<T: Send>(host: &Host, look: impl FnOnce() -> T + Send) -> T {
    host.run(look).unwrap()
}

#[test]
fn devices_are_described() {
    let Some(lab) = lab() else { return };
    lab.online.ip("link set eth0 mtu 1400").unwrap();
    let devices = on(&lab.online, devices);
    let eth0 = devices.iter().find(|device| device.name == "eth0").unwrap();
    assert_eq!((eth0.is_up, eth0.has_carrier, eth0.mtu, eth0.kind), (true, true, 1400, DeviceKind::Ethernet));
    assert!(eth0.addresses.iter().any(|net| net.to_string() == "10.77.0.2/16"), "{eth0:?}");
    assert!(eth0.offloads.gro.is_some(), "{eth0:?}");
    let lo = devices.iter().find(|device| device.name == "lo").unwrap();
    assert_eq!(lo.kind, DeviceKind::Loopback);
    lab.online.ip("link set eth0 down").unwrap();
    assert!(on(&lab.online, super::devices).iter().any(|device| device.name == "eth0" && !device.is_up));
}

#[test]
fn ways_are_found_with_their_next_hops() {
    let Some(lab) = lab() else { return };
    let target = IpAddr::V4(lab.target.ipv4);
    let way = on(&lab.online, || way_to(target)).unwrap();
    assert_eq!((way.device.as_str(), way.gateway, way.is_local), ("eth0", None, false));
    assert_eq!(way.source, Some(lab.online.ipv4.into()));
    assert_eq!(on(&lab.online, || measure(target, 1500, PATIENCE)).unwrap(), PathSize::Whole);
    assert_eq!(on(&lab.online, || way_to(target)).unwrap().next_hop, NextHop::Known);
    let nobody = IpAddr::V4(Ipv4Addr::new(10, 77, 99, 99));
    assert_eq!(on(&lab.online, || measure(nobody, 1500, Duration::from_millis(300))).unwrap(), PathSize::NoAnswer);
    let failed = wait_for(PATIENCE, || {
        let way = on(&lab.online, || way_to(nobody)).unwrap();
        (way.next_hop == NextHop::Failed).then_some(())
    });
    assert!(failed.is_some(), "the kernel still asks for a neighbour that does not exist");
    assert!(on(&lab.online, || way_to(lab.online.ipv4.into())).unwrap().is_local);
    let none = on(&lab.online, || way_to(Ipv4Addr::new(192, 0, 2, 1).into())).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn smaller_packets_than_the_devices_are_noticed() {
    let Some(lab) = lab() else { return };
    let target = IpAddr::V4(lab.target.ipv4);
    lab.online.ip(&format!("route add {target}/32 dev eth0 mtu 1300")).unwrap();
    assert_eq!(on(&lab.online, || way_to(target)).unwrap().mtu, Some(1300));
    let patience = Duration::from_secs(2);
    assert_eq!(on(&lab.online, || measure(target, 1500, patience)).unwrap(), PathSize::Reported(1300));
    lab.online.ip(&format!("route del {target}/32 dev eth0")).unwrap();
    lab.target.ip("link set eth0 mtu 1400").unwrap();
    assert_eq!(on(&lab.online, || measure(target, 1500, patience)).unwrap(), PathSize::LostAbove(1400));
}

#[test]
fn fates_follow_from_routes_and_settings() {
    let Some(lab) = lab() else { return };
    let target = IpAddr::V4(lab.target.ipv4);
    let at_assistant = || on(&lab.assistant, || fate(target, COPY, "eth0"));
    assert_eq!(at_assistant(), Fate::Dropped);
    lab.assistant.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    assert_eq!(at_assistant(), Fate::NoRoute);
    lab.assistant.ip("route add 10.78.0.0/16 via 10.77.0.1").unwrap();
    assert_eq!(at_assistant(), Fate::Forwarded);
    lab.assistant.add_address(COPY).unwrap();
    assert_eq!(at_assistant(), Fate::Delivered);

    // At the target copies come in by eth0; strictly, their addresses must be behind it.
    let at_target = || on(&lab.target, || fate(COPY, target, "eth0"));
    assert_eq!(at_target(), Fate::Delivered);
    lab.target.ip("route del 10.78.0.0/16").unwrap();
    lab.cable(&lab.target, &lab.client, "other").unwrap();
    lab.target.ip("route add 10.78.0.0/16 dev other").unwrap();
    lab.target.set_sysctl("net/ipv4/conf/all/rp_filter", "1").unwrap();
    assert_eq!(at_target(), Fate::ReversePath);
}

#[test]
fn settings_of_the_kernel_are_read() {
    let Some(lab) = lab() else { return };
    lab.assistant.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    assert_eq!(on(&lab.assistant, || sysctl_number("net/ipv4/ip_forward")), Some(1));
    assert_eq!(sysctl("net/no/such/setting"), None);
    assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
}
