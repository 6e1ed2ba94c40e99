//! Images from and to a real registry.

mod support;

use std::process::Command;

use support::{Lab, given, run};

/// A name in the test registry that no other test uses.
fn name(what: &str) -> String {
    format!("{}/{}-{what}:v1", given("COOPER_TEST_REGISTRY"), std::process::id())
}

fn inspect(lab: &Lab, name: &str) -> serde_json::Value {
    let said =
        run(lab.command("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{name}")]));
    said.succeeds();
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn pushed_images_are_read_by_others_and_pulled_again() {
    let lab = Lab::with_busybox();
    lab.file("f", "x").containerfile("FROM busybox\nCOPY f /f\nLABEL a=b\n");
    let name = name("pushed");
    let built = lab.build(&["-t", &name, "--push"]);
    built.succeeds();
    let seen = inspect(&lab, &name);
    assert_eq!(seen["Digest"].as_str(), Some(built.stdout.trim()));
    assert_eq!(seen["Labels"]["a"], "b");
    // Into an empty store, by tag and by digest; what is built on it has the same lower layers.
    let other = Lab::new();
    let (repository, _) = name.rsplit_once(':').unwrap();
    for from in [name.clone(), format!("{repository}@{}", built.stdout.trim())] {
        other.containerfile(&format!("FROM {from}\nRUN cat /f && echo y > /y\n"));
        let said = other.build(&["-o", "oci:out:latest", "--no-cache"]);
        said.succeeds().prints("x");
    }
    let below = seen["Layers"].as_array().unwrap();
    let layers = other.layers("out");
    assert_eq!(layers.len(), below.len() + 1);
    assert!(below.iter().zip(&layers).all(|(a, b)| a == b));
    // The store has all of it now: no registry is asked.
    other.build(&["--pull=never"]).succeeds();
}

#[test]
fn push_from_the_store_under_another_name() {
    let lab = Lab::with_busybox();
    let to = name("renamed");
    let said = lab.cooper(&["push", "busybox", &to]);
    said.succeeds();
    assert_eq!(inspect(&lab, &to)["Digest"].as_str(), Some(said.stdout.trim()));
    lab.cooper(&["push", "nothing-like-it", &to])
        .fails(1)
        .says("the store has no image docker.io/library/nothing-like-it:latest");
    lab.cooper(&["push", "busybox", "127.0.0.1:1/x"]).fails(1).says("127.0.0.1:1");
}

#[test]
fn the_platform_is_picked_from_an_index() {
    let lab = Lab::with_busybox();
    let registry = given("COOPER_TEST_REGISTRY");
    let repository = format!("{}-index", std::process::id());
    // Two images, one for here and one for a machine that nobody has.
    let mut manifests = Vec::new();
    for (architecture, text) in
        [("riscv64", "there"), (if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "here")]
    {
        lab.containerfile(&format!("FROM busybox\nRUN echo {text} > /where\n"));
        let tag = format!("{registry}/{repository}:{text}");
        let built = lab.build(&["-t", &tag, "--push"]);
        built.succeeds();
        let size = std::fs::metadata(lab.dir.join("store/blobs").join(built.stdout.trim().replace(':', "/")))
            .unwrap()
            .len();
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": built.stdout.trim(), "size": size,
            "platform": {"os": "linux", "architecture": architecture}
        }));
    }
    let put = |tag: &str, manifests: &[serde_json::Value]| {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
        let url = format!("http://{registry}/v2/{repository}/manifests/{tag}");
        run(Command::new("curl").args([
            "-sf",
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/vnd.oci.image.index.v1+json",
            "--data",
            &index.to_string(),
            &url,
        ]))
        .succeeds();
    };
    put("both", &manifests);
    put("other", &manifests[..1]);
    let other = Lab::new();
    other.containerfile(&format!("FROM {registry}/{repository}:both\nRUN cat /where\n"));
    other.build(&[]).succeeds().prints("here");
    other.containerfile(&format!("FROM {registry}/{repository}:other\nRUN true\n"));
    other.build(&[]).fails(1).says("linux/riscv64");
}

#[test]
fn registries_conf_says_where_names_lead() {
    let lab = Lab::with_busybox();
    let registry = given("COOPER_TEST_REGISTRY");
    let path = format!("{}-conf", std::process::id());
    lab.cooper(&["push", "busybox", &format!("{registry}/{path}/team/app:v1")]).succeeds();
    let conf = lab.path("registries.conf");
    std::fs::write(
        &conf,
        format!(
            "unqualified-search-registries = [\"{registry}\"]\n\
             [[registry]]\nprefix = \"quay.io/ours\"\nlocation = \"{registry}/{path}\"\ninsecure = true\n\
             [[registry]]\nlocation = \"ghcr.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{registry}/{path}\"\ninsecure = true\n\
             [[registry]]\nprefix = \"docker.io\"\nblocked = true\nlocation = \"docker.io\"\n"
        ),
    )
    .unwrap();
    for from in ["quay.io/ours/team/app:v1", "ghcr.io/team/app:v1", &format!("{path}/team/app:v1")] {
        let fresh = Lab::new();
        fresh.containerfile(&format!("FROM {from}\nRUN echo from-$((1+1))\n"));
        let mut command = fresh.cooper_command(&["--progress=plain", "build", "ctx"]);
        run(command.env("CONTAINERS_REGISTRIES_CONF", &conf)).succeeds().prints("from-2");
    }
    let fresh = Lab::new();
    fresh.containerfile("FROM docker.io/library/busybox\n");
    let mut command = fresh.cooper_command(&["build", "ctx"]);
    run(command.env("CONTAINERS_REGISTRIES_CONF", &conf)).fails(1).says("registries.conf blocks `docker.io`");
    std::fs::write(&conf, "unqualified-search-registries = 5\n").unwrap();
    let mut command = fresh.cooper_command(&["build", "ctx"]);
    run(command.env("CONTAINERS_REGISTRIES_CONF", &conf)).fails(1).says("registries.conf");
}

#[test]
fn a_blob_that_was_tampered_with_is_noticed() {
    let lab = Lab::with_busybox();
    lab.file("f", "tamper").containerfile("FROM busybox\nCOPY f /f\n");
    lab.build(&["-o", "oci:out:latest"]).succeeds();
    let layer = lab.layers("out").pop().unwrap();
    let blob = lab.dir.join("out/blobs").join(layer.replace(':', "/"));
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let other = Lab::new();
    other.containerfile(&format!("FROM oci:{}:latest\nRUN true\n", lab.path("out")));
    other.build(&[]).fails(1).says("has the digest").says(&layer);
}
