//! What recipes find on their hosts besides two web servers: servers of other kinds, mirrors, a director, many clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tcpcopy::demo::copy::Programs;
use tcpcopy::demo::request;
use tcpcopy_io::netns::{Host, Lab, Namespace, NetnsError, wait_for};
use tcpcopy_tests::dns::{self, DNS_PORT, Dnsmasq};
use tcpcopy_tests::mirror::{MIRROR_PORT, Mirror, Tunnel, VXLAN_PORT};
use tcpcopy_tests::sql::clients::{Login, command_line};
use tcpcopy_tests::sql::{Family, Plugin, Server};

const PATIENCE: Duration = Duration::from_secs(60);
/// A client waits this long for a connection and for its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
const ONLINE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Queries, and statements of each user, that must arrive where a document says that they do.
const QUERIES: u64 = 60;

/// The users of docs/mysql.md, with their passwords on online and on the target.
const USERS: [(&str, &str, &str); 2] = [("app", "on line,@1", "secret"), ("report", "on line,@2", "other")];

/// What a recipe has around it.
#[derive(Default)]
pub(crate) struct Surroundings {
    name_servers: Vec<(&'static str, Dnsmasq)>,
    databases: Option<[Server; 2]>,
    mirrors: Vec<Mirror>,
    /// What lines name that this kernel cannot run.
    beyond_the_kernel: Option<&'static str>,
    asked: u64,
}

impl Surroundings {
    /// Sets up what a document calls by this name; `false` when it is nothing of this kind.
    pub(crate) fn add(&mut self, name: &str, lab: &Lab, programs: &Programs, folder: &Path) -> bool {
        match name {
            "name servers" => self.add_name_servers(lab, folder),
            "MySQL servers" => self.databases = Some(databases(lab, folder)),
            "a kernel that mirrors" => self.mirror_for_the_kernel(lab),
            "a mirror port" => self.mirror_to_a_port(lab),
            "a director" => direct(lab).expect("a director"),
            "many clients" => many_addresses(lab).expect("many clients"),
            "connection tracking" => load_connection_tracking().expect("connection tracking"),
            "copies of the programs" => {
                for program in [&programs.tcpcopy, &programs.intercept] {
                    let name = program.file_name().expect("a program");
                    fs::copy(program, folder.join(name)).expect("a copy");
                }
            }
            "MAC addresses" => {
                lab.online.ip("link set eth0 address 02:00:00:00:00:01").expect("ip link");
                lab.target.ip("link set eth0 address 02:00:00:00:00:02").expect("ip link");
            }
            _ => return false,
        }
        true
    }

    /// Whether it is what [`add`](Self::add) sets up.
    pub(crate) fn knows(name: &str) -> bool {
        const NAMES: &[&str] = &[
            "name servers",
            "MySQL servers",
            "a kernel that mirrors",
            "a mirror port",
            "a director",
            "many clients",
            "connection tracking",
            "copies of the programs",
            "MAC addresses",
        ];
        NAMES.contains(&name)
    }

    /// Whether the kernel cannot run this line, and something else does its work.
    pub(crate) fn does_instead(&self, line: &str) -> bool {
        self.beyond_the_kernel.is_some_and(|device| line.contains(device))
    }

    fn add_name_servers(&mut self, lab: &Lab, folder: &Path) {
        for host in lab.hosts().filter(|host| ["online", "target", "target2"].contains(&host.name)) {
            self.name_servers.push((host.name, Dnsmasq::start(host, folder)));
        }
        // The second target's answers go where those of the first do.
        let other = host(lab, "target2");
        other.ip("route add 10.78.0.0/16 via 10.0.0.3").expect("ip route");
    }

    /// Online's kernel is to mirror into VXLAN; where it cannot, somebody else does.
    fn mirror_for_the_kernel(&mut self, lab: &Lab) {
        if let Err(error) = kernel_mirrors() {
            println!("SKIPPED: this kernel cannot mirror into VXLAN, so the test does: {error}");
            self.mirrors.push(Mirror::start(&lab.online, Ipv4Addr::new(10, 0, 0, 5), Tunnel::Vxlan(VXLAN_PORT)));
            self.beyond_the_kernel = Some("mirror0");
        }
    }

