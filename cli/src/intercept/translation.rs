//! Addresses that were changed on the way to the test server: `-D`, as in the C program, and `--dnat`, which that was
//! built for.

use std::net::IpAddr;

use tcpcopy_engine::relay::Translation;

use super::arguments::Arguments;
use crate::exit::Failure;
use crate::grammar::{OptionName, Part, SyntaxError};

const CLIENT: OptionName =
    OptionName { name: "-D (--client-address)", example: "-D 172.17.0.1-10.78.0.1, the address that is seen first" };

/// Reads the options.
///
/// # Errors
/// What is wrong with them.
pub(super) fn config(arguments: &Arguments) -> Result<Translation, Failure> {
    if arguments.dnat && arguments.single {
        return Err(Failure::usage(
            "--dnat says how a response's route is found, and with --single there are no routes: leave --dnat out",
        ));
    }
    let text = arguments.client_address.join(",");
    let clients = if text.is_empty() { Ok(Vec::new()) } else { clients(&text) };
    Ok(Translation { clients: clients.map_err(Failure::usage)?, any_target: arguments.dnat })
}

fn clients(text: &str) -> Result<Vec<(IpAddr, IpAddr)>, SyntaxError> {
    let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
    for part in Part::whole(CLIENT, text).list()? {
        let Some((seen, sent)) = part.split_once('-') else {
            return Err(part.error("two addresses are expected, with a `-` between them"));
        };
        let pair = (seen.trimmed().address()?, sent.trimmed().address()?);
        if pair.0.is_ipv4() != pair.1.is_ipv4() {
            return Err(part.error("one address is IPv4 and the other IPv6"));
        }
        if pairs.iter().any(|(seen, _)| *seen == pair.0) {
            return Err(seen.error("this address is here twice: a response to it belongs to one copy's address"));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn read(words: &[&str]) -> Result<Translation, String> {
        let words = ["intercept", "-F", "tcp"].iter().chain(words);
        config(&Arguments::try_parse_from(words).unwrap()).map_err(|failure| failure.message)
    }

    /// As in the C program: `-D <dockered_ip>-<orig_ip>`.
    #[test]
    fn the_c_programs_option_is_understood() {
        assert_eq!(read(&[]).unwrap(), Translation::default());
        let pair = |seen: &str, sent: &str| (seen.parse().unwrap(), sent.parse().unwrap());
        let one = read(&["-D", "172.17.0.1-10.78.0.1"]).unwrap();
        assert_eq!(one, Translation { clients: vec![pair("172.17.0.1", "10.78.0.1")], any_target: false });
        let two = read(&["-D", "172.17.0.1-10.78.0.1, [fd00::1]-fd78::1", "--dnat"]).unwrap();
        assert_eq!(two.clients[1], pair("fd00::1", "fd78::1"));
        assert!(two.any_target);
        let file: Arguments = toml::from_str("dnat = true\nclient-address = ['172.17.0.1-10.78.0.1']").unwrap();
        assert_eq!(config(&file).unwrap(), Translation { any_target: true, ..one });
    }

    #[test]
    fn what_cannot_be_is_said_with_an_example() {
        for (words, said) in [
            (&["-D", "172.17.0.1"][..], "two addresses are expected"),
            (&["-D", "172.17.0.1-"], "the address is missing"),
            (&["-D", "172.17.0.1-host"], "`host` is not an IP address"),
            (&["-D", "172.17.0.1-fd78::1"], "IPv4 and the other IPv6"),
            (&["-D", "172.17.0.1-10.78.0.1,172.17.0.1-10.78.0.2"], "here twice"),
            (&["--dnat", "--single"], "leave --dnat out"),
        ] {
            let message = read(words).unwrap_err();
            assert!(message.contains(said), "{words:?}: {message}");
        }
    }
}
