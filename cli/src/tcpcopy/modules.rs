//! Which protocol modules there are, and which of them the maps mean.

pub mod settings;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tcpcopy_engine::Map;
use tcpcopy_module_api::{About, ModuleEntry, ModuleHandle, Options};

use super::grammar::WrittenMap;
use crate::exit::Failure;
use settings::{Settings, Tables};

/// The modules of this project, and the cargo features that build them in.
const SHIPPED: &[&str] = &["tcp", "udp"];

/// The modules that are part of the program.
#[derive(Clone, Debug)]
pub struct BuiltIn {
    entries: Vec<ModuleEntry>,
    default: &'static str,
}

impl BuiltIn {
    /// Those that cargo's features chose, with plain TCP as the default.
    pub fn shipped() -> Self {
        let entries = vec![
            #[cfg(feature = "tcp")]
            ModuleEntry::of::<tcpcopy_module_tcp::PlainTcp>(),
            #[cfg(feature = "udp")]
            ModuleEntry::of::<tcpcopy_module_udp::PlainUdp>(),
        ];
        Self { entries, default: "tcp" }
    }

    /// With one more, which maps that name none use. It takes the place of one of the same name.
    #[must_use]
    pub fn with_default(mut self, entry: ModuleEntry) -> Self {
        self.entries.retain(|own| own.about.name != entry.about.name);
        self.default = entry.about.name;
        self.entries.insert(0, entry);
        self
    }

    /// What there is.
    pub fn entries(&self) -> &[ModuleEntry] {
        &self.entries
    }

    /// The name of the module for maps that name none.
    pub fn default_name(&self) -> &'static str {
        self.default
    }

    fn find(&self, name: &str) -> Option<&ModuleEntry> {
        self.entries.iter().find(|entry| entry.about.name == name)
    }
}

/// Where a module came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is part of the program.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
        }
    }
}

/// A module that was found, and not made yet.
#[derive(Clone)]
pub struct Found {
    entry: ModuleEntry,
}

impl Found {
    /// What it says of itself.
    pub fn about(&self) -> About {
        self.entry.about
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        Origin::BuiltIn
    }

    /// Makes it.
    ///
    /// # Errors
    /// The module's own words, or those of its panic.
    fn create(&self, options: &Options) -> Result<ModuleHandle, String> {
        catch_unwind(AssertUnwindSafe(|| self.entry.create(options))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("it failed by a mistake in it: {text}"))
        })
    }
}

/// Where modules are looked for.
#[derive(Clone, Debug)]
pub struct Catalogue {
    built_in: BuiltIn,
}

impl Catalogue {
    /// What is built in.
    pub fn new(built_in: BuiltIn) -> Self {
        Self { built_in }
    }

    /// The module for maps that name none, unless `--proto` says another.
    pub fn default_name(&self) -> &'static str {
        self.built_in.default_name()
    }

    /// The module of this name.
    ///
    /// # Errors
    /// Why it cannot be had, and where it was looked for.
    pub fn find(&self, wanted: &str) -> Result<Found, String> {
        if let Some(entry) = self.built_in.find(wanted) {
            return Ok(Found { entry: *entry });
        }
        let left_out = if SHIPPED.contains(&wanted) {
            format!("; it was left out of this build (cargo build --features {wanted} has it)")
        } else {
            String::new()
        };
        let names: Vec<&str> = self.built_in.entries.iter().map(|entry| entry.about.name).collect();
        Err(format!("there is no module `{wanted}`{left_out}; built in: {}", names.join(", ")))
    }
}

/// A module in use.
#[derive(Clone)]
pub struct Chosen {
    /// Where it came from.
    pub origin: Origin,
    /// The options it was given.
    pub options: Vec<(String, String)>,
    /// The module.
    pub handle: ModuleHandle,
}

impl Chosen {
    fn identity(&self) -> (About, &Origin, &[(String, String)]) {
        (self.handle.about, &self.origin, &self.options)
    }
}

impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Chosen {}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chosen").field(&self.identity()).finish()
    }
}

/// What options say about modules.
pub struct Wishes<'a> {
    /// `--proto`.
    pub proto: Option<&'a str>,
    /// `--proto-opt`, as written.
    pub options: &'a [String],
    /// The tables `[module.NAME]`.
    pub tables: &'a Tables,
}

/// Finds and makes the modules of maps. Maps that mean the same module share it.
///
/// # Errors
/// The first module that cannot be had, or does not take what it is given.
pub fn choose(
    catalogue: &Catalogue,
    wishes: &Wishes<'_>,
    written: &[WrittenMap<'_>],
    warnings: &mut Vec<String>,
) -> Result<(Vec<Chosen>, Vec<Map>), Failure> {
    let in_proto = |reason| Failure::usage(format!("in --proto: {reason}"));
    let proto = wishes.proto.unwrap_or(catalogue.default_name());
    let mut found: Vec<Found> = Vec::new();
    let mut default = None;
    let mut maps = Vec::new();
    for map in written {
        let module = match map.module {
            Some(part) => catalogue.find(part.text()).map_err(|reason| Failure::usage(part.error(reason)))?,
            None => catalogue.find(proto).map_err(in_proto)?,
        };
        let identity = (module.about().name, module.origin());
        let known = found.iter().position(|other| (other.about().name, other.origin()) == identity);
        let index = known.unwrap_or(found.len());
        if known.is_none() {
            found.push(module);
        }
        if map.module.is_none() {
            default = Some(index);
        }
        maps.push(Map {
            online_addr: map.online_addr,
            online_port: map.online_port,
            target: map.target,
            transport: found[index].about().transport,
            module: index as u16,
        });
    }
    if let (Some(proto), None) = (wishes.proto, default) {
        let name = catalogue.find(proto).map_err(in_proto)?.about().name;
        // Options without a module's name still mean this one.
        default = found.iter().position(|module| module.about().name == name);
        warnings.push(format!("--proto {proto} is of no use: each map in -x names a module of its own"));
    }

    let about: Vec<About> = found.iter().map(Found::about).collect();
    let settings = Settings::gather(wishes.options, wishes.tables, &about, default, warnings)?;
    let mut chosen = Vec::new();
    for (module, options) in found.iter().zip(settings.0) {
        let handle = module.create(&Options::new(options.clone())).map_err(|reason| {
            Failure::usage(format!("module `{}` ({}): {reason}", module.about().name, module.origin()))
        })?;
        chosen.push(Chosen { origin: module.origin(), options, handle });
    }
    Ok((chosen, maps))
}

#[cfg(test)]
mod tests;
