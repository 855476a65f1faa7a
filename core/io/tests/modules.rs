//! Modules in shared libraries, built here in C and in Rust: what is loaded, and what is refused in which words.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tcpcopy_io::modules::{ModuleError, find, list, open};
use tcpcopy_module_api::conformance::{Sample, Samples, check, check_options};
use tcpcopy_module_api::testing::{Conversation, State};
use tcpcopy_module_api::{AfterTargetClose, LogLevel, Options, Payload, Transport, abi};

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The C compiler, or `None`, said so, where there is none.
fn compiler() -> Option<&'static str> {
    let there = Command::new("cc").arg("--version").output().is_ok_and(|run| run.status.success());
    if !there {
        eprintln!("SKIPPED: modules in C need a C compiler, cc");
    }
    there.then_some("cc")
}

/// Builds `tests/modules/variants.c` with these flags as `file`.
fn build_variant(compiler: &str, file: &Path, flags: &[&str]) {
    let run = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"])
        .arg(crate_folder().join("../../plugins/api/include"))
        .args(flags)
        .arg("-o")
        .arg(file)
        .arg(crate_folder().join("tests/modules/variants.c"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// Builds a module in Rust; returns the folder with its library.
fn build_crate(folder: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample");
    let run = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--manifest-path"])
        .arg(crate_folder().join(folder).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Where the library ends up, and what it needs, should not depend on how this test is built.
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    target.join("debug")
}

/// The sample module in Rust, built once.
fn sample_module() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| build_crate("tests/modules").join("libtcpcopy_sample.so"))
}

fn options(given: &[(&str, &str)]) -> Options {
    Options::new(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn refusal(path: &Path) -> String {
    open(path).expect_err("it is refused").to_string()
}

// ---------------------------------------------------------------------------------------------------------------------
// A module in Rust

#[test]
fn rust_module_says_what_it_is() {
    let module = open(sample_module()).unwrap();
    assert_eq!(module.path, sample_module());
    let about = module.about;
    assert_eq!(
        (about.name, about.version, about.transport, about.sees_online),
        ("sample", "1.2.3", Transport::Tcp, true)
    );
    assert_eq!(about.summary, "leaves out lines that begin with a text");
    let option = about.options.iter().find(|option| option.name == "prefix").unwrap();
    assert_eq!((option.value, option.help), ("TEXT", "what the lines that are left out begin with"));
    assert_eq!(module.create(&Options::default()).unwrap().about, about);
}

#[test]
fn rust_module_copies_as_it_is_told() {
    let module = open(sample_module()).unwrap().create(&options(&[("prefix", "no")])).unwrap();
    assert_eq!(module.module.after_target_close(), AfterTargetClose::Reconnect);
    assert_eq!(module.module.join_at(b"alf\nwhole\n"), Some(4));
    assert_eq!(module.module.join_at(b"alf"), None);
    let mut conversation = Conversation::open(&module);
    assert_eq!(conversation.payload(), Payload::First(100));
    assert_eq!(conversation.log()[0].0, LogLevel::Info);
    assert!(conversation.log()[0].1.contains(" -> "), "{:?}", conversation.log());
    conversation.client(b"one\nno two\nthr").online(b"row", 7);
    assert_eq!(conversation.to_target(), b"one\n");
    assert_eq!(conversation.dropped("begins with the prefix"), 7);
    assert_eq!(conversation.held(), b"thr");
    assert_eq!((conversation.expected(), conversation.completed()), (1, 0));
    conversation.target(b"answer\n");
    assert_eq!((conversation.expected(), conversation.completed()), (1, 1));
    assert_eq!((conversation.counter("lost"), conversation.counter("online")), (7, 3));
    conversation.client(b"ee\n").target(b"answer\n").target_closes();
    conversation.client(b"four\n").client_closes();
    assert_eq!(conversation.connections().len(), 2);
    assert_eq!(conversation.to_target(), b"hello\nfour\n");
    conversation.target_closes();
    assert_eq!(*conversation.state(), State::Done);
    assert_eq!(conversation.counter("missing"), 1);
    assert_eq!((conversation.counter("resumed"), conversation.counter("closed")), (1, 1));
    assert_eq!(conversation.log().last().unwrap().1, "copied to its end");
}

#[test]
fn rust_module_refuses_an_option_in_its_own_words() {
    let error = open(sample_module()).unwrap().create(&options(&[("prefix", "")])).err();
    assert_eq!(error.as_deref(), Some("option `prefix`: every line begins with nothing"));
}

#[test]
fn panic_in_create_is_an_error() {
    let error = open(sample_module()).unwrap().create(&options(&[("panic-in", "create")])).err();
    assert_eq!(error.as_deref(), Some("it panicked while it was made: told to panic in create"));
}

/// The engine runs every hook under `catch_unwind`: what it catches must say what the module's panic said.
#[test]
fn panic_in_a_hook_reaches_the_engine_with_its_message() {
    let module = open(sample_module()).unwrap();
    for hook in ["open", "on_open", "on_client_data", "on_target_data", "on_close"] {
        let handle = module.create(&options(&[("panic-in", hook)])).unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            Conversation::open(&handle).client(b"one\n").target(b"answer\n").client_closes().target_closes();
        }));
        let text = panic.expect_err("it panics").downcast::<String>().expect("a message");
        assert_eq!(*text, format!("told to panic in {hook}"));
    }
    // Nobody is left to end for a panic while a session goes.
    let handle = module.create(&options(&[("panic-in", "destroy")])).unwrap();
    let mut conversation = Conversation::open(&handle);
    conversation.client(b"one\n").client_closes();
    assert_eq!(conversation.to_target(), b"one\n");
}

// ---------------------------------------------------------------------------------------------------------------------
// Modules in C

#[test]
fn c_module_without_optional_hooks_behaves_as_the_defaults_do() {
    let Some(compiler) = compiler() else { return };
    let file = folder("plain").join("libtcpcopy_variant.so");
    build_variant(compiler, &file, &[]);
    let module = open(&file).unwrap().create(&Options::default()).unwrap();
    assert_eq!(module.about.options, []);
    assert_eq!(module.module.after_target_close(), AfterTargetClose::End);
    assert_eq!(module.module.join_at(b"anything"), Some(0));
    let mut conversation = Conversation::open(&module);
    conversation.client(b"xone").client(b"two").target(b"unseen").client_closes().target_closes();
    assert_eq!(conversation.to_target(), b"onetwo");
    assert_eq!(conversation.dropped("first byte"), 1);
    assert_eq!(*conversation.state(), State::Done);
    // The session was destroyed: there is room for another.
    drop(conversation);
    assert_eq!(Conversation::open(&module).client(b"abc").to_target(), b"bc");
}

#[test]
fn c_module_that_fails_is_reported_like_a_panic() {
    let Some(compiler) = compiler() else { return };
    let folder = folder("failing");
    for (flag, said) in [
        ("-DHOOK_FAILS", "a hook in C gave up"),
        ("-DSENDS_NOWHERE", "gave the program a null pointer, or a length beyond all memory"),
    ] {
        let file = folder.join(format!("lib{flag}.so"));
        build_variant(compiler, &file, &[flag]);
        let module = open(&file).unwrap().create(&Options::default()).unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(Conversation::open(&module).client(b"data").outcome())));
        assert_eq!(*panic.expect_err("it fails").downcast::<String>().unwrap(), said);
    }
    let file = folder.join("silent.so");
    build_variant(compiler, &file, &["-DCREATE_SILENT"]);
    let error = open(&file).unwrap().create(&Options::default()).err();
    assert_eq!(error.as_deref(), Some("failed with status 1, and did not say why"));
}

