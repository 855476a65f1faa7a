//! What is said to Kubernetes and Docker: manifests that parse, command lines that the programs take, and no more privileges
//! than the documents promise.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{check_words, root};

/// All documents of a YAML file. Python reads it: no crate for YAML is needed for anything else here.
fn yaml(file: &str) -> Option<Vec<Value>> {
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
    let path = root().join("packaging/kubernetes").join(file);
    if !Command::new("/usr/bin/python3")
        .args(["-c", "import yaml"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        println!("SKIPPED: needs python3 with yaml (python3-yaml)");
        return None;
    }
    let output = Command::new("/usr/bin/python3").args(["-c", script]).arg(path).output().expect("python3");
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().expect("a string").to_owned()).collect()
}

/// Values of a container's variables, as the cluster would fill them in.
fn variables(container: &Value, documents: &[Value]) -> HashMap<String, String> {
    let mut variables = HashMap::new();
    for variable in container["env"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let from = &variable["valueFrom"];
        let key = &from["configMapKeyRef"];
        let value = if from["fieldRef"]["fieldPath"] == "status.hostIP" {
            "10.0.0.7"
        } else {
            let map = documents
                .iter()
                .find(|document| document["kind"] == "ConfigMap" && document["metadata"]["name"] == key["name"]);
            let map = map.unwrap_or_else(|| panic!("no ConfigMap for {variable}"));
            map["data"][key["key"].as_str().expect("a key")]
                .as_str()
                .unwrap_or_else(|| panic!("no value for {variable}"))
        };
        variables.insert(variable["name"].as_str().expect("a name").to_owned(), value.to_owned());
    }
    variables
}

fn check_container(file: &str, pod: &Value, container: &Value, documents: &[Value]) {
    let mut words = [texts(&container["command"]), texts(&container["args"])].concat();
    for (name, value) in variables(container, documents) {
        let reference = format!("$({name})");
        assert!(words.iter().any(|word| word.contains(&reference)), "{file}: {name} is not used");
        for word in &mut words {
            *word = word.replace(&reference, &value);
        }
    }
    assert_eq!(check_words(&words), Some(Ok(())), "{file}: {words:?}");

    let security = &container["securityContext"];
    assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"], "{file}");
    assert_eq!(texts(&security["capabilities"]["add"]), ["NET_RAW", "NET_ADMIN"], "{file}");
    assert_eq!(security["allowPrivilegeEscalation"], false, "{file}");
    assert_eq!(security["readOnlyRootFilesystem"], true, "{file}");
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{file}");
    assert!(security["privileged"].is_null() && pod["hostPID"].is_null(), "{file}");
    assert_eq!(pod["automountServiceAccountToken"], false, "{file}");

    // Probes ask where the program serves.
    let metrics = words.iter().find_map(|word| word.strip_prefix("--metrics=")).expect("metrics");
    let (address, port) = metrics.rsplit_once(':').expect("an address and a port");
    let mut probes = 0;
    for probe in ["livenessProbe", "readinessProbe"]
        .map(|name| &container[name]["httpGet"])
        .into_iter()
        .filter(|probe| !probe.is_null())
    {
        assert_eq!(probe["path"], "/metrics", "{file}");
        assert_eq!(probe["port"].as_u64(), port.parse().ok(), "{file}");
        match probe["host"].as_str() {
            // The kubelet is on the node, and so must be the program.
            Some(host) => assert!(pod["hostNetwork"] == true && host == address, "{file}: {host}"),
            None => assert_eq!(address, "0.0.0.0", "{file}: the kubelet asks at the pod's address"),
        }
        probes += 1;
    }
    assert!(probes > 0, "{file}: no probe");

    let volumes: Vec<&str> =
        pod["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str()).collect();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        assert!(volumes.contains(&mount["name"].as_str().expect("a name")), "{file}: {mount}");
    }
}

#[test]
fn manifests_start_what_there_is() {
    for file in ["intercept-sidecar.yaml", "tcpcopy-sidecar.yaml", "daemonset.yaml"] {
        let Some(documents) = yaml(file) else { return };
        let mut checked = 0;
        for document in &documents {
            assert!(document["apiVersion"].is_string() && document["metadata"]["name"].is_string(), "{file}");
            let template = &document["spec"]["template"];
            let labels = &template["metadata"]["labels"];
            if document["kind"] != "ConfigMap" {
                assert_eq!(&document["spec"]["selector"]["matchLabels"], labels, "{file}: it would not find its pods");
            }
            let containers = template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
            for container in containers {
                let image = container["image"].as_str().expect("an image");
                if image.starts_with("tcpcopy:") {
                    assert_eq!(image, concat!("tcpcopy:", env!("CARGO_PKG_VERSION")), "{file}");
                    check_container(file, &template["spec"], container, &documents);
                    checked += 1;
                }
            }
        }
        assert_eq!(checked, 1, "{file}");
    }
}

/// Docker cannot be asked everywhere: what can be known without it.
#[test]
fn the_image_is_made_of_what_there_is() {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("Dockerfile").replace("\\\n", " ");
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("no instruction: {line}")))
        .collect();
    let mut stages: Vec<&str> = Vec::new();
    let mut stage_count = 0;
    for (instruction, rest) in &lines {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match *instruction {
            "FROM" => {
                stage_count += 1;
                stages.extend(rest.split_once(" AS ").map(|(_, name)| name));
            }
            "COPY" => match words[0].strip_prefix("--from=") {
                Some(stage) => assert!(stages.contains(&stage), "there is no stage {stage}"),
                None => assert!(words[..words.len() - 1].iter().all(|file| root().join(file).exists()), "{rest}"),
            },
            "CMD" => {
                let words: Vec<String> = serde_json::from_str(rest).expect("the form that no shell reads");
                assert_eq!(words, ["tcpcopy", "-h"]);
            }
            "RUN" | "WORKDIR" => {}
            other => panic!("{other} is not used yet: check it here"),
        }
    }
    assert_eq!(stage_count, 2, "one to build, one to run");
    let toolchain = format!("FROM rust:{}-slim", env!("CARGO_PKG_RUST_VERSION"));
    assert!(text.starts_with(&toolchain) || text.contains(&format!("\n{toolchain}")), "{toolchain}");
    let ignored = fs::read_to_string(root().join(".dockerignore")).expect(".dockerignore");
    assert!(ignored.lines().any(|line| line == "target"), "gigabytes would be sent to the builder");
}
