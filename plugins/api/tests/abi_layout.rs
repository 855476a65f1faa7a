//! The C side of the module API: the header says what the Rust definitions are, and neither changes without its version.
// What a test skips it says on the terminal; the lint is for the engine's crates.
#![allow(clippy::disallowed_macros)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use tcpcopy_module_api::LogLevel;
use tcpcopy_module_api::abi::{self, layout};

fn crate_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The constants of the header, with what Rust has for each.
fn constants() -> Vec<(&'static str, u64)> {
    vec![
        ("TCPCOPY_ABI_VERSION", abi::ABI_VERSION.into()),
        ("TCPCOPY_OK", abi::OK.into()),
        ("TCPCOPY_FAILED", abi::FAILED.into()),
        ("TCPCOPY_PANICKED", abi::PANICKED.into()),
        ("TCPCOPY_TRANSPORT_TCP", abi::TRANSPORT_TCP.into()),
        ("TCPCOPY_TRANSPORT_UDP", abi::TRANSPORT_UDP.into()),
        ("TCPCOPY_PAYLOAD_NONE", abi::PAYLOAD_NONE.into()),
        ("TCPCOPY_PAYLOAD_FULL", abi::PAYLOAD_FULL.into()),
        ("TCPCOPY_NO_BOUNDARY", abi::NO_BOUNDARY as u64),
        ("TCPCOPY_AFTER_CLOSE_END", abi::AFTER_CLOSE_END.into()),
        ("TCPCOPY_AFTER_CLOSE_RECONNECT", abi::AFTER_CLOSE_RECONNECT.into()),
        ("TCPCOPY_LOG_ERROR", LogLevel::Error as u64),
        ("TCPCOPY_LOG_WARN", LogLevel::Warn as u64),
        ("TCPCOPY_LOG_INFO", LogLevel::Info as u64),
        ("TCPCOPY_LOG_DEBUG", LogLevel::Debug as u64),
    ]
}

/// What C calls a type of Rust: of a declaration, what comes before the name and what comes after it.
fn in_c(kind: &str) -> (String, String) {
    if let Some(function) = kind.strip_prefix("core::option::Option<").and_then(|kind| kind.strip_suffix('>')) {
        let function = function.strip_prefix("unsafe extern \"C\" fn(").expect("callbacks are functions of C");
        let (arguments, result) = match function.split_once(") -> ") {
            Some((arguments, result)) => (arguments, plain_in_c(result)),
            None => (function.strip_suffix(')').expect("a function"), "void".to_owned()),
        };
        let arguments: Vec<String> = arguments.split(", ").map(plain_in_c).collect();
        return (format!("{result} (*"), format!(")({})", arguments.join(", ")));
    }
    if let Some(array) = kind.strip_prefix('[') {
        let (element, count) = array.trim_end_matches(']').split_once("; ").expect("an array");
        return (format!("{} ", plain_in_c(element)), format!("[{count}]"));
    }
    (format!("{} ", plain_in_c(kind)), String::new())
}

fn plain_in_c(kind: &str) -> String {
    if let Some(pointee) = kind.strip_prefix("*const ") {
        return format!("const {} *", plain_in_c(pointee));
    }
    if let Some(pointee) = kind.strip_prefix("*mut ") {
        return format!("{} *", plain_in_c(pointee));
    }
    let name = match kind.rsplit("::").next().expect("a path has an end") {
        "u8" => "uint8_t",
        "u16" => "uint16_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        "Slice" => "tcpcopy_slice",
        "RawEndpoint" => "tcpcopy_endpoint",
        "RawFlow" => "tcpcopy_flow",
        "RawSessionInfo" => "tcpcopy_session_info",
        "RawOption" => "tcpcopy_option",
        "RawSetting" => "tcpcopy_setting",
        "HostTable" => "tcpcopy_host",
        "ModuleTable" => "tcpcopy_module_table",
        "RawModule" => "tcpcopy_module_state",
        "RawSession" => "tcpcopy_session",
        "RawContext" => "tcpcopy_ctx",
        other => panic!("what is `{other}` in C?"),
    };
    name.to_owned()
}

/// All that must not change without the version: names, places, sizes, types, constants.
fn description() -> String {
    let mut text = String::new();
    for (name, value) in constants() {
        writeln!(text, "{name} = {value}").unwrap();
    }
    for item in layout() {
        writeln!(text, "\n{}: {} bytes, aligned to {}", item.name, item.size, item.align).unwrap();
        for field in item.fields {
            let (before, after) = in_c(field.kind);
            writeln!(text, "{:>6} {:>3}  {before}{}{after}", field.offset, field.size, field.name).unwrap();
        }
    }
    text
}

/// The file with the description of this version. Each version keeps its own.
fn description_file() -> PathBuf {
    crate_file(&format!("layout/abi-{}.txt", abi::ABI_VERSION))
}

#[test]
#[cfg(target_pointer_width = "64")]
fn layout_does_not_change_without_its_version() {
    let (file, now) = (description_file(), description());
    if env::var_os("TCPCOPY_WRITE_LAYOUT").is_some() && !file.exists() {
        fs::write(&file, &now).unwrap();
    }
    let then = fs::read_to_string(&file).unwrap_or_else(|e| {
        panic!(
            "{}: {e}: a new ABI_VERSION needs its description: run this test with TCPCOPY_WRITE_LAYOUT=1",
            file.display()
        )
    });
    let mut then_lines = then.lines();
    for line in now.lines() {
        let before = then_lines.next();
        assert!(
            before == Some(line),
            "the C layout has changed: raise ABI_VERSION (it is {}) in src/abi.rs and include/tcpcopy_module.h\n  was: {}\n  is:  {line}",
            abi::ABI_VERSION,
            before.unwrap_or("nothing"),
        );
    }
    assert_eq!(then_lines.next(), None, "something has gone from the C layout: raise ABI_VERSION");
}

