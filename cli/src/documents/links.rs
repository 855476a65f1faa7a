//! Every link between documents leads to a file that is there, and to a heading in it.

use std::collections::HashMap;

use super::{documents, root};

/// The targets of the links in a text, with their lines: `[words](target)`, outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // What stands between backticks is no link.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        let mut rest = plain.as_str();
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, behind)) = behind.split_once(')') else { break };
            links.push((number, target.to_owned()));
            rest = behind;
        }
    }
    links
}

/// The lines that are no code, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((at + 1, line))
    })
}

/// The name by which a heading is linked to, as forges make it: small letters, digits, `-` for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

/// The anchors of a document; of headings with equal names the second ends with `-1`, and so on.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut anchors = Vec::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let name = anchor(line.trim_start_matches('#'));
        let before = seen.entry(name.clone()).or_default();
        anchors.push(if *before == 0 { name } else { format!("{name}-{before}") });
        *before += 1;
    }
    anchors
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for document in &documents {
        let folder = document.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, target) in links(&document.text) {
            if target.contains("://") {
                continue;
            }
            checked += 1;
            let (file, heading) = target.split_once('#').map_or((target.as_str(), None), |(f, h)| (f, Some(h)));
            let path = if file.is_empty() { root().join(&document.name) } else { root().join(folder).join(file) };
            let place = format!("{}, line {line}: {target}", document.name);
            if !path.exists() {
                wrong.push(format!("{place}: no such file"));
                continue;
            }
            if let Some(heading) = heading {
                let text = std::fs::read_to_string(path).expect("a document");
                if !anchors(&text).iter().any(|anchor| anchor == heading) {
                    wrong.push(format!("{place}: no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 50, "only {checked} links were found");
}

/// Files and folders that the map of the code names are there. Those without a folder in front belong to the engine.
#[test]
fn the_architecture_names_what_is_there() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let mut checked = 0;
    for (number, line) in prose(&text) {
        for name in line.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/') && !name.contains([' ', '<', ':', '(']) && !name.starts_with('/');
            if is_path {
                checked += 1;
                let found = root().join(name).exists() || root().join("core/engine/src").join(name).exists();
                assert!(found, "docs/architecture.md, line {number}: there is no {name}");
            }
        }
    }
    assert!(checked > 40, "only {checked} paths were found");
}

/// Whoever begins at the contents finds every document for users.
#[test]
fn the_contents_are_complete() {
    let documents = documents();
    let contents = documents.iter().find(|document| document.name == "docs/README.md").expect("docs/README.md");
    let linked = links(&contents.text);
    for document in &documents {
        let Some(name) = document.name.strip_prefix("docs/").filter(|name| !name.contains('/')) else { continue };
        let is_linked = linked.iter().any(|(_, target)| target.split('#').next() == Some(name));
        assert!(is_linked || name == "README.md", "docs/README.md does not lead to {name}");
    }
}

#[test]
fn anchors_are_those_of_forges() {
    let text = "# A `--word`, and: another\n## Same\n```sh\n# no heading\n```\n## Same\n";
    assert_eq!(anchors(text), ["a---word-and-another", "same", "same-1"]);
    assert_eq!(links("see [a](b.md#c), not `[d](e)`, and [f](g)"), [(1, "b.md#c".into()), (1, "g".into())]);
}
