//! Whole-system tests: clients, online, target and assistant in network namespaces, with the real programs.
//!
//! They judge what arrived, after it has settled, and never how fast. Where network namespaces or a server program are
//! not to be had, the tests that need them are reported as ignored, by name.

mod bad_days;
mod book;
mod doctor;
mod forty;
mod harness;
mod legacy;
mod linklayer;
mod live;
mod many;
mod metrics;
mod modules;
mod mysql;
mod mysql_copy;
mod own_modules;
mod probe;
mod programs;
mod protection;
mod replay;
mod report;
mod security;
mod source;
mod surroundings;
mod traditional;
mod translated;
mod udp;
mod workers;
mod workloads;

use std::process::ExitCode;

use harness::{Needs, Suite};

fn main() -> ExitCode {
    // First of all, while there is a single thread: this may enter a user namespace.
    let mut suite = Suite::prepare();

    suite.add("the arrows between the crates hold", Needs::Nothing, |_| source::arrows_hold());
    suite.add("unsafe code is only where it may be", Needs::Nothing, |_| source::unsafe_code_is_confined());
    suite.add("wrong options end with code 2 and say what is right", Needs::Nothing, programs::wrong_options);

    suite.add("book: no document claims in vain that its commands are run", Needs::Nothing, |_| book::all_are_run());
    suite.add("book: README", Needs::Recipes, book::readme);
    suite.add("book: getting started", Needs::Recipes, book::getting_started);
    suite.add("book: set-ups", Needs::Recipes, book::deploy);
    suite.add("book: tuning", Needs::Recipes, book::tuning);
    suite.add("book: doctor", Needs::Recipes, book::doctor);
    suite.add("book: live", Needs::Recipes, book::live);
    suite.add("book: report", Needs::Recipes, book::report);
    suite.add("book: metrics", Needs::Recipes, book::metrics);
    suite.add("book: operations", Needs::Recipes, book::operations);
    suite.add("book: security", Needs::Recipes, book::security);
    suite.add("book: troubleshooting", Needs::Recipes, book::troubleshooting);
    suite.add("book: UDP", Needs::Dns, book::udp);
    suite.add("book: MySQL", Needs::MariaDb, book::mysql);

    suite.add("the hosts of a lab reach each other", Needs::Servers, workloads::hosts_reach_each_other);
    suite.add("workload 1: keepalive, 50 connections", Needs::Servers, workloads::keepalive);
    suite.add("workload 3: new connection per request", Needs::Servers, workloads::new_connections);
    suite.add("a sample of new connections", Needs::Servers, workloads::a_sample);
    suite.add("workload 6: wrk, connections closed", Needs::Wrk, workloads::wrk_closing);
    suite.add("workload 7: POSTs of 2 MB", Needs::Hosts, workloads::large_posts);
    suite.add("workload 8: 2 % loss, keepalive", Needs::Servers, workloads::loss_keepalive);
    suite.add("workload 9: 2 % loss, new connection per request", Needs::Servers, workloads::loss_new_connections);
    suite.add("workload 11: 400 source ports used again and again", Needs::Servers, workloads::port_reuse);
    suite.add("IPv6", Needs::Servers, workloads::ipv6);
    suite.add("many: two online servers, one target", Needs::Servers, many::two_online_one_target);
    suite.add("many: two targets, two intercepts with their parts", Needs::Servers, many::two_targets_two_intercepts);
    suite.add("many: forty intercepts", Needs::Servers, forty::intercepts);
    suite.add("many: real servers behind a director (LVS, direct routing)", Needs::Servers, many::direct_routing);
    suite.add("many: each connection three times over", Needs::Servers, many::three_times_over);
    suite.add("workers: keepalive", Needs::Servers, workers::keepalive);
    suite.add("workers: new connection per request", Needs::Servers, workers::new_connections);
    suite.add("workers: a load that is too much for one", Needs::Servers, workers::too_much_for_one);
    suite.add("workers: packet sockets", Needs::Servers, workers::packet_sockets);
    suite.add("workers: the C programs' link", Needs::Servers, workers::legacy_link);
    suite.add("workers: IPv6", Needs::Servers, workers::ipv6);
    suite.add("workers: a device goes away and comes back", Needs::Servers, workers::a_device_goes_away);
    suite.add("workers: an intercept that is restarted", Needs::Servers, workers::restarted_intercept);
    suite.add("metrics: what both programs serve", Needs::Servers, metrics::both_programs);
    suite.add("without an intercept: responses come to tcpcopy", Needs::Servers, many::no_assistant);

    suite.add("live: status agrees with the target's log", Needs::Servers, live::status_agrees);
    suite.add("live: a pause relieves the target, and resume ends it", Needs::Servers, live::pause_and_resume);
    suite.add("live: a fifth of what begins, from now on", Needs::Servers, live::a_fifth);
    suite.add("live: top in a terminal", Needs::Servers, live::top);
    suite.add("live: who may ask, and of whom", Needs::Hosts, live::who_and_whom);
    suite.add("replay: captures by their times, faster, and as fast as possible", Needs::Tcpdump, replay::files);
    suite.add("replay: three passes, without an intercept", Needs::Tcpdump, replay::passes);
    suite.add("replay: a damaged capture", Needs::Tcpdump, replay::damaged);
    suite.add("report: a live copy, with online measured", Needs::Hosts, report::of_a_live_copy);
    suite.add("report: a copy that is killed", Needs::Hosts, report::of_a_killed_copy);
    suite.add("report: a replay, with online measured", Needs::Tcpdump, report::of_a_replay);
    suite.add("two labs at once", Needs::Hosts, workloads::two_labs_at_once);

    suite.add("link layer: -o, the next hop found", Needs::Servers, linklayer::sent_as_frames);
    suite.add("link layer: -o, MAC addresses given", Needs::Servers, linklayer::sent_to_given_addresses);
    suite.add("link layer: --capture raw", Needs::Servers, linklayer::captured_by_a_packet_socket);
    suite.add("link layer: all of it over IPv6", Needs::Servers, linklayer::all_of_it_over_ipv6);
    suite.add("link layer: a mirror in VXLAN", Needs::Servers, linklayer::copied_from_vxlan);
    suite.add(
        "link layer: a mirror in VXLAN, another port",
        Needs::Servers,
        linklayer::copied_from_vxlan_on_another_port,
    );
    suite.add("link layer: a mirror in GRE", Needs::Servers, linklayer::copied_from_gre);
    suite.add("link layer: a mirror in ERSPAN", Needs::Servers, linklayer::copied_from_erspan);
    suite.add("link layer: a mirror on a port", Needs::Servers, linklayer::copied_from_a_plain_port);
    suite.add("link layer: a mirror on a port, VLAN", Needs::Servers, linklayer::copied_from_a_vlan);
    suite.add("link layer: a mirror on a port, QinQ", Needs::Servers, linklayer::copied_from_qinq);
    suite.add(
        "link layer: a mirror on a port, QinQ, raw",
        Needs::Servers,
        linklayer::copied_from_qinq_by_a_packet_socket,
    );
    suite.add("link layer: a mirror in fragments", Needs::Servers, linklayer::copied_from_fragments);
    suite.add("link layer: a mirror, captured and replayed", Needs::Tcpdump, linklayer::replayed_from_a_mirror);
    suite.add("link layer: a mirror by the kernel", Needs::Servers, linklayer::copied_from_the_kernels_vxlan);

    suite.add("traditional: keepalive", Needs::Servers, traditional::keepalive);
    suite.add("traditional: new connection per request", Needs::Servers, traditional::new_connections);
    suite.add("traditional: IPv6", Needs::Servers, traditional::ipv6);
    suite.add("traditional: who is answered", Needs::Servers, traditional::passlist);
    suite.add("traditional: a killed intercept harms nobody", Needs::Servers, traditional::killed);
    suite.add("traditional: a target behind NAT", Needs::Servers, translated::both_addresses);
    suite.add("traditional: UDP", Needs::Hosts, traditional::udp);
    suite.add("traditional: MariaDB", Needs::MariaDb, mysql_copy::traditional);
    suite.add("traditional: a full queue", Needs::Hosts, traditional::overflow);
    suite.add("traditional: starts that fail say why", Needs::Hosts, traditional::failing_starts);

    suite.add("UDP: DNS, query by query", Needs::Dns, udp::dns);
    suite.add("UDP: datagrams of up to 60 KB", Needs::Hosts, udp::large_datagrams);
    suite.add("UDP: one way, 50,000 a second", Needs::Hosts, udp::one_way);
    suite.add("UDP: several targets, some missing", Needs::Hosts, udp::several_targets);
    suite.add("UDP: beside TCP", Needs::Hosts, udp::beside_tcp);
    suite.add("UDP: several copies, another instance, a sample, a limit", Needs::Hosts, udp::how_much);

    suite.add("MariaDB: users log in, by plugin", Needs::MariaDb, mysql::mariadb_users);
    suite.add("MariaDB: users log in, ed25519", Needs::Ed25519, mysql::mariadb_ed25519);
    suite.add("MariaDB: without grant tables", Needs::MariaDb, mysql::mariadb_without_grants);
    suite.add("MariaDB: a load leaves the same rows", Needs::MariaDb, mysql::same_load_mariadb);
    suite.add("MariaDB: copied byte by byte without grant tables", Needs::MariaDb, mysql::copied_byte_by_byte);
    suite.add("MySQL: users log in, by plugin", Needs::MySql, mysql::mysql_users);
    suite.add("MySQL: its client logs in to MariaDB", Needs::MySql, mysql::mariadb_by_client_of_mysql);
    suite.add("MySQL: without grant tables", Needs::MySql, mysql::mysql_without_grants);
    suite.add("MySQL: a load leaves the same rows as in MariaDB", Needs::MySql, mysql::same_load_both);
    suite.add("MariaDB copy: sysbench", Needs::MariaDb, mysql_copy::sysbench_mariadb);
    suite.add("MariaDB copy: eight threads of sysbench", Needs::MariaDb, mysql_copy::many_threads);
    suite.add("MariaDB copy: two workers", Needs::MariaDb, mysql_copy::two_workers);
    suite.add("MariaDB copy: reads only", Needs::MariaDb, mysql_copy::reads_only);
    suite.add("MariaDB copy: the target restarts", Needs::MariaDb, mysql_copy::target_restarts);
    suite.add("MariaDB copy: a session that was open already", Needs::MariaDb, mysql_copy::joined);
    suite.add("MariaDB copy: what cannot be copied", Needs::MariaDb, mysql_copy::not_copyable);
    suite.add("MariaDB copy: files, long values, the log", Needs::MariaDb, mysql_copy::the_rest);
    suite.add("MySQL copy: PyMySQL, by the target's plugin", Needs::MySql, mysql_copy::pymysql_by_plugin);
    suite.add("MySQL copy: a target without grant tables", Needs::MySql, mysql_copy::without_grants);
    suite.add("MySQL copy: both command line clients", Needs::MySql, mysql_copy::command_lines);
    suite.add("MySQL copy: sysbench from MariaDB", Needs::MySql, mysql_copy::sysbench_to_mysql);
    suite.add("MySQL copy: sysbench to MariaDB", Needs::MySql, mysql_copy::sysbench_from_mysql);

    suite.add("intercept restarts under load", Needs::Hosts, bad_days::intercept_restart);
    suite.add("target restarts under load", Needs::Servers, bad_days::target_restart);
    suite.add("target unreachable is counted", Needs::Hosts, bad_days::target_unreachable);
    suite.add("intercept unreachable ends with code 4", Needs::Hosts, programs::intercept_unreachable);
    suite.add("security: a copy over TLS, with a secret", Needs::OpenSsl, security::copy_over_tls);
    suite.add("legacy link: combined", Needs::Servers, legacy::combined);
    suite.add("legacy link: separate records", Needs::Servers, legacy::separate);
    suite.add("legacy link: with payload", Needs::Servers, legacy::with_payload);
    suite.add("legacy link: without routes", Needs::Servers, legacy::single);
    suite.add("legacy link: intercept restarts under load", Needs::Hosts, bad_days::intercept_restart_legacy);
    suite.add("legacy link: MariaDB", Needs::MariaDb, mysql_copy::over_the_legacy_link);
    suite.add("security: who does not belong is told why", Needs::OpenSsl, security::refusals);
    suite.add("security: an open intercept warns once", Needs::Hosts, security::open_intercept);
    suite.add("a failure that nobody reads keeps its exit code", Needs::Hosts, programs::unread_failure);
    suite.add("protection: --cpu-limit leaves sessions out whole", Needs::Servers, protection::cpu_limit);
    suite.add("protection: --stop-if ends a copy", Needs::Servers, protection::stop_if_errors);
    suite.add("protection: a worker that hangs is not called alive", Needs::Hosts, protection::hanging_worker);
    suite.add("protection: both programs as nobody", Needs::Servers, protection::as_nobody);
    suite.add("protection: the traditional set-up as nobody", Needs::Servers, protection::queue_as_nobody);
    suite.add("garbage on intercept's port", Needs::Hosts, bad_days::garbage_to_intercept);

    suite.add("modules: memcached's reads, and not its writes", Needs::Memcached, modules::memcached_reads);
    suite.add("modules: in C and Rust, for maps of one process", Needs::Compiler, modules::one_for_each_map);
    suite.add("modules: a panic costs the session", Needs::Hosts, modules::panics);
    suite.add("modules: an example passes its own tests", Needs::Nothing, modules::example_passes_its_tests);
    suite.add("modules: the guide's module works", Needs::Nothing, modules::guide_works);
    suite.add("modules: what cannot be used is refused", Needs::Compiler, modules::refusals);

    suite.add("modules: a new one passes its tests, and is found", Needs::Hosts, own_modules::new_module_works);
    suite.add("modules: one linked in is the default, and copies", Needs::Hosts, own_modules::copies_by_its_module);

    suite.add_waiting("probe: a healthy loop", Needs::Hosts, probe::healthy);
    suite.add_waiting("probe: faults at the target", Needs::Hosts, probe::faults_at_target);
    suite.add_waiting("probe: a target that is not there", Needs::Hosts, probe::missing_target);
    suite.add_waiting("probe: faults over IPv6", Needs::Hosts, probe::faults_over_ipv6);
    suite.add_waiting("probe: faults on the way", Needs::Hosts, probe::faults_on_the_way);
    suite.add_waiting("probe: faults at intercept", Needs::Hosts, probe::faults_at_intercept);
    suite.add_waiting("probe: faults at online", Needs::Hosts, probe::faults_at_online);
    suite.add_waiting("probe: interrupted", Needs::Hosts, probe::interrupted);
    suite.add_waiting("probe: other ways", Needs::Hosts, probe::other_ways);
    suite.add_waiting("probe: by other means", Needs::Hosts, probe::by_other_means);
    suite.add_waiting("probe: the log of a copy", Needs::Hosts, probe::log_of_a_copy);

    suite.add_waiting("doctor: nothing is wrong with a copy that works", Needs::Hosts, doctor::healthy);
    suite.add_waiting("doctor: faults of the capture", Needs::Hosts, doctor::faults_of_the_capture);
    suite.add_waiting("doctor: no capability", Needs::Privileges, doctor::no_capability);
    suite.add_waiting("doctor: faults on the way to the target", Needs::Hosts, doctor::faults_on_the_way);
    suite.add_waiting("doctor: firewalls", Needs::Hosts, doctor::firewalls);
    suite.add_waiting("doctor: faults of intercept and its host", Needs::Hosts, doctor::faults_of_intercept);
    suite.add_waiting("doctor: that of intercept", Needs::Hosts, doctor::doctor_of_intercept);
    suite.add_waiting("doctor: a target on the same host", Needs::Hosts, doctor::one_host);
    suite.add_waiting("doctor: the target's reverse path filter", Needs::Hosts, doctor::reverse_path_filter);
    suite.add("demo: a perfect copy", Needs::Hosts, programs::demo);
    suite.add("demo: Ctrl-C leaves nothing behind", Needs::Hosts, programs::demo_interrupted);
    suite.add("demo: a kill leaves nothing behind", Needs::Hosts, programs::demo_killed);
    suite.run()
}
