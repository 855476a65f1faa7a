//! Man pages and completions, as those who read them do: the formatter and the shells themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tcpcopy_packaging::{Program, completions, man};
use tempfile::TempDir;

/// The pages and scripts of both programs, in a folder of their own.
fn written() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for program in Program::both() {
        let pages = man::pages(&program).into_iter().map(|page| (format!("man8/{}.8", page.name), page.text));
        for (file, text) in pages.chain(completions::scripts(&program)) {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("its folder");
            fs::write(path, text).expect("a file");
        }
    }
    folder
}

/// What a program of the system says; nothing where it is not installed, which is said.
fn run(program: &str, arguments: &[&str], folder: &Path) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("SKIPPED: {program} cannot be run: {error}");
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(folder.join("man8")).expect("pages").map(|page| page.expect("a page").path()).collect();
    pages.sort();
    pages
}

/// The options that a program's help lists: what begins with a dash at the beginning of a line.
fn options_of(definition: &clap::Command) -> BTreeSet<String> {
    let help = definition.clone().term_width(0).render_long_help().to_string();
    let heads = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let head_words = heads.flat_map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')));
    head_words.map(|word| word.trim_end_matches(',').to_owned()).collect()
}

#[test]
fn pages_are_without_mistakes() {
    let folder = written();
    for page in pages(folder.path()) {
        let page = page.to_str().expect("a name");
        let Some(output) = run("mandoc", &["-Tlint", "-Wwarning", page], folder.path()) else { return };
        assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output));
    }
}

#[test]
fn pages_have_their_sections() {
    let sections = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "SIGNALS",
        "EXIT STATUS",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ];
    for program in Program::both() {
        let pages = man::pages(&program);
        let found: Vec<&str> = pages[0].text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert_eq!(found, sections, "{}", program.name);
        assert!(!pages[0].text.contains("\n@"), "a mark is left in {}", program.name);
        assert_eq!(pages.len(), 1 + program.commands.len(), "a page for each command");
    }
}

/// The codes that the help ends with, each with a paragraph in the page.
#[test]
fn exit_codes_are_those_of_the_help() {
    for program in Program::both() {
        let help = program.definition.get_after_help().map(ToString::to_string).unwrap_or_default();
        let line = help.split_once("Exit codes:").expect("exit codes in the help").1;
        let codes: Vec<&str> =
            line.split_whitespace().filter(|word| word.chars().all(|c| c.is_ascii_digit())).collect();
        let page = &man::pages(&program)[0].text;
        let section =
            page.split_once(".SH EXIT STATUS\n").and_then(|(_, rest)| rest.split_once("\n.SH ")).expect("a section").0;
        let told: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix(".B ")).filter(|word| word.len() == 1).collect();
        assert_eq!(told, codes, "{}", program.name);
    }
}

#[test]
fn every_option_of_the_help_is_in_the_page() {
    let folder = written();
    for program in Program::both() {
        let commands = program.commands.iter().map(|c| (format!("{}-{}", program.name, c.name), &c.definition));
        for (name, definition) in commands.chain([(program.name.to_owned(), &program.definition)]) {
            let page = format!("man8/{name}.8");
            let Some(output) = run("mandoc", &["-Tutf8", "-Owidth=200", &page], folder.path()) else { return };
            // Bold is a character, a backspace and the character again.
            let mut plain = String::new();
            for c in String::from_utf8_lossy(&output.stdout).chars() {
                if c == '\u{8}' {
                    plain.pop();
                } else {
                    plain.push(c);
                }
            }
            let options = options_of(definition);
            assert!(!options.is_empty(), "{name} has no options");
            for option in options {
                let is_head = |line: &str| {
                    let line = line.trim_start();
                    line.starts_with('-') && line.split([' ', ',']).any(|word| word == option)
                };
                assert!(plain.lines().any(is_head), "{option} is not in {name}(8):\n{plain}");
            }
        }
    }
}

#[test]
fn the_help_that_is_looked_at_is_complete() {
    let options = options_of(&Program::tcpcopy().definition);
    for option in ["-x", "--map", "-g", "--preserve-rtt", "--config", "-h", "--version"] {
        assert!(options.contains(option), "{option} is not among {options:?}");
    }
    assert!(options.len() > 90, "{options:?}");
}

