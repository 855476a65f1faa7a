//! The judge: what must be true of every packet, and of every run.

use std::net::SocketAddr;

use tcpcopy_engine::Gate;
use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_wire::TcpSegment;
use tcpcopy_wire::checksum::Sum;
use tcpcopy_wire::ip::{IpPacket, PROTOCOL_TCP};

use crate::apps::ServerApp;
use crate::case::{ClientEnd, Expect, Fault};
use crate::network::{Failure, Network};

/// A packet of the engine: whole, with right checksums, not larger than the path takes.
pub(crate) fn check_packet(packet: &[u8], mtu: u16) -> Result<(), Failure> {
    let segment = TcpSegment::from_ip_packet(packet, packet.len()).map_err(|e| format!("sent a packet that is {e}"))?;
    if packet.len() > usize::from(mtu) {
        return Err(format!("sent {} bytes where the MTU is {mtu}: {segment:?}", packet.len()));
    }
    let ip = IpPacket::parse(packet, packet.len()).map_err(|e| e.to_string())?;
    let tcp = Sum::default()
        .add_pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, ip.transport_len as u32)
        .add_bytes(ip.transport)
        .finish();
    let header = if ip.src.is_ipv4() { Sum::default().add_bytes(&packet[..20]).finish() } else { 0 };
    if tcp != 0 || header != 0 || ip.transport.len() != ip.transport_len {
        return Err(format!("sent a packet with a wrong checksum or length: {segment:?}"));
    }
    Ok(())
}

/// Everything that must hold at the end of a run.
pub(crate) fn judge(network: &Network<'_>) -> Result<(), Failure> {
    let case = network.case;
    let ledger = network.copier.ledger();
    ledger.check()?;
    let copied = match_streams(network)?;
    resets(network)?;
    let whole = |session: usize| copied[session] == network.client_apps[session].1.stream.len();
    let not_whole: Vec<usize> = (0..case.sessions()).filter(|s| !whole(*s)).collect();
    let tally = || {
        format!(
            "at {:?}: {} sessions, {} seen, {} completed, {} alive, ended {:?}, not whole {:?}, clients not done {:?}",
            network.now(),
            case.sessions(),
            ledger.sessions_seen,
            ledger.sessions_completed,
            ledger.sessions_alive,
            network.ended.iter().map(|(flow, reason)| (flow.client.port, reason.text())).collect::<Vec<_>>(),
            not_whole.iter().map(|s| (*s, copied[*s])).collect::<Vec<_>>(),
            (0..case.sessions()).filter(|s| network.client_apps[*s].0.is_some()).collect::<Vec<_>>(),
        )
    };
    let resets_early = matches!(case.client_end, ClientEnd::Reset | ClientEnd::ResetAfter(_));
    let fine = match case.expect {
        Expect::Completed => {
            ledger.sessions_completed == case.sessions() as u64
                && ledger.sessions_seen == ledger.sessions_completed
                && (resets_early || not_whole.is_empty())
        }
        Expect::Accounted => {
            let unseen = (case.sessions() as u64).saturating_sub(ledger.sessions_seen);
            // What a target had not read when it closed goes missing, and is counted byte by byte.
            let excused = network.ended.len() as u64 + ledger.joined + ledger.reconnects + unseen;
            ledger.sessions_alive == 0 && (resets_early || not_whole.len() as u64 <= excused)
        }
        Expect::Ended(reason) => {
            network.ended.len() == case.sessions() && network.ended.iter().all(|(_, r)| *r == reason)
        }
        Expect::Alive => ledger.sessions_alive == case.sessions() as u64 && not_whole.is_empty(),
    };
    if !fine {
        return Err(format!("expected {:?}; {}", case.expect, tally()));
    }
    let nobody = ledger.packets_dropped[PacketDrop::NoMap as usize];
    if nobody > 0 {
        return Err(format!("{nobody} packets found no map"));
    }
    turns(network)
}

