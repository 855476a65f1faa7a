//! What is written is what is shown, whoever shows it.

use super::*;
use crate::tcpcopy::recording::file;

fn snapshot(round: u64) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let ledger = &mut snapshot.ledger;
    (ledger.requests, ledger.requests_copied, ledger.sessions_alive) = (round * 100, round * 99, 5);
    for i in 0..round * 99 {
        ledger.lag.record(Duration::from_micros(i * 3));
        ledger.response_time.record(Duration::from_micros(1_000 + i));
    }
    ledger.drop_packet(tcpcopy_engine::ledger::PacketDrop::NoMap);
    snapshot.capture.received = round * 1_000;
    snapshot
}

fn begin() -> Begin {
    Begin { format: super::super::sample::FORMAT, version: "1".to_owned(), ..Begin::default() }
}

/// As a program does that stays who it is.
fn record(statistics: Option<&Path>, page: Option<&Path>) -> Result<Recorder, Failure> {
    Recorder::begin(begin(), Files::at(statistics, page, |_| true)?)
}

#[test]
fn the_page_at_the_end_is_the_one_made_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (statistics, page) = (folder.path().join("stats"), folder.path().join("page.html"));
    let mut recorder = record(Some(&statistics), Some(&page)).unwrap();
    for round in 1..6 {
        recorder.sample(&snapshot(round));
        // Each line is there when it is written: a run that is killed loses nothing of it.
        let lines = fs::read_to_string(&statistics).unwrap();
        assert_eq!((lines.lines().count() as u64, lines.ends_with('\n')), (1 + round, true));
    }
    recorder.finish(&snapshot(7), Ended::Stopped).unwrap();

    let (history, runs) = file::read(&statistics).unwrap();
    assert_eq!((runs, history.totals.count("requests"), history.totals.count("capture_received")), (1, 700, 7_000));
    assert_eq!((history.totals.lag.count(), history.totals.packets_dropped["no map matches"]), (7 * 99, 1));
    assert_eq!(fs::read_to_string(&page).unwrap(), page::render(&history));
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing else is left behind: {names:?}");
}

#[test]
fn a_second_run_goes_on_behind_the_first_even_if_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats");
    let mut first = record(Some(&path), None).unwrap();
    first.sample(&snapshot(1));
    drop(first);
    let written = fs::read(&path).unwrap();
    fs::write(&path, &written[..written.len() - 20]).unwrap();
    let second = record(Some(&path), None).unwrap();
    second.finish(&snapshot(3), Ended::Failed("no more".to_owned())).unwrap();
    let (history, runs) = file::read(&path).unwrap();
    assert_eq!((runs, history.totals.count("requests")), (2, 300));
    assert_eq!(history.end.unwrap().how, Ended::Failed("no more".to_owned()));
}

#[test]
fn what_cannot_be_written_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/file");
    let told = |statistics: Option<&Path>, page: Option<&Path>| {
        record(statistics, page).err().expect("it cannot be written").message
    };
    assert!(told(Some(&nowhere), None).contains("--stats-file"));
    assert!(told(None, Some(&nowhere)).contains("cannot write the report"));
}

#[test]
fn where_no_new_file_may_be_made_the_page_is_made_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    Files::at(None, Some(&page), |_| true).unwrap();
    assert!(!page.exists(), "an unfinished page is nobody's business");
    fs::write(&page, "of the run before").unwrap();
    Files::at(None, Some(&page), |_| false).unwrap();
    assert_eq!(fs::read_to_string(&page).unwrap(), "of the run before");
    fs::remove_file(&page).unwrap();
    Files::at(None, Some(&page), |_| false).unwrap();
    assert!(page.exists());
}
