//! Protocol modules in shared libraries: where they are, what they say of themselves, and why one is refused.
//!
//! A library is never unloaded: sessions, the texts of [`About`] and the program's own log may refer to it.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fmt, fs, io, mem};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use tcpcopy_module_api::abi::{CreateError, ForeignModule, SYMBOL, TableError, TableFn, is_module_name};
use tcpcopy_module_api::{About, ModuleHandle, Options};

/// Where modules are looked for when they are in none of the folders that the user gave.
pub const STANDARD_FOLDERS: [&str; 2] = ["/usr/local/lib/tcpcopy", "/usr/lib/tcpcopy"];

const PREFIX: &str = "libtcpcopy_";
const SUFFIX: &str = ".so";

/// A module that a shared library has, ready to be made.
#[derive(Clone, Debug)]
pub struct LoadedModule {
    /// What users see of it.
    pub about: About,
    /// The file it came from.
    pub path: PathBuf,
    module: ForeignModule,
}

impl LoadedModule {
    /// Makes the module, from options whose names are among [`About::options`].
    ///
    /// # Errors
    /// What the module itself says, or that it panicked, and with which message.
    pub fn create(&self, options: &Options) -> Result<ModuleHandle, String> {
        self.try_create(options).map_err(|e| e.to_string())
    }

    /// [`create`](Self::create), with an error that tells a refusal from a panic.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn try_create(&self, options: &Options) -> Result<ModuleHandle, CreateError> {
        self.module.create(options)
    }
}

/// Why a module cannot be loaded.
#[derive(Debug)]
pub enum ModuleError {
    /// No such module in any of the places.
    NotFound {
        /// Its name.
        name: String,
        /// The files that were looked for.
        looked_for: Vec<PathBuf>,
    },
    /// What was asked for is not a name that a module can have.
    NotAName {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be opened.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not a shared library, or one that lacks what it needs.
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What the system's loader says.
        why: String,
    },
    /// A shared library, but not a module.
    NotAModule {
        /// The file.
        path: PathBuf,
    },
    /// A module that this program cannot use.
    Table {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TableError,
    },
    /// The module calls itself something else than its file is called.
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        wanted: String,
        /// What it calls itself.
        found: &'static str,
    },
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { name, looked_for } => {
                write!(f, "there is no module `{name}`: neither built in, nor one of")?;
                for path in looked_for {
                    write!(f, " {}", path.display())?;
                }
                Ok(())
            }
            Self::NotAName { name } => write!(
                f,
                "`{name}` is no name of a module: lower-case letters, digits, `-` and `_`, a letter first; a file needs a \
                 `/` in its path"
            ),
            Self::File { path, error } => write!(f, "module {}: cannot open it: {error}", path.display()),
            Self::NotALibrary { path, why } => {
                write!(f, "module {}: not a shared library that can be loaded here: {why}", path.display())
            }
            Self::NotAModule { path } => {
                write!(f, "module {}: not a module of tcpcopy: it has no function `{SYMBOL}`", path.display())
            }
            Self::Table { path, error } => write!(f, "module {}: {error}", path.display()),
            Self::OtherName { path, wanted, found } => write!(
                f,
                "module {}: it calls itself `{found}`, not `{wanted}`: rename the file, or give its path",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ModuleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { error, .. } => Some(error),
            Self::Table { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Loads the module in a file. That runs code of the file, so that it must be one that the user trusts.
///
/// # Errors
/// Why it cannot be used.
pub fn open(path: &Path) -> Result<LoadedModule, ModuleError> {
    let cannot_open = |error| ModuleError::File { path: path.to_owned(), error };
    // A path that has no `/` would make the system look in its own folders.
    let file = fs::canonicalize(path).map_err(cannot_open)?;
    // The system's loader says less clearly what is wrong with a folder, or a file that may not be read.
    if fs::File::open(&file).and_then(|file| file.metadata()).map_err(cannot_open)?.is_dir() {
        return Err(cannot_open(io::ErrorKind::IsADirectory.into()));
    }
    // SAFETY: the user asked for this file, whose initializers run now; that is said above. Symbols are resolved at
    // once, so that one that is missing does not end the process later, and are not shown to other libraries.
    let library = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| ModuleError::NotALibrary { path: path.to_owned(), why: loader_says(&e) })?;
    // SAFETY: the type of this symbol is what the header asks for.
    let table = match unsafe { library.get::<TableFn>(SYMBOL.as_bytes()) } {
        Ok(symbol) => *symbol,
        Err(_) => return Err(ModuleError::NotAModule { path: path.to_owned() }),
    };
    // From here on it stays, also when it is refused: its code has run, and may have left something behind.
    mem::forget(library);
    // SAFETY: a library that has this symbol keeps to the header, and is never unloaded.
    let module = unsafe { ForeignModule::from_table(table()) }
        .map_err(|error| ModuleError::Table { path: path.to_owned(), error })?;
    Ok(LoadedModule { about: module.about(), path: path.to_owned(), module })
}

/// What dlopen(3) said: the error's own text says only that there was one.
fn loader_says(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Loads the module called `name`: `libtcpcopy_NAME.so`, in these folders first, in their order, then in the
/// [`STANDARD_FOLDERS`]. A `-` of the name may be a `_` in the file's, as Cargo has it.
///
/// # Errors
/// Where it was looked for; or why the first file found cannot be used.
pub fn find(name: &str, folders: &[PathBuf]) -> Result<LoadedModule, ModuleError> {
    if !is_module_name(name) {
        return Err(ModuleError::NotAName { name: name.to_owned() });
    }
    let mut looked_for = Vec::new();
    let mut files = vec![format!("{PREFIX}{name}{SUFFIX}")];
    if name.contains('-') {
        files.push(format!("{PREFIX}{}{SUFFIX}", name.replace('-', "_")));
    }
    for folder in all_folders(folders) {
        for file in &files {
            let path = folder.join(file);
            // A link that leads nowhere is worth a message of its own.
            if path.symlink_metadata().is_err() {
                looked_for.push(path);
                continue;
            }
            let module = open(&path)?;
            if module.about.name != name {
                let found = module.about.name;
                return Err(ModuleError::OtherName { path, wanted: name.to_owned(), found });
            }
            return Ok(module);
        }
    }
    Err(ModuleError::NotFound { name: name.to_owned(), looked_for })
}

/// Loads all that look like modules, `libtcpcopy_*.so`, in these folders and the [`STANDARD_FOLDERS`]: what each is, or
/// why it is refused. In the order in which [`find`] looks, by file name within a folder; where two have one name, `find`
/// takes the first. A folder that is not there has none.
///
/// # Errors
/// In the items: of a file, why it is refused; of a folder, why it cannot be read.
pub fn list(folders: &[PathBuf]) -> Vec<Result<LoadedModule, ModuleError>> {
    let mut modules = Vec::new();
    for folder in all_folders(folders) {
        match files_in(&folder) {
            Ok(files) => modules.extend(files.iter().map(|file| open(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => modules.push(Err(ModuleError::File { path: folder, error })),
        }
    }
    modules
}

/// Each folder once, in order.
fn all_folders(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in folders.iter().cloned().chain(STANDARD_FOLDERS.map(PathBuf::from)) {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    all
}

fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
