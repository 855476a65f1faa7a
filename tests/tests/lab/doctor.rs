//! `tcpcopy doctor` and `intercept doctor` name the fault that a lab has been given, and find none in a lab without.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;
use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::{Host, Lab, Process};
use tcpcopy_tests::copy::{INTERCEPT_PORT, PORT, Setup, stop};
use tcpcopy_tests::load::Running;

use crate::harness::Bench;

/// The line of the probe, which has tests of its own.
const PROBE: &str = "probe";

/// What a doctor has found.
struct Diagnosis {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Diagnosis {
    /// Runs `PROGRAM doctor`, with one second of watching.
    fn of(host: &Host, program: &Path, options: &[String]) -> Self {
        Self::with(host.command(program), options)
    }

    fn with(mut command: std::process::Command, options: &[String]) -> Self {
        command.args(["doctor", "--json", "--watch", "1"]).args(options).stdin(Stdio::null());
        let output = command.output().expect("a program of ours");
        let text = String::from_utf8_lossy(&output.stdout);
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
        let findings = json["findings"].as_array().expect("findings").clone();
        let count = |outcome: &str| findings.iter().filter(|finding| finding["outcome"] == outcome).count();
        assert_eq!(json["failures"], count("failure"), "{text}");
        assert_eq!(json["warnings"], count("warning"), "{text}");
        assert_eq!(output.status.code(), Some(i32::from(count("failure") > 0)), "{text}");
        Self { code: output.status.code(), findings }
    }

    /// The findings of an outcome, without the probe's.
    fn of_outcome(&self, outcome: &str) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["outcome"] == outcome && finding["check"] != PROBE).collect()
    }

    /// The one fault is of this check, and its text and remedy have these words.
    #[track_caller]
    fn names(&self, check: &str, words: &[&str]) {
        let failures = self.of_outcome("failure");
        assert_eq!(self.code, Some(1), "no failure of {check}: {:#?}", self.findings);
        assert!(
            !failures.is_empty() && failures.iter().all(|finding| finding["check"] == check),
            "not {check} alone: {failures:#?}\nof all: {:#?}",
            self.findings
        );
        have_words(&failures, words);
    }

    /// There is a warning of this check with these words.
    #[track_caller]
    fn warns(&self, check: &str, words: &[&str]) {
        let warnings = self.of_outcome("warning");
        let of_check: Vec<&Value> = warnings.into_iter().filter(|finding| finding["check"] == check).collect();
        assert!(!of_check.is_empty(), "no warning of {check}: {:#?}", self.findings);
        have_words(&of_check, words);
    }

    #[track_caller]
    fn finds_nothing(&self) {
        let failures = self.of_outcome("failure");
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

#[track_caller]
fn have_words(findings: &[&Value], words: &[&str]) {
    let text = findings.iter().map(|finding| format!("{} -> {}", finding["text"], finding["remedy"]));
    let text = text.collect::<Vec<_>>().join("\n");
    for word in words {
        assert!(text.contains(word), "nothing of {word:?} in: {text}");
    }
}

/// Online, a target and an intercept, with a client that keeps sending.
struct Scene<'a> {
    bench: &'a Bench<'a>,
    lab: Lab,
    setup: Setup<'a>,
    _servers: [Server; 2],
    client: Option<Running>,
}

impl<'a> Scene<'a> {
    fn new(bench: &'a Bench<'a>) -> Self {
        let lab = Lab::new().expect("a lab");
        let origin = Instant::now();
        let address = |host: &Host| (host.ipv4, PORT).into();
        let servers =
            [&lab.online, &lab.target].map(|host| Server::start(host, address(host), origin).expect("a server"));
        let setup = Setup::new(bench.programs, bench.folder, &lab);
        let mut scene = Self { bench, lab, setup, _servers: servers, client: None };
        scene.begin_requests();
        scene
    }

    /// A client sends until the scene is over.
    fn begin_requests(&mut self) {
        let server = (self.lab.online.ipv4, PORT).into();
        let endless = Plan { rate: Some(100.0), reuse: Reuse::Close, ..Plan::new(server, 1 << 40) };
        self.client = Some(Running::start(&self.lab.client, endless));
    }

    fn end_requests(&mut self) {
        if let Some(client) = self.client.take() {
            client.progress.stop.store(true, Ordering::Relaxed);
            client.join();
        }
    }

    fn intercept(&self) -> Process {
        self.setup.start_intercept(&self.lab.assistant)
    }

    /// What the doctor at online finds, with the options of the copy.
    fn online(&self) -> Diagnosis {
        Diagnosis::of(&self.lab.online, &self.bench.programs.tcpcopy, &self.setup.tcpcopy)
    }

