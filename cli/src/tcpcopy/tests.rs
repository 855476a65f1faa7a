//! Command lines, as people find them in manuals and on pages.

use super::*;

/// The options, or the message (exit code 2 in every case).
fn read(line: &str) -> Result<Options, String> {
    let to_message = |early| match early {
        Early::Failure(failure) => {
            assert_eq!(failure.exit, Exit::Usage);
            failure.message
        }
        Early::Clap(e) => {
            assert!(e.use_stderr(), "{e}");
            e.to_string()
        }
    };
    let arguments = parse(line.split(' ').map(str::to_owned)).map_err(to_message)?;
    Options::check(arguments, &Catalogue::new::<&str>(BuiltIn::shipped(), &[]).unwrap(), &[])
        .map_err(|failure| to_message(failure.into()))
}

#[test]
fn command_lines_from_documents_work_unchanged() {
    for line in [
        "/usr/local/tcpcopy/sbin/tcpcopy -l /var/log/tcpcopy.log -x 80-2.2.2.2:80 -s 2.2.2.2 -d",
        "tcpcopy -x 80-182.118.7.56:80 -s 182.118.7.63 -c 192.168.1.100 -d -l tcpcopy.log -P /var/run/tcpcopy.pid",
        "./tcpcopy -x 80-10.120.12.211:28080 -s 10.120.12.161:36525",
        "./tcpcopy -x 80-192.168.0.2:80,8080-192.168.0.2:8080 -s 192.168.0.3",
        "./tcpcopy -x 8080-192.168.0.2:8080 -c 192.168.0.1 -s 192.168.0.3",
        "./tcpcopy -x 3306-10.130.12.161:3306 -s 10.130.12.1 -d",
        "tcpcopy -x 8080-192.168.56.11:8080 -c 192.168.56.x -s 192.168.56.12 -C 4 -t 900 -k 1000 -m 4096",
        "tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3:36524, 10.0.0.4:36525 -c 10.1.0.x,10.1.1.x -i eth0,eth1 -B 64 -M 1492 -D 1400 -OWLd",
        "tcpcopy -x80-10.0.0.2:80 -s10.0.0.3 -c10.1.0.x -F tcp",
        "./tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.3 -u user1@password1,user2@password2 -d",
        "tcpcopy --proto mysql -u app@secret,report@other -x 3306-10.0.0.2:3306 -s 10.0.0.3 -c 10.78.0.x",
        "tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.3 --mysql-skip-grant-tables --mysql-only reads --mysql-slow 50",
        "tcpcopy -x mysql:3306-10.0.0.2:3306,80-10.0.0.2:80 -s 10.0.0.3 -u app@secret",
        "./tcpcopy -x 80-192.168.0.2:8080",
        "./tcpcopy -x 80-192.168.0.2:8080 -f 1",
        "./tcpcopy -x 80-192.168.0.2:8080 -r 20",
        "./tcpcopy -x 80-192.168.0.2:80,8080-192.168.0.2:8080",
        "./tcpcopy -x 8080-192.168.0.2:8080 -c 192.168.0.1",
        "./tcpcopy -x 3306-10.130.12.161:3306 -d",
        "./tcpcopy -x 80-192.168.0.2:8080 -s 10.0.0.3 -r 20 -f 1",
        "./tcpcopy -x 80-192.168.0.2:8080 -s 10.0.0.3 -H 10.0.0.1",
        "./tcpcopy -x 80@00:16:3e:00:00:01-192.168.0.2:8080@00:16:3e:00:00:02 -o eth0 -s 10.0.0.3 -c 10.1.0.x -d",
        "./tcpcopy -x 80-192.168.0.2:8080 -o eth0,eth1 -i eth0 -s 10.0.0.3",
        "tcpcopy --map=80-10.0.0.2:80 --intercept=10.0.0.3 --lonely",
        "/opt/tcpcopy/sbin/tcpcopy -x 8000-192.168.33.13:8000 -s 192.168.33.12 -c 192.168.1.x -n 2 -d",
        "tcpcopy -i /tmp/online.pcap -x 8888-192.168.56.53:8080 -s 192.168.56.12 -c 192.168.50.x",
        "./tcpcopy -x 80-192.168.0.2:8080 -s 192.168.0.3 -a 2 -i online.pcap",
        "./tcpcopy -x 80-192.168.0.2:8080 -s 192.168.0.3 -I 1000 -i online.pcap",
        "./tcpcopy -x 110-10.0.0.148:110 -s 10.0.0.3 -i ./110.pcap -T 3",
        "./tcpcopy -x 80-192.168.0.2:8080 -s 192.168.0.3 -g -R 5 -U 2 -S 65535",
        "tcpcopy –x 80-192.168.56.11:8080 –s 192.168.56.12 –n 3",
        "tcpcopy –x 8080-192.168.56.11:8080 –c 192.168.56.x -s 192.168.56.12",
    ] {
        read(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    let spaced = read("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3:1, 10.0.0.4:2").unwrap();
    assert_eq!(spaced.intercepts, ["10.0.0.3:1".parse().unwrap(), "10.0.0.4:2".parse().unwrap()]);
}

#[test]
fn command_lines_that_cannot_work_say_why() {
    for (line, word) in [
        ("./tcpcopy -x 80-192.168.0.2:8080@00:16:3e:00:00:02 -s 10.0.0.3", "give the device with -o"),
        ("./tcpcopy -x 80-192.168.0.2:8080 -s 10.0.0.3 -T 2", "-T (--passes) is for the replay of a file"),
        ("tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.3 -u user1", "USER@PASSWORD"),
        ("tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.3 --proto mysql", "give users and their passwords"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 --proto tcp -u a@b", "--proto mysql"),
        ("tcpcopy -x 3306-10.0.0.2:3306 -s 10.0.0.3 -u a@b --mysql-only (", "in --mysql-only: regex parse error"),
        ("./tcpcopy -x 110-xxx.xxx.xxx.148:110 -s 10.0.0.3", "names are not looked up"),
        ("./tcpcopy -x 80-测试服务器IP:80 -d -s 10.0.0.3", "names are not looked up"),
        ("tcpcopy -x 80–192.168.56.11:8080 -s 10.0.0.3", "only looks like `-`"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 -g --ramp 5s", "leave one of the two out"),
        ("tcpcopy --mapp 80-192.168.56.11:8080", "--map"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 stray", "stray"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 -C two", "two"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 -M 70000", "70000"),
        ("tcpcopy -x 80-10.0.0.2:80 -s 10.0.0.3 --config /nonexistent/a.toml --mtu", "--mtu"),
    ] {
        let message = read(line).expect_err(line);
        assert!(message.contains(word), "{line}: {message}");
    }
}

/// Options without a long name stand on the command line only, and hold beside a file.
#[test]
fn short_options_hold_beside_a_configuration_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "map = '80-10.0.0.2:80'\nintercept = '10.0.0.3'\nramp = '5s'\n").unwrap();
    let of = |more: &str| {
        let line = format!("tcpcopy --config {} {more}", file.path().display());
        let arguments = parse(line.split_whitespace().map(str::to_owned)).ok().unwrap();
        check_arguments(arguments, BuiltIn::shipped()).unwrap()
    };
    let seconds = |more: &str| of(more).traffic.ramp.map(|ramp| ramp.as_secs());
    assert_eq!((seconds(""), seconds("-g"), seconds("--ramp 7s")), (Some(5), Some(100), Some(7)));
    let warnings = of("-R 5 -U 2 -S 65535").warnings;
    for option in ["-R has no effect", "-U has no effect", "-S has no effect"] {
        assert_eq!(warnings.iter().filter(|warning| warning.starts_with(option)).count(), 1, "{warnings:?}");
    }
}

#[test]
fn help_explains_every_option() {
    let Err(Early::Clap(help)) = parse(["tcpcopy", "-h"].map(str::to_owned)) else { panic!("no help") };
    assert!(!help.use_stderr());
    let text = help.to_string();
    for option in "xscpCiFBMDOWLtkmlPdhvnfrHuaITo".chars() {
        assert!(text.contains(&format!("\n  -{option}, --")), "-{option} is missing in:\n{text}");
    }
    for option in [
        "--workers",
        "--config",
        "--stats-interval",
        "--log-level",
        "--max-rate",
        "--decap <TUNNEL",
        "--promiscuous",
        "--capture <pcap|raw>",
        "--ramp",
        "--sample-by",
        "--preserve-rtt",
        "--as-fast-as-possible",
        "--response-device",
        "--response-filter",
        "-g ",
        "-R <",
        "-U <",
        "-S <",
        "--proto <NAME|FILE>",
        "--proto-opt",
        "--module-dir",
        "--mysql-skip-grant-tables",
        "--mysql-only",
        "tcpcopy modules",
        "tcpcopy demo",
    ] {
        assert!(text.contains(option), "{option} is missing in:\n{text}");
    }
}
