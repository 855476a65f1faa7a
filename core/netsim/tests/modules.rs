//! The network for modules, tried with plain TCP and with modules that pass, drop and answer.

use std::time::Duration;

use tcpcopy_engine::ledger::{ByteDrop, SessionEnd};
use tcpcopy_module_api::{About, Attachment, Ctx, Module, ModuleHandle, Options, Session, SessionInfo, Transport};
use tcpcopy_module_tcp::PlainTcp;
use tcpcopy_netsim::{Echo, End, ModuleNetwork, Quality, Script, Server, lines, serve};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn plain() -> ModuleNetwork {
    ModuleNetwork::new(ModuleHandle::new(PlainTcp))
}

#[test]
fn an_echo_is_copied_byte_by_byte() {
    let outcome = plain().client(Script::new().send("ping").wait_for(4).send("pong").wait_for(4)).run();
    outcome.assert_all_completed();
    assert_eq!(outcome.clients[0].received, b"pingpong", "what online echoed");
    assert_eq!(outcome.connections.len(), 1);
    assert_eq!(outcome.connections[0].received, b"pingpong", "what the target got");
    assert_eq!(outcome.connections[0].messages(), [b"ping", b"pong"]);
    assert_eq!(outcome.ledger.bytes_copied, 8);
    let [first, second] = [0, 4].map(|byte| outcome.connections[0].arrived_at(byte).unwrap());
    assert!(first < second, "{first:?}, {second:?}");
    assert_eq!(outcome.connections[0].arrived_at(8), None);
}