    /// The monitor has a cable to a mirror port, on its eth1.
    fn mirror_to_a_port(&mut self, lab: &Lab) {
        let monitor = host(lab, "monitor");
        lab.cable(&lab.online, monitor, MIRROR_PORT).expect("a cable");
        for line in ["down", "name eth1", "up"] {
            let device = if line == "up" { "eth1" } else { MIRROR_PORT };
            monitor.ip(&format!("link set {device} {line}")).expect("ip link");
        }
        // The kernel looks after carriers once a second, and a device that changes by itself looks like something left behind.
        let is_up = || monitor.ip("-br link show eth1").expect("ip link").split_whitespace().any(|word| word == "UP");
        wait_for(PATIENCE, || is_up().then_some(())).expect("a carrier");
        self.mirrors.push(Mirror::start(&lab.online, Ipv4Addr::UNSPECIFIED, Tunnel::Tags(&[])));
    }

    /// Asks online until each of these hosts is asked, too; from then on each query must arrive there, once.
    pub(crate) fn queries_arrive(&mut self, client: &Namespace, at: &[String], over_tcp: bool, place: &str) {
        self.asked += 1;
        let server = SocketAddr::from((ONLINE, DNS_PORT));
        let ask = |prefix: &str, queries: std::ops::Range<u64>| {
            if over_tcp {
                dns::ask_over_tcp(client, server, prefix, queries)
            } else {
                dns::ask(client, server, prefix, queries, 10)
            }
        };
        let servers: Vec<&Dnsmasq> = at.iter().map(|name| self.name_server(name, place)).collect();
        let probe = format!("probe{}-", self.asked);
        let mut probes = 0;
        let up = wait_for(PATIENCE, || {
            ask(&probe, probes..probes + 1);
            probes += 1;
            let all = || servers.iter().all(|server| server.count(&probe) > 0).then_some(());
            wait_for(Duration::from_millis(200), all)
        });
        assert!(up.is_some(), "{place}: no query was copied to one of {at:?}");
        let prefix = format!("query{}-", self.asked);
        assert_eq!(ask(&prefix, 0..QUERIES), QUERIES, "{place}: online did not answer");
        let online = names(self.name_server("online", place), &prefix);
        for (name, server) in at.iter().zip(servers) {
            wait_for(PATIENCE, || (server.count(&prefix) >= QUERIES).then_some(()));
            assert_eq!(names(server, &prefix), online, "{place}: queries at {name}, and at online");
        }
    }

    fn name_server(&self, name: &str, place: &str) -> &Dnsmasq {
        let server = self.name_servers.iter().find(|(host, _)| *host == name);
        server.map_or_else(|| panic!("{place}: {name} has no name server"), |(_, server)| server)
    }

    /// Each user changes a table on online until that is copied; from then on each change must be.
    pub(crate) fn statements_arrive(&self, client: &Namespace, place: &str) {
        let [online, target] = self.databases.as_ref().unwrap_or_else(|| panic!("{place}: no MySQL servers"));
        for (user, password, _) in USERS {
            let login = Login { server: ONLINE.into(), user, password, database: "shop" };
            let run =
                |statements: &str| command_line(Family::MariaDb, client, &login, statements).expect("online answers");
            let probes = || target.value(&format!("SELECT COUNT(*) FROM shop.probe WHERE user = '{user}'"));
            let up = wait_for(PATIENCE, || {
                run(&format!("INSERT INTO probe VALUES ('{user}')"));
                wait_for(Duration::from_millis(300), || (probes() != "0").then_some(()))
            });
            assert!(up.is_some(), "{place}: nothing that {user} does is copied");
            let visits = (0..QUERIES).map(|n| format!("INSERT INTO visit VALUES ('{user}', {n})"));
            run(&visits.collect::<Vec<_>>().join("; "));
        }
        let rows = |server: &Server| server.sql("SELECT * FROM shop.visit ORDER BY user, number");
        let wanted = rows(online);
        assert_eq!(wanted.len() as u64, USERS.len() as u64 * QUERIES, "{place}: online's table");
        wait_for(PATIENCE, || (rows(target).len() >= wanted.len()).then_some(()));
        assert_eq!(rows(target), wanted, "{place}: the target's table, and online's");
    }
}

fn host<'a>(lab: &'a Lab, name: &str) -> &'a Host {
    lab.hosts().find(|host| host.name == name).unwrap_or_else(|| panic!("the lab has no host `{name}`"))
}

