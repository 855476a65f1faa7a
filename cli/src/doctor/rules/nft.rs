//! What `nft -j list ruleset` prints (libnftables-json(5)).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;
use tcpcopy_wire::Transport;

use super::{Action, Base, Chain, Condition, Hook, Ports, Rule, Table};

/// Tables that iptables keeps in nftables. They are read from its own listing, whose matches are all understood there.
const OF_IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// The tables of a listing; of those of iptables and ip6tables only if these were not listed themselves.
pub(super) fn tables(text: &str, has_iptables: bool, has_ip6tables: bool) -> Vec<Table> {
    let Ok(listing) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let mut tables: BTreeMap<(String, String), Table> = BTreeMap::new();
    for item in listing["nftables"].as_array().into_iter().flatten() {
        let Some((kind, body)) = item.as_object().and_then(|object| object.iter().next()) else { continue };
        let (family, table_name) = match kind.as_str() {
            "chain" | "rule" => (text_of(body, "family"), text_of(body, "table")),
            _ => continue,
        };
        let listed = (has_iptables && family == "ip") || (has_ip6tables && family == "ip6");
        let chain_name = text_of(body, if kind == "chain" { "name" } else { "chain" });
        let is_of_iptables = OF_IPTABLES.contains(&table_name) && chain_name.chars().all(|c| !c.is_ascii_lowercase());
        if (listed && is_of_iptables) || !matches!(family, "ip" | "ip6" | "inet") {
            continue;
        }
        let table = tables.entry((family.to_owned(), table_name.to_owned())).or_insert_with(|| Table {
            ipv4: family != "ip6",
            ipv6: family != "ip",
            ..Table::default()
        });
        let chain: &mut Chain = table.chains.entry(chain_name.to_owned()).or_default();
        if kind == "chain" {
            chain.base = base(body, &format!("nft chain {family} {table_name} {chain_name}"));
        } else {
            let handle = &body["handle"];
            let text = format!("nft rule {family} {table_name} {chain_name} handle {handle}");
            chain.rules.push(rule(&body["expr"], text));
        }
    }
    tables.into_values().collect()
}

fn text_of<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key].as_str().unwrap_or_default()
}

fn base(chain: &Value, text: &str) -> Option<Base> {
    let hook = match chain["hook"].as_str()? {
        "input" => Hook::Input,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    let drops = chain["policy"].as_str() == Some("drop");
    Some(Base { hook, priority: chain["prio"].as_i64().unwrap_or(0), drops, text: format!("{text} policy drop") })
}

fn rule(expressions: &Value, text: String) -> Rule {
    let mut rule = Rule { conditions: Vec::new(), action: Action::Nothing, text };
    for expression in expressions.as_array().into_iter().flatten() {
        let Some((kind, body)) = expression.as_object().and_then(|object| object.iter().next()) else { continue };
        let target = || text_of(body, "target").to_owned();
        rule.action = match kind.as_str() {
            "match" => {
                // `tcp dport 80` is about TCP alone, `ip daddr` about IPv4, whatever else they say.
                let protocol = &body["left"]["payload"]["protocol"];
                rule.conditions.extend(match protocol.as_str() {
                    Some("tcp" | "udp") => Some((false, Condition::Transport(transports(protocol)))),
                    Some("ip") => Some((false, Condition::Ipv4)),
                    Some("ip6") => Some((false, Condition::Ipv6)),
                    _ => None,
                });
                rule.conditions.push((body["op"] == "!=", condition(body)));
                continue;
            }
            "accept" => Action::Accept,
            "drop" => Action::Drop("drops it".to_owned()),
            "reject" => Action::Drop("rejects it".to_owned()),
            "return" => Action::Return,
            "jump" => Action::Jump(target()),
            "goto" => Action::Goto(target()),
            "snat" | "masquerade" => Action::Rewrite("changes its source address".to_owned()),
            "dnat" | "redirect" | "tproxy" => Action::Rewrite("changes its destination".to_owned()),
            "notrack" => Action::Untrack,
            "queue" => Action::Unknown("hands it to a program".to_owned()),
            "counter" | "log" | "mangle" | "comment" | "meter" | "set" | "ct helper" => continue,
            // What iptables has made: its matches are not shown, its targets by their names.
            "xt" if body["type"] == "target" => super::iptables::action(text_of(body, "name")),
            "vmap" => Action::Unknown("may end its way".to_owned()),
            _ => {
                rule.conditions.push((false, Condition::Unknown));
                continue;
            }
        };
    }
    rule
}

fn condition(body: &Value) -> Condition {
    let (left, right) = (&body["left"], &body["right"]);
    if !matches!(body["op"].as_str(), Some("==" | "!=" | "in")) {
        return Condition::Unknown;
    }
    let payload = &left["payload"];
    let (protocol, field) = (text_of(payload, "protocol"), text_of(payload, "field"));
    let known = match (protocol, field) {
        ("ip" | "ip6", "saddr") => nets(right).map(Condition::From),
        ("ip" | "ip6", "daddr") => nets(right).map(Condition::To),
        ("tcp" | "udp" | "th", "dport") => ports(right).map(Condition::ToPort),
        ("ip", "protocol") | ("ip6", "nexthdr") => Some(Condition::Transport(transports(right))),
        _ => match text_of(&left["meta"], "key") {
            "l4proto" => Some(Condition::Transport(transports(right))),
            "oifname" | "oif" => Some(Condition::OutDevice(texts(right))),
            "iifname" | "iif" => Some(Condition::InDevice(texts(right))),
            "nfproto" if right == "ipv4" => Some(Condition::Ipv4),
            "nfproto" if right == "ipv6" => Some(Condition::Ipv6),
            _ if text_of(&left["ct"], "key") == "state" => Some(Condition::State(texts(right))),
            _ => None,
        },
    };
    known.unwrap_or(Condition::Unknown)
}

/// One value, a list of them, or a set.
fn values(right: &Value) -> Vec<&Value> {
    match right.get("set").unwrap_or(right) {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

fn texts(right: &Value) -> Vec<String> {
    values(right).into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn transports(right: &Value) -> Vec<Transport> {
    let transport = |value: &Value| match (value.as_str(), value.as_u64()) {
        (Some("tcp"), _) | (_, Some(6)) => Some(Transport::Tcp),
        (Some("udp"), _) | (_, Some(17)) => Some(Transport::Udp),
        _ => None,
    };
    values(right).into_iter().filter_map(transport).collect()
}

/// `None` when one of them is not understood: a named set, or a range of addresses.
fn nets(right: &Value) -> Option<Vec<IpNet>> {
    let net = |value: &Value| {
        if let Some(text) = value.as_str() {
            return text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address));
        }
        let prefix = &value["prefix"];
        let len = u8::try_from(prefix["len"].as_u64()?).ok()?;
        IpNet::new(prefix["addr"].as_str()?.parse().ok()?, len).ok()
    };
    values(right).into_iter().map(net).collect()
}

fn ports(right: &Value) -> Option<Vec<Ports>> {
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let range = |value: &Value| match value["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => Some((port(first)?, port(last)?)),
        _ => port(value).map(|port| (port, port)),
    };
    values(right).into_iter().map(range).collect()
}
