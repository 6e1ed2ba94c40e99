use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::json;

use super::*;
use crate::image::{Descriptor, media};
use crate::registry::document::descriptor;
use crate::store::refs::{name_of, read_index};
use crate::store::{Store, WorkDir};

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    work: WorkDir,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let work = store.work_dir().unwrap();
    Place { dir, store, work }
}

fn amd64() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
}

/// Stores an image with these layers.
fn image(place: &Place, architecture: &str, layers: &[&[u8]]) -> Descriptor {
    let blob = |content: &[u8]| {
        let digest = Digest::of(content);
        place.store.receive_blob(&place.work, &digest, content.len() as u64, &mut &content[..]).unwrap();
        digest
    };
    let named = |media_type: &str, content: &[u8]| json!({ "mediaType": media_type, "digest": blob(content).to_string(), "size": content.len() });
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    let config = json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let layers: Vec<_> = layers.iter().map(|l| named(media::LAYER, l)).collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": media::MANIFEST,
        "config": named(media::CONFIG, config.to_string().as_bytes()), "layers": layers });
    let text = manifest.to_string();
    let digest = place.store.write_document(text.as_bytes()).unwrap();
    descriptor(media::MANIFEST, text.len() as u64, &digest)
}

fn read(dir: &Path, tag: Option<&str>) -> Result<crate::registry::Pulled, LayoutError> {
    let here = place();
    read_layout(dir, tag, &amd64(), &here.store, &here.work)
}

fn tree(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            names.extend(tree(&path));
        }
    }
    names.sort();
    names
}

#[test]
fn what_is_written_reads_back_and_holds_nothing_else() {
    let here = place();
    let manifest = image(&here, "amd64", &[b"one", b"two", b"one"]);
    let out = here.dir.path().join("deep/er/out");
    write_layout(&here.store, &manifest, &out, Some("v1")).unwrap();
    let mut names = tree(&out);
    names.retain(|n| n.len() != 64);
    assert_eq!(names, ["blobs", "index.json", "oci-layout", "sha256"]);
    assert_eq!(tree(&out.join("blobs/sha256")).len(), 4);
    let there = place();
    let image = read_layout(&out, Some("v1"), &amd64(), &there.store, &there.work).unwrap();
    assert_eq!(image.layers.len(), 3);
    assert_eq!(image.manifest.digest(), manifest.digest());
    assert!(there.store.has_blob(&Digest::of(b"two")));
    assert_eq!(read(&out, None).unwrap(), image);
    let linked = fs::metadata(out.join("blobs/sha256").join(Digest::of(b"one").hex())).unwrap();
    assert_eq!(linked.nlink(), 2, "a blob is linked, not copied");
}

#[test]
fn images_are_added_and_replaced_by_name() {
    let here = place();
    let out = here.dir.path().join("out");
    let (one, two) = (image(&here, "amd64", &[b"1"]), image(&here, "amd64", &[b"2"]));
    write_layout(&here.store, &one, &out, Some("a")).unwrap();
    write_layout(&here.store, &two, &out, Some("b")).unwrap();
    let found = |tag| read(&out, Some(tag)).unwrap().manifest.digest().clone();
    assert_eq!((found("a"), found("b")), (one.digest().clone(), two.digest().clone()));
    let message = read(&out, None).unwrap_err().to_string();
    assert!(message.contains("several images") && message.ends_with("it has a, b"), "{message}");
    let message = read(&out, Some("c")).unwrap_err().to_string();
    assert!(message.ends_with("has no image `c`; it has a, b"), "{message}");
    write_layout(&here.store, &two, &out, Some("a")).unwrap();
    assert_eq!(read_index(&out).unwrap().manifests().len(), 2);
    assert_eq!(found("a"), two.digest().clone());
    write_layout(&here.store, &two, &out, None).unwrap();
    write_layout(&here.store, &two, &out, None).unwrap();
    let names: Vec<_> =
        read_index(&out).unwrap().manifests().iter().map(|d| name_of(d).map(str::to_owned)).collect();
    assert_eq!(names, [Some("b".to_owned()), Some("a".to_owned()), None]);
}