#[test]
fn lines_arrive_once_and_in_order_on_a_bad_path() {
    for seed in 0..20 {
        let script = |client: usize| {
            (0..30).fold(Script::new(), |script, i| script.send(format!("client {client} line {i}\n")).wait_for(3))
        };
        let outcome = plain()
            .seed(seed)
            .target_path(Quality::BAD)
            .clients((0..3).map(script))
            .online(|_| lines(|_| "ok\n"))
            .target(|_| lines(|_| "another answer\n"))
            .run();
        outcome.assert_all_completed();
        for client in 0..3 {
            let sent: Vec<_> = (0..30).map(|i| format!("client {client} line {i}\n")).collect();
            assert_eq!(outcome.messages_of(client), sent.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
        assert!(outcome.ledger.retransmits > 0, "seed {seed}: nothing was lost");
    }
}

#[test]
fn ipv6_is_a_condition_like_any_other() {
    let outcome = plain()
        .conditions(|c| c.ipv6 = true)
        .target_path(Quality::BAD)
        .client(Script::new().send("one\n").wait_for(3).pause(ms(5_000)).send("two\n").wait_for(3))
        .online(|_| lines(|_| "ok\n"))
        .target(|number| lines(|_| "ok\n").closing_after((number == 0).then_some(1)))
        .run();
    outcome.assert_all_completed();
    assert!(outcome.clients[0].address.is_ipv6() && outcome.connections[0].replica.is_ipv6());
    assert_eq!(outcome.messages_of(0), [b"one\n", b"two\n"]);
}

#[test]
fn what_plays_out_depends_on_nothing_but_the_seed() {
    let run = |seed| {
        let script = (0..20).fold(Script::new(), |script, _| script.send([7; 3_000]).wait_for(3_000));
        let outcome = plain().seed(seed).target_path(Quality::BAD).client(script).run();
        (outcome.connections, outcome.ledger)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn servers_greet_answer_and_close() {
    /// Greets, answers pairs of bytes after a while, and says good-bye.
    struct Pairs;

    impl Server for Pairs {
        fn on_connect(&mut self, reply: &mut tcpcopy_netsim::Reply) {
            reply.send("hello ");
        }

        fn on_data(&mut self, data: &[u8], reply: &mut tcpcopy_netsim::Reply) -> usize {
            if data.len() < 2 {
                return 0;
            }
            reply.pause(ms(50));
            reply.send([data[1], data[0]]);
            2
        }

        fn on_client_close(&mut self, reply: &mut tcpcopy_netsim::Reply) {
            reply.send(" bye");
            reply.close();
        }
    }
    let script = Script::new()
        .wait_until(|greeting| greeting == b"hello ")
        .send("a")
        .send("bcd")
        .wait_for(4)
        .half_close()
        .wait_for(4)
        .wait_for_close();
    let outcome = plain().client(script).servers(|_| Pairs).run();
    outcome.assert_all_completed();
    assert_eq!(outcome.clients[0].received, b"hello badc bye");
    assert_eq!(outcome.messages_of(0), [b"ab", b"cd"]);
    assert!(outcome.took >= tcpcopy_wire::Timestamp::from_millis(100), "two pauses: {:?}", outcome.took);
}

#[test]
fn a_target_that_closes_is_connected_again() {
    let script = ["one\n", "two\n", "three\n"].iter().fold(Script::new(), |script, line| {
        script.send(line).wait_for(3).pause(ms(100)) // for the target's close to be known
    });
    let outcome = plain()
        .client(script)
        .online(|_| lines(|_| "ok\n"))
        .target(|number| lines(|_| "ok\n").closing_after((number < 2).then_some(1)))
        .run();
    outcome.assert_all_completed();
    assert_eq!(outcome.ledger.reconnects, 2);
    let received: Vec<_> = outcome.connections.iter().map(|connection| &connection.received[..]).collect();
    assert_eq!(received, [&b"one\n"[..], b"two\n", b"three\n"]);
}

#[test]
fn a_target_that_resets_is_connected_again() {
    let script =
        || ["one\n", "two\n"].iter().fold(Script::new(), |script, line| script.send(line).wait_for(3).pause(ms(100)));
    let after = plain()
        .client(script())
        .online(|_| lines(|_| "ok\n"))
        .target(|number| lines(|_| "ok\n").resetting_after((number == 0).then_some(1)))
        .run();
    assert_eq!(after.messages_of(0), [b"one\n", b"two\n"]);
    assert_eq!(after.connections.len(), 2);
    let on = plain()
        .client(script())
        .online(|_| lines(|_| "ok\n"))
        .target(|number| lines(|_| "ok\n").resetting_on((number == 0).then_some(2)))
        .run();
    assert!(on.connections[0].received.starts_with(b"one\n"), "{:?}", on.connections);
    assert_eq!(on.ledger.response_resets, 1);
}

#[test]
fn a_target_that_restarts_is_connected_again() {
    let script = (0..10).fold(Script::new(), |script, i| script.send(format!("{i}\n")).wait_for(3).pause(ms(20)));
    let outcome = plain()
        .client(script)
        .servers(|_| lines(|_| "ok\n"))
        .conditions(|c| c.target_restarts = Some((ms(90), Duration::from_millis(1))))
        .run();
    outcome.assert_all_completed();
    assert_eq!(outcome.connections.len(), 2);
    assert_eq!(outcome.received_of(0), b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

#[test]
fn a_connection_whose_beginning_is_not_captured_is_joined() {
    let script = Script::new().uncaptured().send("unseen").wait_for(6).captured().send("seen").wait_for(4);
    let outcome = plain().client(script).run();
    outcome.assert_all_completed();
    assert_eq!(outcome.ledger.joined, 1);
    assert_eq!(outcome.received_of(0), b"seen");
    let all_along = plain().client(Script::new().uncaptured().send("unseen").wait_for(6)).client(Script::new()).run();
    assert_eq!(all_along.clients[0].end, End::NotCopied);
    assert_eq!(all_along.clients[1].end, End::Completed);
    assert_eq!(all_along.ledger.client_packets, 4, "SYN, ACK, FIN and ACK of the second");
}

#[test]
fn ends_of_sessions_are_told() {
    let reset = plain().client(Script::new().send("x").wait_for(1).reset()).run();
    assert_eq!(reset.clients[0].end, End::Completed, "a client's reset is copied");
    let open = plain().client(Script::new().send("x").wait_for(1).stay_open()).run();
    assert_eq!(open.clients[0].end, End::Early(SessionEnd::Stopped));
    assert_eq!(open.received_of(0), b"x");
    let refused = plain().client(Script::new().send("x").wait_for(1)).conditions(|c| c.target.refuses = true).run();
    assert_eq!(refused.clients[0].end, End::Early(SessionEnd::TargetRefused));
    assert!(refused.connections.is_empty());
}

#[test]
fn a_script_that_waits_for_what_does_not_come_fails() {
    let failure = plain().client(Script::new().send("x").wait_for(2)).try_run().unwrap_err();
    assert!(failure.contains("client 0 does not get past step 2 (wait for 2 bytes), with 1 bytes"), "{failure}");
}

#[test]
fn the_capture_and_the_mtu_are_as_told() {
    let script = || Script::new().send(vec![b'x'; 50_000]).wait_for(50_000);
    let small = plain().client(script()).mtu(576).run();
    assert_eq!(small.received_of(0), vec![b'x'; 50_000]);
    assert!(small.ledger.data_packets_sent >= 50_000 / 536, "{}", small.ledger.data_packets_sent);
    let hole = plain().client(script()).conditions(|c| c.capture.loss = 300).run();
    assert_eq!(hole.clients[0].end, End::Early(SessionEnd::CaptureHole));
    let one_way = plain().client(script()).run();
    let both_ways = plain().client(script()).conditions(|c| c.capture.both_directions = true).run();
    assert_eq!(both_ways.received_of(0), one_way.received_of(0));
    assert!(both_ways.ledger.packets_captured > one_way.ledger.packets_captured);
}

/// Leaves out lines that begin with a minus, and gives up at a line that begins with an exclamation mark.
struct NoMinus;

impl Module for NoMinus {
    fn about() -> About {
        About { name: "nominus", ..About::new(Transport::Tcp, "1") }
    }

    fn create(_: &Options) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::watch(NoMinusSession)
    }
}

struct NoMinusSession;

impl Session for NoMinusSession {
    fn on_client_data(&mut self, ctx: &mut Ctx<'_>, mut data: &[u8]) {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            match data[0] {
                b'!' => return ctx.abort("an exclamation mark"),
                b'-' => ctx.drop(end + 1, "begins with a minus"),
                _ => ctx.pass(end + 1),
            }
            data = &data[end + 1..];
        }
    }
}

#[test]
fn a_module_decides_what_reaches_the_target() {
    let outcome = ModuleNetwork::new(ModuleHandle::new(NoMinus))
        .target_path(Quality::BAD)
        .client(Script::new().send("one\n-two\nthr").pause(ms(10)).send("ee\n-four\n").wait_for(21))
        .client(Script::new().send("one\n!\n").wait_for(6))
        .online(|_| Echo)
        .target(|_| {
            serve(|data, reply| {
                reply.send("whatever");
                data.len()
            })
        })
        .run();
    assert_eq!(outcome.received_of(0), b"one\nthree\n");
    assert_eq!(outcome.clients[0].end, End::Completed);
    assert_eq!(outcome.ledger.bytes_dropped[ByteDrop::Module as usize], 11);
    assert_eq!(outcome.clients[1].end, End::Early(SessionEnd::Module));
    assert_eq!(outcome.clients[1].aborted.as_deref(), Some("an exclamation mark"));
}

#[test]
fn turns_that_are_left_out_hold_nothing_up_however_the_conversation_begins() {
    for greeting in ["", "hello\n"] {
        let said = ["-1\n", "-2\n", "3\n", "-4\n", "5\n", "-6\n"];
        let begin = Script::new().wait_for(greeting.len());
        let script = said.iter().fold(begin, |script, line| script.send(line).wait_for(3));
        let outcome = ModuleNetwork::new(ModuleHandle::new(NoMinus))
            .client(script)
            .servers(|_| Greeter { greeting, answer: lines(|_| "ok\n") })
            .run();
        outcome.assert_all_completed();
        assert_eq!(outcome.received_of(0), b"3\n5\n");
        assert!(outcome.took < tcpcopy_wire::Timestamp::from_millis(1_000), "{greeting:?}: {:?}", outcome.took);
    }
}

/// A server that says something before it answers.
struct Greeter<S> {
    greeting: &'static str,
    answer: S,
}

impl<S: Server> Server for Greeter<S> {
    fn on_connect(&mut self, reply: &mut tcpcopy_netsim::Reply) {
        reply.send(self.greeting);
    }

    fn on_data(&mut self, data: &[u8], reply: &mut tcpcopy_netsim::Reply) -> usize {
        self.answer.on_data(data, reply)
    }
}
