//! How many packets a second the engine takes on one core. Elements are packets handed in: client's and target's.

#![allow(missing_docs)] // criterion's macros make undocumented functions

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixture::{Conversation, PassThrough, Stage, UdpClient};

fn established(stage: &mut Stage, sessions: u32) -> Vec<Conversation> {
    let mut conversations: Vec<_> = (0..sessions).map(|n| Conversation::open(stage, n, 100)).collect();
    for conversation in &mut conversations {
        conversation.request(stage);
    }
    conversations
}

/// A request is captured when the target has answered the one before: it goes out at once.
fn request_to_packet(c: &mut Criterion) {
    let mut group = c.benchmark_group("keepalive");
    group.throughput(Throughput::Elements(2));
    let mut stage = Stage::default();
    let mut conversation = established(&mut stage, 1).remove(0);
    group.bench_function("client packet to packet out", |b| {
        b.iter(|| {
            stage.now = stage.now + Duration::from_micros(10);
            conversation.target_answers(&mut stage, 200, 0);
            conversation.online_answers(200);
            conversation.request(&mut stage);
        });
    });
    black_box(stage.sent);

    // The request waits for the target, and the response releases it.
    let mut stage = Stage::default();
    let mut conversation = established(&mut stage, 1).remove(0);
    group.bench_function("response to released request", |b| {
        b.iter(|| {
            stage.now = stage.now + Duration::from_micros(10);
            conversation.online_answers(200);
            conversation.request(&mut stage);
            conversation.target_answers(&mut stage, 200, 1);
        });
    });
    black_box(stage.sent);
    group.finish();
}

/// The same beside modules: one that has bypassed, and one that is asked about each message and passes it.
fn modules(c: &mut Criterion) {
    let mut group = c.benchmark_group("modules");
    group.throughput(Throughput::Elements(2));
    let bypassing = PassThrough::default();
    let watching = PassThrough { watches: true, ..PassThrough::default() };
    let stages = [("plain", Stage::default()), ("bypass", Stage::tcp(bypassing)), ("pass", Stage::tcp(watching))];
    for (name, mut stage) in stages {
        let mut conversation = established(&mut stage, 1).remove(0);
        group.bench_function(name, |b| {
            b.iter(|| {
                stage.now = stage.now + Duration::from_micros(10);
                conversation.target_answers(&mut stage, 200, 0);
                conversation.online_answers(200);
                conversation.request(&mut stage);
            });
        });
        black_box(stage.sent);
    }
    group.finish();
}

fn many_sessions(c: &mut Criterion) {
    let mut group = c.benchmark_group("10,000 sessions");
    group.throughput(Throughput::Elements(2));
    let mut stage = Stage::default();
    let mut conversations = established(&mut stage, 10_000);
    let mut next = 0;
    group.bench_function("round robin", |b| {
        b.iter(|| {
            let conversation = &mut conversations[next];
            next = (next + 1) % 10_000;
            stage.now = stage.now + Duration::from_micros(1);
            conversation.online_answers(200);
            conversation.request(&mut stage);
            conversation.target_answers(&mut stage, 200, 1);
            if stage.copier.next_deadline().is_some_and(|at| at <= stage.now) {
                stage.tell(tcpcopy_engine::Input::Timeout);
            }
        });
    });
    black_box(stage.sent);
    group.finish();
}

/// SYN, SYN-ACK, request, response, FIN, FIN.
fn short_sessions(c: &mut Criterion) {
    let mut group = c.benchmark_group("new session to closed");
    group.throughput(Throughput::Elements(6));
    let mut stage = Stage::default();
    let mut number = 0;
    group.bench_function("one request", |b| {
        b.iter(|| {
            stage.pass(Duration::from_micros(100));
            let mut conversation = Conversation::open(&mut stage, number, 100);
            // Finished sessions are forgotten long before their number comes again.
            number = (number + 1) % 1_000_000;
            conversation.request(&mut stage);
            conversation.target_answers(&mut stage, 200, 0);
            conversation.online_answers(200);
            conversation.close(&mut stage);
        });
    });
    let ledger = stage.copier.ledger();
    // A filter may have left it out.
    assert!(number == 0 || (ledger.sessions_completed > 0 && ledger.sessions_ended.iter().all(|n| *n == 0)));
    group.finish();
}

/// Elements are datagrams captured.
fn datagrams(c: &mut Criterion) {
    let mut group = c.benchmark_group("udp");
    group.throughput(Throughput::Elements(1));
    for clients in [1, 10_000] {
        let mut stage = Stage::udp();
        let mut clients: Vec<_> = (0..clients).map(|n| UdpClient::new(&mut stage, n, 60)).collect();
        let mut next = 0;
        group.bench_function(format!("{} clients, one way", clients.len()), |b| {
            b.iter(|| {
                stage.now = stage.now + Duration::from_micros(1);
                clients[next].send(&mut stage);
                next = (next + 1) % clients.len();
            });
        });
        group.bench_function(format!("{} clients, answered", clients.len()), |b| {
            b.iter(|| {
                stage.now = stage.now + Duration::from_micros(1);
                clients[next].send(&mut stage);
                clients[next].target_answers(&mut stage, 200);
                next = (next + 1) % clients.len();
            });
        });
        black_box(stage.sent);
    }
    // Each client sends once from each port, as resolvers do: a route comes and one goes.
    let mut stage = Stage::udp();
    let mut number = 0;
    group.bench_function("new client", |b| {
        b.iter(|| {
            stage.pass(Duration::from_micros(500));
            UdpClient::new(&mut stage, number, 60);
            number = (number + 1) % 1_000_000;
        });
    });
    let mut stage = Stage::udp();
    let mut client = UdpClient::new(&mut stage, 1, 4_000);
    group.bench_function("4 KB in fragments", |b| {
        b.iter(|| {
            stage.now = stage.now + Duration::from_micros(1);
            client.send(&mut stage);
        });
    });
    group.finish();
}

criterion_group!(benches, request_to_packet, modules, many_sessions, short_sessions, datagrams);
criterion_main!(benches);
