//! Where the answers go of a target that is this host itself.

use std::net::{IpAddr, SocketAddr};

use tcpcopy_io::host::route::Way;

use super::checks::Check;
use super::finding::Finding;

/// What this host knows of the answers of a target that runs on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers<'a> {
    /// The target, an address of this host.
    pub(super) target: IpAddr,
    /// An address that copies come from, and this host's way to it, or the system's words for that there is none.
    pub(super) back: Option<(IpAddr, Result<&'a Way, &'a str>)>,
    /// The addresses of `-c`, as one network.
    pub(super) network: &'a str,
    /// The devices of `--response-device`, with `-s local`.
    pub(super) captured_on: Option<&'a [String]>,
    /// The intercepts.
    pub(super) intercepts: &'a [SocketAddr],
}

/// The commands that lead answers to a cable whose other end is not connected to anything.
pub(super) fn cable(network: &str) -> String {
    let ip = if network.contains(':') { "ip -6" } else { "ip" };
    format!(
        "here: ip link add copies0 type veth peer name copies1; ip link set copies0 up arp off; ip link set copies1 up; {ip} \
         route add {network} dev copies0; and give tcpcopy -s local --response-device copies0"
    )
}

/// Whether they get to where they are looked for.
pub(super) fn judge(answers: Answers<'_>) -> Finding {
    let Answers { target, back, network, captured_on, intercepts } = answers;
    let here = format!("{target} is this host itself");
    let is_here = |intercept: &SocketAddr| intercept.ip() == target || intercept.ip().is_loopback();
    if captured_on.is_none() && intercepts.iter().any(is_here) {
        return Check::Route.ok(format!("{here}, and so is intercept: answers do not have to leave it"));
    }
    let Some((source, back)) = back else {
        return Check::Route.warning(
            format!("{here}: where its answers go depends on the clients' addresses, as there is no -c"),
            "give -c a network in which no host is: -c 10.78.0.x",
        );
    };
    let way = match back {
        Ok(way) => way,
        Err(e) => {
            return Check::Route
                .failure(format!("{here}, and has no route for its answers to {source}: {e}"), cable(network));
        }
    };
    let device = &way.device;
    let to = way.gateway.map(|router| format!(", to {router}")).unwrap_or_default();
    let leave = format!("{here}: its answers to {source} leave by `{device}`{to}");
    if let Some(devices) = captured_on {
        if !devices.iter().any(|name| name == device || name == "any") {
            return Check::Route.failure(
                format!("{leave}, where --response-device {} does not look", devices.join(",")),
                format!("leave --response-device out; or, {}", cable(network)),
            );
        }
        if way.gateway.is_some() {
            return Check::Route.warning(format!("{leave}, and so get into the network"), cable(network));
        }
        return Check::Route.ok(format!("{leave}, where they are captured"));
    }
    if way.gateway.is_some_and(|router| intercepts.iter().any(|intercept| intercept.ip() == router)) {
        return Check::Route.ok(format!("{leave}, where intercept is"));
    }
    let intercept = intercepts.iter().map(SocketAddr::ip).find(|address| address.is_ipv4() == target.is_ipv4());
    let intercept = intercept.map_or_else(|| "INTERCEPT".to_owned(), |address| address.to_string());
    let ip = if target.is_ipv4() { "ip" } else { "ip -6" };
    Check::Route.warning(
        format!("{leave}, and not to intercept"),
        format!("here: {ip} route add {network} via {intercept}; or without another host, {}", cable(network)),
    )
}

#[cfg(test)]
mod tests {
    use tcpcopy_io::host::route::NextHop;

    use super::*;
    use crate::doctor::finding::Outcome::{self, Failure, Ok as Fine, Warning};

    fn way(device: &str, gateway: Option<[u8; 4]>) -> Way {
        Way {
            device: device.to_owned(),
            gateway: gateway.map(IpAddr::from),
            is_local: false,
            source: None,
            mtu: None,
            next_hop: NextHop::Unknown,
        }
    }

    #[track_caller]
    fn says(answers: Answers<'_>, outcome: Outcome, words: &[&str]) {
        let found = judge(answers);
        let text = found.to_string();
        assert_eq!(found.outcome, outcome, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "not all of {words:?} in: {text}");
        assert_eq!(found.remedy.is_some(), outcome != Fine, "{text}");
    }

    #[test]
    fn answers_of_this_host_must_get_to_where_they_are_captured() {
        let (cable, out) = (way("copies0", None), way("eth0", Some([10, 0, 0, 254])));
        let any = ["any".to_owned()];
        let copies0 = ["copies0".to_owned()];
        let with = |back, captured_on| Answers {
            target: [10, 0, 0, 1].into(),
            back: Some(([10, 78, 0, 1].into(), back)),
            network: "10.78.0.0/24",
            captured_on,
            intercepts: &[],
        };
        says(with(Ok(&cable), Some(&copies0)), Fine, &["10.0.0.1 is this host itself", "leave by `copies0`"]);
        says(with(Ok(&cable), Some(&any)), Fine, &["where they are captured"]);
        says(with(Ok(&out), Some(&any)), Warning, &["`eth0`, to 10.0.0.254", "--response-device copies0"]);
        says(
            with(Ok(&out), Some(&copies0)),
            Failure,
            &["--response-device copies0 does not look", "leave --response-"],
        );
        let none = Err("Network is unreachable");
        says(with(none, Some(&any)), Failure, &["no route", "ip route add 10.78.0.0/24 dev copies0", "copies1"]);
        let unknown = Answers { back: None, ..with(Ok(&out), Some(&any)) };
        says(unknown, Warning, &["no -c", "-c 10.78.0.x"]);
    }

    #[test]
    fn answers_of_this_host_must_get_to_intercept() {
        let intercepts = [SocketAddr::from(([10, 0, 0, 3], 36_524))];
        let (intercept, router) = (way("eth0", Some([10, 0, 0, 3])), way("eth0", Some([10, 0, 0, 254])));
        let with = |back, intercepts| Answers {
            target: [10, 0, 0, 1].into(),
            back: Some(([10, 78, 0, 1].into(), Ok(back))),
            network: "10.78.0.0/24",
            captured_on: None,
            intercepts,
        };
        says(with(&intercept, &intercepts), Fine, &["where intercept is"]);
        let words = ["not to intercept", "ip route add 10.78.0.0/24 via 10.0.0.3", "--response-device copies0"];
        says(with(&router, &intercepts), Warning, &words);
        let here = [SocketAddr::from(([10, 0, 0, 1], 36_524))];
        says(with(&router, &here), Fine, &["and so is intercept"]);
    }
}
