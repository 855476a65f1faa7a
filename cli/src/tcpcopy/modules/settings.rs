//! What modules are told: `--proto-opt` and the tables `[module.NAME]` of a configuration file.

use std::collections::BTreeMap;

use tcpcopy_module_api::About;

use crate::config::Text;
use crate::exit::Failure;
use crate::grammar::{OptionName, Part, SyntaxError};
use crate::tcpcopy::grammar::is_module_name;

/// The option of modules' options.
pub const PROTO_OPT: OptionName =
    OptionName { name: "--proto-opt", example: "--proto-opt KEY=VALUE, or --proto-opt MODULE.KEY=VALUE" };

/// The tables `[module.NAME]`: by module, and by option.
pub type Tables = BTreeMap<String, BTreeMap<String, Text>>;

/// One `--proto-opt`.
struct Given<'a> {
    module: Option<Part<'a>>,
    key: Part<'a>,
    value: &'a str,
}

fn read(text: &str) -> Result<Given<'_>, SyntaxError> {
    let whole = Part::whole(PROTO_OPT, text);
    let Some((name, value)) = whole.split_once('=') else {
        return Err(whole.error("a `=` is missing, between the name of an option and its value"));
    };
    let (module, key) = match name.split_once('.') {
        Some((module, key)) => (Some(module.trimmed()), key.trimmed()),
        None => (None, name.trimmed()),
    };
    if let Some(module) = module
        && !is_module_name(module.text())
    {
        return Err(module.error(format!("`{}` is not the name of a module", module.text())));
    }
    if key.text().is_empty() {
        return Err(key.error("the name of an option is missing"));
    }
    Ok(Given { module, key, value: value.text() })
}

/// The options of each module in use, in the order of the modules. Each option is in it once.
pub struct Settings(pub Vec<Vec<(String, String)>>);

impl Settings {
    /// Sorts options out to the modules in use; `default` is the one that an option without a module's name is for.
    ///
    /// # Errors
    /// An option that no module takes, or one for a module that is not in use.
    pub fn gather(
        options: &[String],
        tables: &Tables,
        modules: &[About],
        default: Option<usize>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        let mut settings = vec![BTreeMap::new(); modules.len()];
        let in_use = || modules.iter().map(|about| format!("`{}`", about.name)).collect::<Vec<_>>().join(", ");
        for (name, table) in tables {
            let users: Vec<usize> = (0..modules.len()).filter(|i| modules[*i].name == name).collect();
            if users.is_empty() {
                warnings.push(format!("[module.{name}] is of no use: no map uses this module; in use: {}", in_use()));
            }
            for i in users {
                for (key, value) in table {
                    check_key(&modules[i], key)
                        .map_err(|reason| Failure::usage(format!("in [module.{name}]: {reason}")))?;
                    settings[i].insert(key.clone(), value.0.clone());
                }
            }
        }
        for text in options {
            let given = read(text).map_err(Failure::usage)?;
            let users: Vec<usize> = match given.module {
                Some(module) => (0..modules.len()).filter(|i| modules[*i].name == module.text()).collect(),
                None => default.into_iter().collect(),
            };
            if users.is_empty() {
                return Err(Failure::usage(match given.module {
                    Some(module) => module.error(format!("no map uses this module; in use: {}", in_use())),
                    None => given.key.error(format!(
                        "each map names a module of its own, so that it is not clear which one this is for; write its \
                         name and a `.` in front; in use: {}",
                        in_use()
                    )),
                }));
            }
            for i in users {
                check_key(&modules[i], given.key.text()).map_err(|reason| Failure::usage(given.key.error(reason)))?;
                settings[i].insert(given.key.text().to_owned(), given.value.to_owned());
            }
        }
        Ok(Self(settings.into_iter().map(|options| options.into_iter().collect()).collect()))
    }
}

fn check_key(about: &About, key: &str) -> Result<(), String> {
    if about.options.iter().any(|option| option.name == key) {
        return Ok(());
    }
    let known: Vec<&str> = about.options.iter().map(|option| option.name).collect();
    let known = if known.is_empty() { "it takes none".to_owned() } else { format!("it takes: {}", known.join(", ")) };
    Err(format!("module `{}` has no option `{key}`; {known}", about.name))
}
