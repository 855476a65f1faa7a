use std::time::Duration;

use clap::Parser;
use tcpcopy_engine::relay::{RelayDrop, RelayStats};
use tcpcopy_io::capture::CaptureStats;
use tcpcopy_io::control::{ServerStats, Single};
use tcpcopy_wire::control::{LegacyFormat, RecordKind};

use super::arguments::Arguments;
use super::crew::Total;
use super::options::Options;
use super::report;
use super::worker::Counters;
use crate::config;
use crate::exit::Exit;

fn check(words: &[&str]) -> Result<Options, String> {
    let arguments = Arguments::try_parse_from(std::iter::once(&"intercept").chain(words)).map_err(|e| e.to_string())?;
    Options::check(arguments).map_err(|failure| {
        assert_eq!(failure.exit, Exit::Usage);
        failure.message
    })
}

#[test]
fn the_manuals_command_line_is_understood() {
    let options = check(&["-i", "eth0,eth1", "-F", "tcp and src port 18081", "-d", "-n", "5", "-s", "1024"]).unwrap();
    assert_eq!(options.devices, ["eth0", "eth1"]);
    assert_eq!((options.responses_per_write, options.initial_routes, options.port), (Some(5), 1024, 36524));
    assert_eq!((options.bind, options.stats_interval), (None, Some(Duration::from_secs(30))));
    assert!(options.log.unwrap().ends_with("error_intercept.log"));
}

#[test]
fn command_lines_from_documents_work_unchanged() {
    let pcap = [
        "-l /var/log/intercept.log -b 2.2.2.2 -i eth1 -F",
        "-i eth0 -l intercept.log -P /var/run/intercept.pid -F",
        "-F",
    ];
    for line in pcap {
        let words: Vec<&str> = line.split(' ').chain(["tcp and src port 80", "-d"]).collect();
        let options = check(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!((options.queue, options.filter.as_str()), (None, "tcp and src port 80"), "{line}");
    }
    for line in ["", "-d", "-b 192.168.0.1", "-x 192.168.0.3,192.168.0.4", "-x 127.0.0.1 -d", "-q 4096"] {
        let options = check(&line.split_whitespace().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(options.queue.map(|queue| queue.number), Some(0), "{line}");
    }
}

/// The traditional set-up, as the manual has it.
#[test]
fn without_a_filter_the_queue_is_read() {
    let queue = |words: &[&str]| check(words).unwrap().queue.unwrap();
    let bare = queue(&[]);
    assert_eq!((bare.number, bare.understood, bare.length), (0, true, 8192));
    assert!(bare.passlist.is_empty() && bare.setup.is_empty());
    assert!(queue(&["-b", "192.168.0.1"]).understood);

    let manual = check(&["-x", "127.0.0.1", "-d"]).unwrap();
    assert!(manual.devices.is_empty() && manual.filter.is_empty() && manual.buffer_bytes == 32 << 20);
    assert!(manual.queue.unwrap().passlist.contains("127.0.0.1".parse().unwrap()));
    let two = queue(&["-x", "192.168.0.3,192.168.0.4", "-q", "1"]);
    assert!(two.length == 1 && two.passlist.contains("192.168.0.4".parse().unwrap()));

    let all = queue(&["--nfqueue", "65535", "--setup", "80,udp:53", "-q", "2048"]);
    assert_eq!((all.number, all.understood, all.length, all.setup.len()), (65_535, false, 2048, 2));
    let file: Arguments =
        toml::from_str("nfqueue = 65535\nsetup = ['80', 'udp:53']\nqueue-length = 2048\npasslist = '10.0.0.0/8'")
            .unwrap();
    let from_file = Options::check(file).unwrap().queue.unwrap();
    assert_eq!((from_file.number, &from_file.setup, from_file.length), (65_535, &all.setup, 2048));
    assert!(from_file.passlist.contains("10.9.9.9".parse().unwrap()));
}

/// The C program's `-o`.
#[test]
fn a_filter_is_made_from_targets() {
    let filter = |targets: &str| {
        let options = check(&["-o", targets]).unwrap();
        assert_eq!((options.queue, options.devices), (None, vec!["any".to_owned()]));
        tcpcopy_io::capture::check_filter(&options.filter).unwrap();
        options.filter
    };
    assert_eq!(filter("10.0.0.161:18080"), "tcp and src host 10.0.0.161 and src port 18080");
    assert_eq!(filter("80"), "tcp and src port 80");
    assert_eq!(filter("80,[fd00::2]:81"), "tcp and ((src port 80) or (src host fd00::2 and src port 81))");
}

#[test]
fn each_option_has_a_long_name_that_the_file_takes_too() {
    let words = [
        ("device", "eth0"),
        ("filter", "tcp"),
        ("port", "99"),
        ("bind", "::1"),
        ("log", "l"),
        ("log-level", "debug"),
        ("pid", "p"),
        ("hash-size", "9"),
        ("combined", "3"),
        ("buffer", "2"),
        ("stats-interval", "0"),
    ];
    let line: Vec<String> = words.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]).collect();
    let mut from_line = Arguments::try_parse_from(["intercept", "--daemon"].map(str::to_owned).into_iter().chain(line));
    let toml = "daemon = true\ndevice = 'eth0'\nfilter = 'tcp'\nport = 99\nbind = '::1'\nlog = 'l'\nlog-level = 'debug'\n\
                pid = 'p'\nhash-size = 9\ncombined = 3\nbuffer = 2\nstats-interval = 0\n";
    let from_file: Arguments = toml::from_str(toml).unwrap();
    assert_eq!(from_line.as_mut().unwrap(), &from_file);
    let options = Options::check(from_file.clone()).unwrap();
    assert!(
        options.daemon && options.stats_interval.is_none() && options.port == 99 && options.buffer_bytes == 2 << 20
    );

    let line = Arguments::try_parse_from(["intercept", "-p", "7"]).unwrap();
    let merged = Options::check(config::merge(&line, &from_file)).unwrap();
    assert_eq!((merged.port, merged.initial_routes), (7, 9), "the command line wins");
}

