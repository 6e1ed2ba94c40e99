//! Memory does not grow with what is in a layer. A file of its own, as what is measured is the largest of
//! all processes that this one has waited for.

mod support;

use nix::sys::resource::{UsageWho, getrusage};
use support::{Lab, run};

/// What any process of cooper may have resident, in KiB.
const LIMIT: i64 = 64 << 10;

/// The most that any process had, of those that have ended, in KiB.
fn peak() -> i64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss()
}

/// A layer with more than 8 GiB of holes, data among them, and 150 MiB that do not compress.
#[test]
fn a_layer_of_gigabytes_is_written_and_unpacked_in_little_memory() {
    const SUMS: &str = "stat -c 'LOOK %n %s' /big /random && dd if=/big bs=1M skip=4000 count=50 2>/dev/null | sha256sum | sed 's/^/LOOK /' \
                        && sha256sum /random | sed 's/^/LOOK /' && tail -c 6 /big | sed 's/^/LOOK /'";
    let lab = Lab::with_busybox();
    lab.containerfile(&format!(
        "FROM busybox
         RUN dd if=/dev/urandom of=/big bs=1M count=50 seek=4000 && dd if=/dev/urandom of=/random bs=1M count=150 \
          && echo ended | dd of=/big bs=1M seek=8500 conv=notrunc && {SUMS}"
    ));
    let made = lab.build(&["-o", "oci:out:latest"]);
    made.succeeds();
    assert!(peak() < LIMIT, "writing the layer took {} KiB", peak());

    let layer = lab.layers("out").pop().unwrap();
    let blob = std::fs::metadata(lab.dir.join("out/blobs").join(layer.replace(':', "/"))).unwrap();
    assert!(blob.len() < 300 << 20, "{} bytes", blob.len());

    lab.containerfile(&format!("FROM oci:out:latest\nRUN {SUMS} && du -m /big /random | sed 's/^/DISK /'\n"));
    let mut unpack = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    let found = run(unpack.env("COOPER_ROOT", lab.dir.join("elsewhere")));
    found.succeeds();
    assert!(peak() < LIMIT, "unpacking the layer took {} KiB", peak());

    let look = |said: &support::Said| -> Vec<String> {
        said.output().iter().filter(|l| l.starts_with("LOOK ")).map(|l| (*l).to_owned()).collect()
    };
    assert_eq!(look(&made).len(), 5, "{}", made.stderr);
    assert_eq!(look(&made), look(&found));
    let size = (8500u64 << 20) + 6;
    assert_eq!(look(&made)[0], format!("LOOK /big {size}"));
    assert_eq!(look(&made)[4], "LOOK ended");
    // The holes are holes again.
    found.prints("DISK 51\t/big").prints("DISK 150\t/random");
}
