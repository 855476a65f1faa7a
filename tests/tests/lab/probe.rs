//! The doctor's probe: a healthy loop is called healthy, and each fault is named, with the hop where it is.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tcpcopy::demo::client::{Plan, Reuse};
use tcpcopy::demo::server::Server;
use tcpcopy_io::netns::{Host, Lab, wait_for};
use tcpcopy_tests::copy::{INTERCEPT_PORT, PORT, PROBES, Setup, stop};
use tcpcopy_tests::load;

use crate::harness::Bench;

/// A lab with servers, whose loop is whole as long as nothing is done to it.
struct Stage<'a> {
    lab: Lab,
    setup: Setup<'a>,
    servers: Vec<Server>,
}

impl<'a> Stage<'a> {
    fn new(bench: &'a Bench<'_>) -> Self {
        let lab = Lab::new().expect("a lab");
        let setup = Setup::new(bench.programs, bench.folder, &lab);
        Self::with(lab, setup, false)
    }

    fn ipv6(bench: &'a Bench<'_>) -> Self {
        let lab = Lab::new().expect("a lab");
        let setup = Setup::ipv6(bench.programs, bench.folder, &lab);
        Self::with(lab, setup, true)
    }

    fn with(lab: Lab, setup: Setup<'a>, ipv6: bool) -> Self {
        let serve = |host: &Host| {
            let address = if ipv6 { host.ipv6.into() } else { host.ipv4.into() };
            Server::start(host, SocketAddr::new(address, PORT), Instant::now()).expect("a server")
        };
        let servers = vec![serve(&lab.online), serve(&lab.target)];
        Self { lab, setup, servers }
    }

