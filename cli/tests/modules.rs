//! Protocol modules in files, as their users meet them: found, listed, given options, refused, and at work.

mod scratch;
mod waiting;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use scratch::{Running, Scratch, run, tcpcopy};
use waiting::{may_run, until, until_file_has};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds a module in C. `false`, said so, where there is no compiler.
fn compile(source: &Path, flags: &[&str], file: &Path) -> bool {
    let include = repository().join("plugins/api/include");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-I"]).arg(include).args(flags).arg("-o").arg(file).arg(source);
    match command.output() {
        Err(_) => {
            eprintln!("SKIPPED: modules in C need a C compiler, cc");
            false
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
    }
}

/// The example in C, under the name by which it is found.
fn drop_lines(folder: &Path) -> bool {
    let source = repository().join("docs/examples/c-drop-lines/drop_lines.c");
    compile(&source, &[], &folder.join("libtcpcopy_drop-lines.so"))
}

#[test]
fn the_list_has_what_is_built_in_what_is_found_and_what_is_refused() {
    let (code, out, err) = run(&["modules"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let version = env!("CARGO_PKG_VERSION");
    for (name, more) in [("tcp", " (the default)"), ("udp", "")] {
        let entry = format!(
            "{name} {version}, {name}, built in{more}\n    copies any protocol over {} as it is\n",
            name.to_uppercase()
        );
        assert!(out.contains(&entry), "{out}");
    }

    let scratch = Scratch::new("list");
    fs::write(scratch.file("libtcpcopy_text.so"), "this is no library").unwrap();
    fs::write(scratch.file("readme.txt"), "and this is not looked at").unwrap();
    if !drop_lines(scratch.folder()) {
        return;
    }
    let (code, out, err) = run(&["modules", "--module-dir", scratch.path()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let file = scratch.folder().canonicalize().unwrap().join("libtcpcopy_drop-lines.so");
    let entry = format!(
        "drop-lines 1.0, tcp, {}\n    leaves out lines that begin with given words\n    \
         --proto-opt words=WORD[,WORD...]  leave out lines that begin with one of these; quit unless given\n",
        file.display()
    );
    assert!(out.contains(&entry), "{out}");
    let (_, refused) = out.split_once("\nrefused:\n").expect("one file is refused");
    assert!(refused.contains("libtcpcopy_text.so: not a shared library"), "{out}");
    assert_eq!(refused.lines().filter(|line| line.contains(scratch.path())).count(), 1, "{out}");
}

#[test]
fn the_command_explains_itself() {
    let (code, out, _) = run(&["modules", "-h"]);
    assert_eq!(code, 0);
    assert!(out.contains("--module-dir"), "{out}");
    let (code, out, err) = run(&["modules", "--module-dir", "/nonexistent/modules"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("there is no folder `/nonexistent/modules`"), "{err}");
    let (code, _, err) = run(&["modules", "--nonsense"]);
    assert_eq!(code, 2);
    assert!(err.contains("--nonsense"), "{err}");
}

#[test]
fn a_new_module_is_written_once() {
    let scratch = Scratch::new("new");
    let folder = scratch.file("mine");
    let folder = folder.to_str().unwrap();
    let source = repository();
    let source = ["--source", source.to_str().unwrap()];
    let (code, out, err) = run(&[&["modules", "new", "my-own", folder], &source[..]].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("module `my-own` is in") && out.contains("cargo test"), "{out}");
    let code_of_it = fs::read_to_string(scratch.file("mine/src/lib.rs")).unwrap();
    assert!(code_of_it.contains("name: \"my-own\"") && code_of_it.contains("MyOwnModule"), "{code_of_it}");

    let (code, out, err) = run(&["modules", "new", "other", folder]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("holds something already"), "{err}");
    assert_eq!(fs::read_to_string(scratch.file("mine/src/lib.rs")).unwrap(), code_of_it, "nothing is overwritten");
    for (name, word) in [("My", "cannot be the name"), ("1st", "cannot be the name"), ("udp", "is there already")] {
        let (code, _, err) = run(&["modules", "new", name, scratch.file("no").to_str().unwrap()]);
        assert_eq!(code, 2, "{name}");
        assert!(err.contains(word), "{err}");
    }
    let (code, _, err) =
        run(&["modules", "new", "x", scratch.file("no").to_str().unwrap(), "--source", "/nonexistent"]);
    assert_eq!(code, 2);
    assert!(err.contains("in --source"), "{err}");
    assert!(!scratch.file("no").exists(), "what is refused leaves nothing behind");
    let (code, _, _) = run(&["modules", "new"]);
    assert_eq!(code, 2);
}

/// Each ends with 2 and says what is wrong. An intercept at port 1 is never there: what gets that far ends with 3 or 4.
#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let scratch = Scratch::new("refused");
    if !drop_lines(scratch.folder()) {
        return;
    }
    fs::write(scratch.file("libtcpcopy_text.so"), "this is no library").unwrap();
    let other = scratch.file("libtcpcopy_other.so");
    fs::copy(scratch.file("libtcpcopy_drop-lines.so"), &other).unwrap();
    let folder = scratch.path();
    let variants = repository().join("core/io/tests/modules/variants.c");
    assert!(compile(&variants, &["-DVERSION=99"], &scratch.file("libtcpcopy_future.so")));
    let config = scratch.file("tcpcopy.toml");
    let with = |text: &str| {
        fs::write(&config, format!("map = 'drop-lines:9-127.0.0.1:10'\nintercept = '127.0.0.1:1'\n{text}")).unwrap();
    };

    let common = ["-s", "127.0.0.1:1", "-c", "127.1.2.3", "--module-dir", folder];
    let refused = |arguments: &[&str], words: &[&str]| {
        let (code, out, err) = run(&[&common[..], arguments].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        for word in words {
            assert!(err.contains(word), "{arguments:?}: no `{word}` in: {err}");
        }
    };
    let map = "drop-lines:9-127.0.0.1:10";
    refused(&["-x", "gone:9-127.0.0.1:10"], &["no module `gone`", &format!("{folder}/libtcpcopy_gone.so"), "^^^^"]);
    refused(&["-x", "9-127.0.0.1:10", "--proto", "gone"], &["in --proto: there is no module `gone`"]);
    refused(&["-x", "text:9-127.0.0.1:10"], &["libtcpcopy_text.so: not a shared library"]);
    refused(&["-x", "future:9-127.0.0.1:10"], &["libtcpcopy_future.so", "99"]);
    refused(&["-x", "other:9-127.0.0.1:10"], &["calls itself `drop-lines`, not `other`"]);
    refused(&["-x", "9-127.0.0.1:10", "--proto", "./gone.so"], &["./gone.so: cannot open it"]);
    refused(&["-x", map, "--proto-opt", "drop-lines.word=x"], &["has no option `word`; it takes: words", "^^^^"]);
    refused(&["-x", map, "--proto-opt", "drop-lines.words="], &["module `drop-lines` (/", "give one word or more"]);
    with("[module.drop-lines]\nword = 'x'\n");
    let file = ["--config", config.to_str().unwrap()];
    refused(&file, &["in [module.drop-lines]: module `drop-lines` has no option `word`"]);
    with("[module.drop-lines]\nwords = { a = 1 }\n");
    refused(&file, &["tcpcopy.toml", "a string, a number"]);
    with("[module.drop-lines]\nwords = ''\n");
    refused(&file, &["give one word or more"]);

    // The command line wins, and a good value goes through: the program ends for want of a privilege or an intercept.
    for arguments in [
        &[&file[..], &["--proto-opt", "drop-lines.words=quit"]].concat()[..],
        &["-x", "9-127.0.0.1:10", "--proto", "drop-lines", "--proto-opt", "words=quit"],
        &["-x", "9-127.0.0.1:10", "--proto", other.to_str().unwrap()],
    ] {
        let (code, _, err) = run(&[&common[..], arguments].concat());
        assert!(code == 3 || code == 4, "{arguments:?} ended with {code}: {err}");
    }
}

#[test]
fn a_module_from_a_file_copies() {
    if !may_run() {
        return;
    }
    let scratch = Scratch::new("copy");
    // It leaves out each client's first byte.
    let flags = ["-DTRANSPORT=TCPCOPY_TRANSPORT_UDP", "-DNAME=\"first-byte\""];
    let file = scratch.file("first.so");
    if !compile(&repository().join("core/io/tests/modules/variants.c"), &flags, &file) {
        return;
    }
    let bind = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        socket
    };
    let (online, target, client) = (bind(), bind(), bind());
    let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    let map = format!("{}:{}-127.0.0.1:{}", file.display(), port(&online), port(&target));
    let log = scratch.file("log");
    let arguments = ["-x", &map, "-c", "127.1.2.6", "-i", "lo", "-l", log.to_str().unwrap()];
    let _child = Running(tcpcopy(&arguments).stdout(Stdio::null()).spawn().unwrap());
    let text = until_file_has(&log, "capturing on lo");
    assert!(text.contains("over udp, by module first-byte") && text.contains("first.so"), "{text}");
    let mut buffer = [0; 64];
    let copied = until("a copy", || {
        client.send_to(b"-whole", online.local_addr().unwrap()).expect("it is sent");
        target.recv_from(&mut buffer).ok().map(|(len, _)| len)
    });
    assert_eq!(&buffer[..copied], b"whole");
}