#[test]
fn c_modules_that_do_not_fit_are_refused() {
    let Some(compiler) = compiler() else { return };
    let folder = folder("wrong");
    let size = size_of::<abi::ModuleTable>();
    let version = abi::ABI_VERSION;
    for (name, flags, said) in [
        (
            "version",
            &["-DVERSION=77"][..],
            format!("it is built for ABI version 77, and this program has {version}: build it again"),
        ),
        (
            "size",
            &["-DSIZE=64"],
            format!("its table has 64 bytes, and that of ABI version {version} has {size}: build"),
        ),
        ("hook", &["-DNO_CLIENT_DATA", "-Wno-unused-function"], "it lacks the hook `on_client_data`, which".to_owned()),
        ("name", &["-DNAME=\"No Name\""], "its name `No Name` is not one: lower-case".to_owned()),
        ("text", &["-DNAME=\"\\xff\""], "its name is not UTF-8".to_owned()),
        ("transport", &["-DTRANSPORT=1"], "its transport is 1, which is neither TCP (6) nor UDP (17)".to_owned()),
        ("options", &["-DOPTION_COUNT=1"], "it says it takes 1 options, and none are there or too many".to_owned()),
        ("table", &["-DNO_TABLE"], "it returned no table: it failed before it could say what it is".to_owned()),
    ] {
        let file = folder.join(format!("libtcpcopy_{name}.so"));
        build_variant(compiler, &file, flags);
        let message = refusal(&file);
        assert!(message.starts_with(&format!("module {}: {said}", file.display())), "{message}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Files that are no modules, and where modules are

#[test]
fn files_that_are_no_modules_are_refused() {
    let folder = folder("files");
    let text = folder.join("text.so");
    fs::write(&text, "not a library\n").unwrap();
    assert!(refusal(&text).contains("not a shared library that can be loaded here"), "{}", refusal(&text));
    assert!(
        refusal(&text).contains("invalid ELF header") || refusal(&text).contains("file too short"),
        "{}",
        refusal(&text)
    );
    let missing = folder.join("missing.so");
    assert!(matches!(open(&missing), Err(ModuleError::File { .. })));
    assert!(
        refusal(&missing).ends_with("cannot open it: No such file or directory (os error 2)"),
        "{}",
        refusal(&missing)
    );
    assert!(refusal(&folder).contains("cannot open it: is a directory"), "{}", refusal(&folder));
}

#[test]
fn library_without_the_symbol_is_refused() {
    let Some(compiler) = compiler() else { return };
    let folder = folder("symbol");
    let (source, file) = (folder.join("other.c"), folder.join("libtcpcopy_other.so"));
    fs::write(&source, "int other(void);\nint other(void)\n{\n    return 1;\n}\n").unwrap();
    let built = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).status().unwrap();
    assert!(built.success());
    assert!(matches!(open(&file), Err(ModuleError::NotAModule { .. })));
    assert!(refusal(&file).ends_with("not a module of tcpcopy: it has no function `tcpcopy_module`"));
}

#[test]
fn modules_are_found_by_name_in_the_order_of_the_folders() {
    let Some(compiler) = compiler() else { return };
    let (first, second) = (folder("first"), folder("second"));
    build_variant(compiler, &first.join("libtcpcopy_with_dash.so"), &["-DNAME=\"with-dash\""]);
    build_variant(compiler, &second.join("libtcpcopy_with-dash.so"), &["-DNAME=\"with-dash\""]);
    build_variant(compiler, &second.join("libtcpcopy_alone.so"), &["-DNAME=\"alone\""]);
    build_variant(compiler, &second.join("libtcpcopy_wrong.so"), &["-DNAME=\"right\""]);
    let folders = [first.clone(), second.clone()];
    let path = |name: &str| find(name, &folders).unwrap().path;
    assert_eq!(path("with-dash"), first.join("libtcpcopy_with_dash.so"));
    assert_eq!(path("alone"), second.join("libtcpcopy_alone.so"));

    let said = |name: &str| find(name, &folders).expect_err("it is refused").to_string();
    assert!(
        said("wrong")
            .ends_with("libtcpcopy_wrong.so: it calls itself `right`, not `wrong`: rename the file, or give its path")
    );
    let missing = said("missing-one");
    assert!(missing.contains(&first.join("libtcpcopy_missing-one.so").display().to_string()), "{missing}");
    assert!(missing.contains(&second.join("libtcpcopy_missing_one.so").display().to_string()), "{missing}");
    assert!(missing.contains("/usr/lib/tcpcopy/libtcpcopy_missing-one.so"), "{missing}");
    assert!(said("../escape").starts_with("`../escape` is no name of a module"));
}

#[test]
fn all_modules_are_listed_with_what_is_wrong_with_them() {
    let Some(compiler) = compiler() else { return };
    let folder = folder("listed");
    build_variant(compiler, &folder.join("libtcpcopy_b.so"), &["-DNAME=\"b\""]);
    build_variant(compiler, &folder.join("libtcpcopy_a.so"), &["-DNAME=\"a\""]);
    fs::write(folder.join("libtcpcopy_c.so"), "text").unwrap();
    fs::write(folder.join("README"), "not looked at").unwrap();
    let listed: Vec<String> = list(&[folder.clone(), folder.join("not-there"), folder.clone()])
        .into_iter()
        .filter_map(|module| match module {
            Ok(module) => module.path.starts_with(&folder).then(|| module.about.name.to_owned()),
            Err(ModuleError::NotALibrary { path, .. }) => Some(format!("refused {}", path.display())),
            Err(error) => Some(error.to_string()),
        })
        .collect();
    assert_eq!(listed, ["a".to_owned(), "b".to_owned(), format!("refused {}/libtcpcopy_c.so", folder.display())]);
}

// ---------------------------------------------------------------------------------------------------------------------
// The example in C

/// Builds docs/examples/c-drop-lines as its documentation says; `None` where that cannot be.
fn example() -> Option<PathBuf> {
    compiler()?;
    if !Command::new("make").arg("--version").output().is_ok_and(|run| run.status.success()) {
        eprintln!("SKIPPED: the example in C needs make");
        return None;
    }
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let out = folder("example");
        let run = Command::new("make")
            .arg("-C")
            .arg(crate_folder().join("../../docs/examples/c-drop-lines"))
            .arg(format!("OUT={}", out.display()))
            .arg("CFLAGS=-O2 -Werror")
            .env_remove("MAKEFLAGS")
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        out
    });
    Some(file.clone())
}