    /// What the doctor says on online, and its exit code.
    fn diagnose(&self) -> (i32, String) {
        let mut command: Command = self.lab.online.command(&self.setup.programs.tcpcopy);
        let output = command.args(["doctor", "--watch", "1"]).args(&self.setup.tcpcopy).output().expect("tcpcopy");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("an exit code"), probe_lines(&said))
    }

    /// Something is wrong, and these words must say what.
    fn assert_named(&self, words: &[&str]) {
        let (code, said) = self.diagnose();
        assert_ne!(code, 0, "the loop is called healthy: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }

    fn assert_healthy(&self) -> String {
        let (_, said) = self.diagnose();
        assert!(said.starts_with("ok") && said.contains("SYN left") && said.contains("closed by both sides"), "{said}");
        said
    }

    /// Neither a connection of a probe nor half of one is left at the target.
    fn assert_nothing_left(&self) {
        let words = ["-Htan", "state", "connected", "dport", "lt", ":1024"];
        let sockets = || self.lab.target.output("ss", &words).expect("ss");
        let gone = wait_for(Duration::from_secs(20), || sockets().trim().is_empty().then_some(()));
        assert!(gone.is_some(), "left at the target:\n{}", sockets());
    }
}

/// The lines of the probe among those of all checks.
fn probe_lines(said: &str) -> String {
    let mut lines = Vec::new();
    let mut is_of_probe = false;
    for line in said.lines() {
        if !line.starts_with(' ') {
            is_of_probe = line.split_whitespace().nth(1) == Some("probe:");
        }
        if is_of_probe {
            lines.push(line);
        }
    }
    assert!(!lines.is_empty(), "no line is of the probe:\n{said}");
    lines.join("\n")
}

/// A whole loop is called that, again and again, and the target's table of connections is as empty as before.
pub(crate) fn healthy(bench: &Bench<'_>) {
    for stage in [Stage::new(bench), Stage::ipv6(bench)] {
        let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
        for _ in 0..3 {
            let said = stage.assert_healthy();
            assert!(said.contains(&format!(":{INTERCEPT_PORT}")) && said.contains("eth0"), "{said}");
        }
        stage.assert_nothing_left();
        stop("intercept", &mut intercept);
    }
}

/// What is wrong with the target itself, and with what leads back from it.
pub(crate) fn faults_at_target(bench: &Bench<'_>) {
    let stage = Stage::new(bench);
    let Lab { target, assistant, online, client, .. } = &stage.lab;
    let mut intercept = stage.setup.start_intercept(assistant);
    let via = format!("via {}", assistant.ipv4);

    // No route back.
    target.ip("route del 10.78.0.0/16").expect("ip");
    stage.assert_named(&[
        "SYN left eth0; no SYN-ACK reached",
        "no route for 10.78.0.0/24",
        &via,
        "ip route add 10.78.0.0/24",
    ]);
    // The route leads to online instead.
    target.ip(&format!("route add 10.78.0.0/16 via {}", online.ipv4)).expect("ip");
    stage.assert_named(&["came back to this host on eth0", "ip route replace 10.78.0.0/24", &via]);
    target.ip("route del 10.78.0.0/16").expect("ip");

    // The way back is another one than the way there, and the kernel is strict about it.
    stage.lab.cable(target, assistant, "eth1").expect("a cable");
    target.ip("address add 10.79.0.1/24 dev eth1").expect("ip");
    assistant.ip("address add 10.79.0.2/24 dev eth1").expect("ip");
    target.ip("route add 10.78.0.0/16 via 10.79.0.2").expect("ip");
    target.set_sysctl("net/ipv4/conf/eth0/rp_filter", "1").expect("a sysctl");
    stage.assert_named(&[
        "no SYN-ACK reached",
        "drops what comes from there (rp_filter, rules)",
        "net.ipv4.conf.all.rp_filter=2",
    ]);
    target.set_sysctl("net/ipv4/conf/eth0/rp_filter", "0").expect("a sysctl");
    target.ip("route del 10.78.0.0/16").expect("ip");
    target.ip(&format!("route add 10.78.0.0/16 via {}", assistant.ipv4)).expect("ip");
    stage.assert_healthy();

    // Rules of its firewall.
    for (rule, words) in [
        ("INPUT -s 10.78.0.0/16 -j DROP", &["no SYN-ACK reached", "firewall"][..]),
        ("OUTPUT -d 10.78.0.0/16 -j DROP", &["no SYN-ACK reached", "no route for 10.78.0.0/24"]),
        ("INPUT -p tcp --dport 80 -j DROP", &["does not answer connections", "answers to ping", "firewall", "(INPUT)"]),
        ("OUTPUT -p tcp --sport 80 -j DROP", &["does not answer connections", "answers to ping", "(OUTPUT)"]),
        (
            "INPUT -s 10.78.0.0/16 -p tcp -j REJECT --reject-with tcp-reset",
            &["answered with RST", "a rule there rejects"],
        ),
    ] {
        target.iptables(&format!("-A {rule}")).expect("iptables");
        stage.assert_named(words);
        target.iptables(&format!("-D {rule}")).expect("iptables");
    }
    stage.assert_healthy();

    // A client lives at the probe's address, and the assistant forwards the target's answer to it.
    client.add_address([10, 78, 0, 1].into()).expect("an address");
    assistant.ip("route add 10.78.0.0/24 dev eth0").expect("ip");
    assistant.set_sysctl("net/ipv4/ip_forward", "1").expect("a sysctl");
    stage.assert_named(&[
        "SYN-ACK reported by",
        "ip_forward is on",
        "net.ipv4.ip_forward=0",
        &assistant.ipv4.to_string(),
    ]);
    assistant.set_sysctl("net/ipv4/ip_forward", "0").expect("a sysctl");
    stage.assert_healthy();

    stage.assert_nothing_left();
    stop("intercept", &mut intercept);
}

/// The same over IPv6, where there is no rp_filter; and each of several targets has a verdict of its own.
pub(crate) fn faults_over_ipv6(bench: &Bench<'_>) {
    let mut stage = Stage::ipv6(bench);
    let target = &stage.lab.target;
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    target.ip("-6 route del fd78::/64").expect("ip");
    stage.assert_named(&["no SYN-ACK reached", "no route for fd78::/", "via fd77::4", "ip -6 route add fd78::/"]);
    target.ip("-6 route add fd78::/64 via fd77::4").expect("ip");
    stage.setup.set("-x", "80-[fd77::3]:80,81-[fd77::3]:8099");
    let (code, said) = stage.diagnose();
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_ne!(code, 0, "{said}");
    assert!(lines.len() == 2 && lines[0].starts_with("ok") && lines[1].starts_with("FAILURE"), "{said}");
    assert!(lines[1].contains("[fd77::3]:8099") && lines[1].contains("nothing listens there"), "{said}");
    stop("intercept", &mut intercept);
}

/// A target that is not there: another port, or the whole host.
pub(crate) fn missing_target(bench: &Bench<'_>) {
    let mut stage = Stage::new(bench);
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    let map = format!("{PORT}-{}:8099", stage.lab.target.ipv4);
    stage.setup.set("-x", &map);
    // intercept looks at port 80 only; that the port is closed is known all the same.
    stage.assert_named(&["refuses connections", "nothing listens there", ":8099"]);
    stop("intercept", &mut intercept);
    stage.setup.intercept = ["-i", "eth0", "-F", "tcp"].map(str::to_owned).to_vec();
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    stage.assert_named(&["answered with RST: nothing listens there", ":8099", "ss -ltn 'sport = :8099'"]);

    stage.setup.set("-x", &format!("{PORT}-{}:{PORT}", stage.lab.target.ipv4));
    stage.lab.target.ip("link set eth0 down").expect("ip");
    // As long as online remembers where the target was, packets leave for there.
    stage.assert_named(&["SYN left eth0", "it is down"]);
    stage.lab.online.ip("neigh flush all").expect("ip");
    stage.assert_named(&["is 10.77.0.3 up"]);
    stop("intercept", &mut intercept);
}

/// intercept is away, or does not see what it should.
pub(crate) fn faults_at_intercept(bench: &Bench<'_>) {
    let mut stage = Stage::new(bench);
    let address = format!("{}:{INTERCEPT_PORT}", stage.lab.assistant.ipv4);
    stage.assert_named(&[
        "intercept",
        &address,
        "cannot be used",
        "refused",
        "intercept -i DEVICE -F 'tcp and (src port 80)'",
    ]);

    let right = std::mem::replace(
        &mut stage.setup.intercept,
        ["-i", "eth0", "-F", "tcp and src port 81"].map(str::to_owned).to_vec(),
    );
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    stage.assert_named(&["no SYN-ACK reached", "intercept does not see the target's answers", "src port 80"]);
    stop("intercept", &mut intercept);

    stage.setup.intercept = right;
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    // A capture sees packets before the firewall does: this is no fault.
    let rule = "-t raw -A PREROUTING -s 10.77.0.3 -p tcp --sport 80 -j DROP";
    stage.lab.assistant.iptables(rule).expect("iptables");
    stage.assert_healthy();
    // Of several intercepts one is enough.
    stage.setup.set("-s", &format!("{},{}", stage.lab.assistant.ipv4, stage.lab.client.ipv4));
    let (_, said) = stage.diagnose();
    assert!(
        said.contains("closed by both sides") && said.contains("warning") && said.contains("cannot be used"),
        "{said}"
    );
    stop("intercept", &mut intercept);
}

/// A router between online and the target, and what its rules do.
pub(crate) fn faults_on_the_way(bench: &Bench<'_>) {
    let stage = Stage::new(bench);
    let Lab { online, target, client: router, .. } = &stage.lab;
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    router.set_sysctl("net/ipv4/ip_forward", "1").expect("a sysctl");
    router.ip(&format!("route add 10.78.0.0/16 via {}", online.ipv4)).expect("ip");
    online.ip(&format!("route add {} via {}", target.ipv4, router.ipv4)).expect("ip");
    // All hosts are neighbours here, which a router would tell them.
    router.set_sysctl("net/ipv4/conf/all/send_redirects", "0").expect("a sysctl");
    router.set_sysctl("net/ipv4/conf/eth0/send_redirects", "0").expect("a sysctl");
    stage.assert_healthy();
    let said_so = format!("{} sent it back with an ICMP error: prohibited by a rule", router.ipv4);
    for (rule, words) in [
        ("-s 10.78.0.0/16 -j REJECT --reject-with icmp-admin-prohibited", &["SYN left eth0", said_so.as_str()][..]),
        ("-s 10.78.0.0/16 -j DROP", &["SYN left eth0", "or a firewall on the way, drops what comes from there"]),
        // As in a cloud: only packets from their senders' own addresses pass.
        ("! -s 10.77.0.2 -d 10.77.0.3 -j DROP", &["the network drops packets with foreign source addresses"]),
        ("-d 10.77.0.3 -p tcp --dport 80 -j DROP", &["does not answer connections", "answers to ping", "on the way"]),
        ("-d 10.77.0.3 -j DROP", &["nor to ping", "a firewall drops everything"]),
        ("-d 10.77.0.3 -p tcp ! --syn -j DROP", &["acknowledged nothing that came after", "never sees the SYN-ACK"]),
    ] {
        router.iptables(&format!("-A FORWARD {rule}")).expect("iptables");
        stage.assert_named(words);
        router.iptables(&format!("-D FORWARD {rule}")).expect("iptables");
    }
    stage.assert_healthy();
    stop("intercept", &mut intercept);
}

/// What is in the way on the very host that sends.
pub(crate) fn faults_at_online(bench: &Bench<'_>) {
    let stage = Stage::new(bench);
    let online = &stage.lab.online;
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    for (rule, words) in [
        ("OUTPUT -s 10.78.0.0/16 -j DROP", &["did not leave this host", "a firewall rule of this host"][..]),
        (
            "OUTPUT -s 10.78.0.0/16 -p tcp ! --syn -j DROP",
            &["SYN-ACK reported by", "ACK and FIN do not get to", "this host's firewall", "NOTRACK"],
        ),
    ] {
        online.iptables(&format!("-A {rule}")).expect("iptables");
        stage.assert_named(words);
        online.iptables(&format!("-D {rule}")).expect("iptables");
    }
    // The last fault kept our RSTs from the target, too, which gives that connection up by itself, a minute later.
    stage.assert_healthy();
    stop("intercept", &mut intercept);
}

/// Links that are secured, or of the C programs; frames of our own; and the traditional set-up.
pub(crate) fn by_other_means(bench: &Bench<'_>) {
    let mut stage = Stage::new(bench);
    let secret = bench.folder.join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
    let secret = secret.to_str().expect("a path").to_owned();
    stage.setup.intercept.extend(["--secret-file".to_owned(), secret.clone()]);
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    stage.assert_named(&["cannot be used", "--secret-file", "look at the log of intercept"]);
    stage.setup.set("--secret-file", &secret);
    stage.assert_healthy();
    stop("intercept", &mut intercept);
    stage.setup.tcpcopy.truncate(stage.setup.tcpcopy.len() - 2);
    stage.setup.intercept.truncate(stage.setup.intercept.len() - 2);

    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    stage.setup.set("-o", "eth0");
    stage.assert_healthy();
    stage.setup.tcpcopy.truncate(stage.setup.tcpcopy.len() - 2);
    stage.setup.set("--intercept-protocol", "legacy");
    stage.assert_healthy();
    stage.assert_nothing_left();
    stop("intercept", &mut intercept);

    // The target's own queue takes all answers, and so one to an address that belongs to nobody.
    stage.setup = Setup::traditional(bench.programs, bench.folder, stage.lab.target.ipv4.into());
    let mut intercept = stage.setup.start_intercept(&stage.lab.target);
    stage.assert_named(&[
        "192.0.2.1",
        "no SYN-ACK reached",
        "which runs on the target itself",
        "no route back to 192.0.2.1",
    ]);
    stage.lab.target.ip(&format!("route add default via {}", stage.lab.client.ipv4)).expect("ip");
    stage.assert_healthy();
    stage.assert_nothing_left();
    stop("intercept", &mut intercept);

    // Elsewhere it would reach a stranger.
    stage.setup.set("-s", &stage.lab.assistant.ipv4.to_string());
    stage.setup.intercept = ["-i", "eth0", "-F", "tcp"].map(str::to_owned).to_vec();
    let mut intercept = stage.setup.start_intercept(&stage.lab.assistant);
    let (code, said) = stage.diagnose();
    assert!(code == 0 && said.contains("is not probed: without -c"), "{said}");
    stop("intercept", &mut intercept);
}

/// What a running copy says when nothing comes of its sessions, and when something does.
pub(crate) fn log_of_a_copy(bench: &Bench<'_>) {
    let stage = Stage::new(bench);
    let Lab { target, assistant, client, online, .. } = &stage.lab;
    target.ip("route del 10.78.0.0/16").expect("ip");
    let copy = stage.setup.start(&stage.lab);
    let log = || fs::read_to_string(stage.setup.tcpcopy_log()).expect("tcpcopy's log");
    let mut id = 0;
    // Clients come and go until the log says something.
    let mut wait_until_told = |words: &str| {
        let told = wait_for(Duration::from_secs(60), || {
            id += 1;
            let server = SocketAddr::new(online.ipv4.into(), PORT);
            let plan = Plan { reuse: Reuse::Close, first_id: PROBES + id, ..Plan::new(server, 1) };
            load::run(client, &plan);
            wait_for(Duration::from_millis(500), || log().contains(words).then_some(()))
        });
        assert!(told.is_some(), "the log does not say {words:?}:\n{}", log());
    };
    wait_until_told("no session is established");
    let line = log().lines().find(|line| line.contains("no session is established")).expect("it").to_owned();
    for words in [
        "SYNs were sent",
        "it captured nothing",
        "run: tcpcopy doctor -x 80-10.77.0.3:80 -s 10.77.0.4 -c 10.78.0.x -i eth0",
    ] {
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
    target.ip(&format!("route add 10.78.0.0/16 via {}", assistant.ipv4)).expect("ip");
    wait_until_told("sessions are established now");
    let log = copy.stop();
    assert_eq!(log.matches("no session is established").count(), 1, "told more than once:\n{log}");
}

/// Responses that are captured here, a copy that runs beside, and targets that cannot be probed.
pub(crate) fn other_ways(bench: &Bench<'_>) {
    let mut stage = Stage::new(bench);
    let (target, online) = (&stage.lab.target, &stage.lab.online);
    let mut copy = stage.setup.start(&stage.lab);
    copy.wait_until_copying(&stage.lab, online.ipv4.into(), || stage.servers[1].requests());
    stage.assert_healthy();
    let log = copy.stop();
    let ended_early = log.lines().rev().find_map(|line| line.trim().strip_prefix("ended early"));
    assert_eq!(ended_early.map(str::trim), Some("0"), "the probe has hurt a copy:\n{log}");

    stage.setup.set("-s", "local");
    target.ip("route del 10.78.0.0/16").expect("ip");
    stage.assert_named(&["no SYN-ACK reached the capture of responses"]);
    target.ip(&format!("route add 10.78.0.0/16 via {}", online.ipv4)).expect("ip");
    let said = stage.assert_healthy();
    assert!(said.contains("reported by the capture of responses"), "{said}");
    stage.assert_nothing_left();

    stage.setup.set("-x", &format!("udp:53-{}:53", target.ipv4));
    let (code, said) = stage.diagnose();
    assert!(code == 0 && said.starts_with("warning") && said.contains("over UDP is not probed"), "{said}");
}
