use clap::Parser;
use tcpcopy_wire::control::RecordKind;

use tcpcopy_engine::{Rate, SampleBy};

use super::*;
use crate::exit::Exit;

const LOCAL: &[IpAddr] = &[IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))];

fn catalogue() -> Catalogue {
    Catalogue::new::<&str>(modules::BuiltIn::shipped(), &[]).unwrap()
}

/// Options from a command line without the program's name, or the message of the refusal.
fn check(line: &str) -> Result<Options, String> {
    let words = std::iter::once("tcpcopy").chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).map_err(|e| e.to_string())?;
    Options::check(arguments, &catalogue(), LOCAL).map_err(|failure| {
        assert_eq!(failure.exit, Exit::Usage);
        failure.message
    })
}

fn accept(line: &str) -> Options {
    check(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let o = accept("-x 80-10.0.0.2:8080 -s 10.0.0.3");
    assert_eq!(o.intercepts, ["10.0.0.3:36524".parse().unwrap()]);
    assert_eq!((o.links_per_intercept, o.keep_trying, o.workers), (1, false, 1));
    assert_eq!((o.mtu, o.mss, o.buffer_bytes, o.memory_limit), (1500, 1460, 32 << 20, 2048 << 20));
    assert_eq!((o.response_timeout.as_secs(), o.idle_timeout.as_secs()), (600, 720));
    assert_eq!((o.devices, o.filter.as_str()), (vec!["any".to_owned()], "tcp and (dst port 80)"));
    assert_eq!((o.only_whole_sessions, o.no_wait, o.daemon), (false, false, false));
    assert_eq!((o.log, o.pid, o.log_level), (None, None, LevelFilter::Info));
    assert_eq!(o.stats_interval, Some(Duration::from_secs(30)));
    assert_eq!(o.sources, [SourcePool::default()]);
    assert_eq!(o.warnings.len(), 1, "no -c is worth a warning: {:?}", o.warnings);
}

#[test]
fn what_intercept_must_show_is_read_from_line_and_file() {
    let copy = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    let o =
        accept(&format!("{copy} --secret-file s --tls-ca /a --tls-cert /c --tls-key /k --tls-name assistant.example"));
    let file: Arguments = toml::from_str(
        "map = '80-10.0.0.2:8080'\nintercept = '10.0.0.3'\nsource = '10.77.0.x'\nsecret-file = 's'\ntls-ca = '/a'\n\
         tls-cert = '/c'\ntls-key = '/k'\ntls-name = 'assistant.example'\n",
    )
    .unwrap();
    assert_eq!(Options::check(file, &catalogue(), LOCAL).unwrap(), o);
    assert!(o.security.secret.unwrap().is_absolute());
    assert_eq!(o.security.identity, Some(("/c".into(), "/k".into())));
    assert_eq!((o.security.authority, o.security.name.as_deref()), (Some("/a".into()), Some("assistant.example")));
    for (options, said) in [
        ("--tls-cert /c --tls-key /k", "--tls-ca"),
        ("--tls-name a", "--tls-ca"),
        ("--tls-ca /a --tls-key /k", "--tls-cert"),
        ("--secret-file /", "--secret-file"),
    ] {
        let message = check(&format!("{copy} {options}")).unwrap_err();
        assert!(message.contains(said), "{options}: {message}");
    }
}

#[test]
fn short_and_long_names_mean_the_same() {
    let short = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x -p 7 -C 3 -L -i eth0,eth1 -F tcp -B 64 -M 1400 -D 1200 -O -W \
                 -t 9 -k 10 -m 100 -l /tmp/a.log -P /tmp/a.pid -d";
    let long = "--map 80-10.0.0.2:8080 --intercept 10.0.0.3 --source 10.77.0.x --port 7 --connections 3 --keep-trying \
                --device eth0 --device eth1 --filter tcp --buffer 64 --mtu 1400 --mss 1200 --only-whole-sessions --no-wait \
                --response-timeout 9 --idle-timeout 10 --memory 100 --log /tmp/a.log --pid /tmp/a.pid --daemon";
    let o = accept(short);
    assert_eq!(o, accept(long));
    assert_eq!(o.intercepts, ["10.0.0.3:7".parse().unwrap()]);
    assert_eq!((o.links_per_intercept, o.keep_trying, o.only_whole_sessions, o.no_wait), (3, true, true, true));
    assert_eq!((o.devices, o.filter.as_str()), (vec!["eth0".to_owned(), "eth1".to_owned()], "tcp"));
    assert_eq!((o.mtu, o.mss, o.buffer_bytes, o.memory_limit), (1400, 1200, 64 << 20, 100 << 20));
    assert_eq!((o.response_timeout.as_secs(), o.idle_timeout.as_secs()), (9, 10));
    assert_eq!((o.log, o.pid, o.daemon), (Some("/tmp/a.log".into()), Some("/tmp/a.pid".into()), true));
    assert_eq!(o.sources[0].addresses().count(), 254);
    assert_eq!(o.warnings, Vec::<String>::new());
}

#[test]
fn what_concerns_udp_is_read() {
    let base = "-x udp:53-10.0.0.2:53 -c 10.77.0.x";
    let o = accept(base);
    assert_eq!((o.traffic, o.intercepts.len(), o.both_directions), (Traffic::default(), 0, false));
    assert!(o.filter.starts_with("(udp and (dst port 53)) or "), "{}", o.filter);
    assert_eq!((o.maps[0].transport, o.modules[0].handle.about.name), (Transport::Udp, "udp"));
    assert!(o.warnings.iter().any(|warning| warning.contains("not counted")), "{:?}", o.warnings);

    let short = accept("-x udp:53-10.0.0.2:53 -n 3 -f 4 -r 20 -H 10.0.0.9 --max-rate 8MB --workers 1");
    let long = accept(
        "--map 53-10.0.0.2:53 --proto udp --copies 3 --instance 4 --percentage 20 --loopback-source 10.0.0.9 --max-rate 8MB/s",
    );
    assert_eq!(short, long);
    let expected = Traffic {
        copies: 3,
        instance: 4,
        loopback_source: Some("10.0.0.9".parse().unwrap()),
        percentage: 20,
        max_rate: Some(Rate::Bytes(8_000_000)),
        ..Traffic::default()
    };
    assert_eq!(short.traffic, expected);
    let file: Arguments = toml::from_str(
        "map = '53-10.0.0.2:53'\nproto = 'udp'\ncopies = 3\ninstance = 4\npercentage = 20\n\
         loopback-source = '10.0.0.9'\nmax-rate = '8MB'",
    )
    .unwrap();
    assert_eq!(Options::check(file, &catalogue(), LOCAL).unwrap(), short);
    let number: Arguments = toml::from_str("map = 'udp:53-10.0.0.2:53'\nmax-rate = 5000").unwrap();
    assert_eq!(Options::check(number, &catalogue(), LOCAL).unwrap().traffic.max_rate, Some(Rate::Count(5000)));
    let shared = accept("-x udp:53-10.0.0.2:53 --max-rate 1000 --workers 3 -s 10.0.0.3").traffic;
    assert_eq!(shared.max_rate, Some(Rate::Count(334)), "each worker's part");
    assert_eq!(accept(&format!("{base} -r 0")).traffic.percentage, 100, "as in the C programs");
}

#[test]
fn numbers_that_the_c_programs_take_are_taken_with_a_warning() {
    let o = accept("-x 80-192.168.0.2:8080 -s 10.0.0.3 -c 10.78.0.x -r 1000 -n 0 -C 64");
    assert_eq!((o.traffic.percentage, o.traffic.copies, o.links_per_intercept), (100, 1, 16));
    for said in ["-r 1000 copies all", "-n 0 copies once", "-C 64: there are 1 to 16 connections; 16 is taken"] {
        assert!(o.warnings.iter().any(|warning| warning.contains(said)), "{said}: {:?}", o.warnings);
    }
}

/// As in the manual: `./tcpcopy -x 80-192.168.0.2:8080`.
#[test]
fn without_an_address_intercept_is_on_the_targets() {
    let o = accept("-x 80-192.168.0.2:8080");
    assert_eq!(o.intercepts, ["192.168.0.2:36524".parse().unwrap()]);
    let said = o.warnings.iter().find(|warning| warning.contains("no -s")).unwrap();
    assert!(said.contains("192.168.0.2:36524") && said.contains("--nfqueue"), "{said}");

    let maps = "80-10.0.0.2:80,81-10.0.0.2:81,82-10.0.0.4:82,83-[fd00::2]:83,udp:53-10.0.0.9:53";
    let o = accept(&format!("-x {maps} -c 10.77.0.x,fd00:77::1 -p 7"));
    let expected = ["10.0.0.2:7", "10.0.0.4:7", "[fd00::2]:7"].map(|address| address.parse().unwrap());
    assert_eq!(o.intercepts, expected, "each once, and none where only UDP goes");
}

#[test]
fn a_replay_is_read() {
    let base = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    let o = accept(&format!("{base} -i /tmp/a.pcap,/tmp/b.pcap.gz -a 2.5 -I 1000 -T 3 --workers 2"));
    let plan = o.replay.unwrap();
    assert_eq!(plan.files, [PathBuf::from("/tmp/a.pcap"), PathBuf::from("/tmp/b.pcap.gz")]);
    assert_eq!((plan.speed, plan.cut_gaps, plan.passes), (2.5, Some(Duration::from_secs(1)), 3));
    assert_eq!((o.devices.len(), o.workers, plan.filter.as_str()), (0, 1, ""));
    assert!(o.warnings.iter().any(|warning| warning.contains("by one worker")), "{:?}", o.warnings);
    let o = accept(&format!("{base} --device - --as-fast-as-possible -F tcp"));
    let plan = o.replay.unwrap();
    assert_eq!((plan.files, plan.as_fast_as_possible, plan.filter.as_str()), (vec![PathBuf::from("-")], true, "tcp"));
    // 10.0.0.1 is this host's: nothing is captured here, so that nothing can be copied again.
    assert!(accept("-x 80-10.0.0.1:80 -s 10.0.0.3 -c 10.77.0.x -i a.pcap").replay.is_some());
    let file: Arguments = toml::from_str(
        "map = '80-10.0.0.2:80'\nintercept = '10.0.0.3'\ndevice = 'a.pcap'\nspeed = 0.5\nworkers = 'auto'",
    )
    .unwrap();
    let speed = Options::check(file, &catalogue(), LOCAL).unwrap().replay.unwrap().speed;
    assert!((speed - 0.5).abs() < f64::EPSILON);
}

#[test]
fn responses_can_be_captured_here() {
    let o = accept("-x 80-10.0.0.2:8080,udp:53-10.0.0.2:53 -s local -c 10.77.0.x");
    let responses = o.responses.unwrap();
    assert_eq!((o.intercepts.len(), responses.devices), (0, vec!["any".to_owned()]));
    assert_eq!(responses.filter, "src host 10.0.0.2 and tcp src port 8080 or src host 10.0.0.2 and udp src port 53");
    let o = accept("-x 80-10.0.0.2:80 -s local -c 10.77.0.x --response-device eth1 --response-filter tcp");
    assert_eq!(o.responses, Some(Responses { devices: vec!["eth1".to_owned()], filter: "tcp".to_owned() }));
}

#[test]
fn more_and_less_is_read() {
    let base = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    let o = accept(&format!("{base} -n 3 -r 50 --sample-by client --ramp 10m --max-rate 100 --preserve-rtt"));
    assert!(o.preserve_rtt);
    let expected = Traffic {
        copies: 3,
        percentage: 50,
        sample_by: SampleBy::Client,
        ramp: Some(Duration::from_secs(600)),
        max_rate: Some(Rate::Count(100)),
        ..Traffic::default()
    };
    assert_eq!(o.traffic, expected);
    assert_eq!(accept(&format!("{base} -g")).traffic.ramp, Some(Duration::from_secs(100)));
    let processors = std::thread::available_parallelism().unwrap().get() as u16;
    assert_eq!(accept(&format!("{base} --workers auto")).workers, processors.min(64));
    assert_eq!(accept("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1 --workers auto").workers, 1);
}

/// Wants to see what online answers.
struct Watcher;

impl tcpcopy_module_api::Module for Watcher {
    fn about() -> tcpcopy_module_api::About {
        tcpcopy_module_api::About {
            name: "watcher",
            sees_online: true,
            ..tcpcopy_module_api::About::new(Transport::Tcp, "1")
        }
    }

    fn create(_: &tcpcopy_module_api::Options) -> Result<Self, String> {
        Ok(Self)
    }
}

#[test]
fn a_module_that_sees_online_has_both_directions_captured() {
    let built_in = modules::BuiltIn::shipped().with_default(tcpcopy_module_api::ModuleEntry::of::<Watcher>());
    let catalogue = Catalogue::new::<&str>(built_in, &[]).unwrap();
    let check = |line: &str| {
        let words = std::iter::once("tcpcopy").chain(line.split_whitespace());
        Options::check(Arguments::try_parse_from(words).unwrap(), &catalogue, LOCAL).unwrap()
    };
    let base = "-s 10.0.0.3 -c 10.77.0.x -x tcp:81-10.0.0.2:81";
    let o = check(&format!("{base},10.0.0.1:80-10.0.0.2:8080"));
    assert!(o.both_directions);
    assert_eq!(
        o.filter,
        "tcp and (dst port 81 or (dst port 80 and dst host 10.0.0.1) or (src port 80 and src host 10.0.0.1))"
    );
    assert!(!check(base).both_directions, "no map uses it");
    let own = check("-s 10.0.0.3 -c 10.77.0.x -x 80-10.0.0.2:8080 -F tcp");
    assert!(own.both_directions && own.warnings[0].contains("must let that pass"), "{:?}", own.warnings);
}

#[test]
fn measuring_online_has_both_directions_captured() {
    let base = "-x 10.0.0.9:80-10.0.0.2:8080,udp:53-10.0.0.2:53 -s 10.0.0.3 -c 10.77.0.x --measure-online";
    let o = accept(base);
    assert!(o.both_directions && o.measure_online);
    for part in ["src port 80 and src host 10.0.0.9", "src port 53"] {
        assert!(o.filter.contains(part), "{}", o.filter);
    }
    let own = accept(&format!("{base} -F tcp"));
    assert!(own.warnings.iter().any(|warning| warning.contains("--measure-online needs")), "{:?}", own.warnings);
    let refused = check(&format!("{base} -i eth0 --decap vxlan --workers 2")).unwrap_err();
    assert!(refused.contains("--measure-online needs both directions"), "{refused}");
}

#[test]
fn a_report_is_written_where_it_was_asked_for() {
    let base = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    let o = accept(base);
    assert_eq!((o.report, o.stats_file, o.measure_online), (None, None, false));
    let o = accept(&format!("{base} --report a.html --stats-file /tmp/b"));
    assert!(o.report.unwrap().is_absolute(), "a daemon changes its directory");
    assert_eq!(o.stats_file, Some(PathBuf::from("/tmp/b")));
    assert!(o.given.pairs().contains(&("map".to_owned(), "80-10.0.0.2:8080".to_owned())), "{:?}", o.given);
    assert!(check(&format!("{base} --report /tmp")).unwrap_err().contains("is not the name of a file"));
}

#[test]
fn modules_have_tables_in_a_file() {
    let file: Arguments =
        toml::from_str("map = '80-10.0.0.2:80'\nintercept = '10.0.0.3'\n[module.mine]\na = 1").unwrap();
    let o = Options::check(file.clone(), &catalogue(), LOCAL).unwrap();
    assert!(o.warnings.iter().any(|warning| warning.contains("[module.mine] is of no use")), "{:?}", o.warnings);
    let command_line = Arguments::try_parse_from(["tcpcopy", "-C", "2"]).unwrap();
    assert_eq!(crate::config::merge(&command_line, &file).module, file.module, "merging keeps them");
}

#[test]
fn a_file_has_the_same_options_by_their_long_names() {
    let file: Arguments = toml::from_str(
        "map = ['80-10.0.0.2:8080', '81-10.0.0.2:8081']\nintercept = '10.0.0.3'\nsource = '10.77.0.x'\nport = 7\n\
         connections = 3\nkeep-trying = true\ndevice = ['eth0', 'eth1']\nfilter = 'tcp'\nbuffer = 64\nmtu = 1400\nmss = 1200\n\
         only-whole-sessions = true\nno-wait = true\nresponse-timeout = 9\nidle-timeout = 10\nmemory = 100\nworkers = 2\n\
         log = '/tmp/a.log'\nlog-level = 'warn'\nstats-interval = 5\npid = '/tmp/a.pid'\ndaemon = true\n",
    )
    .unwrap();
    let line = "-x 80-10.0.0.2:8080,81-10.0.0.2:8081 -s 10.0.0.3 -c 10.77.0.x -p 7 -C 3 -L -i eth0,eth1 -F tcp -B 64 -M 1400 \
                -D 1200 -O -W -t 9 -k 10 -m 100 --workers 2 -l /tmp/a.log --log-level warn --stats-interval 5 -P /tmp/a.pid -d";
    assert_eq!(Options::check(file.clone(), &catalogue(), LOCAL).unwrap(), accept(line));

    let command_line = Arguments::try_parse_from(["tcpcopy", "-x", "90-10.0.0.9:90", "-C", "1"]).unwrap();
    let merged = Options::check(crate::config::merge(&command_line, &file), &catalogue(), LOCAL).unwrap();
    assert_eq!((merged.maps.len(), merged.links_per_intercept, merged.mtu), (1, 1, 1400));
}

#[test]
fn what_cannot_be_is_refused() {
    let base = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    for (line, word) in [
        ("-s 10.0.0.3", "-x (--map) is missing"),
        (&format!("{base} -p 0"), "1 to 65535"),
        (&format!("{base} -M 100"), "576 to 65535"),
        (&format!("{base} -D 10"), "88 to"),
        (&format!("{base} -t 0"), "1 to"),
        (&format!("{base} -k 0"), "1 to"),
        (&format!("{base} -m 0"), "1 to"),
        (&format!("{base} -B 0"), "1 to 2047"),
        (&format!("{base} --workers 0"), "1 to 64"),
        (&format!("{base} --workers 255"), "1 to 64"),
        (&format!("{base} --log-level loud"), "none of error"),
        (&format!("{base} -P /"), "not the name of a file"),
        (&format!("{base} -i any,eth0"), "give it alone"),
        (&format!("{base} -i ./110.pcap,eth0"), "either files are replayed, or devices are captured on"),
        (&format!("{base} -i ./110.pcap -a 0"), "no number from 0.001"),
        (&format!("{base} -i ./110.pcap -a fast"), "no number from 0.001"),
        (&format!("{base} -i ./110.pcap -T 0"), "1 to 1000000"),
        (&format!("{base} -i - -T 2"), "standard input can be read but once"),
        (&format!("{base} -i - -d"), "a daemon (-d) has no standard input"),
        (&format!("{base} -i a.pcap --as-fast-as-possible -a 2"), "no use for the file's times"),
        (&format!("{base} -a 2"), "-a (--speed) is for the replay of a file"),
        (&format!("{base} -i eth0 -I 5"), "-I (--cut-gaps) is for the replay of a file"),
        (&format!("{base} --response-device eth0"), "--response-device is for -s local"),
        ("-x 80-10.0.0.2:80 -s local,10.0.0.3", "stands alone"),
        ("-x 80-10.0.0.2:80 -s local --response-filter tcp.and", "is not understood"),
        (&format!("{base} --workers many"), "neither a number nor `auto`"),
        (&format!("{base} -u nobody"), "in -u (--mysql-user): give USER@PASSWORD"),
        (&format!("{base} --mysql-slow soon"), "in --mysql-slow: `soon`"),
        (&format!("{base} --sample-by port"), "neither session nor client"),
        (&format!("{base} --ramp 5d"), "one of ms, s, m and h"),
        (&format!("{base} --ramp 0"), "above zero"),
        (&format!("{base} -F tcp.and"), "is not understood"),
        ("-x 80-[fd00::2]:8080 -s 10.0.0.3 -c fd00::8 -M 1000", "1280"),
        ("-x 10.0.0.1:80-[fd00::2]:80 -s 10.0.0.3", "different families"),
        ("-x 80-[fd00::2]:80 -s 10.0.0.3 -c 10.77.0.x", "0 IPv6 addresses for 1 workers"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1 --workers 2", "1 IPv4 addresses for 2 workers"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.0.0.2", "0 IPv4 addresses"),
        ("-x udp:53-10.0.0.2:53 -n 1024", "1 to 1023"),
        ("-x udp:53-10.0.0.2:53 -f 32", "0 to 31"),
        ("-x udp:53-10.0.0.2:53 -H 0.0.0.0", "cannot be the address of a client"),
        ("-x udp:53-10.0.0.2:53 -H fd00::1", "another family"),
        ("-x udp:53-10.0.0.2:53 -H online", "invalid IP address"),
        ("-x udp:53-10.0.0.2:53 --max-rate 8Mbit", "one of B, kB"),
        ("-x pgsql:3306-10.0.0.2:3306 -s 10.0.0.3", "there is no module `pgsql`"),
    ] {
        let message = check(line).expect_err(line);
        assert!(message.contains(word), "{line}: {message}");
    }
}

/// Address `10.0.0.1` is this host's.
#[test]
fn copying_to_the_online_server_itself_is_refused() {
    for map in [
        "10.0.0.1:80-10.0.0.1:80",
        "10.0.0.5:80-10.0.0.5:80",
        "80-10.0.0.1:80",
        "80-127.0.0.1:80",
        "[fd00::1]:80-[fd00::1]:80",
        "80-[::1]:80",
        "80-10.0.0.1:81,81-10.0.0.2:81",
        "udp:53-10.0.0.1:53",
    ] {
        let message = check(&format!("-x {map} -s 10.0.0.3 -c 10.77.0.x,fd00:1::7")).expect_err(map);
        assert!(message.contains("is an online server itself"), "{map}: {message}");
    }
    for map in [
        "80-10.0.0.2:80",
        "80-127.0.0.1:8080",
        "10.0.0.1:80-10.0.0.2:80",
        "10.0.0.1:80-10.0.0.1:8080",
        "udp:53-10.0.0.1:80,80-10.0.0.2:80",
    ] {
        accept(&format!("-x {map} -s 10.0.0.3 -c 10.77.0.x"));
    }
}

#[test]
fn workers_share_no_source_address() {
    let o =
        accept("-x 80-10.0.0.2:80,81-[fd00::2]:81 -s 10.0.0.3 -c 10.77.0.1-10.77.0.5,fd00:1::1-fd00:1::2 --workers 2");
    let pools: Vec<Vec<String>> =
        o.sources.iter().map(|pool| pool.addresses().map(|a| a.to_string()).collect()).collect();
    assert_eq!(pools[0], ["10.77.0.1", "10.77.0.3", "10.77.0.5", "fd00:1::1"]);
    assert_eq!(pools[1], ["10.77.0.2", "10.77.0.4", "fd00:1::2"]);
}

#[test]
fn what_is_possible_but_odd_is_said() {
    for (line, word) in [
        ("-x 80-10.0.0.2:80 -s 10.0.0.3", "no -c"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1 -R 5", "-R has no effect"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1 -U 5", "-U has no effect"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1 -S 5", "-S has no effect"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.0.0.2,10.0.0.7", "left out"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.0.0.1", "address of this host"),
        ("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.77.0.1,fd00::9", "no target is IPv6"),
        ("-x 80-10.0.0.2:80,80-10.0.0.4:80 -s 10.0.0.3 -c 10.77.0.1", "never used"),
        ("-x udp:53-10.0.0.2:53,udp:10.0.0.1:53-10.0.0.2:53 -c 10.77.0.1", "it gets each twice"),
        ("-x udp:53-10.0.0.2:53 -c 10.77.0.1 -H 10.0.0.9", "-H is of no use"),
        ("-x udp:53-10.0.0.2:53 -c 10.77.0.1 -r 0", "copies all"),
    ] {
        let o = accept(line);
        assert!(o.warnings.iter().any(|warning| warning.contains(word)), "{line}: {:?}", o.warnings);
    }
    for maps in ["udp:53-10.0.0.2:53,udp:53-10.0.0.4:53", "53-10.0.0.2:53,udp:53-10.0.0.4:53"] {
        let o = accept(&format!("-x {maps} -s 10.0.0.3 -c 10.77.0.1"));
        assert_eq!(o.warnings, Vec::<String>::new(), "{maps}");
    }
    let o = accept("-x 80-10.0.0.2:80 -s 10.0.0.3 -c 10.0.0.2,10.0.0.7");
    assert_eq!(o.sources[0].addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["10.0.0.7"]);
}

#[test]
fn intercepts_of_the_c_programs_are_spoken_with_when_told() {
    let legacy = |records, single| Protocol::Legacy { records, single };
    let (headers, payload) = (RecordKind::Headers, RecordKind::WithPayload);
    for (rest, protocol) in [
        ("", Protocol::Current),
        ("--intercept-protocol 2", Protocol::Current),
        ("--intercept-protocol legacy", legacy(headers, false)),
        ("--intercept-protocol legacy-payload", legacy(payload, false)),
        ("--single", legacy(headers, true)),
        ("--single --intercept-protocol legacy-payload", legacy(payload, true)),
    ] {
        let o = accept(&format!("-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x {rest}"));
        assert_eq!((o.intercept_protocol, o.warnings), (protocol, vec![]), "{rest}");
    }
    let file: Arguments = toml::from_str("intercept-protocol = 2\nsingle = false\n").unwrap();
    assert_eq!(file.intercept_protocol.unwrap().0, "2");

    let o = accept("-x mysql:3306-10.0.0.2:3306 -s 10.0.0.3 -c 10.77.0.x -u a@b --intercept-protocol legacy-payload");
    assert!(o.warnings.iter().any(|w| w.contains("128") && w.contains("mysql")), "{:?}", o.warnings);
    let o = accept("-x udp:53-10.0.0.2:53 -s 10.0.0.3 -c 10.77.0.x --intercept-protocol legacy");
    assert!(o.warnings.iter().any(|w| w.contains("UDP")), "{:?}", o.warnings);
}

#[test]
fn what_the_c_programs_link_cannot_do_is_refused_by_name() {
    let plain = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x";
    for (line, said) in [
        ("--intercept-protocol 1", &["--intercept-protocol", "`1`", "legacy-payload"][..]),
        ("--intercept-protocol 2 --single", &["--single", "--intercept-protocol legacy"]),
        ("--single --workers 2", &["--single", "--workers"]),
        ("--intercept-protocol legacy --secret-file s", &["--intercept-protocol", "--secret-file"]),
        ("--single --tls-ca c", &["--single", "--tls-ca"]),
        ("--intercept-protocol legacy -c fd00::7", &["--intercept-protocol", "fd00::7", "IPv4"]),
    ] {
        let message = check(&format!("{plain} {line}")).unwrap_err();
        assert!(said.iter().all(|part| message.contains(part)), "{line}: {message}");
    }
    let ipv6 = check("-x 80-[fd00::2]:8080 -s 10.0.0.3 -c fd00::10 --intercept-protocol legacy").unwrap_err();
    assert!(ipv6.contains("[fd00::2]:8080") && ipv6.contains("IPv4"), "{ipv6}");
    let payload = check("-x mysql:3306-10.0.0.2:3306 -s 10.0.0.3 -u a@b --intercept-protocol legacy").unwrap_err();
    assert!(payload.contains("mysql") && payload.contains("legacy-payload"), "{payload}");
    for alone in ["-x 80-10.0.0.2:8080 -s local --single", "-x udp:53-10.0.0.2:53 --intercept-protocol 2"] {
        assert!(check(alone).unwrap_err().contains("-s (--intercept)"), "{alone}");
    }
}

#[test]
fn what_concerns_mirrors_is_read() {
    let base = "-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x -i eth1";
    let o = accept(base);
    assert_eq!((o.decapsulation, o.promiscuous, o.filter_behind_tags), (Decapsulation::default(), false, true));

    let o = accept(&format!("{base} --decap vxlan:8472 --decap erspan"));
    assert_eq!((o.decapsulation.vxlan, o.decapsulation.erspan, o.decapsulation.gre), (vec![8472], true, false));
    assert!(o.promiscuous);
    assert_eq!(
        o.filter,
        "(tcp and (dst port 80)) or (udp dst port 8472) or (ip proto 47) or (ip6 proto 47) or \
         (ip proto 17 and ip[6:2] & 0x1fff != 0) or (ip6[6] = 44 and ip6[40] = 17)",
        "the outer packets pass"
    );
    assert_eq!(o.warnings, Vec::<String>::new());

    assert_eq!(o.capture_method, Method::Pcap);
    assert_eq!(accept(&format!("{base} --capture raw")).capture_method, Method::Raw);
    assert!(check(&format!("{base} --capture pfring")).unwrap_err().contains("`pfring` is neither pcap nor raw"));

    // A mirror without a tunnel.
    for option in ["--promiscuous", "--decap vlan"] {
        let o = accept(&format!("{base} {option}"));
        assert_eq!((o.promiscuous, o.decapsulation.is_on(), o.filter.as_str()), (true, false, "tcp and (dst port 80)"));
        let o = accept(&format!("{base} -i any {option}").replace("-i eth1 ", ""));
        assert!(o.warnings.iter().any(|warning| warning.contains("`any` cannot show")), "{:?}", o.warnings);
    }
    let o = accept(&format!("{base} --decap gre -F tcp --workers 2"));
    assert_eq!((o.filter.as_str(), o.filter_behind_tags), ("tcp", false), "as it was given");
    assert_eq!(o.warnings.len(), 2, "{:?}", o.warnings);
    let file: Arguments = toml::from_str(
        "map = '80-10.0.0.2:8080'\nintercept = '10.0.0.3'\ndecap = ['gre', 'vxlan']\npromiscuous = true",
    )
    .unwrap();
    let o = Options::check(file, &catalogue(), LOCAL).unwrap();
    assert!(o.decapsulation.gre && o.decapsulation.vxlan == [4789]);
    let mysql = "-x mysql:3306-10.0.0.2:3306 -s 10.0.0.3 -c 10.77.0.x -u a@b --decap vxlan --workers 2";
    assert!(check(mysql).unwrap_err().contains("module `mysql` needs both directions"));

    // A mirror that was written to a file.
    let o = accept("-x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.77.0.x -i ./mirror.pcap --decap vxlan");
    assert!(o.decapsulation.is_on() && o.replay.is_some() && !o.promiscuous && o.filter.is_empty());
    for option in ["--promiscuous", "--capture raw"] {
        let message = check(&format!("-x 80-10.0.0.2:8080 -s 10.0.0.3 -i ./mirror.pcap {option}")).unwrap_err();
        assert!(message.contains("is for devices"), "{message}");
    }
    assert!(check(&format!("{base} --decap ipip")).unwrap_err().contains("in --decap: `ipip` is no tunnel"));
}

#[test]
fn what_concerns_the_link_layer_is_read() {
    let base = "-s 10.0.0.3 -c 10.77.0.x";
    assert_eq!(accept(&format!("{base} -x 80-10.0.0.2:8080")).output, None);
    let short = accept(&format!(
        "{base} -x 80@02:00:00:00:00:01-10.0.0.2:80,81-10.0.0.2:81@02:00:00:00:00:02,80-10.0.0.4:80 -o eth1,eth2"
    ));
    let output = short.output.clone().unwrap();
    assert_eq!(output.devices, ["eth1", "eth2"]);
    let targets: Vec<_> = output
        .targets
        .iter()
        .map(|t| (t.addr.to_string(), t.source.map(|mac| mac.0[5]), t.next_hop.map(|mac| mac.0[5])))
        .collect();
    assert_eq!(targets, [("10.0.0.2".to_owned(), Some(1), Some(2)), ("10.0.0.4".to_owned(), None, None)]);
    let file: Arguments = toml::from_str(
        "map = '80@02:00:00:00:00:01-10.0.0.2:80,81-10.0.0.2:81@02:00:00:00:00:02,80-10.0.0.4:80'\n\
         intercept = '10.0.0.3'\nsource = '10.77.0.x'\noutput-device = ['eth1', 'eth2']",
    )
    .unwrap();
    assert_eq!(Options::check(file, &catalogue(), LOCAL).unwrap().output, short.output);

    for (line, words) in [
        ("-x 80-10.0.0.2:80@02:00:00:00:00:02", "give the device with -o"),
        ("-x 80-10.0.0.2:80 -o any", "`any` is not a device to send on"),
        ("-x 80-127.0.0.1:8080 -o eth0", "no device leads"),
        (
            "-x 80-10.0.0.2:80@02:00:00:00:00:02,81-10.0.0.2:81@02:00:00:00:00:03 -o eth0",
            "two maps to 10.0.0.2 have different MAC addresses",
        ),
    ] {
        let message = check(&format!("{base} {line}")).unwrap_err();
        assert!(message.contains(words), "{line}: {message}");
    }
}

#[test]
fn the_socket_is_read_from_line_and_file() {
    let file: Arguments = toml::from_str("socket = '/run/a.sock'").unwrap();
    assert_eq!(file.socket, Some("/run/a.sock".into()));
    assert_eq!(toml::from_str::<Arguments>("socket = 'none'").unwrap().socket, Some("none".into()));
    let line = Arguments::try_parse_from(["tcpcopy", "--socket", "none"]).unwrap();
    assert_eq!(crate::config::merge(&line, &file).socket, Some("none".into()));
}
