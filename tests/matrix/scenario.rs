//! Reads scenarios; testdata/changes/README.md describes them.

use std::path::Path;

/// One change to a file system.
pub(crate) struct Scenario {
    /// Its name, and that of its directory below `/s`.
    pub name: String,
    /// What it is about.
    pub title: String,
    /// Scripts that make the lower layers, lowest first.
    pub before: Vec<String>,
    /// A script that fills its directory of the build context.
    pub context: Option<String>,
    /// The instructions that make the change, one of which makes a layer.
    pub change: String,
    /// What the layer holds, a line for each entry.
    pub layer: Vec<String>,
}

/// Reads the scenarios of one file.
pub(crate) fn parse(path: &Path) -> Vec<Scenario> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut parts = text.split("\n=== ");
    assert!(parts.next().unwrap().starts_with('#'), "{}: no heading", path.display());
    parts
        .map(|text| scenario(text).unwrap_or_else(|why| panic!("{}: {why}:\n{text}", path.display())))
        .collect()
}

fn scenario(text: &str) -> Result<Scenario, String> {
    let mut sections = text.split("\n--- ");
    let head = sections.next().unwrap().trim();
    let (name, title) = head.split_once('\n').unwrap_or((head, ""));
    let mut scenario = Scenario {
        name: name.trim().to_owned(),
        title: title.trim().to_owned(),
        before: Vec::new(),
        context: None,
        change: String::new(),
        layer: Vec::new(),
    };
    let mut listed = false;
    for section in sections {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        match heading.trim() {
            "before" => scenario.before.push(body.trim_end().to_owned()),
            "context" => scenario.context = Some(body.to_owned()),
            "run" => {
                let body = body.trim_end();
                scenario.change = format!("RUN <<'END'\nset -eu\ncd /s/{{}}\n{body}\nEND");
            }
            "instructions" => body.trim_end().clone_into(&mut scenario.change),
            "layer" => {
                listed = true;
                scenario.layer =
                    body.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
            }
            other => return Err(format!("there is no section `{other}`")),
        }
    }
    scenario.change = scenario.change.replace("{}", &scenario.name);
    match (scenario.change.is_empty(), listed) {
        (false, true) => Ok(scenario),
        _ => Err("it needs a change and a layer".to_owned()),
    }
}
