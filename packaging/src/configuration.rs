//! Configuration files with every option commented out, each with its meaning and its default.

use std::fmt::Write as _;

use clap::{Arg, ArgAction};

use crate::Program;

/// Longest line of a comment.
const WIDTH: usize = 110;

/// The configuration file of a program. Each option stands behind `#` without a space, prose behind `# `.
pub fn commented(program: &Program) -> String {
    let name = program.name;
    let mut text = format!(
        "# Configuration of {name}: {name} --config /etc/tcpcopy/{name}.toml\n\
         #\n\
         # Every option of {name}(8) by its long name, switched off. What is behind the = is the default where there is\n\
         # one, otherwise an example. What is given on the command line wins over this file.\n"
    );
    let mut headings: Vec<&str> = Vec::new();
    let options: Vec<(&Arg, String)> =
        program.definition.get_arguments().filter_map(|arg| Some((arg, line(program, arg)?))).collect();
    for (arg, _) in &options {
        let heading = arg.get_help_heading().unwrap_or_default();
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        // A string takes all.
        let _ = write!(text, "\n\n# ---- {heading} ----\n");
        for (arg, line) in options.iter().filter(|(arg, _)| arg.get_help_heading().unwrap_or_default() == heading) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let short = arg.get_short().map(|short| format!(" (-{short})")).unwrap_or_default();
            let _ = writeln!(text, "\n{}#{line}", wrapped(&format!("{}{short}", help.trim_end_matches('.'))));
        }
    }
    if (program.complaint)("[module.echo]\nkey = 1").is_none() {
        text.push_str(
            "\n# Options of a protocol module, as --proto-opt NAME.KEY=VALUE; `tcpcopy modules` lists them. Tables come last.\n\
             #[module.mysql]\n\
             #slow = 1000\n",
        );
    }
    text
}

/// Prose in lines of comment.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// The option as it stands in the file; nothing for one that the file does not take, such as --help.
fn line(program: &Program, arg: &Arg) -> Option<String> {
    let key = arg.get_long()?;
    let candidates = match arg.get_action() {
        ArgAction::SetTrue => vec!["true".to_owned()],
        _ => values(program.name, key, arg),
    };
    candidates.into_iter().map(|value| format!("{key} = {value}")).find(|line| (program.complaint)(line).is_none())
}

/// What may stand behind the option, the best first: an example where a person needs one, the default that its help
/// names, and what the name of its value says.
fn values(program: &str, key: &str, arg: &Arg) -> Vec<String> {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    let default = help.rsplit_once("[default: ").map(|(_, rest)| rest.split([',', ']']).next().unwrap_or_default());
    let mut values: Vec<String> = example(program, key).map(str::to_owned).into_iter().collect();
    if let Some(default) = default.filter(|default| !default.contains(' ')) {
        values.extend(written(default));
    }
    let first = name.split(['|', ',', '[']).find(|word| !word.is_empty()).unwrap_or_default();
    values.extend(match first {
        "FILE" => Some(format!("\"/etc/tcpcopy/{key}\"")),
        "DIR" => Some("\"/usr/local/lib/tcpcopy\"".to_owned()),
        "DEVICE" => Some("\"eth0\"".to_owned()),
        "DURATION" => Some("\"10m\"".to_owned()),
        _ => None,
    });
    values.extend(written(first));
    values.push("1".to_owned());
    values
}

/// A value as TOML has it: a number if it is one, then a string.
fn written(value: &str) -> Vec<String> {
    let number = value.parse::<u64>().ok().map(|number| number.to_string());
    number.into_iter().chain([toml::Value::from(value).to_string()]).collect()
}

/// Examples for options without a default of one word, or whose value has a grammar of its own.
fn example(program: &str, key: &str) -> Option<&'static str> {
    let of_intercept = program == "intercept";
    Some(match key {
        "map" => r#"["80-10.0.0.2:8080"]"#,
        "source" => r#"["10.78.0.x"]"#,
        "intercept" => r#"["10.0.0.3"]"#,
        "proto-opt" => r#"["mysql.slow=1000"]"#,
        "mysql-user" => r#""@/etc/tcpcopy/mysql-users""#,
        "mysql-only" => r#""reads""#,
        "mysql-skip" => r#""^set ""#,
        "mysql-default-db" => r#""shop""#,
        "mysql-log" => r#""/var/log/tcpcopy/mysql.json""#,
        "max-rate" => r#""8MB""#,
        "loopback-source" => r#""10.0.0.1""#,
        "tls-name" => r#""assistant.example.com""#,
        "filter" if of_intercept => r#""tcp and src port 8080""#,
        "filter" => r#""tcp and dst port 80""#,
        "response-filter" => r#""tcp and src host 10.0.0.2 and src port 8080""#,
        "decap" => r#"["vxlan"]"#,
        "nice" => "10",
        "user" => r#""tcpcopy""#,
        "cpu-limit" => "50",
        "stop-if" => r#"["errors>20%", "cpu>85% for 30s"]"#,
        "report" => r#""/var/log/tcpcopy/report.html""#,
        "stats-file" => r#""/var/log/tcpcopy/statistics""#,
        "cut-gaps" => "1000",
        "secret-file" => r#""/etc/tcpcopy/secret""#,
        "tls-ca" => r#""/etc/tcpcopy/tls/authority.pem""#,
        "tls-cert" => r#""/etc/tcpcopy/tls/certificate.pem""#,
        "tls-key" => r#""/etc/tcpcopy/tls/key.pem""#,
        "idle-timeout" => "720",
        "log" if of_intercept => r#""/var/log/tcpcopy/intercept.log""#,
        "log" => r#""/var/log/tcpcopy/tcpcopy.log""#,
        "pid" if of_intercept => r#""/run/intercept.pid""#,
        "pid" => r#""/run/tcpcopy.pid""#,
        "metrics" if of_intercept => "9181",
        "metrics" => "9180",
        "target" => r#"["10.0.0.2:8080"]"#,
        "setup" => "[\"8080\"]",
        "passlist" => r#"["10.0.0.9"]"#,
        "client-address" => r#"["172.17.0.1-10.78.0.1"]"#,
        "bind" => r#""10.0.0.3""#,
        "allow" => r#"["10.0.0.1"]"#,
        _ => return None,
    })
}
