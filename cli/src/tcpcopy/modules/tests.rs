use tcpcopy_module_api::{Attachment, Module, OptionSpec, SessionInfo, Transport};

use super::*;
use crate::config::Text;
use crate::tcpcopy::grammar;

/// Takes two options and says what it dislikes.
struct Words;

impl Module for Words {
    fn about() -> About {
        const OPTIONS: &[OptionSpec] = &[
            OptionSpec { name: "keep", value: "WORD[,WORD...]", help: "words that are copied" },
            OptionSpec { name: "limit", value: "N", help: "words at most" },
        ];
        About { name: "words", summary: "copies words", options: OPTIONS, ..About::new(Transport::Tcp, "1.2.3") }
    }

    fn create(options: &Options) -> Result<Self, String> {
        assert_ne!(options.get("keep"), Some("panic"), "no such word");
        options.parse::<u32>("limit")?;
        Ok(Self)
    }

    fn on_open(&self, _: &SessionInfo) -> Attachment {
        Attachment::Bypass
    }
}

fn catalogue() -> Catalogue {
    let mut built_in = BuiltIn::shipped();
    built_in.entries.push(ModuleEntry::of::<Words>());
    Catalogue::new::<&str>(built_in, &[]).unwrap()
}

/// Modules with their options, by map, and warnings; or the refusal.
fn chosen(
    maps: &str,
    proto: Option<&str>,
    options: &[&str],
    tables: &str,
) -> Result<(Vec<String>, Vec<String>), String> {
    let tables: BTreeTables = toml::from_str(tables).expect("a test's tables");
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let wishes = Wishes { proto, options: &options, tables: &tables.module };
    let mut warnings = Vec::new();
    let (modules, maps) = choose(&catalogue(), &wishes, &grammar::maps(maps).unwrap(), &mut warnings)
        .map_err(|failure| failure.message)?;
    let describe = |map: &Map| {
        let module = &modules[usize::from(map.module)];
        assert_eq!(module.handle.about.transport, map.transport);
        let options: Vec<String> = module.options.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        format!("{}.{} {}{}", map.module, module.handle.about.name, map.online_port, options.concat())
    };
    Ok((maps.iter().map(describe).collect(), warnings))
}

#[derive(serde::Deserialize)]
struct BTreeTables {
    #[serde(default)]
    module: Tables,
}

#[test]
fn each_map_has_the_module_it_names_or_the_default() {
    let maps = "80-10.0.0.2:80,udp:53-10.0.0.2:53,words:7-10.0.0.2:7,tcp:81-10.0.0.2:81,words:8-10.0.0.2:8";
    let (modules, warnings) = chosen(maps, None, &[], "").unwrap();
    assert_eq!(modules, ["0.tcp 80", "1.udp 53", "2.words 7", "0.tcp 81", "2.words 8"], "one instance for both maps");
    assert_eq!(warnings, Vec::<String>::new());
    let (modules, _) = chosen(maps, Some("words"), &[], "").unwrap();
    assert_eq!(modules, ["0.words 80", "1.udp 53", "0.words 7", "2.tcp 81", "0.words 8"]);
}

#[test]
fn options_reach_the_module_they_are_for_and_the_command_line_wins() {
    let tables = "[module.words]\nkeep = ['get', 'gets']\nlimit = 7\n";
    let of = |proto, maps: &str, options: &[&str]| chosen(maps, proto, options, tables).unwrap().0;
    let (named, plain) = ("words:7-10.0.0.2:7,80-10.0.0.2:80", "7-10.0.0.2:7");
    assert_eq!(of(None, named, &[]), ["0.words 7 keep=get,gets limit=7", "1.tcp 80"]);
    assert_eq!(of(None, named, &["words.limit=8"]), ["0.words 7 keep=get,gets limit=8", "1.tcp 80"]);
    assert_eq!(of(Some("words"), plain, &["limit=8", "keep=a=b.c"]), ["0.words 7 keep=a=b.c limit=8"]);
    assert_eq!(of(Some("words"), plain, &["limit=8", " limit =9"]), ["0.words 7 keep=get,gets limit=9"]);
}

#[test]
fn what_no_module_takes_is_refused() {
    let words = "words:7-10.0.0.2:7";
    for (maps, proto, options, tables, message) in [
        ("pgsql:7-10.0.0.2:7", None, &[][..], "", "in -x (--map): there is no module `pgsql`"),
        ("7-10.0.0.2:7", Some("pgsql"), &[], "", "in --proto: there is no module `pgsql`"),
        (words, Some("pgsql"), &[], "", "in --proto: there is no module `pgsql`"),
        (words, None, &["words.colour=red"], "", "module `words` has no option `colour`; it takes: keep, limit"),
        (words, None, &[], "module.words.colour = 'red'", "in [module.words]: module `words` has no option `colour`"),
        ("7-10.0.0.2:7", None, &["limit=1"], "", "module `tcp` has no option `limit`; it takes none"),
        (words, None, &["limit=1"], "", "not clear which one this is for"),
        (words, None, &["udp.limit=1"], "", "no map uses this module; in use: `words`"),
        (words, None, &["limit"], "", "a `=` is missing"),
        (words, None, &["=1"], "", "the name of an option is missing"),
        (words, None, &["words.=1"], "", "the name of an option is missing"),
        (words, None, &["Words.limit=1"], "", "`Words` is not the name of a module"),
        (words, None, &["words.limit=many"], "", "module `words` (built in): option `limit`: `many`: invalid digit"),
        (words, None, &["words.keep=panic"], "", "module `words` (built in): it failed by a mistake in it: "),
    ] {
        let refusal = chosen(maps, proto, options, tables).expect_err(message);
        assert!(refusal.contains(message), "{refusal}");
    }
}

#[test]
fn what_has_no_effect_is_said() {
    let (_, warnings) = chosen("80-10.0.0.2:80", None, &[], "[module.words]\nlimit = 1\n[module.gone]\na = 1").unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("[module.words] is of no use") && warnings[1].contains("`tcp`"), "{warnings:?}");
    let (_, warnings) = chosen("words:7-10.0.0.2:7", Some("tcp"), &[], "").unwrap();
    assert!(warnings[0].contains("--proto tcp is of no use"), "{warnings:?}");
}

#[test]
fn a_module_built_in_as_the_default_takes_the_place_of_plain_tcp() {
    let built_in = BuiltIn::shipped().with_default(ModuleEntry::of::<Words>());
    assert_eq!(built_in.default_name(), "words");
    let names: Vec<&str> = built_in.entries().iter().map(|entry| entry.about.name).collect();
    assert_eq!(names, ["words", "tcp", "udp", "mysql"]);
    let again = built_in.with_default(ModuleEntry::of::<Words>());
    assert_eq!(again.entries().len(), 4);
}

#[test]
fn tables_keep_what_they_hold() {
    let tables: BTreeTables = toml::from_str("[module.a]\nx = [1, true]").unwrap();
    assert_eq!(tables.module["a"]["x"], Text("1,true".to_owned()));
}