#[test]
fn what_cannot_be_is_refused_with_the_option_and_an_example() {
    for (words, said) in [
        (&["-i", "eth0"][..], &["-F", "is missing", "src port", "NFQUEUE"][..]),
        (&["-F", " "], &["-F", "is missing"]),
        (&["-F", "tcp and and"], &["-F", "tcp and and", "syntax", "src port"]),
        (&["-F", "tcp", "-b", "10.0.0"], &["-b", "`10.0.0`", "-b 10.0.0.3"]),
        (&["-F", "tcp", "-n", "16"], &["-n", "0 to 15"]),
        (&["-F", "tcp", "-s", "0"], &["-s", "1 to"]),
        (&["-F", "tcp", "-p", "70000"], &["70000"]),
        (&["-F", "tcp", "-i", "any,eth0"], &["-i", "any"]),
        (&["-F", "tcp", "-l", "/"], &["-l", "`/`"]),
        (&["-F", "tcp", "-x", "10.0.0.9"], &["-x", "-F", "contradict", "leave one out"]),
        (&["-i", "eth0", "--nfqueue", "1"], &["--nfqueue", "-i", "contradict"]),
        (&["-o", "8080", "--setup", "8080"], &["--setup", "-o", "contradict"]),
        (&["-F", "tcp", "-q", "2048"], &["-q", "-F", "contradict"]),
        (&["-F", "tcp", "-o", "80"], &["-F", "-o", "leave one out"]),
        (&["-o", "10.0.0.2"], &["-o", "the port is missing"]),
        (&["-x", "10.0.0.300"], &["-x", "not an IPv4 address"]),
        (&["-q", "0"], &["-q", "1 to"]),
        (&["--nfqueue", "65536"], &["65536"]),
        (&["--setup", "7", "-p", "7"], &["--setup", "intercept itself listens"]),
    ] {
        let message = check(words).unwrap_err();
        assert!(said.iter().all(|part| message.contains(part)), "{words:?}: {message}");
    }
}

