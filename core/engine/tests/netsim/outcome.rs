//! The judge: what must be true of every run.

use std::net::SocketAddr;

use tcpcopy_engine::Gate;
use tcpcopy_engine::ledger::PacketDrop;
use tcpcopy_netsim::Failure;

use crate::apps::ServerApp;
use crate::case::{ClientEnd, Expect, Fault};
use crate::run::Run;

/// Everything that must hold at the end of a run.
pub(crate) fn judge(run: &Run<'_>) -> Result<(), Failure> {
    let case = run.case;
    let ledger = run.network.copier().ledger();
    ledger.check()?;
    let copied = match_streams(run)?;
    resets(run)?;
    let whole = |session: usize| copied[session] == run.network.client(session).stream.len();
    let not_whole: Vec<usize> = (0..case.sessions()).filter(|s| !whole(*s)).collect();
    let tally = || {
        format!(
            "at {:?}: {} sessions, {} seen, {} completed, {} alive, ended {:?}, not whole {:?}, clients not done {:?}",
            run.network.now(),
            case.sessions(),
            ledger.sessions_seen,
            ledger.sessions_completed,
            ledger.sessions_alive,
            run.ended().map(|(flow, reason)| (flow.client.port, reason.text())).collect::<Vec<_>>(),
            not_whole.iter().map(|s| (*s, copied[*s])).collect::<Vec<_>>(),
            (0..case.sessions()).filter(|s| !run.network.is_client_over(*s)).collect::<Vec<_>>(),
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
            let excused = run.ended().count() as u64 + ledger.joined + ledger.reconnects + unseen;
            ledger.sessions_alive == 0 && (resets_early || not_whole.len() as u64 <= excused)
        }
        Expect::Ended(reason) => run.ended().count() == case.sessions() && run.ended().all(|(_, r)| r == reason),
        Expect::Alive => ledger.sessions_alive == case.sessions() as u64 && not_whole.is_empty(),
    };
    if !fine {
        return Err(format!("expected {:?}; {}", case.expect, tally()));
    }
    let nobody = ledger.packets_dropped[PacketDrop::NoMap as usize];
    if nobody > 0 {
        return Err(format!("{nobody} packets found no map"));
    }
    turns(run)
}

/// Finds the client's connection behind each of the target's, and returns how much of each client's stream has arrived:
/// in order, each byte once.
fn match_streams(run: &Run<'_>) -> Result<Vec<usize>, Failure> {
    let case = run.case;
    let mut copied = vec![0; case.sessions()];
    let mapped = !case.sources.is_empty();
    let ledger = run.network.copier().ledger();
    for connection in run.network.target_connections() {
        let received = &connection.received[..];
        if received.is_empty() {
            continue;
        }
        let same_client = |session: &usize| mapped || run.client_address(*session) == connection.remote;
        let stream = |session: usize| &run.network.client(session).stream[..];
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
            return Err(describe_mismatch(run, connection, &copied));
        };
        copied[session] = end;
    }
    Ok(copied)
}

fn describe_mismatch(run: &Run<'_>, connection: &ServerApp, copied: &[usize]) -> Failure {
    let received = &connection.received;
    let session = usize::from(received[0]);
    let Some(client) = (session < run.case.sessions()).then(|| run.network.client(session)) else {
        return format!("{} bytes from {} that no client sent", received.len(), connection.remote);
    };
    let same = received.iter().zip(&client.stream).take_while(|(a, b)| a == b).count();
    format!(
        "from {}: {} bytes of which the first {same} are those of session {session} (at {}, {} bytes long, {} of them \
         copied before)",
        connection.remote,
        received.len(),
        run.client_address(session),
        client.stream.len(),
        copied[session],
    )
}

/// No RST that the client did not send, unless the session was given up, or an older connection on the same ports was in
/// the way of a new one.
fn resets(run: &Run<'_>) -> Result<(), Failure> {
    let ports_used_again = run.case.connections_per_port > 1 || run.network.copier().ledger().reconnects > 0;
    if !run.case.sources.is_empty() || ports_used_again {
        return Ok(());
    }
    for (replica, sent) in &run.network.record().resets_sent {
        let of_client = run.network.record().resets_captured.get(replica).copied().unwrap_or(0);
        let given_up = run.ended().any(|(flow, _)| SocketAddr::from(flow.client) == *replica);
        if of_client == 0 && !given_up {
            return Err(format!("{sent} RSTs from {replica}, whose client sent none"));
        }
    }
    Ok(())
}

/// With the gate, and responses as long as online's, no request overtakes the response before it.
fn turns(run: &Run<'_>) -> Result<(), Failure> {
    let case = run.case;
    let ledger = run.network.copier().ledger();
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
    for connection in run.network.target_connections() {
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
