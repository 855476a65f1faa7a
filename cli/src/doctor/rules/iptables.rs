//! What `iptables-save` and `ip6tables-save` print.

use ipnet::IpNet;
use tcpcopy_wire::Transport;

use super::{Action, Base, Chain, Condition, Hook, Ports, Rule, Table};

/// The tables of a listing.
pub(super) fn tables(text: &str, ipv4: bool) -> Vec<Table> {
    let program = if ipv4 { "iptables" } else { "ip6tables" };
    let mut tables = Vec::new();
    let mut name = String::new();
    let mut table = Table { ipv4, ipv6: !ipv4, ..Table::default() };
    for line in text.lines() {
        if let Some(begun) = line.strip_prefix('*') {
            begun.clone_into(&mut name);
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (Some(chain), policy) = (words.next(), words.next()) else { continue };
            let base = hook(chain).map(|hook| Base {
                hook,
                priority: priority(&name, hook),
                drops: policy == Some("DROP"),
                text: format!("{program} -t {name} -P {chain} DROP"),
            });
            table.chains.insert(chain.to_owned(), Chain { base, rules: Vec::new() });
        } else if line.starts_with("-A ") {
            let words = words(line);
            let Some(chain) = words.get(1) else { continue };
            let text = format!("{program} -t {name} {line}");
            table.chains.entry(chain.clone()).or_default().rules.push(rule(&words[2..], text));
        } else if line == "COMMIT" {
            let next = Table { ipv4, ipv6: !ipv4, ..Table::default() };
            tables.push(std::mem::replace(&mut table, next));
        }
    }
    tables
}

fn hook(chain: &str) -> Option<Hook> {
    Some(match chain {
        "INPUT" => Hook::Input,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// `NF_IP_PRI_*` of `linux/netfilter_ipv4.h`.
fn priority(table: &str, hook: Hook) -> i64 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" if hook == Hook::Output => -100,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    }
}

/// The words of a line; those in quotation marks may have spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

fn rule(words: &[String], text: String) -> Rule {
    let mut rule = Rule { conditions: Vec::new(), action: Action::Nothing, text };
    let mut at = 0;
    let mut negated = false;
    while let Some(word) = words.get(at) {
        let value = words.get(at + 1).map_or("", String::as_str);
        at += 1;
        let mut add = |condition| rule.conditions.push((std::mem::take(&mut negated), condition));
        let takes_value = match word.as_str() {
            "!" => {
                negated = true;
                continue;
            }
            "-s" => {
                add(net(value).map_or(Condition::Unknown, |net| Condition::From(vec![net])));
                true
            }
            "-d" => {
                add(net(value).map_or(Condition::Unknown, |net| Condition::To(vec![net])));
                true
            }
            "-p" => {
                add(match value {
                    "tcp" | "6" => Condition::Transport(vec![Transport::Tcp]),
                    "udp" | "17" => Condition::Transport(vec![Transport::Udp]),
                    "all" | "0" => Condition::Always,
                    _ => Condition::Transport(Vec::new()),
                });
                true
            }
            "-i" => {
                add(Condition::InDevice(vec![value.to_owned()]));
                true
            }
            "-o" => {
                add(Condition::OutDevice(vec![value.to_owned()]));
                true
            }
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                add(ports(value).map_or(Condition::Unknown, Condition::ToPort));
                true
            }
            "--state" | "--ctstate" => {
                add(Condition::State(value.split(',').map(str::to_owned).collect()));
                true
            }
            "--syn" => {
                add(Condition::First);
                false
            }
            "--tcp-flags" => {
                let wanted = words.get(at + 1).map_or("", String::as_str);
                let asked = |flag: &str| value.split(',').any(|name| name == flag);
                add(if wanted == "SYN" && asked("SYN") { Condition::First } else { Condition::Unknown });
                at += 1;
                true
            }
            "-j" => {
                rule.action = action(value);
                // What follows belongs to the action.
                if value == "CT" && words[at..].iter().any(|word| word == "--notrack") {
                    rule.action = Action::Untrack;
                }
                break;
            }
            "-g" => {
                rule.action = Action::Goto(value.to_owned());
                break;
            }
            // What they load is named by its own options.
            "-m" => {
                if !matches!(value, "tcp" | "udp" | "state" | "conntrack" | "multiport" | "comment") {
                    add(Condition::Unknown);
                }
                true
            }
            "--comment" => true,
            // Of a match that is counted above already, or of one of the known ones that says what is not known here.
            _ if word.starts_with('-') => {
                add(Condition::Unknown);
                false
            }
            _ => false,
        };
        at += usize::from(takes_value);
    }
    rule
}

/// What a target of iptables does.
pub(super) fn action(target: &str) -> Action {
    match target {
        "ACCEPT" => Action::Accept,
        "DROP" => Action::Drop("drops it".to_owned()),
        "REJECT" => Action::Drop("rejects it".to_owned()),
        "RETURN" => Action::Return,
        "NOTRACK" => Action::Untrack,
        "SNAT" | "MASQUERADE" | "NETMAP" => Action::Rewrite("changes its source address".to_owned()),
        "DNAT" | "REDIRECT" | "TPROXY" => Action::Rewrite("changes its destination".to_owned()),
        "QUEUE" | "NFQUEUE" => Action::Unknown("hands it to a program".to_owned()),
        "TCPMSS" | "MARK" | "CONNMARK" | "LOG" | "NFLOG" | "CT" | "CLASSIFY" | "DSCP" | "TOS" | "TTL" | "CHECKSUM"
        | "SET" | "TRACE" | "AUDIT" | "ULOG" => Action::Nothing,
        own => Action::Jump(own.to_owned()),
    }
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address)))
}

/// `80`, `80:90`, `80,90:99`.
fn ports(text: &str) -> Option<Vec<Ports>> {
    text.split(',')
        .map(|part| match part.split_once(':') {
            None => part.parse().ok().map(|port| (port, port)),
            Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        })
        .collect()
}