/// What bash offers at the end of a command line.
fn bash_offers(folder: &Path, words: &[&str]) -> Option<Vec<String>> {
    let script = format!(
        "source completions/bash/tcpcopy && complete -p tcpcopy >/dev/null && COMP_WORDS=({words}) && COMP_CWORD={last} && \
         _tcpcopy tcpcopy '{current}' '{previous}' && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        last = words.len() - 1,
        current = words[words.len() - 1],
        previous = words[words.len() - 2],
    );
    let output = run("bash", &["--norc", "-c", &script], folder)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    Some(text(&output).lines().map(str::to_owned).collect())
}

#[test]
fn bash_completes() {
    let folder = written();
    let offers = |words: &[&str]| bash_offers(folder.path(), words);
    let Some(rates) = offers(&["tcpcopy", "-d", "--max-"]) else { return };
    let expected: Vec<String> =
        options_of(&Program::tcpcopy().definition).into_iter().filter(|option| option.starts_with("--max-")).collect();
    assert!(!expected.is_empty());
    assert_eq!(rates.iter().collect::<BTreeSet<_>>(), expected.iter().collect(), "the options that there are");
    assert_eq!(
        offers(&["tcpcopy", "--capture", ""]),
        Some(vec!["pcap".to_owned(), "raw".to_owned()]),
        "possible values"
    );
    assert_eq!(offers(&["tcpcopy", "mod"]), Some(vec!["modules".to_owned()]), "commands");
    assert_eq!(offers(&["tcpcopy", "demo", "--ra"]), Some(vec!["--rate".to_owned()]), "their options");
    for program in ["tcpcopy", "intercept"] {
        let output = run("bash", &["-n", &format!("completions/bash/{program}")], folder.path()).expect("bash");
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn fish_completes() {
    let folder = written();
    let script = "source completions/fish/tcpcopy.fish; source completions/fish/intercept.fish; \
                  complete -C 'tcpcopy --max-'; complete -C 'tcpcopy mod'; complete -C 'intercept --nfq'";
    // A home of its own, where it may write its state.
    let home = folder.path().to_str().expect("a name");
    let Some(output) = run(
        "env",
        &["-i", "PATH=/usr/bin:/bin", &format!("HOME={home}"), "sh", "-c", "command -v fish"],
        folder.path(),
    ) else {
        return;
    };
    if !output.status.success() {
        println!("SKIPPED: there is no fish");
        return;
    }
    let home = format!("HOME={home}");
    let output = run("env", &["-i", "PATH=/usr/bin:/bin", &home, "fish", "-c", script], folder.path()).expect("fish");
    let offered: Vec<String> =
        text(&output).lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect();
    for word in ["--max-rate", "modules", "--nfqueue"] {
        assert!(offered.iter().any(|offer| offer == word), "{word} is not offered: {}", text(&output));
    }
}

/// zsh completes only at a terminal: it is given one, and a key is pressed.
#[test]
fn zsh_completes() {
    let folder = written();
    let script = r#"
        zmodload zsh/zpty || exit 9
        zpty terminal zsh -f -i
        zpty -w terminal "PS1=; fpath=($PWD/completions/zsh \$fpath); autoload -Uz compinit; compinit -u -d $PWD/dump; echo re''ady"
        zpty -r -m terminal line '*ready*'
        for typed whole in 'tcpcopy --max-' '--max-rate' 'intercept --nfq' '--nfqueue' 'tcpcopy modu' 'modules'; do
            zpty -w -n terminal "$typed"$'\t'
            zpty -r -m terminal line "*$whole*" || exit 8
            print "offered $whole"
            zpty -w -n terminal $'\C-u'
        done
        zpty -d terminal
    "#;
    // What never comes ends the wait.
    let Some(output) = run("timeout", &["120", "zsh", "-f", "-c", script], folder.path()) else { return };
    if output.status.code() == Some(127) || output.status.code() == Some(9) {
        println!("SKIPPED: there is no zsh, or it has no zpty");
        return;
    }
    assert!(output.status.success(), "{:?} {}", output.status, text(&output));
    assert_eq!(text(&output).matches("offered").count(), 3, "{}", text(&output));
}