/// The names that were asked for, sorted.
fn names(server: &Dnsmasq, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = server.queries(prefix).into_iter().map(|query| query.name).collect();
    names.sort();
    names
}

/// MariaDB on online and on the target, with the same tables, and users whose passwords differ.
fn databases(lab: &Lab, folder: &Path) -> [Server; 2] {
    let hosts = [&lab.online, &lab.target];
    let servers = hosts.map(|host| Server::start(Family::MariaDb, host, folder, &[]));
    for (server, is_online) in servers.iter().zip([true, false]) {
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.probe (user TEXT)");
        server.sql("CREATE TABLE shop.visit (user VARCHAR(20), number INT)");
        for (user, of_online, of_target) in USERS {
            server.create_user(user, Plugin::Native, if is_online { of_online } else { of_target });
        }
    }
    servers
}

/// Whether this kernel has what docs/deploy.md makes a mirror of, tried in a namespace of its own.
fn kernel_mirrors() -> Result<(), NetnsError> {
    let scratch = Namespace::new()?;
    for line in [
        "ip link set lo up",
        "ip link add mirror0 type vxlan id 42 remote 127.0.0.2 dstport 4789 dev lo",
        "tc qdisc add dev lo clsact",
        "tc filter add dev lo ingress protocol ip u32 match ip protocol 6 0xff action mirred egress mirror dev mirror0",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        scratch.output(words[0], &words[1..])?;
    }
    Ok(())
}

/// Real servers, target and target2, behind a director, admin, that hands packets for 10.0.0.100 on as they are, as LVS does
/// with direct routing.
fn direct(lab: &Lab) -> Result<(), NetnsError> {
    let director = host(lab, "admin");
    for real in [&lab.target, host(lab, "target2")] {
        real.ip("address add 10.0.0.100/32 dev lo")?;
    }
    // Packets of replicas come by way of the director.
    for name in ["target", "target2", "admin"] {
        for device in ["all", "eth0"] {
            host(lab, name).set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
            host(lab, name).set_sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
        }
    }
    director.set_sysctl("net/ipv4/ip_forward", "1")?;
    director.set_sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
    director.ip("route add 10.0.0.100/32 nexthop via 10.0.0.2 nexthop via 10.0.0.4")?;
    lab.online.ip("route add 10.0.0.100/32 via 10.0.0.9")?;
    Ok(())
}

/// The kernel loads it with the first rule that names it, in any namespace.
fn load_connection_tracking() -> Result<(), NetnsError> {
    let line = "-t raw -A OUTPUT -p tcp -j CT --notrack";
    Namespace::new()?.output("iptables", &line.split(' ').collect::<Vec<_>>()).map(drop)
}

/// All of 10.20.0.0/16 is on the client.
fn many_addresses(lab: &Lab) -> Result<(), NetnsError> {
    lab.client.ip("route add local 10.20.0.0/16 dev lo")?;
    lab.online.ip("route add 10.20.0.0/16 via 10.0.0.7")?;
    Ok(())
}

/// Sends requests to online, numbered from `first_id` on, each from another address of the client.
pub(crate) fn ask_from_many(client: &Namespace, first_id: u64, addresses: std::ops::Range<u16>) {
    let ask = |id: u64, number: u16| -> std::io::Result<()> {
        let [high, low] = number.to_be_bytes();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(IpAddr::from([10, 20, high, low]), 0).into())?;
        socket.connect_timeout(&SocketAddr::from((ONLINE, 80)).into(), ANSWER_PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.write_all(&request::build(id, 0, true))?;
        stream.read_to_end(&mut Vec::new())?;
        stream.shutdown(Shutdown::Both).or(Ok(()))
    };
    let asked = client.run(|| addresses.zip(first_id..).try_for_each(|(number, id)| ask(id, number)));
    asked.and_then(|asked| asked).expect("online answers");
}