    /// The same, with another value of an option.
    fn online_with(&self, option: &str, value: &str) -> Diagnosis {
        let mut words = self.setup.tcpcopy.clone();
        match words.iter().position(|word| word == option) {
            Some(at) => value.clone_into(&mut words[at + 1]),
            None => words.extend([option.to_owned(), value.to_owned()]),
        }
        Diagnosis::of(&self.lab.online, &self.bench.programs.tcpcopy, &words)
    }

    /// What the doctor at the assistant finds, with these options.
    fn assistant(&self, options: &[&str]) -> Diagnosis {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        Diagnosis::of(&self.lab.assistant, &self.bench.programs.intercept, &options)
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.end_requests();
    }
}

pub(crate) fn healthy(bench: &Bench<'_>) {
    let scene = Scene::new(bench);
    let mut intercept = scene.intercept();
    let diagnosis = scene.online();
    assert_eq!(diagnosis.code, Some(0), "the probe, too, finds nothing: {:#?}", diagnosis.findings);
    let fine = diagnosis.of_outcome("ok");
    for (check, word) in [
        ("capabilities", "CAP_NET_RAW"),
        ("device", "`eth0` is up"),
        ("traffic", "1 client "),
        ("route to target", "10.77.0.3"),
        ("next hop", "answers pings"),
        ("MTU", "reach 10.77.0.3 whole"),
        ("source addresses", "ip route add 10.78.0.0/24 via 10.77.0.4"),
        ("intercept", "10.77.0.4:36524 answers"),
        ("intercept's version", env!("CARGO_PKG_VERSION")),
        ("intercept's clock", "within a second"),
        ("intercept's filter", "tcp from 10.77.0.3:80"),
        ("intercept's host", "forwards nothing"),
    ] {
        let found = fine.iter().find(|finding| finding["check"] == check);
        let text = found.map(|finding| finding["text"].to_string()).unwrap_or_default();
        assert!(text.contains(word), "{check}: nothing of {word:?} in {text:?} of {:#?}", diagnosis.findings);
    }
    stop("intercept", &mut intercept);
    scene.assistant(&["-i", "eth0", "-o", "80"]).finds_nothing();
}

pub(crate) fn faults_of_the_capture(bench: &Bench<'_>) {
    let mut scene = Scene::new(bench);
    let _intercept = scene.intercept();
    scene.online_with("-i", "eth7").names("device", &["no device `eth7`", "eth0"]);
    scene.lab.cable(&scene.lab.online, &scene.lab.client, "eth1").expect("a cable");
    scene.online_with("-i", "eth1").names("traffic", &["on `eth0`", "-i eth0"]);
    scene.lab.online.ip("link set eth1 down").expect("a device");
    scene.online_with("-i", "eth1").names("device", &["`eth1` is down", "ip link set eth1 up"]);
    scene.online_with("-F", "tcp and dst port 81").names("traffic", &["without it", "leave -F out"]);
    let other_map = format!("81-{}:{PORT}", scene.lab.target.ipv4);
    scene.online_with("-x", &other_map).warns("traffic", &["to tcp port 80", "-x"]);
    scene.end_requests();
    scene.online().warns("traffic", &["no packet to tcp port 80", "clients"]);
}

pub(crate) fn no_capability(bench: &Bench<'_>) {
    let scene = Scene::new(bench);
    let _intercept = scene.intercept();
    let mut command = scene.lab.online.command("setpriv");
    command.args(["--bounding-set=-net_raw,-net_admin", "--inh-caps=-net_raw,-net_admin", "--"]);
    command.arg(&bench.programs.tcpcopy);
    let program = bench.programs.tcpcopy.display().to_string();
    let words = ["CAP_NET_RAW is missing", "setcap cap_net_raw,cap_net_admin+ep", &program];
    Diagnosis::with(command, &scene.setup.tcpcopy).names("capabilities", &words);
}

pub(crate) fn faults_on_the_way(bench: &Bench<'_>) {
    let scene = Scene::new(bench);
    let _intercept = scene.intercept();
    let (online, target) = (&scene.lab.online, &scene.lab.target);
    online.ip("route add 10.77.0.3/32 dev eth0 mtu 1300").expect("a route");
    scene.online().names("MTU", &["10.77.0.3", "1300", "-M 1300"]);
    online.ip("route del 10.77.0.3/32 dev eth0").expect("a route");
    target.ip("link set eth0 mtu 1400").expect("a device");
    scene.online().warns("MTU", &["pings of 1400 bytes", "-M 1400"]);
    target.ip("link set eth0 mtu 1500").expect("a device");
    online.ip("link set eth0 mtu 1400").expect("a device");
    scene.online().names("MTU", &["`eth0`, whose MTU is 1400", "-M 1400"]);
    online.ip("link set eth0 mtu 1500").expect("a device");
    let nobody = format!("{PORT}-10.77.0.99:{PORT}");
    scene.online_with("-x", &nobody).names("next hop", &["10.77.0.99 does not answer", "ip neigh show 10.77.0.99"]);
    let nowhere = format!("{PORT}-192.0.2.1:{PORT}");
    scene.online_with("-x", &nowhere).names("route to target", &["no route to 192.0.2.1", "ip route add 192.0.2.1"]);
    scene.online_with("-c", "10.77.0.2").names("source addresses", &["10.77.0.2 in -c belongs to this host"]);
    scene.online_with("-c", "10.77.0.50").warns("source addresses", &["ip route add 10.77.0.50/32 via 10.77.0.4"]);
}

