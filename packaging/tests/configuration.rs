//! The commented configuration files, which the repository keeps.

use std::fs;
use std::path::Path;

use tcpcopy_packaging::{Program, configuration};

fn kept(program: &Program) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{}.toml", program.name))
}

/// Lines that a person would switch on: `#key = value`.
fn switches(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = ")).collect()
}

#[test]
fn the_files_are_up_to_date() {
    for program in Program::both() {
        let text = configuration::commented(&program);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(kept(&program), text).expect("packaging");
        } else {
            let file = fs::read_to_string(kept(&program)).expect("a file in packaging");
            assert!(
                text == file,
                "packaging/{}.toml is not up to date: UPDATE_DOCS=1 cargo test -p tcpcopy-packaging",
                program.name
            );
        }
    }
}

#[test]
fn as_they_are_they_change_nothing() {
    for program in Program::both() {
        let text = configuration::commented(&program);
        assert_eq!((program.complaint)(&text), None, "{}", program.name);
        let table: toml::Table = toml::from_str(&text).expect("TOML");
        assert!(table.is_empty(), "{} sets {table}", program.name);
    }
}

#[test]
fn every_line_can_be_switched_on() {
    for program in Program::both() {
        let text = configuration::commented(&program);
        let switches = switches(&text);
        // The table of a module stands at the end, with what is of the module behind it.
        let of_program = switches.iter().take_while(|line| !text.contains(&format!("]\n#{line}")));
        let mut all = String::new();
        for line in of_program {
            assert_eq!((program.complaint)(line), None, "{}: {line}", program.name);
            all.push_str(line);
            all.push('\n');
        }
        assert_eq!((program.complaint)(&all), None, "{}, all at once", program.name);
    }
    let text = configuration::commented(&Program::tcpcopy());
    let table = text.split_once("#[module.mysql]\n#").expect("the table of a module").1;
    assert_eq!((Program::tcpcopy().complaint)(&format!("[module.mysql]\n{table}")), None);
}

/// An option that the file takes and that is not in the file would be one that nobody finds.
#[test]
fn no_option_is_missing() {
    // What is about one run, or about the file itself.
    let left_out = ["config", "help", "version"];
    for program in Program::both() {
        let text = configuration::commented(&program);
        let keys: Vec<&str> = switches(&text).iter().filter_map(|line| line.split(' ').next()).collect();
        for arg in program.definition.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            assert!(keys.contains(&long) != left_out.contains(&long), "{}: --{long}", program.name);
        }
    }
}

#[test]
fn nothing_is_taken_that_does_not_exist() {
    for program in Program::both() {
        assert!((program.complaint)("no-such-option = 1").is_some(), "{}", program.name);
        assert!((program.complaint)("stats-interval = \"often\"").is_some(), "{}", program.name);
    }
}

/// What stands for a value in the help is no value that anybody could use.
#[test]
fn examples_are_values() {
    for program in Program::both() {
        let text = configuration::commented(&program);
        for line in switches(&text) {
            let (key, value) = line.split_once(" = ").expect("an assignment");
            let arg = program.definition.get_arguments().find(|arg| arg.get_long() == Some(key));
            let Some(name) = arg.and_then(|arg| arg.get_value_names()?.first().map(ToString::to_string)) else {
                continue;
            };
            let first = name.split(|c: char| !c.is_ascii_uppercase()).find(|word| word.len() > 2).unwrap_or("?");
            assert!(
                !value.contains(first),
                "{}: {line}: add an example to packaging/src/configuration.rs",
                program.name
            );
        }
    }
}
