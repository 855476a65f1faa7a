//! The options of a run as they were given, fit to be shown to others.

mod command;

use toml::Value;

pub use command::doctor_command;

use crate::tcpcopy::arguments::Arguments;

/// In the place of what may be a secret.
const HIDDEN: &str = "(not shown)";
/// Options of module `mysql` that hold no secret.
const HARMLESS: &[&str] = &["skip-grant-tables", "unknown-user", "default-db", "only", "skip", "slow", "log"];

/// The options that were given, by their long names, without secrets. Options that mean the same are the same, however they
/// were written; so this compares equal to any other.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<(String, String)>);

impl Given {
    /// Of these arguments.
    pub fn of(arguments: &Arguments) -> Self {
        Self(without_secrets(arguments))
    }

    /// Names and values; those of options that may be given several times, several times.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl PartialEq for Given {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Names and values of the options that were given. Passwords are left out, and the values of modules' options, of which only
/// the module knows whether they are secret.
fn without_secrets(arguments: &Arguments) -> Vec<(String, String)> {
    // The options are made for being written and read.
    let table = toml::Table::try_from(arguments).unwrap_or_default();
    let mut given = Vec::new();
    for (name, value) in table {
        match (name.as_str(), value) {
            ("mysql-user", value) => {
                let is_file = value.as_str().is_some_and(|text| text.starts_with('@'));
                given.push((name, if is_file { text(&value) } else { HIDDEN.to_owned() }));
            }
            ("proto-opt", Value::Array(options)) => {
                for option in options.iter().filter_map(Value::as_str) {
                    let (key, value) = option.split_once('=').unwrap_or((option, ""));
                    given.push(("proto-opt".to_owned(), format!("{key}={}", of_module(key, value))));
                }
            }
            ("module", Value::Table(modules)) => {
                for (module, options) in modules {
                    for (key, value) in options.as_table().into_iter().flatten() {
                        let key = format!("{module}.{key}");
                        let value = of_module(&key, &text(value)).to_owned();
                        given.push((format!("module.{key}"), value));
                    }
                }
            }
            (_, value) => given.push((name, text(&value))),
        }
    }
    if arguments.grow {
        given.push(("ramp".to_owned(), "100s".to_owned()));
    }
    given
}

/// The value of a module's option, if it can be shown.
fn of_module<'a>(key: &str, value: &'a str) -> &'a str {
    if is_harmless(key) { value } else { HIDDEN }
}

/// Whether the value of a module's option, which is named with its module, can be no secret.
fn is_harmless(key: &str) -> bool {
    key.strip_prefix("mysql.").is_some_and(|key| HARMLESS.contains(&key))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Boolean(true) => "yes".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_among_them() {
        let file = "map = '80-10.0.0.2:80'\nmysql-user = 'app@hush1,other@hush2'\nmysql-only = 'reads'\nmtu = 1400\n\
                    proto-opt = ['mysql.user=a@hush3', 'token=hush4', 'mysql.only=reads']\nno-wait = true\n\
                    secret-file = '/etc/tcpcopy/secret'\n[module.own]\npassword = 'hush5'\n[module.mysql]\nslow = 7\n";
        let given = without_secrets(&toml::from_str::<Arguments>(file).unwrap());
        let all = format!("{given:?}");
        assert!(!all.contains("hush"), "{all}");
        for (name, value) in [
            ("map", "80-10.0.0.2:80"),
            ("mysql-user", HIDDEN),
            ("mysql-only", "reads"),
            ("mtu", "1400"),
            ("no-wait", "yes"),
            ("secret-file", "/etc/tcpcopy/secret"),
            ("proto-opt", "mysql.user=(not shown)"),
            ("proto-opt", "mysql.only=reads"),
            ("module.own.password", HIDDEN),
            ("module.mysql.slow", "7"),
        ] {
            assert!(given.contains(&(name.to_owned(), value.to_owned())), "{name}: {all}");
        }
    }

    #[test]
    fn a_file_of_passwords_may_be_named() {
        let arguments = toml::from_str::<Arguments>("mysql-user = '@/etc/users'").unwrap();
        assert_eq!(without_secrets(&arguments), [("mysql-user".to_owned(), "@/etc/users".to_owned())]);
    }
}
