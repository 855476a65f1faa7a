//! The options of intercept as they are written, on the command line or in the configuration file.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::{ArgAction, Parser};
use serde::{Deserialize, Serialize};

use crate::config::{Text, is_off, one_or_many};
use crate::program::{INTERCEPT, list};

/// Reports to tcpcopy what the test server answers to the copies.
#[derive(Clone, Debug, Default, PartialEq, Parser, Serialize, Deserialize)]
#[command(
    name = "intercept",
    version,
    styles = Styles::plain(),
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "intercept -F FILTER [-i DEVICE[,DEVICE...]] [options]\n       \
        intercept [--nfqueue N] [--setup PORT[,PORT...]] [-x ADDR[,ADDR...]] [options]\n       \
        intercept COMMAND [options]",
    after_help = format!("Examples, on the host to which the test server 10.0.0.2 routes its answers to 10.78.0.0/16:\n\n  \
        intercept -i eth0 -F 'tcp and src host 10.0.0.2 and src port 8080'\n  \
        intercept -i eth0 -F 'src host 10.0.0.2 and (tcp src port 8080 or udp src port 53)'\n\n\
        The second is for copies over TCP and UDP. Over IPv6, answers above the MTU hide their ports from a filter; \
        `or (ip6[6] = 44 and ip6[40] = 17)` behind it lets them in.\n\n\
        That host must not forward these answers (sysctl net.ipv4.ip_forward=0).\n\n\
        Example, on the test server itself, with no other host and no route; 10.0.0.9 can still use the server on port \
        8080:\n\n  \
        intercept --nfqueue 0 --setup 8080 -x 10.0.0.9\n\n\
        Commands:\n\n{}\n\
        Exit codes: 0 done, 1 failure while running, 2 wrong options, 3 no permission.",
        list("intercept", INTERCEPT)
    )
)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Arguments {
    /// Which packets to look at, in the language of tcpdump (pcap-filter(7)): those that the test server sends.
    #[arg(short = 'F', long, value_name = "FILTER", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,

    /// Network devices to capture on [default: any].
    #[arg(short = 'i', long, value_name = "DEVICE[,DEVICE...]", help_heading = "Capture")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<String>,

    /// Capture what comes over TCP from these ports, of this address or of any, in the place of -F.
    #[arg(short = 'o', long, value_name = "[ADDR:]PORT[,...]", help_heading = "Capture")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<String>,

    /// Size of the capture buffer of each device, or of the queue's buffer, in MB [default: 6, for a queue 32].
    #[arg(short = 'B', long, value_name = "MB", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<u32>,

    /// Threads that share the work, each with captures of its own and a part of the connections; `auto`: one for each
    /// processor. Each needs memory for all routes. A queue has one reader: with --nfqueue this is 1 [default: 1].
    #[arg(long, value_name = "N|auto", help_heading = "Capture")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Text>,

    /// An address that responses are seen to go to, and the one of -c that the copies were sent from, where something on
    /// the way, such as a container's host, changed it. Ports must be as they were.
    #[arg(short = 'D', long, value_name = "SEEN-SENT[,...]", help_heading = "Capture")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub client_address: Vec<String>,

    /// Find the connection of a response without the test server's address, which DNAT on the way changed: for copies to
    /// one address of -x. Ports must be as they were.
    #[arg(long, help_heading = "Capture")]
    #[serde(skip_serializing_if = "is_off")]
    pub dnat: bool,

    /// Run on the test server itself, and read its answers from this NFQUEUE, 0 to 65535: what is for the copies is
    /// reported and dropped. A full queue lets answers through. Without -F, -o and -i this is what intercept does
    /// [default: 0].
    #[arg(long, value_name = "N", help_heading = "On the test server (NFQUEUE)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfqueue: Option<u16>,

    /// Ports whose answers go to the queue, of TCP or with udp: in front of UDP: makes the rules of iptables at the start
    /// and removes them at the end, after a kill at the next start. Without this the log says what to type.
    #[arg(long, value_name = "PORT[,PORT...]", help_heading = "On the test server (NFQUEUE)")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,

    /// Addresses and networks that the test server answers all the same: for those who administer or use it meanwhile.
    #[arg(short = 'x', long, value_name = "ADDR[,ADDR...]", help_heading = "On the test server (NFQUEUE)")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub passlist: Vec<String>,

    /// Packets that may wait in the queue [default: 8192].
    #[arg(short = 'q', long, value_name = "N", help_heading = "On the test server (NFQUEUE)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u32>,

    /// Port that tcpcopy connects to [default: 36524].
    #[arg(short = 'p', long, value_name = "PORT", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,

    /// Address of this host that tcpcopy connects to [default: every one].
    #[arg(short = 'b', long, value_name = "ADDR", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,

    /// Addresses and networks that tcpcopy may connect from; others are closed at once [default: all].
    #[arg(long, value_name = "CIDR[,CIDR...]", help_heading = "Tcpcopy")]
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,

    /// Prove to each tcpcopy that both know the same secret, and have it prove the same: the first line of this file, 16 bytes or
    /// more. The file must be readable by its owner only.
    #[arg(long, value_name = "FILE", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,

    /// Serve TLS, and nothing else, with this certificate (PEM); needs --tls-key.
    #[arg(long, value_name = "FILE", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,

    /// Over TLS, serve only those who show a certificate that this authority signed (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,

    /// For tcpcopys of the C programs that were built with --single, and for tcpcopy --single: they register no connections,
    /// so every response that -F lets in goes to the one tcpcopy that is served, the newest.
    #[arg(long, help_heading = "Tcpcopys of the C programs (1.0 and later)")]
    #[serde(skip_serializing_if = "is_off")]
    pub single: bool,

    /// With --single: the one tcpcopy that is served is the oldest; newcomers are turned away while it is there.
    #[arg(short = 'c', long, help_heading = "Tcpcopys of the C programs (1.0 and later)")]
    #[serde(skip_serializing_if = "is_off")]
    pub refuse_newcomers: bool,

    /// Send them payload of up to 128 bytes with each response, as the C intercept does when built with
    /// --with-resp-payload; for those that were built for it, all of them at this intercept.
    #[arg(long, help_heading = "Tcpcopys of the C programs (1.0 and later)")]
    #[serde(skip_serializing_if = "is_off")]
    pub legacy_payload: bool,

    /// Send them each response by itself, for those that were built with --disable-combined.
    #[arg(long, help_heading = "Tcpcopys of the C programs (1.0 and later)")]
    #[serde(skip_serializing_if = "is_off")]
    pub legacy_separate: bool,

    /// Connections for whose routes there is room from the start, 1 to 4194304; more are taken as they come
    /// [default: 65536].
    #[arg(short = 's', long, value_name = "N", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_size: Option<u32>,

    /// Responses that are put together into one write at most, 0 to 15; 0 puts together whatever has been captured
    /// when it is time to write [default: 0].
    #[arg(short = 'n', long, value_name = "N", help_heading = "Tcpcopy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub combined: Option<u8>,

    /// Yield the processor to others: 19 to everything else, 0 as any program [default: as it is started].
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,

    /// Run as this user once everything is open, with no more privileges than capturing, the queue and its rules need.
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Protection of this host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,

    /// Append the log to this file; HUP opens it again [default: stderr, with -d error_intercept.log].
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

    /// Where intercept status and set reach this process, which only its user and root may: a unix socket, which is made and
    /// goes away with the process; none for no such thing [default: intercept-PID.sock in /run/tcpcopy, or in
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

    /// Print this help.
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = "Program")]
    #[serde(skip)]
    help: Option<bool>,

    /// Print the version.
    #[arg(short = 'v', long, action = ArgAction::Version, help_heading = "Program")]
    #[serde(skip)]
    version: Option<bool>,
}