pub(crate) fn firewalls(bench: &Bench<'_>) {
    let scene = Scene::new(bench);
    let _intercept = scene.intercept();
    let online = &scene.lab.online;
    for (table, rule, words) in [
        ("filter", "OUTPUT -d 10.77.0.3 -p tcp --dport 80 -j DROP", ["drops it", "iptables -t filter -I OUTPUT"]),
        ("filter", "OUTPUT ! -s 10.77.0.2 -o eth0 -j REJECT", ["rejects it", "iptables -t filter -I OUTPUT"]),
        ("filter", "OUTPUT -m conntrack --ctstate INVALID -j DROP", ["drops it", "iptables -t filter -I OUTPUT"]),
        ("nat", "POSTROUTING -o eth0 -j MASQUERADE", ["its source address", "iptables -t nat -I POSTROUTING"]),
    ] {
        online.iptables(&format!("-t {table} -A {rule}")).expect("a rule");
        scene.online().names("firewall", &words);
        online.iptables(&format!("-t {table} -D {rule}")).expect("a rule");
    }
    online.iptables("-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT").expect("a rule");
    let notrack = "iptables -t raw -A OUTPUT -d 10.77.0.3 -p tcp --dport 80 -j NOTRACK";
    scene.online().warns("connection tracking", &[notrack]);
    // What is advised helps.
    online.iptables(notrack.strip_prefix("iptables ").expect("a command")).expect("a rule");
    let diagnosis = scene.online();
    diagnosis.finds_nothing();
    assert!(diagnosis.of_outcome("warning").iter().all(|finding| finding["check"] != "connection tracking"));

    scene.lab.assistant.iptables("-P INPUT DROP").expect("a policy");
    scene.online().names("intercept", &["no answer within 3s", "ping 10.77.0.4", "port 36524"]);
    scene.assistant(&["-i", "eth0", "-o", "80", "-p", "36525"]).names("firewall", &["port 36525", "iptables -I INPUT"]);
}

pub(crate) fn faults_of_intercept(bench: &Bench<'_>) {
    let mut scene = Scene::new(bench);
    scene.online().names("intercept", &["10.77.0.4:36524 cannot be reached", "start intercept"]);

    let mut intercept = scene.intercept();
    scene.online_with("-p", "36525").names("intercept", &["10.77.0.4:36525", "36524", "leave -p out"]);
    scene.lab.assistant.set_sysctl("net/ipv4/ip_forward", "1").expect("a setting");
    scene.online().names("intercept's host", &["ip_forward=1", "on 10.77.0.4: sysctl net.ipv4.ip_forward=0"]);
    scene
        .assistant(&["-i", "eth0", "-o", "80", "-p", "36525"])
        .names("kernel settings", &["sysctl net.ipv4.ip_forward=0"]);
    scene.lab.assistant.ip("route add default via 10.77.0.1").expect("a route");
    scene.online().names("intercept's host", &["would go on", "blackhole"]);
    // What is advised for hosts that must forward helps.
    scene.lab.assistant.ip("route add blackhole 10.78.0.0/16").expect("a route");
    scene.online().finds_nothing();
    scene.lab.assistant.ip("route del blackhole 10.78.0.0/16").expect("a route");
    scene.lab.assistant.set_sysctl("net/ipv4/ip_forward", "0").expect("a setting");
    scene.lab.assistant.add_address([10, 78, 0, 1].into()).expect("an address");
    scene.online().names("intercept's host", &["10.78.0.1 is an address of 10.77.0.4 itself"]);
    scene.lab.assistant.ip("address del 10.78.0.1/16 dev eth0").expect("an address");
    stop("intercept", &mut intercept);

    scene.setup.intercept = ["-i", "eth0", "-F", "tcp and src port 81"].map(str::to_owned).to_vec();
    let mut intercept = scene.intercept();
    scene
        .online()
        .names("intercept's filter", &["tcp and src port 81", "-F 'tcp and src host 10.77.0.3 and src port 80'"]);
    // With several workers the answer comes from all of them.
    stop("intercept", &mut intercept);
    scene.setup.intercept.extend(["--workers", "2"].map(str::to_owned));
    let _intercept = scene.intercept();
    scene.online().names("intercept's filter", &["tcp and src port 81"]);
}