#[test]
fn c_example_leaves_lines_out() {
    let Some(folder) = example() else { return };
    let module = find("drop-lines", &[folder]).unwrap();
    let module = module.create(&options(&[("words", "unused"), ("words", ",quit,Flush_All,,")])).unwrap();
    let mut conversation = Conversation::open(&module);
    conversation.client(b"get a\r\nQUIT\r\nquitter\nflush_all 3\n").client(b"flush").client(b"_al\n\nqui").client(b"t");
    assert_eq!(conversation.to_target(), b"get a\r\nquitter\nflush_al\n\n");
    assert_eq!(conversation.dropped("begins with a word of the list"), 18);
    assert_eq!(conversation.held(), b"quit");
    conversation.client(&vec![b'x'; 65_536]);
    assert_eq!(*conversation.state(), State::Ended("a line of more than 64 KB".to_owned()));
    assert_eq!(module.module.join_at(b"rest\nquit\n"), Some(5));
    assert_eq!(module.module.join_at(b"rest"), None);
    assert_eq!(module.module.join_at(b""), None);
}

#[test]
fn c_example_passes_the_conformance_suite() {
    let Some(folder) = example() else { return };
    let entry = find("drop-lines", &[folder]).unwrap();
    check_options(&entry.about, |options| entry.create(options), &[("words", ""), ("words", ",,")]).unwrap();
    let samples = Samples {
        joins_anywhere: true,
        ..Samples::new(vec![
            Sample::of("commands")
                .client(b"get a\r\n")
                .target(b"1\r\n")
                .client(b"QUIT\r\nget b\r\n")
                .reaches_target(b"get a\r\nget b\r\n"),
            Sample::of("empty lines").client(b"\n\nquit now\n\n").reaches_target(b"\n\n\n"),
        ])
    };
    let report =
        check(&entry.create(&Options::default()).unwrap(), &samples).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.conversations > 100, "{report:?}");
}

#[test]
fn rust_module_passes_the_conformance_suite() {
    let samples = Samples::new(vec![Sample::of("lines").client(b"one\n-two\nthree\n").reaches_target(b"one\nthree\n")]);
    let module = open(sample_module()).unwrap().create(&Options::default()).unwrap();
    check(&module, &samples).unwrap_or_else(|failure| panic!("{failure}"));
}

// ---------------------------------------------------------------------------------------------------------------------
// The example in Rust

#[path = "../../../docs/examples/memcached-reads/tests/samples/mod.rs"]
mod memcached;

#[test]
fn rust_example_passes_the_conformance_suite() {
    let folder = build_crate("../../docs/examples/memcached-reads");
    let entry = find("memcached_reads", &[folder]).unwrap();
    check_options(&entry.about, |options| entry.create(options), &[("commands", "got"), ("commands", "get,")]).unwrap();
    let module = entry.create(&Options::default()).unwrap();
    let report = check(&module, &memcached::samples()).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.conversations > 100, "{report:?}");
}