#[test]
fn many_writers_take_turns() {
    let here = place();
    let out = here.dir.path().join("out");
    let images: Vec<_> = (0..8u8).map(|n| image(&here, "amd64", &[&[n], b"shared"])).collect();
    std::thread::scope(|scope| {
        for (n, manifest) in images.iter().enumerate() {
            let (store, out) = (&here.store, &out);
            scope.spawn(move || write_layout(store, manifest, out, Some(&format!("t{n}"))).unwrap());
        }
    });
    for n in 0..8 {
        read(&out, Some(&format!("t{n}"))).unwrap();
    }
}

#[test]
fn a_directory_that_is_something_else_is_left_alone() {
    let here = place();
    let manifest = image(&here, "amd64", &[b"1"]);
    let out = here.dir.path().join("home");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "x").unwrap();
    let error = write_layout(&here.store, &manifest, &out, None).unwrap_err();
    assert!(matches!(error, LayoutError::Occupied { .. }), "{error}");
    assert_eq!(tree(&out), ["thesis.tex"]);
    let file = out.join("thesis.tex");
    assert!(write_layout(&here.store, &manifest, &file, None).is_err());
    fs::write(out.join("oci-layout"), "{}").unwrap();
    assert!(matches!(write_layout(&here.store, &manifest, &out, None), Err(LayoutError::NotALayout { .. })));
}

#[test]
fn what_fails_half_way_is_undone() {
    let here = place();
    let out = here.dir.path().join("new/out");
    let manifest = image(&here, "amd64", &[b"one", b"two"]);
    // A directory where a blob should go, so that the rename fails.
    let blocked = Digest::of(b"two");
    let existing = here.dir.path().join("existing");
    write_layout(&here.store, &image(&here, "amd64", &[b"zero"]), &existing, Some("old")).unwrap();
    fs::create_dir(existing.join("blobs/sha256").join(blocked.hex())).unwrap();
    let before = (tree(&existing), fs::read(existing.join("index.json")).unwrap());
    write_layout(&here.store, &manifest, &existing, Some("new")).unwrap_err();
    assert_eq!((tree(&existing), fs::read(existing.join("index.json")).unwrap()), before);
    // A layer that is not in the store.
    fs::remove_file(here.store.blob_path(&blocked)).unwrap();
    let error = write_layout(&here.store, &manifest, &out, None).unwrap_err();
    assert!(error.to_string().contains("the store lacks layer"), "{error}");
    assert!(!out.exists() && !here.dir.path().join("new").exists());
}

#[test]
fn what_a_killed_command_left_is_swept() {
    let here = place();
    let out = here.dir.path().join("out");
    let manifest = image(&here, "amd64", &[b"one"]);
    write_layout(&here.store, &manifest, &out, None).unwrap();
    fs::write(out.join(".cooper-unfinished"), "half").unwrap();
    let blob = out.join("blobs/sha256").join(Digest::of(b"one").hex());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "o").unwrap();
    write_layout(&here.store, &manifest, &out, None).unwrap();
    assert!(!out.join(".cooper-unfinished").exists());
    assert_eq!(fs::read(&blob).unwrap(), b"one", "a blob of the wrong size is replaced");
}