/// The C compiler, or `None` where there is none.
fn compiler() -> Option<String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    Command::new(&compiler).arg("--version").output().is_ok_and(|run| run.status.success()).then_some(compiler)
}

fn compile(compiler: &str, flags: &[&str], source: &Path, out: &Path) {
    let run = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(crate_file("include"))
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(out)
        .output()
        .unwrap();
    assert!(run.status.success(), "{compiler} on {}:\n{}", source.display(), String::from_utf8_lossy(&run.stderr));
}

/// Sizes, places and values as the compiler has them, under the names that the checks use.
fn expected() -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> =
        constants().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for item in layout() {
        all.insert(format!("sizeof {}", item.name), item.size as u64);
        all.insert(format!("alignof {}", item.name), item.align as u64);
        for field in item.fields {
            all.insert(format!("offsetof {} {}", item.name, field.name), field.offset as u64);
            all.insert(format!("sizeof {} {}", item.name, field.name), field.size as u64);
        }
    }
    all
}

/// A program that prints all of these, and does not compile when a field has another type.
fn program() -> String {
    let mut c = String::from("#include <stdalign.h>\n#include <stdio.h>\n#include \"tcpcopy_module.h\"\n\n");
    let mut body = String::new();
    let mut print = |name: &str, value: &str| {
        writeln!(body, "    printf(\"{name}=%llu\\n\", (unsigned long long)({value}));").unwrap();
    };
    for (name, _) in constants() {
        print(name, name);
    }
    for item in layout() {
        let kind = item.name;
        print(&format!("sizeof {kind}"), &format!("sizeof({kind})"));
        print(&format!("alignof {kind}"), &format!("alignof({kind})"));
        for field in item.fields {
            let name = field.name;
            print(&format!("offsetof {kind} {name}"), &format!("offsetof({kind}, {name})"));
            print(&format!("sizeof {kind} {name}"), &format!("sizeof((({kind} *)0)->{name})"));
            let (before, after) = in_c(field.kind);
            // The type of the field's address must be exactly this one.
            let pointer = if let Some(rest) = before.strip_suffix("(*") {
                format!("{rest}(**{after}")
            } else {
                format!("{before}(*){after}")
            };
            writeln!(
                c,
                "_Static_assert(_Generic(&(({kind} *)0)->{name}, {pointer}: 1, default: 0), \"type of {kind}.{name}\");"
            )
            .unwrap();
        }
    }
    write!(c, "\nint main(void)\n{{\n{body}    return 0;\n}}\n").unwrap();
    c
}

#[test]
fn header_says_what_the_rust_definitions_are() {
    let Some(compiler) = compiler() else {
        eprintln!("SKIPPED: the header's comparison with Rust needs a C compiler, cc");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-layout");
    fs::create_dir_all(&folder).unwrap();
    let (source, binary) = (folder.join("layout.c"), folder.join("layout"));
    fs::write(&source, program()).unwrap();
    compile(&compiler, &["-std=c11"], &source, &binary);
    let run = Command::new(&binary).output().unwrap();
    assert!(run.status.success());
    let in_header: BTreeMap<String, u64> = String::from_utf8(run.stdout)
        .unwrap()
        .lines()
        .map(|line| line.rsplit_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    let expected = expected();
    assert_eq!(in_header.len(), expected.len());
    for (name, value) in &expected {
        assert_eq!(in_header.get(name), Some(value), "{name}");
    }
}

/// A field that only C knows would be missed by the comparison, unless it makes the struct larger.
#[test]
fn header_has_no_field_that_rust_has_not() {
    let header = fs::read_to_string(crate_file("include/tcpcopy_module.h")).unwrap();
    for item in layout() {
        let begin = format!("typedef struct {} {{", item.name);
        let (_, rest) = header.split_once(&begin).unwrap_or_else(|| panic!("{begin}"));
        let (body, _) = rest.split_once(&format!("\n}} {};", item.name)).unwrap();
        let mut code = String::new();
        for part in body.split("/*") {
            code.push_str(part.split_once("*/").map_or(part, |(_, after)| after));
        }
        assert_eq!(code.matches(';').count(), item.fields.len(), "{}: {code}", item.name);
    }
    let defined = header.lines().filter(|line| line.starts_with("#define TCPCOPY_")).count();
    // Beside the constants: the guard and TCPCOPY_TEXT.
    assert_eq!(defined, constants().len() + 2);
}

/// Authors may use the header from C++, and with the oldest standards that have its types.
#[test]
fn header_compiles_as_c99_and_as_cpp() {
    let Some(compiler) = compiler() else {
        eprintln!("SKIPPED: compiling the header needs a C compiler, cc");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-header");
    fs::create_dir_all(&folder).unwrap();
    let source = folder.join("header.c");
    fs::write(&source, "#include \"tcpcopy_module.h\"\nstatic const tcpcopy_slice text = TCPCOPY_TEXT(\"four\");\nint main(void)\n{\n    return text.len != 4;\n}\n").unwrap();
    compile(&compiler, &["-std=c99"], &source, &folder.join("c99"));
    assert!(Command::new(folder.join("c99")).status().unwrap().success());
    let has_cpp = Command::new("c++").arg("--version").output().is_ok_and(|run| run.status.success());
    if !has_cpp {
        eprintln!("SKIPPED: the part that needs a C++ compiler, c++");
        return;
    }
    let cpp = folder.join("header.cpp");
    fs::copy(&source, &cpp).unwrap();
    compile("c++", &["-std=c++11"], &cpp, &folder.join("cpp"));
    assert!(Command::new(folder.join("cpp")).status().unwrap().success());
}
