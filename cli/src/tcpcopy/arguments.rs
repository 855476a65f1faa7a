//! The options of tcpcopy as they are written, on the command line or in the configuration file.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::{ArgAction, Parser};
use serde::{Deserialize, Serialize};

use super::modules::settings::Tables;
use crate::config::{Text, is_off, one_or_many};
use crate::program::{TCPCOPY, list};

/// Copies what the clients of a production server send to a test server, as it happens.
#[derive(Clone, Debug, Default, PartialEq, Parser, Serialize, Deserialize)]
#[command(
    name = "tcpcopy",
    version,
    styles = Styles::plain(),
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "tcpcopy -x MAP[,MAP...] [-s INTERCEPT[,INTERCEPT...]] [-c ADDRESSES] [options]\n       \
        tcpcopy COMMAND [options]",
    after_help = format!(
        "Example, on the production server 10.0.0.1, with the test server 10.0.0.2 and intercept on 10.0.0.3:\n\n  \
        tcpcopy -x 80-10.0.0.2:8080 -s 10.0.0.3 -c 10.78.0.x\n\n\
        where 10.0.0.2 routes its answers to 10.78.0.0/16 via 10.0.0.3 (ip route add 10.78.0.0/16 via 10.0.0.3).\n\n\
        Commands:\n\n{}\n\
        Exit codes: 0 done, 1 failure while running, 2 wrong options, 3 no permission, 4 intercept not reachable, \
         5 a condition of --stop-if.",
        list("tcpcopy", TCPCOPY)
    )
)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Arguments {
    /// What to copy: the port (and address, if not every one) of the online server, `-`, address and port of the
    /// target. The first map that fits a packet is used; over UDP, all of them. IPv6 in brackets:
    /// [fd00::1]:80-[fd00::2]:8080. In front, the protocol module, if it is not that of --proto, by its name or file:
    /// udp:53-10.0.0.2:53.
    #[arg(
        short = 'x',
        long,
        value_name = "[MODULE:][ADDR:]PORT-ADDR:PORT",
        help_heading = "What to copy, and where to"
    )]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<String>,

    /// Addresses that the copies come from, as the target sees it: addresses, a.b.c.x (1 to 254), networks
    /// (10.1.0.0/20) and ranges (10.1.0.1-10.1.0.9). The target must route them to intercept. Without this the copies
    /// have their clients' addresses, and so must the route.
    #[arg(short = 'c', long, value_name = "ADDR[,ADDR...]", help_heading = "What to copy, and where to")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<String>,

    /// Copy only connections whose beginning was seen. Otherwise connections that are open already are joined.
    #[arg(short = 'O', long, help_heading = "What to copy, and where to")]
    #[serde(skip_serializing_if = "is_off")]
    pub only_whole_sessions: bool,

    /// Do not hold a request back until the target has answered the one before it.
    #[arg(short = 'W', long, help_heading = "What to copy, and where to")]
    #[serde(skip_serializing_if = "is_off")]
    pub no_wait: bool,

    /// Be as far away from the target as each client is from online: the round-trip time that its handshake took passes
    /// between a response and what follows it, acknowledgements and requests.
    #[arg(long, help_heading = "What to copy, and where to")]
    #[serde(skip_serializing_if = "is_off")]
    pub preserve_rtt: bool,

    /// So many times as fast as the file was captured: 2, or 0.5 [default: 1].
    #[arg(short = 'a', long, value_name = "N", help_heading = "Replay of files (-i FILE)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<Text>,

    /// Leave out pauses between packets to be copied that are longer than this.
    #[arg(short = 'I', long, value_name = "MILLISECONDS", help_heading = "Replay of files (-i FILE)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_gaps: Option<u64>,

    /// So many times, each time from other addresses or ports [default: 1].
    #[arg(short = 'T', long, value_name = "N", help_heading = "Replay of files (-i FILE)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<u32>,

    /// Without the file's times: each request goes out as soon as the target has answered the one before it.
    #[arg(long, help_heading = "Replay of files (-i FILE)")]
    #[serde(skip_serializing_if = "is_off")]
    pub as_fast_as_possible: bool,

    /// Protocol module for the maps that name none, by its name or file: tcp, udp, mysql, ./libtcpcopy_own.so [default:
    /// tcp, unless tcpcopy was built with another; with one of MySQL's options mysql].
    #[arg(long, value_name = "NAME|FILE", help_heading = "Protocol modules")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,

    /// Folder with modules in files libtcpcopy_NAME.so, looked through before the standard ones (/usr/local/lib/tcpcopy,
    /// /usr/lib/tcpcopy); may be given several times.
    #[arg(long, value_name = "DIR", help_heading = "Protocol modules")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub module_dir: Vec<String>,

    /// An option of the module of --proto, or of the one that is named. In a configuration file also as a table
    /// [module.NAME]. See tcpcopy modules.
    #[arg(long, value_name = "[NAME.]KEY=VALUE", help_heading = "Protocol modules")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub proto_opt: Vec<String>,

    /// The tables [module.NAME] of a configuration file.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Tables::is_empty")]
    pub module: Tables,

    /// Users and their passwords on the target, which the copies log in with; or a file with one USER@PASSWORD in each
    /// line, which ps does not show.
    #[arg(short = 'u', long = "mysql-user", value_name = "USER@PASSWORD[,...]|@FILE", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_user: Option<String>,

    /// The target runs with --skip-grant-tables and checks no passwords; -u is not needed.
    #[arg(long, help_heading = "MySQL")]
    #[serde(skip_serializing_if = "is_off")]
    pub mysql_skip_grant_tables: bool,

    /// What to do with a user that -u does not have: refuse its sessions, or log it in with an empty password [default:
    /// refuse].
    #[arg(long, value_name = "refuse|empty", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_unknown_user: Option<String>,

    /// The database of sessions that are open when tcpcopy starts, which it logs in as the first user of -u.
    #[arg(long, value_name = "NAME", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_default_db: Option<String>,

    /// Copy statements that only read, or those whose text matches a regular expression, and leave the rest out.
    #[arg(long, value_name = "reads|PATTERN", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_only: Option<String>,

    /// Leave statements out whose text matches a regular expression.
    #[arg(long, value_name = "PATTERN", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_skip: Option<String>,

    /// Count statements that take the target longer than this [default: 1000].
    #[arg(long, value_name = "MILLISECONDS", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_slow: Option<Text>,

    /// Write each statement with the response times of online and target to this file, as JSON, one a line.
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql_log: Option<String>,

    /// Copies of each connection and datagram, 1 to 1023, each from an address or port of its own [default: 1].
    #[arg(short = 'n', long, value_name = "N", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<u16>,

    /// Number of this tcpcopy, 0 to 31, where several copy the same clients to one target: each number has source ports
    /// of its own [default: 0].
    #[arg(short = 'f', long, value_name = "N", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u8>,

    /// Connections of a hundred that are copied, 1 to 100, or clients over UDP: by address and port, always the same ones; 0
    /// means all [default: 100].
    #[arg(short = 'r', long, value_name = "N", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage: Option<u16>,

    /// What -r chooses: connections, or clients by their address, with all their connections [default: session].
    #[arg(long, value_name = "session|client", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_by: Option<String>,

    /// Begin with nothing, and let the percentage grow to that of -r in this time from the first packet on: 90s, 10m, 2h.
    #[arg(long, value_name = "DURATION", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Text>,

    /// The same as --ramp 100s.
    #[arg(short = 'g', help_heading = "How much to copy")]
    #[serde(skip)]
    pub grow: bool,

    /// Begin no more than so many connections, and copy no more than so many datagrams, a second; or bytes, with a unit: 8MB,
    /// 64kB. A connection is copied whole or not at all. What is left out is counted. Several workers have an equal part
    /// each.
    #[arg(long, value_name = "N[kB|MB|GB]", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Text>,

    /// Source address in the place of 127.0.0.1 and ::1, for clients on this host.
    #[arg(short = 'H', long, value_name = "ADDR", help_heading = "How much to copy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback_source: Option<IpAddr>,

    /// Where intercept runs. Of several, each is told of every connection, and reports what it sees of it. `local`: the
    /// target's responses come to this host, and tcpcopy captures them itself. Without it intercept is looked for on the
    /// targets themselves (intercept --nfqueue); where all maps are over UDP there need be none, but responses are not
    /// counted then.
    #[arg(short = 's', long, value_name = "ADDR[:PORT][,...]|local", help_heading = "Intercept")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub intercept: Vec<String>,

    /// Intercept's port where -s does not give one [default: 36524].
    #[arg(short = 'p', long, value_name = "PORT", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,

    /// Connections to each intercept, 1 to 16. More of them carry less each, at a higher price [default: 1].
    #[arg(short = 'C', long, value_name = "N", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,

    /// Start, and go on, while no intercept can be reached; keep trying. Otherwise an intercept that cannot be reached
    /// at the start ends the program.
    #[arg(short = 'L', long, visible_alias = "lonely", help_heading = "Intercept")]
    #[serde(alias = "lonely", skip_serializing_if = "is_off")]
    pub keep_trying: bool,

    /// What to speak with intercept: 2, the link of this release; legacy, that of the C programs (tcpcopy and intercept 1.0
    /// and later, over IPv4), where intercept is one of those; legacy-payload, where that was built with
    /// --with-resp-payload, as MySQL needs [default: 2, with --single legacy].
    #[arg(long, value_name = "2|legacy|legacy-payload", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intercept_protocol: Option<Text>,

    /// Tell intercept of no connection: it was started (a C program: built) with --single, and reports every response that
    /// it sees to this tcpcopy.
    #[arg(long, help_heading = "Intercept")]
    #[serde(skip_serializing_if = "is_off")]
    pub single: bool,

    /// Prove to intercept that both know the same secret, and have it prove the same: the first line of this file, 16 bytes or
    /// more. The file must be readable by its owner only.
    #[arg(long, value_name = "FILE", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,

    /// Speak TLS with intercept, and only with one whose certificate this authority signed (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,

    /// The name in intercept's certificate [default: the address of -s].
    #[arg(long, value_name = "NAME", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_name: Option<String>,

    /// Certificate to show to an intercept that asks for one (PEM), with --tls-key.
    #[arg(long, value_name = "FILE", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,

    /// With -s local, devices on which the target's responses come in [default: any].
    #[arg(long, value_name = "DEVICE[,DEVICE...]", help_heading = "Intercept")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub response_device: Vec<String>,

    /// With -s local, capture filter for the target's responses (pcap-filter(7)), instead of the one made from the maps.
    #[arg(long, value_name = "FILTER", help_heading = "Intercept")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_filter: Option<String>,

    /// Network devices to capture on [default: any]; or files to replay, in pcap or pcapng format, as they are or packed by
    /// gzip or zstd, one after the other; `-` is standard input.
    #[arg(short = 'i', long, value_name = "DEVICE|FILE[,...]", help_heading = "Capture", allow_hyphen_values = true)]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<String>,

    /// Capture filter in the language of tcpdump (pcap-filter(7)), instead of the one made from the maps.
    #[arg(short = 'F', long, value_name = "FILTER", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,

    /// Size of the capture buffer of each device and worker, in MB [default: 32].
    #[arg(short = 'B', long, value_name = "MB", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<u32>,

    /// How to capture: by libpcap, with a ring shared with the kernel, or by a raw packet socket of tcpcopy's own, where
    /// libpcap is too old or in the way. With raw, -F cannot ask for a VLAN's number [default: pcap].
    #[arg(long, value_name = "pcap|raw", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,

    /// Tunnels in which a switch or cloud delivers mirrored traffic, and out of which it is copied: vxlan[:PORT], gre, erspan
    /// (types I to III), geneve[:PORT]; vlan where there is none. VLAN tags are always understood. The device is captured
    /// on as with --promiscuous.
    #[arg(long, value_name = "TUNNEL[,TUNNEL...]", help_heading = "Capture")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub decap: Vec<String>,

    /// Also take packets that are addressed to other hosts: where -i is the receiving end of a switch's mirror.
    #[arg(long, help_heading = "Capture")]
    #[serde(skip_serializing_if = "is_off")]
    pub promiscuous: bool,

    /// Send whole frames on these devices, past this host's routes' and firewall's sight, to the next hop that the routes
    /// name. In -x the MAC address of device and next hop may be given:
    /// 80@02:00:00:00:00:01-10.0.0.2:80@02:00:00:00:00:02. Of several devices each target has the one that its route
    /// or the first address names.
    #[arg(short = 'o', long, value_name = "DEVICE[,DEVICE...]", help_heading = "Sending")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub output_device: Vec<String>,

    /// Largest IP packet to send, in bytes; larger ones are cut into segments that fit [default: 1500].
    #[arg(short = 'M', long, value_name = "BYTES", help_heading = "Sending")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,

    /// Largest segment size (MSS) that a copy announces to the target, in bytes [default: 1460].
    #[arg(short = 'D', long, value_name = "BYTES", help_heading = "Sending")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,

    /// Give a connection up when data waits for the target and it has sent nothing for this long [default: 600].
    #[arg(short = 't', long, value_name = "SECONDS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_timeout: Option<u32>,

    /// Give a connection up when nothing at all has happened on it for this long [default: 120 more than -t].
    #[arg(short = 'k', long, value_name = "SECONDS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,

    /// Take no new connections while the present ones need more memory than this, in MB [default: 2048].
    #[arg(short = 'm', long, value_name = "MB", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,

    /// Threads that share the work, each with a part of the connections; `auto`: one for each processor, as far as -c has
    /// addresses for them [default: 1].
    #[arg(long, value_name = "N|auto", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Text>,

    /// Yield the processor to others: 19 to everything else, 0 as any program [default: as it is started].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,

    /// Use no more than so much of one processor; 150 is one and a half. Above it fewer new connections are copied, and if
    /// that is not enough the newest are closed; what is copied is not slowed down.
    #[arg(long, value_name = "PERCENT", help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Text>,

    /// Begin no new connection while so many are copied, and remember no more clients of UDP [default: 4194304].
    #[arg(long, value_name = "N", help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,

    /// End, with exit code 5, when this is so for 10 seconds, or as long as is said: errors>5%, lag>2s, cpu>85% (of the
    /// host), load>8, memory>512M; `lag>2s for 1m`. May be given several times.
    #[arg(long, value_name = "CONDITION", help_heading = "Protection of this host")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub stop_if: Vec<String>,

    /// Run as this user once everything is open, with no more privileges than capturing needs.
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,

    /// Write a report of the run to this file at its end: a page to look at, and to show to others.
    #[arg(long, value_name = "FILE.html", help_heading = "Report")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<PathBuf>,

    /// Write what was counted to this file while it runs, an object of JSON in each line, every second at first and less
    /// often later. `tcpcopy report FILE` makes a page of it, also after a crash.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_file: Option<PathBuf>,

    /// Measure how long online takes to begin its answers, to compare the target with: what online sends is captured, too.
    #[arg(long, help_heading = "Report")]
    #[serde(skip_serializing_if = "is_off")]
    pub measure_online: bool,

    /// Append the log to this file; HUP opens it again [default: stderr, with -d error_tcpcopy.log].
    #[arg(short = 'l', long, value_name = "FILE", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,

    /// What is logged: error, warn, info or debug [default: info].
    #[arg(long, value_name = "LEVEL", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,

    /// How lines of the log look: text, or json, an object a line [default: text].
    #[arg(long, value_name = "text|json", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,

    /// Seconds between statistics in the log; 0 for none [default: 30].
    #[arg(long, value_name = "SECONDS", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_interval: Option<u32>,

    /// Serve metrics for Prometheus over HTTP at this address and port, at /metrics; without an address, for this host only.
    #[arg(long, value_name = "[ADDR:]PORT", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Text>,

    /// Where tcpcopy top, status, pause, resume and set reach this process, which only its user and root may: a unix socket, which
    /// is made and goes away with the process; none for no such thing [default: tcpcopy-PID.sock in /run/tcpcopy, or in
    /// $XDG_RUNTIME_DIR/tcpcopy, where those commands look].
    #[arg(long, value_name = "FILE|none", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,

    /// Write the process id to this file, and remove it at the end.
    #[arg(short = 'P', long, value_name = "FILE", help_heading = "Program")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<PathBuf>,

    /// Run in the background.
    #[arg(short = 'd', long, help_heading = "Program")]
    #[serde(skip_serializing_if = "is_off")]
    pub daemon: bool,

    /// Read options from this TOML file, by their long names; the command line wins.
    #[arg(long, value_name = "FILE", help_heading = "Program")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Accepted for command lines of the C program, where it was without effect.
    #[arg(short = 'R', value_name = "MILLISECONDS", help_heading = "Without effect")]
    #[serde(skip)]
    pub c_rtt: Option<String>,

    /// Accepted for command lines of the C program: memory of connections needs no pool here.
    #[arg(short = 'U', value_name = "KB", help_heading = "Without effect")]
    #[serde(skip)]
    pub c_pool: Option<String>,

    /// Accepted for command lines of the C program: packets are always captured whole. (In tcpcopy 0.9 this was the MSS: use
    /// -D.)
    #[arg(short = 'S', value_name = "BYTES", help_heading = "Without effect")]
    #[serde(skip)]
    pub c_snaplen: Option<String>,

    /// Print this help.
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = "Program")]
    #[serde(skip)]
    help: Option<bool>,

    /// Print the version.
    #[arg(short = 'v', long, short_alias = 'V', action = ArgAction::Version, help_heading = "Program")]
    #[serde(skip)]
    version: Option<bool>,
}

impl Arguments {
    /// The options of module `mysql` that have names of their own: key and value, and the name.
    pub fn mysql_options(&self) -> Vec<(&'static str, String, &'static str)> {
        let skip_grant_tables = self.mysql_skip_grant_tables.then(|| "yes".to_owned());
        let slow = self.mysql_slow.as_ref().map(|slow| slow.0.clone());
        [
            ("user", self.mysql_user.clone(), "-u (--mysql-user)"),
            ("skip-grant-tables", skip_grant_tables, "--mysql-skip-grant-tables"),
            ("unknown-user", self.mysql_unknown_user.clone(), "--mysql-unknown-user"),
            ("default-db", self.mysql_default_db.clone(), "--mysql-default-db"),
            ("only", self.mysql_only.clone(), "--mysql-only"),
            ("skip", self.mysql_skip.clone(), "--mysql-skip"),
            ("slow", slow, "--mysql-slow"),
            ("log", self.mysql_log.clone(), "--mysql-log"),
        ]
        .into_iter()
        .filter_map(|(key, value, name)| Some((key, value?, name)))
        .collect()
    }
}
