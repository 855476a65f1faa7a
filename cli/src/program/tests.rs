use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn answer(line: &str) -> String {
    match choose("tcpcopy", &words(line), TCPCOPY) {
        None => "main".to_owned(),
        Some(Chosen::Run(command)) => format!("run {}", command.name),
        Some(Chosen::Help(text)) => format!("help {text}"),
        Some(Chosen::Unknown(text)) => format!("unknown {text}"),
    }
}

#[test]
fn options_belong_to_the_main_work() {
    for line in [
        "tcpcopy",
        "tcpcopy -x 80-10.0.0.2:80",
        "tcpcopy \u{2013}x 80-10.0.0.2:80",
        "tcpcopy --version",
        "tcpcopy -- demo",
    ] {
        assert_eq!(answer(line), "main", "{line}");
    }
}

#[test]
fn a_command_is_the_first_word() {
    assert_eq!(answer("tcpcopy demo --rate 5"), "run demo");
    assert_eq!(answer("tcpcopy modules new echo"), "run modules");
    assert_eq!(answer("tcpcopy -d demo"), "main", "a word further on is none");
}

#[test]
fn an_unknown_word_names_the_commands() {
    let text = answer("tcpcopy domo");
    assert!(text.starts_with("unknown tcpcopy: there is no command `domo`."), "{text}");
    for command in TCPCOPY {
        assert!(text.contains(&format!("tcpcopy {}", command.name)) && text.contains(command.about), "{text}");
    }
    assert!(answer("tcpcopy help domo").starts_with("unknown "), "of help, too");
}

#[test]
fn help_explains_each_command() {
    assert!(answer("tcpcopy help").starts_with("help Commands:"));
    assert_eq!(answer("tcpcopy help help"), answer("tcpcopy help"));
    for command in TCPCOPY {
        let text = answer(&format!("tcpcopy help {}", command.name));
        assert!(text.starts_with("help ") && text.contains(&format!("Usage: tcpcopy {}", command.name)), "{text}");
    }
}

/// The order is that of the alphabet, so that a new row has one place.
#[test]
fn the_tables_are_in_order() {
    assert!(TCPCOPY.is_sorted_by_key(|command| command.name));
    assert!(INTERCEPT.is_sorted_by_key(|command| command.name));
    for (program, names) in [
        ("tcpcopy", TCPCOPY.iter().map(|c| (c.name, (c.definition)())).collect::<Vec<_>>()),
        ("intercept", INTERCEPT.iter().map(|c| (c.name, (c.definition)())).collect()),
    ] {
        for (name, definition) in names {
            assert_eq!(definition.get_name(), format!("{program} {name}"), "the name that its help shows");
            definition.debug_assert();
        }
    }
}
