//! `pages FOLDER` writes man pages and completions into FOLDER; `make build` calls it. `pages --configuration FOLDER`
//! writes the commented configuration files, which the repository keeps in `packaging`.

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use tcpcopy_packaging::{Program, completions, configuration, man};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--configuration", folder] => write_configuration(Path::new(folder)),
        [folder] if !folder.starts_with('-') => write_pages(Path::new(folder)),
        _ => {
            eprintln!("usage: pages FOLDER | pages --configuration FOLDER");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pages: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_pages(folder: &Path) -> io::Result<()> {
    // A page of a command that there is no more would stay otherwise.
    if folder.join("man8").is_dir() {
        fs::remove_dir_all(folder.join("man8"))?;
    }
    for program in Program::both() {
        for page in man::pages(&program) {
            write(&folder.join("man8").join(format!("{}.8", page.name)), &page.text)?;
        }
        for (file, script) in completions::scripts(&program) {
            write(&folder.join(file), &script)?;
        }
    }
    Ok(())
}

fn write_configuration(folder: &Path) -> io::Result<()> {
    Program::both().iter().try_for_each(|program| {
        write(&folder.join(format!("{}.toml", program.name)), &configuration::commented(program))
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
