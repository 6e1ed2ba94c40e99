//! Real applications, built from their real sources: Debian's packages, PyPI, npm, a C compiler.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Lab, run};

/// Builds `testdata/apps/<name>` on a base with every storage backend, which give the same layers; the layout
/// is `out:latest`.
fn build(lab: &Lab, name: &str, base: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/apps").join(name);
    run(Command::new("cp").args(["-r", "-T"]).arg(source).arg(lab.dir.join("ctx"))).succeeds();
    let layers = |backend: &str, layout: &str| {
        let output = format!("oci:{layout}:latest");
        let base = format!("BASE={base}");
        // What is compared is not compressed; what is read is gzip.
        let compression = if layout == "out" { "gzip" } else { "none" };
        let args = ["--build-arg", &base, "--storage", backend, "--compression", compression, "--no-cache"];
        lab.build(&[&args[..], &["-o", &output]].concat()).succeeds();
        lab.image(layout).1["rootfs"]["diff_ids"].clone()
    };
    let overlay = layers("overlay", "out");
    for backend in ["fuse", "copy"] {
        assert_eq!(layers(backend, backend), overlay, "{backend} gives other layers than overlay");
    }
}

/// Makes an image of that name: the Debian base with packages, which are enough to be fetched once, and what
/// further instructions add. That all storage backends install packages alike is shown by
/// `debian_packages_with_users_of_their_own`.
fn packages(lab: &Lab, image: &str, packages: &str, further: &str) {
    lab.containerfile(&format!(
        "FROM debian\nRUN apt-get update && apt-get install -y --no-install-recommends {packages}\n{further}"
    ));
    lab.build(&["-t", image, "--compression", "none"]).succeeds();
}

/// Other people's tools read the image, and unpack it.
fn readable(lab: &Lab) {
    let image = format!("oci:{}:latest", lab.path("out"));
    run(Command::new("skopeo").args(["inspect", &image])).succeeds();
    run(Command::new("skopeo").args(["copy", &image, &format!("docker-archive:{}:app", lab.path("a.tar"))]))
        .succeeds();
    run(Command::new("umoci").args(["unpack", "--image", &lab.path("out:latest"), &lab.path("bundle")]))
        .succeeds();
}

#[test]
fn debian_packages_with_users_of_their_own() {
    let lab = Lab::with_debian();
    build(&lab, "debian", "debian");
    readable(&lab);
    let rootfs = lab.dir.join("bundle/rootfs");
    assert!(rootfs.join("var/lib/dpkg/status").exists());
    let setuid = run(Command::new("find").arg(&rootfs).args(["-perm", "-4000", "-o", "-perm", "-2000"]));
    assert!(!setuid.stdout.is_empty());
}

#[test]
fn python_with_a_dependency_from_pypi() {
    let lab = Lab::with_debian();
    packages(&lab, "python", "python3 python3-pip", "");
    build(&lab, "python", "python");
    readable(&lab);
}

#[test]
fn node_with_a_dependency_from_npm() {
    let lab = Lab::with_debian();
    // Debian's npm brings hundreds of packages, npm's own none.
    let npm = "ADD --unpack --checksum=sha256:4bfba8a0c823024d1926ec9d97a37a00eb60fd2adf44b3d34a686fc32e8f51e4 \
               https://registry.npmjs.org/npm/-/npm-10.9.4.tgz /opt/npm/\n\
               RUN ln -s /opt/npm/package/bin/npm-cli.js /usr/local/bin/npm && npm --version\n";
    packages(&lab, "node", "nodejs", npm);
    build(&lab, "node", "node");
    readable(&lab);
}

#[test]
fn a_static_c_program_alone() {
    let lab = Lab::with_debian();
    packages(&lab, "gcc", "gcc libc6-dev", "");
    build(&lab, "c-static", "gcc");
    readable(&lab);
    let (manifest, _) = lab.image("out");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
}