#[test]
fn who_may_connect_is_read_and_told() {
    let files = ["--secret-file", "s", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"];
    let options = check(&[&["-F", "tcp", "--allow", "10.0.0.1,fd00::/64"][..], &files[..]].concat()).unwrap();
    assert_eq!(
        options.conditions().unwrap(),
        "come from 10.0.0.1/32, fd00::/64; speak TLS; show a certificate; know the secret"
    );
    assert!(options.security.secret.as_ref().unwrap().is_absolute());
    let toml = "filter = 'tcp'\nallow = ['10.0.0.1', 'fd00::/64']\nsecret-file = 's'\ntls-cert = 'c'\ntls-key = 'k'\n\
                tls-ca = 'a'\n";
    assert_eq!(Options::check(toml::from_str(toml).unwrap()).unwrap(), options);
    assert_eq!(check(&["-F", "tcp"]).unwrap().conditions(), None);
    for (words, said) in [
        (&["--allow", "10.0.0.0/40"][..], &["--allow", "0 to 32", "^"][..]),
        (&["--tls-cert", "c"], &["--tls-key"]),
        (&["--tls-ca", "c"], &["--tls-cert"]),
        (&["--secret-file", "/"], &["--secret-file", "`/`"]),
    ] {
        let message = check(&[&["-F", "tcp"], words].concat()).unwrap_err();
        assert!(said.iter().all(|part| message.contains(part)), "{words:?}: {message}");
    }
}

#[test]
fn tcpcopys_of_the_c_programs_are_served_as_they_were_built() {
    let options = check(&["-F", "tcp", "-n", "3"]).unwrap();
    let combined = LegacyFormat { records: RecordKind::Headers, combined: true };
    assert_eq!((options.single, options.legacy.single), (None, false));
    assert_eq!((options.legacy.format, options.legacy.max_batch), (combined, 3));
    let options = check(&["-F", "tcp", "--single", "--legacy-separate"]).unwrap();
    assert_eq!((options.single, options.legacy.single), (Some(Single::Newest), true));
    assert!(!options.legacy.format.combined);
    let from_file: Arguments =
        toml::from_str("filter = 'tcp'\nsingle = true\nrefuse-newcomers = true\nlegacy-payload = true\n").unwrap();
    let options = Options::check(from_file).unwrap();
    assert_eq!((options.single, options.legacy.format.records), (Some(Single::Oldest), RecordKind::WithPayload));
    assert_eq!(check(&["-F", "tcp", "--single", "-c", "--legacy-payload"]).unwrap(), options);

    for (words, said) in [
        (&["-c"][..], &["-c", "--single"][..]),
        (&["--legacy-payload", "--legacy-separate"], &["--legacy-payload", "--legacy-separate"]),
        (&["--single", "--secret-file", "s"], &["--single", "--secret-file", "--allow"]),
    ] {
        let message = check(&[&["-F", "tcp"], words].concat()).unwrap_err();
        assert!(said.iter().all(|part| message.contains(part)), "{words:?}: {message}");
    }
}

#[test]
fn a_report_names_what_was_dropped_and_only_that() {
    let mut relay = RelayStats { relayed: 3, responses: 5, ..RelayStats::default() };
    relay.dropped[RelayDrop::NoRoute as usize] = 2;
    let captures = CaptureStats { dropped: 7, ..CaptureStats::default() };
    let mut total = Total { relay, captures, workers: Vec::new() };
    let text = report::lines(&total, &ServerStats::default()).join("\n");
    for part in ["total resp packs:3, all:5", "dropped by kernel:7", "no route:2"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("malformed") && !text.contains("garbage") && !text.contains("worker"), "{text}");

    total.workers = vec![Counters::default(); 2];
    total.workers[1].relay.frames = 12;
    let text = report::lines(&total, &ServerStats::default()).join("\n");
    assert!(text.contains("worker 0: captured:0,") && text.contains("worker 1: captured:12,"), "{text}");
}

#[test]
fn workers_are_for_captures() {
    let workers = |words: &[&str]| check(&[&["-F", "tcp"], words].concat()).map(|options| options.workers);
    assert_eq!((workers(&[]), workers(&["--workers", "3"])), (Ok(1), Ok(3)));
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    assert_eq!(workers(&["--workers", "auto"]).map(usize::from), Ok(processors));
    let file: Arguments = toml::from_str("filter = 'tcp'\nworkers = 2").unwrap();
    assert_eq!(Options::check(file).unwrap().workers, 2);
    for (value, said) in [("0", "1 to 64"), ("65", "1 to 64"), ("two", "neither a number nor `auto`")] {
        let message = workers(&["--workers", value]).unwrap_err();
        assert!(message.contains(said) && message.contains("--workers"), "{message}");
    }
    // A queue has one reader.
    let message = check(&["--nfqueue", "5", "--workers", "2"]).unwrap_err();
    assert!(message.contains("NFQUEUE 5") && message.contains("one intercept for each"), "{message}");
    for one in ["1", "auto"] {
        assert_eq!(check(&["--nfqueue", "5", "--workers", one]).map(|options| options.workers), Ok(1));
    }
}
