//! Which protocol modules there are, and which of them the maps mean.

pub mod command;
pub mod scaffold;
pub mod settings;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tcpcopy_engine::Map;
use tcpcopy_io::modules::{self as libraries, LoadedModule, ModuleError};
use tcpcopy_module_api::{About, ModuleEntry, ModuleHandle, Options};

use super::grammar::WrittenMap;
use crate::exit::{Failure, words_of_panic};
use settings::{Settings, Tables};

/// The modules of this project, and the cargo features that build them in.
const SHIPPED: &[&str] = &["tcp", "udp", "mysql"];

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
            #[cfg(feature = "mysql")]
            ModuleEntry::of::<tcpcopy_module_mysql::MySql>(),
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
    /// It was loaded from this file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A module that was found, and not made yet.
#[derive(Clone, Debug)]
pub enum Found {
    /// One that is part of the program.
    BuiltIn(ModuleEntry),
    /// One from a file.
    Loaded(LoadedModule),
}

impl Found {
    /// What it says of itself.
    pub fn about(&self) -> About {
        match self {
            Self::BuiltIn(entry) => entry.about,
            Self::Loaded(module) => module.about,
        }
    }

    /// Where it came from. A file has the same name here by whatever way it was found.
    pub fn origin(&self) -> Origin {
        match self {
            Self::BuiltIn(_) => Origin::BuiltIn,
            Self::Loaded(module) => Origin::File(module.path.canonicalize().unwrap_or(module.path.clone())),
        }
    }

    /// Makes it.
    ///
    /// # Errors
    /// The module's own words, or those of its panic.
    fn create(&self, options: &Options) -> Result<ModuleHandle, String> {
        let entry = match self {
            Self::BuiltIn(entry) => entry,
            Self::Loaded(module) => return module.create(options),
        };
        catch_unwind(AssertUnwindSafe(|| entry.create(options)))
            .unwrap_or_else(|panic| Err(format!("it failed by a mistake in it: {}", words_of_panic(&*panic))))
    }
}

/// Where modules are looked for.
#[derive(Clone, Debug)]
pub struct Catalogue {
    built_in: BuiltIn,
    folders: Vec<PathBuf>,
}

impl Catalogue {
    /// What is built in, and then these folders, and then the standard ones.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn new<P: AsRef<Path>>(built_in: BuiltIn, folders: &[P]) -> Result<Self, Failure> {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.as_ref().to_owned()).collect();
        match folders.iter().find(|folder| !folder.is_dir()) {
            Some(folder) => Err(Failure::usage(format!("in --module-dir: there is no folder `{}`", folder.display()))),
            None => Ok(Self { built_in, folders }),
        }
    }

    /// The module for maps that name none, unless `--proto` says another.
    pub fn default_name(&self) -> &'static str {
        self.built_in.default_name()
    }

    /// The module of this name, or in this file: a file is what has a `/`.
    ///
    /// # Errors
    /// Why it cannot be had, and where it was looked for.
    pub fn find(&self, wanted: &str) -> Result<Found, String> {
        if wanted.contains('/') {
            return libraries::open(Path::new(wanted)).map(Found::Loaded).map_err(|e| e.to_string());
        }
        if let Some(entry) = self.built_in.find(wanted) {
            return Ok(Found::BuiltIn(*entry));
        }
        libraries::find(wanted, &self.folders).map(Found::Loaded).map_err(|e| match e {
            ModuleError::NotFound { .. } if SHIPPED.contains(&wanted) => {
                format!("{e}; it was left out when this tcpcopy was built (cargo build --features {wanted} puts it in)")
            }
            ModuleError::NotFound { .. } => format!("{e}; `tcpcopy modules` lists what there is"),
            e => e.to_string(),
        })
    }

    /// All modules, and all files that look like one and are none. Files are in the order in which they are looked for.
    pub fn list(&self) -> (Vec<Found>, Vec<ModuleError>) {
        let mut found: Vec<Found> = self.built_in.entries.iter().copied().map(Found::BuiltIn).collect();
        let mut refused = Vec::new();
        for module in libraries::list(&self.folders) {
            match module {
                Ok(module) => found.push(Found::Loaded(module)),
                Err(e) => refused.push(e),
            }
        }
        (found, refused)
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
