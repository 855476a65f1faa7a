use super::*;

fn condition(text: &str) -> Condition {
    Condition::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn conditions_are_figure_limit_and_time() {
    for (text, figure, time) in [
        ("errors>5%", Figure::Errors(5.0), 10),
        ("errors > 0.5 % for 1m", Figure::Errors(0.5), 60),
        ("lag>2s", Figure::Lag(seconds(2)), 10),
        ("lag>250ms for 30s", Figure::Lag(Duration::from_millis(250)), 30),
        ("cpu>85%", Figure::Cpu(85.0), 10),
        ("load>7.5 for 1h", Figure::Load(7.5), 3600),
        (" memory>512M ", Figure::Memory(512 << 20), 10),
        ("memory>1G for 2s", Figure::Memory(1 << 30), 2),
    ] {
        let read = condition(text);
        assert_eq!((read.figure, read.time), (figure, seconds(time)), "{text}");
        assert_eq!(read.to_string(), text.trim());
    }
}

#[test]
fn what_is_none_is_shown_with_how_it_is_written() {
    for (text, marked, reason) in [
        ("errors", "^^^^^^", "a limit"),
        ("error>5%", "^^^^^", "none of errors, lag"),
        ("errors>5", "^", "`%`"),
        ("errors>5x%", "^^^", "a number"),
        ("errors>-5%", "^^^", "a number"),
        ("cpu>100%", "^^^^", "above 100%"),
        ("lag>2", "^", "unit ms"),
        ("lag>0s", "^^", "above zero"),
        ("load>inf", "^^^", "a number"),
        ("memory>512", "^^^", "unit K, M or G"),
        ("load>8 for ever", "^^^^", "unit ms"),
        ("load>8 for 2h", "^^^^^^^^", "1h"),
        ("memory>99999999999999999999G", "^", "size"),
    ] {
        let message = Condition::parse(text).expect_err(text).to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert!(lines[0].starts_with("in --stop-if: ") && lines[0].contains(reason), "{message}");
        assert!(lines[2].trim_start().starts_with(marked), "{message}");
        assert!(lines[3].contains("--stop-if 'errors>5%'"), "{message}");
    }
}

/// Looks a second apart, each of them as `look` makes it; the second at which the condition held, and the words.
fn watched(text: &str, until: u64, look: impl Fn(u64) -> Look) -> Option<(u64, String)> {
    let mut watch = Watch::new(vec![condition(text)]);
    (0..until).find_map(|at| {
        let words = watch.look(Look { at: seconds(at), ..look(at) })?;
        Some((at, words))
    })
}

#[test]
fn errors_are_those_of_the_time_and_not_of_ever() {
    // A hundred sessions a second; from the 20th second on a tenth of them fails.
    let look = |at: u64| Look { ended: at * 100, failed: at.saturating_sub(20) * 10, ..Look::default() };
    let (at, words) = watched("errors>5%", 100, look).unwrap();
    assert_eq!(at, 26, "in 6 of 10 seconds");
    assert_eq!(
        words,
        "--stop-if 'errors>5%': 60 of 1000 sessions (6.0 %) were refused, reset or not answered by the target, over the \
         last 10s"
    );
    assert_eq!(watched("errors>10%", 100, look), None, "not above");
}

#[test]
fn a_few_sessions_are_no_percentage() {
    let all_fail = |at: u64| Look { ended: at, failed: at, ..Look::default() };
    assert_eq!(watched("errors>5%", 100, all_fail), None);
    assert!(watched("errors>5% for 20s", 100, all_fail).is_some());
}

#[test]
fn lag_is_that_of_the_slowest_of_a_hundred_in_the_time() {
    let look = |at: u64| {
        let mut lag = Latency::default();
        (0..at.min(30) * 10).for_each(|_| lag.record(Duration::from_millis(1)));
        (30..at).for_each(|_| (0..10).for_each(|_| lag.record(seconds(3))));
        Look { lag, ..Look::default() }
    };
    let (at, words) = watched("lag>2s for 5s", 100, look).unwrap();
    assert_eq!(at, 31);
    assert!(words.contains("of 50 requests was late by 3."), "{words}");
    assert_eq!(watched("lag>4s for 5s", 100, look), None);
}

#[test]
fn the_hosts_processors_are_seen_over_the_time() {
    let look = |at: u64| {
        let busy = at * 100 + at.saturating_sub(10) * 80;
        Look { host: HostTime { busy, total: at * 200 }, ..Look::default() }
    };
    let (at, words) = watched("cpu>85% for 4s", 100, look).unwrap();
    assert_eq!(at, 14);
    assert!(words.contains("worked 90.0 % of the time"), "{words}");
}

#[test]
fn load_and_memory_must_stay_above_all_the_time() {
    let load = |at: u64| Look { load: if at == 5 { 1.0 } else { 9.0 }, ..Look::default() };
    assert_eq!(watched("load>8 for 4s", 100, load).unwrap().0, 4, "before the dip");
    assert_eq!(watched("load>8 for 6s", 100, load).unwrap().0, 12, "not before six seconds after it");
    let memory = |_| Look { memory: 600 << 20, ..Look::default() };
    let (at, words) = watched("memory>512M for 3s", 100, memory).unwrap();
    assert_eq!((at, words.contains("600 MB or more")), (3, true));
    assert_eq!(watched("memory>600M for 3s", 100, memory), None);
}

#[test]
fn of_several_conditions_the_first_that_holds_is_named() {
    let mut watch = Watch::new(vec![condition("load>8 for 1s"), condition("memory>1M for 5s")]);
    let mut look = |at| watch.look(Look { at: seconds(at), memory: 2 << 20, ..Look::default() });
    assert!((0..5).all(|at| look(at).is_none()));
    assert!(look(5).unwrap().starts_with("--stop-if 'memory>1M for 5s': "));
    assert!(watch.looks.len() <= 7, "what is older is forgotten");
}

#[test]
fn what_tcpcopy_leaves_out_by_itself_is_no_error_and_no_success() {
    let mut ledger = Ledger { sessions_completed: 50, ..Ledger::default() };
    for reason in SessionEnd::ALL {
        ledger.end_session(*reason);
    }
    let look = Look::default().with_ledger(&ledger);
    assert_eq!(look.failed, 5);
    assert_eq!(look.ended, 50 + SessionEnd::ALL.len() as u64 - 3);
}