pub(crate) fn doctor_of_intercept(bench: &Bench<'_>) {
    let scene = Scene::new(bench);
    scene.assistant(&["-i", "eth3", "-o", "80"]).names("device", &["no device `eth3`"]);
    scene.assistant(&["-i", "eth0", "-o", "80"]).warns("traffic", &["no packet that the filter takes"]);
    scene.assistant(&["--nfqueue", "7"]).names("queue", &["no rule leads to queue 7", "--setup PORT"]);
    scene.assistant(&["--nfqueue", "7", "--setup", "80"]).finds_nothing();
    scene.lab.assistant.iptables("-A OUTPUT -p tcp --sport 80 -j NFQUEUE --queue-num 7").expect("a rule");
    scene.assistant(&["--nfqueue", "7"]).names("queue", &["--queue-bypass"]);

    let intercept = scene.intercept();
    let running = scene.assistant(&["-i", "eth0", "-o", "80"]);
    running.finds_nothing();
    let port = running.findings.iter().find(|finding| finding["check"] == "port").expect("a port");
    assert!(
        port["text"].as_str().is_some_and(|text| text.contains("an intercept") && text.contains("36524")),
        "{port}"
    );
    drop(intercept);
    let other = Server::start(&scene.lab.assistant, (scene.lab.assistant.ipv4, INTERCEPT_PORT).into(), Instant::now());
    let _other = other.expect("a server");
    let address = scene.lab.assistant.ipv4.to_string();
    scene.assistant(&["-i", "eth0", "-o", "80", "-b", &address]).names("port", &["another program listens on 36524"]);
}

/// The target drops what does not come from where it expects it. Only it can tell: intercept runs there.
pub(crate) fn reverse_path_filter(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let target = &lab.target;
    let mut setup = Setup::traditional(bench.programs, bench.folder, target.ipv4.into());
    setup.set("-c", "10.78.0.1");
    let _intercept = setup.start_intercept(target);
    let online = || Diagnosis::of(&lab.online, &bench.programs.tcpcopy, &setup.tcpcopy);
    online().finds_nothing();
    target.ip("route del 10.78.0.0/16").expect("a route");
    lab.cable(target, &lab.client, "eth1").expect("a cable");
    target.ip("route add 10.78.0.0/16 dev eth1").expect("a route");
    target.set_sysctl("net/ipv4/conf/all/rp_filter", "1").expect("a setting");
    online().names("intercept's host", &["rp_filter", "10.78.0.1", "sysctl net.ipv4.conf.all.rp_filter=2"]);
}

/// Online is its own target: what it answers to copies must leave by a device on which that is captured.
pub(crate) fn one_host(bench: &Bench<'_>) {
    let lab = Lab::new().expect("a lab");
    let online = &lab.online;
    let address = online.ipv4;
    let _server = Server::start(online, (address, 8080).into(), Instant::now()).expect("a server");
    let map = format!("{address}:{PORT}-{address}:8080");
    let diagnose = |more: &[&str]| {
        let options = [&["-x", &map, "-s", "local", "-c", "10.78.0.x", "-i", "eth0"], more].concat();
        let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        Diagnosis::of(online, &bench.programs.tcpcopy, &options)
    };
    let cable = ["no route for its answers to 10.78.0.1", "dev copies0", "--response-device copies0"];
    diagnose(&[]).names("route to target", &cable);
    // What is advised helps.
    for command in [
        "link add copies0 type veth peer name copies1",
        "link set copies0 up arp off",
        "link set copies1 up",
        "route add 10.78.0.0/24 dev copies0",
    ] {
        online.ip(command).expect("a cable");
    }
    let diagnosis = diagnose(&["--response-device", "copies0"]);
    assert_eq!(diagnosis.code, Some(0), "the probe, too, finds nothing: {:#?}", diagnosis.findings);
    let warned =
        |diagnosis: &Diagnosis| diagnosis.of_outcome("warning").iter().any(|f| f["check"] == "route to target");
    assert!(!warned(&diagnosis), "{:#?}", diagnosis.findings);
    diagnose(&["--response-device", "eth0"]).names("route to target", &["by `copies0`", "eth0 does not look"]);
    online.ip("route replace 10.78.0.0/24 via 10.77.0.4").expect("a route");
    diagnose(&[]).warns("route to target", &["`eth0`, to 10.77.0.4", "--response-device copies0"]);
}