/// Finds the client's connection behind each of the target's, and returns how much of each client's stream has arrived:
/// in order, each byte once.
fn match_streams(network: &Network<'_>) -> Result<Vec<usize>, Failure> {
    let case = network.case;
    let mut copied = vec![0; case.sessions()];
    let mapped = !case.sources.is_empty();
    let ledger = network.copier.ledger();
    for connection in network.target.connections() {
        let received = &connection.received[..];
        if received.is_empty() {
            continue;
        }
        let same_client = |session: &usize| mapped || network.client_address(*session) == connection.remote;
        let stream = |session: usize| &network.client_apps[session].1.stream[..];
        let from_start =
            (0..case.sessions()).filter(same_client).find(|s| copied[*s] == 0 && stream(*s).starts_with(received));
        if let Some(session) = from_start {
            copied[session] = received.len();
            continue;
        }
        // Joined mid-stream, or connected again.
        let from_later = (ledger.joined + ledger.reconnects > 0)
            .then(|| {
                (0..case.sessions()).filter(same_client).find_map(|s| {
                    let rest = &stream(s)[copied[s]..];
                    let at = rest.windows(received.len()).position(|window| window == received)?;
                    Some((s, copied[s] + at + received.len()))
                })
            })
            .flatten();
        let Some((session, end)) = from_later else {
            return Err(describe_mismatch(network, connection, &copied));
        };
        copied[session] = end;
    }
    Ok(copied)
}

fn describe_mismatch(network: &Network<'_>, connection: &ServerApp, copied: &[usize]) -> Failure {
    let received = &connection.received;
    let session = usize::from(received[0]);
    let Some((_, client)) = network.client_apps.get(session) else {
        return format!("{} bytes from {} that no client sent", received.len(), connection.remote);
    };
    let same = received.iter().zip(&client.stream).take_while(|(a, b)| a == b).count();
    format!(
        "from {}: {} bytes of which the first {same} are those of session {session} (at {}, {} bytes long, {} of them \
         copied before)",
        connection.remote,
        received.len(),
        network.client_address(session),
        client.stream.len(),
        copied[session],
    )
}

/// No RST that the client did not send, unless the session was given up, or an older connection on the same ports was in
/// the way of a new one.
fn resets(network: &Network<'_>) -> Result<(), Failure> {
    let ports_used_again = network.case.connections_per_port > 1 || network.copier.ledger().reconnects > 0;
    if !network.case.sources.is_empty() || ports_used_again {
        return Ok(());
    }
    for (replica, sent) in &network.resets_sent {
        let of_client = network.seen.get(replica).map_or(0, |seen| seen.resets);
        let given_up = network.ended.iter().any(|(flow, _)| SocketAddr::from(flow.client) == *replica);
        if of_client == 0 && !given_up {
            return Err(format!("{sent} RSTs from {replica}, whose client sent none"));
        }
    }
    Ok(())
}

/// With the gate, and responses as long as online's, no request overtakes the response before it.
fn turns(network: &Network<'_>) -> Result<(), Failure> {
    let case = network.case;
    let ledger = network.copier.ledger();
    let comparable = case.gate == Gate::Turns
        && !case.pipelined
        && case.target.bursts == 1
        && case.target.response == case.online.response
        && case.capture.begins.is_zero()
        && case.turns.iter().all(|t| t.request > 0 && t.response > 0)
        && !matches!(case.target.fault, Fault::CloseAfter(_))
        && ledger.joined + ledger.reconnects == 0
        // On a path with losses, a response may pause for so long in its middle that it counts as over.
        && ledger.gate_by_quiet == 0;
    if !comparable {
        return Ok(());
    }
    for connection in network.target.connections() {
        for (k, begun) in connection.request_begun.iter().enumerate().skip(1) {
            if connection.response_done.get(k - 1).is_none_or(|done| done > begun) {
                return Err(format!(
                    "from {}: request {k} came before response {} was written",
                    connection.remote,
                    k - 1
                ));
            }
        }
    }
    Ok(())
}