#[test]
fn links_and_other_traps_are_refused() {
    let here = place();
    let manifest = image(&here, "amd64", &[b"one"]);
    let fresh = |name: &str| {
        let out = here.dir.path().join(name);
        write_layout(&here.store, &manifest, &out, Some("t")).unwrap();
        out
    };
    let blob = |out: &Path| out.join("blobs/sha256").join(Digest::of(b"one").hex());
    let secret = here.dir.path().join("secret");
    fs::write(&secret, "one").unwrap();

    let out = fresh("link");
    fs::remove_file(blob(&out)).unwrap();
    symlink(&secret, blob(&out)).unwrap();
    assert!(read(&out, None).unwrap_err().to_string().contains("it is a symbolic link"));

    let out = fresh("dir-link");
    fs::rename(out.join("blobs/sha256"), here.dir.path().join("moved")).unwrap();
    symlink(here.dir.path().join("moved"), out.join("blobs/sha256")).unwrap();
    assert!(matches!(read(&out, None), Err(LayoutError::Suspicious { .. })));

    let out = fresh("index-link");
    fs::rename(out.join("index.json"), here.dir.path().join("index.json")).unwrap();
    symlink(here.dir.path().join("index.json"), out.join("index.json")).unwrap();
    assert!(matches!(read(&out, None), Err(LayoutError::Suspicious { .. })));

    let out = fresh("directory");
    fs::remove_file(blob(&out)).unwrap();
    fs::create_dir(blob(&out)).unwrap();
    assert!(read(&out, None).unwrap_err().to_string().contains("not a regular file"));

    let out = fresh("other-content");
    fs::remove_file(blob(&out)).unwrap();
    fs::write(blob(&out), "eno").unwrap();
    assert!(matches!(read(&out, None), Err(LayoutError::Blob { .. })));

    let out = fresh("missing");
    fs::remove_file(blob(&out)).unwrap();
    assert!(read(&out, None).unwrap_err().to_string().contains("lacks the blob"));

    let out = fresh("no-marker");
    fs::remove_file(out.join("oci-layout")).unwrap();
    assert!(read(&out, None).unwrap_err().to_string().contains("it has no file `oci-layout`"));

    let out = fresh("huge");
    fs::remove_file(out.join("index.json")).unwrap();
    fs::File::create(out.join("index.json")).unwrap().write_all(&vec![b' '; 5 << 20]).unwrap();
    assert!(matches!(read(&out, None), Err(LayoutError::Suspicious { .. })));
    for text in
        ["null", "{}", "[]", "{\"manifests\":[null]}", "{\"schemaVersion\":2,\"manifests\":null}", "\u{0}"]
    {
        fs::write(out.join("index.json"), text).unwrap();
        assert!(read(&out, None).is_err(), "{text}");
    }
    assert!(matches!(read(&here.dir.path().join("nowhere"), None), Err(LayoutError::NotALayout { .. })));
    assert!(matches!(read(&secret, None), Err(LayoutError::NotALayout { .. })));
}

#[test]
fn platforms_are_picked_from_one_name_and_from_nested_indexes() {
    let here = place();
    let out = here.dir.path().join("out");
    let with = |architecture: &str| {
        let mut manifest = image(&here, architecture, &[architecture.as_bytes()]);
        let platform = json!({ "os": "linux", "architecture": architecture });
        manifest.set_platform(Some(serde_json::from_value(platform).unwrap()));
        manifest
    };
    let (ours, other) = (with("amd64"), with("arm64"));
    let index =
        json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [&other, &ours] }).to_string();
    let digest = here.store.write_document(index.as_bytes()).unwrap();
    let root = descriptor(media::INDEX, index.len() as u64, &digest);
    write_layout(&here.store, &root, &out, Some("multi")).unwrap();
    let image = read(&out, Some("multi")).unwrap();
    assert_eq!(image.manifest.digest(), ours.digest());
    assert_eq!(image.pinned, digest);
    // Two entries in index.json itself, as `skopeo copy --all` and others leave them.
    let flat = here.dir.path().join("flat");
    write_layout(&here.store, &other, &flat, None).unwrap();
    write_layout(&here.store, &ours, &flat, None).unwrap();
    assert_eq!(read(&flat, None).unwrap().manifest.digest(), ours.digest());
    let riscv = Platform { architecture: "riscv64".to_owned(), ..amd64() };
    for (dir, tag) in [(&out, Some("multi")), (&flat, None)] {
        let message = read_layout(dir, tag, &riscv, &here.store, &here.work).unwrap_err().to_string();
        assert!(
            message.contains("no image for linux/riscv64") && message.contains("linux/arm64, linux/amd64"),
            "{message}"
        );
    }
}

#[test]
fn the_first_colon_ends_the_directory() {
    let name = |dir: &str, tag: Option<&str>| OciName { dir: dir.into(), tag: tag.map(str::to_owned) };
    assert_eq!(parse_oci("oci:out").unwrap(), name("out", None));
    assert_eq!(parse_oci("oci:/a b/out:v1").unwrap(), name("/a b/out", Some("v1")));
    assert_eq!(parse_oci("oci:out:docker.io/x/y:v1").unwrap(), name("out", Some("docker.io/x/y:v1")));
    assert_eq!(parse_oci("oci:out:").unwrap(), name("out", None));
    for bad in ["out", "oci:", "oci::x", "oci-archive:x", "oci:a\0b"] {
        assert!(parse_oci(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn versions() {
    assert!(version_is_known(br#"{"imageLayoutVersion":"1.0.0"}"#));
    for bad in
        [&b""[..], b"null", b"{}", br#"{"imageLayoutVersion":"2.0.0"}"#, br#"{"imageLayoutVersion":1}"#]
    {
        assert!(!version_is_known(bad));
    }
}
