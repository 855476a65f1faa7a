//! `tcpcopy modules new NAME`: a module to begin with, as a crate of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::SHIPPED;
use crate::exit::{Exit, Failure};
use crate::tcpcopy::grammar::is_module_name;

macro_rules! example {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../docs/examples/template/", $path)))),*]
    };
}

/// The example whose name is put in by [`write`], by path in its folder.
const FILES: &[(&str, &str)] = example![
    ".gitignore",
    "Cargo.toml",
    "README.md",
    "src/lib.rs",
    "tests/conformance.rs",
    "tests/conversation.rs",
    "tests/lab.rs",
    "tests/network.rs",
];

/// How the example's manifest refers to tcpcopy's crates.
const CRATE_BY_PATH: &str = "{ path = \"../../../";

/// Where a new module finds tcpcopy's crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this folder, absolute.
    Folder(PathBuf),
    /// In the public repository.
    Repository,
}

impl Source {
    /// The source that `folder` is in, if it is in one.
    pub fn around(folder: &Path) -> Self {
        let folder = folder.ancestors().find(|folder| is_source(folder));
        folder.map_or(Self::Repository, |folder| Self::Folder(folder.to_owned()))
    }

    /// The source in `folder`.
    ///
    /// # Errors
    /// When there is none.
    pub fn in_folder(folder: &Path) -> Result<Self, Failure> {
        if !is_source(folder) {
            return Err(Failure::usage(format!(
                "in --source: tcpcopy's source is not in `{}`: it has no plugins/api",
                folder.display()
            )));
        }
        let absolute = folder.canonicalize().map_err(|e| cannot("find", folder, &e))?;
        Ok(Self::Folder(absolute))
    }
}

fn is_source(folder: &Path) -> bool {
    folder.join("plugins/api/Cargo.toml").is_file()
}

fn cannot(doing: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot {doing} {}: {e}", path.display()))
}

/// Checks the name of a new module.
///
/// # Errors
/// When it is none, or is taken.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if !is_module_name(name) {
        return Err(Failure::usage(format!(
            "`{name}` cannot be the name of a module: small letters, digits, `-` and `_`, a letter first"
        )));
    }
    if SHIPPED.contains(&name) {
        return Err(Failure::usage(format!("module `{name}` is there already, built in; choose another name")));
    }
    Ok(())
}

/// Writes the module `name` into `folder`, which must not hold anything.
///
/// # Errors
/// When it does, or when the system refuses something.
pub fn write(name: &str, folder: &Path, source: &Source) -> Result<(), Failure> {
    check_name(name)?;
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => {
            return Err(Failure::usage(format!(
                "{} holds something already, which stays as it is; give another folder behind the name",
                folder.display()
            )));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(cannot("look into", folder, &e)),
    }
    for (path, text) in FILES {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| cannot("make the folder", parent, &e))?;
        File::create_new(&file)
            .and_then(|mut new| new.write_all(fill_in(text, name, source).as_bytes()))
            .map_err(|e| cannot("write", &file, &e))?;
    }
    Ok(())
}

/// The text of a file of the example, for a module of this name.
fn fill_in(text: &str, name: &str, source: &Source) -> String {
    let identifier = name.replace('-', "_");
    // `my-own` is a `MyOwnModule`.
    let type_name: String = name
        .split(['-', '_'])
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + chars.as_str())
        })
        .collect();
    // In two steps, since a name may itself have the word in it that is replaced.
    let text =
        text.replace("tcpcopy_template", "tcpcopy_\u{1}").replace("Template", "\u{2}").replace("template", "\u{3}");
    let text = text.replace('\u{1}', &identifier).replace('\u{2}', &type_name).replace('\u{3}', name);
    match source {
        Source::Folder(folder) => text.replace(CRATE_BY_PATH, &format!("{{ path = \"{}/", escaped(folder))),
        Source::Repository => text
            .lines()
            .map(|line| match line.split_once(CRATE_BY_PATH) {
                Some((before, _)) => format!("{before}{{ git = \"{}\" }}\n", env!("CARGO_PKG_REPOSITORY")),
                None => format!("{line}\n"),
            })
            .collect(),
    }
}

/// A path within a TOML string.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_the_example_are_written() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/template");
        let mut there = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                // What building it leaves behind.
                if path.ends_with("target") || path.ends_with("Cargo.lock") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    there.push(path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        there.sort();
        assert_eq!(there, FILES.iter().map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn the_name_is_put_in_everywhere() {
        let source = Source::Folder("/opt/tcpcopy".into());
        for (path, text) in FILES {
            let text = fill_in(text, "my-own_2", &source);
            assert!(!text.to_lowercase().contains("template") && !text.contains("../"), "{path}: {text}");
        }
        let manifest = fill_in(FILES.iter().find(|(path, _)| *path == "Cargo.toml").unwrap().1, "my-own_2", &source);
        let manifest: toml::Table = manifest.parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("tcpcopy-my-own_2"));
        assert_eq!(manifest["lib"]["name"].as_str(), Some("tcpcopy_my_own_2"));
        let api = &manifest["dependencies"]["tcpcopy-module-api"];
        assert_eq!(api["path"].as_str(), Some("/opt/tcpcopy/plugins/api"));
        let code = fill_in(FILES.iter().find(|(path, _)| *path == "src/lib.rs").unwrap().1, "my-own_2", &source);
        assert!(code.contains("export_module!(MyOwn2Module)") && code.contains("name: \"my-own_2\""), "{code}");
    }

    #[test]
    fn a_name_may_have_the_examples_in_it() {
        let text = fill_in("tcpcopy_template::TemplateModule is template", "my-template", &Source::Repository);
        assert_eq!(text, "tcpcopy_my_template::MyTemplateModule is my-template\n");
    }

    #[test]
    fn outside_of_tcpcopys_source_its_repository_is_used() {
        let (_, manifest) = FILES.iter().find(|(path, _)| *path == "Cargo.toml").unwrap();
        let manifest: toml::Table = fill_in(manifest, "own", &Source::Repository).parse().unwrap();
        for (section, name) in [("dependencies", "tcpcopy-module-api"), ("dev-dependencies", "tcpcopy-netsim")] {
            assert_eq!(manifest[section][name]["git"].as_str(), Some(env!("CARGO_PKG_REPOSITORY")));
        }
        assert_eq!(Source::around(Path::new("/")), Source::Repository);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(Source::around(&root.join("docs/examples")), Source::Folder(root.to_owned()));
    }
}
