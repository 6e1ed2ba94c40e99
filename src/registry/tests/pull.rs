use std::sync::Mutex;

use super::*;

#[test]
fn an_image_is_picked_from_an_index_and_stored_whole() {
    let mut files = Files::default();
    let layers: Vec<Vec<u8>> = (0..9u8).map(|n| vec![n; 1000 * usize::from(n)]).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let (other, ours) = (files.image(None, &[b"arm"]), files.image(None, &layers));
    let index = files.index("v1", &[("linux", "arm64", other), ("linux", "amd64", ours)]);
    let server = files.serve();
    let here = place();
    let (client, reference) = (client(), name(&format!("{}/a/b:v1", server.host)));
    let image = pull(&client, &here.store, &here.work, &reference, &amd64(), &()).unwrap();
    assert_eq!(image.pinned, index);
    assert_eq!(document::digest_of(&image.manifest).unwrap(), ours);
    assert_eq!(image.manifest.platform().as_ref().unwrap().architecture().to_string(), "amd64");
    assert_eq!(image.layers.len(), 9);
    for layer in &image.layers {
        assert_eq!(here.store.blob_size(&layer.digest), Some(layer.size));
    }
    let before = server.lines().len();
    pull(&client, &here.store, &here.work, &reference, &amd64(), &()).unwrap();
    assert_eq!(server.lines()[before..], ["HEAD /v2/a/b/manifests/v1"], "one question when nothing changed");
    let pinned = Reference { tag: None, digest: Some(index), ..reference };
    let asked = server.lines().len();
    pull(&client, &here.store, &here.work, &pinned, &amd64(), &()).unwrap();
    assert_eq!(server.lines().len(), asked, "no question for a digest that is there");
}

#[test]
fn a_cached_build_needs_no_layers() {
    let server = with_file(|_| {});
    let here = place();
    let reference = name(&format!("{}/a/b:v1", server.host));
    let resolved = resolve(&client(), &here.store, &reference, &amd64(), &()).unwrap();
    assert_eq!(resolved.image.layers.len(), 2);
    assert!(!here.store.has_blob(&Digest::of(b"layer one")));
    fetch_layers(&client(), &here.store, &here.work, &resolved, &()).unwrap();
    assert!(here.store.has_blob(&Digest::of(b"layer one")));
}

#[test]
fn a_platform_that_is_not_there_is_answered_with_those_that_are() {
    let mut files = Files::default();
    let other = files.image(None, &[b"x"]);
    files.index("v1", &[("linux", "arm64", other), ("linux", "s390x", other), ("unknown", "unknown", other)]);
    let message = failure(&files.serve());
    assert!(message.starts_with("no image for linux/amd64 in 127.0.0.1:"), "{message}");
    assert!(message.ends_with("a/b:v1; it has linux/arm64, linux/s390x"), "{message}");
}

#[test]
fn layers_that_are_not_what_was_announced_are_not_kept() {
    let digest = Digest::of(b"layer one");
    let path = format!("blobs/{digest}");
    for (content, part) in [
        (&b"layer onE"[..], "has the digest"),
        (b"layer", "has 5 bytes where its descriptor says 9"),
        (b"layer one and more", "has 10 bytes where its descriptor says 9"),
        (b"", "has 0 bytes"),
    ] {
        let server = with_file(|files| files.0.get_mut(&path).unwrap().1 = content.to_vec());
        let here = place();
        let reference = name(&format!("{}/a/b:v1", server.host));
        let error = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap_err();
        assert!(matches!(
            error,
            RegistryError::Blob { source: ReceiveError::Size { .. } | ReceiveError::Digest { .. }, .. }
        ));
        assert!(
            error.to_string().contains(part) && error.to_string().contains(&digest.to_string()),
            "{error}"
        );
        assert!(!here.store.has_blob(&digest));
    }
}

#[test]
fn a_layer_that_breaks_off_is_an_error() {
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one"]);
    let path = format!(" /v2/a/b/blobs/{}", Digest::of(b"layer one"));
    let server = Server::start(move |request| {
        let mut answer = files.answer(request);
        if request.line.ends_with(&path) {
            answer.length = Some(9);
            answer.body.truncate(4);
        }
        answer
    });
    let error = pull_from(&server).unwrap_err();
    assert!(matches!(&error, RegistryError::Blob { source: ReceiveError::Read { .. }, .. }), "{error}");
}

#[test]
fn manifests_and_configurations_with_other_content_are_refused() {
    let config = |files: &Files| {
        let manifest: serde_json::Value = serde_json::from_slice(&files.0["manifests/v1"].1).unwrap();
        format!("blobs/{}", manifest["config"]["digest"].as_str().unwrap())
    };
    let server = with_file(|files| {
        let path = config(files);
        files.0.get_mut(&path).unwrap().1.push(b' ');
    });
    assert!(failure(&server).contains("was announced"));
    // By tag the registry says a digest, by digest it gives something else.
    let server = with_file(|files| {
        let digest = Digest::of(&files.0["manifests/v1"].1);
        files.0.get_mut(&format!("manifests/{digest}")).unwrap().1.push(b'\n');
    });
    assert!(failure(&server).contains("was announced"));
}

#[test]
fn nonsense_instead_of_a_manifest_is_an_error_and_no_panic() {
    let deep = "[".repeat(100_000);
    let config = |media_type: &str| {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":2}}"#, "a".repeat(64))
    };
    let many_diffs = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{}]}}"#,
        media::CONFIG,
        Digest::of(b"{}"),
        config(media::LAYER)
    );
    for (media_type, text, part) in [
        (media::MANIFEST, "null", "not an object"),
        (media::MANIFEST, "", "not a valid manifest"),
        (media::MANIFEST, "[]", "not an object"),
        (media::MANIFEST, "{}", "not a valid image manifest"),
        (media::MANIFEST, deep.as_str(), "recursion"),
        (media::MANIFEST, r#"{"schemaVersion":2,"config":null,"layers":null}"#, "not a valid image manifest"),
        (
            media::MANIFEST,
            r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../x","size":1},"layers":[]}"#,
            "not a valid",
        ),
        (
            media::MANIFEST,
            &format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config(media::CONFIG).replace(":2}", ":-2}")
            ),
            "not a valid",
        ),
        (
            media::MANIFEST,
            &format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config(media::CONFIG).replace(":2}", ":99999999999}")
            ),
            "no honest document",
        ),
        (
            media::MANIFEST,
            &format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config("application/vnd.cncf.helm.config.v1+json")
            ),
            "not a container image",
        ),
        (
            media::MANIFEST,
            &format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                config(media::CONFIG),
                config("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
            ),
            "cannot decrypt",
        ),
        (media::MANIFEST, many_diffs.as_str(), "has 1 layers, and the configuration 0 diff IDs"),
        (
            media::MANIFEST,
            &format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
                config(media::CONFIG)
            ),
            "a manifest and an index at once",
        ),
        (
            media::INDEX,
            &format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, config(media::CONFIG)),
            "but is a manifest",
        ),
        (media::MANIFEST, r#"{"schemaVersion":2,"manifests":[]}"#, "but is an index"),
        (
            media::MANIFEST,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
            "is announced as",
        ),
        (media::INDEX, r#"{"schemaVersion":2,"manifests":null}"#, "it has none at all"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}", "schema 1"),
        ("application/json", r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
        ("text/html", "<html>", "not a valid manifest"),
        ("text/html", r#"{"schemaVersion":2}"#, "`text/html`, which is not a container image"),
    ] {
        let mut files = Files::default();
        files.blob(b"{}");
        files.document(Some("v1"), media_type, text.as_bytes());
        let message = failure(&files.serve());
        assert!(message.contains(part), "{text:.200}\n{message:.400}");
    }
}

#[test]
fn a_manifest_of_absurd_size_is_not_read_to_its_end() {
    let server = with_file(|files| {
        files.document(Some("v1"), media::MANIFEST, &vec![b' '; 5 << 20]);
    });
    assert!(failure(&server).contains("larger than 4194304 bytes"));
}

#[test]
fn indexes_in_indexes_end() {
    let mut files = Files::default();
    let mut inner = files.image(None, &[b"x"]);
    for depth in 0..6 {
        let size = files.0[&format!("manifests/{inner}")].1.len();
        let media_type = if depth == 0 { media::MANIFEST } else { media::INDEX };
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX,
            "manifests": [{ "mediaType": media_type, "digest": inner.to_string(), "size": size }] });
        inner = files.document(Some("v1"), media::INDEX, index.to_string().as_bytes());
    }
    assert!(failure(&files.serve()).contains("lie in one another"));
}

#[test]
fn what_is_not_there_is_said_with_the_registrys_words_but_not_its_escapes() {
    let message = failure(&Files::default().serve());
    assert!(
        message.contains("has no manifest a/b:v1 (MANIFEST_UNKNOWN: manifest [31munknown)"),
        "{message:?}"
    );
}

#[test]
fn nobody_listening_is_a_plain_sentence() {
    let host = Files::default().serve().host.clone();
    let here = place();
    let reference = name(&format!("{host}/a/b:v1"));
    let error = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap_err();
    assert_eq!(error.to_string(), format!("registry {host} refused the connection: is it running?"));
}

#[test]
fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one", b"layer two"]);
    let origin = files.serve();
    // This one has the manifest, but lacks a layer and has spoilt the other.
    let mut half = files.clone();
    half.0.remove(&format!("blobs/{}", Digest::of(b"layer one")));
    half.0.get_mut(&format!("blobs/{}", Digest::of(b"layer two"))).unwrap().1 = b"something".to_vec();
    let (half, empty) = (half.serve(), Files::default().serve());
    let dead = Files::default().serve().host.clone();
    let text = format!(
        "[[registry]]\nprefix = \"r.example/team\"\nlocation = \"{}/a\"\ninsecure = true\nmirror = [ \
         {{ location = \"{dead}/a\" }}, {{ location = \"{}/a\" }}, {{ location = \"{}/a\" }} ]",
        origin.host, empty.host, half.host
    );
    let client = Client::new(Registries::parse("test", &text).unwrap().0);
    let here = place();
    let reference = name("r.example/team/b:v1");
    pull(&client, &here.store, &here.work, &reference, &amd64(), &()).unwrap();
    assert_eq!(half.lines().iter().filter(|l| l.contains("manifests/v1")).count(), 1);
    assert!(origin.lines().iter().all(|l| l.contains("/blobs/")), "{:?}", origin.lines());
    // And when nobody has it, the error tells about all four.
    let missing = name("r.example/team/b:v2");
    let message = pull(&client, &here.store, &here.work, &missing, &amd64(), &()).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 5, "{message}");
    for host in [&dead, &empty.host, &half.host, &origin.host] {
        assert!(message.contains(host.as_str()), "{message}");
    }
    assert!(message.contains("refused the connection") && message.contains("MANIFEST_UNKNOWN"), "{message}");
}

#[test]
fn no_thread_is_left() {
    let server = with_file(|files| {
        let layers: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 100]).collect();
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        files.image(Some("v1"), &layers);
    });
    struct Threads(Mutex<Vec<std::thread::ThreadId>>);
    impl PullObserver for Threads {
        fn layer_started(&self, _: &Digest, _: u64) {
            let mut all = self.0.lock().unwrap();
            let me = std::thread::current().id();
            if !all.contains(&me) {
                all.push(me);
            }
        }
    }
    let here = place();
    let threads = Threads(Mutex::default());
    let reference = name(&format!("{}/a/b:v1", server.host));
    pull(&client(), &here.store, &here.work, &reference, &amd64(), &threads).unwrap();
    let used = threads.0.lock().unwrap().len();
    assert!((1..=4).contains(&used), "{used}");
}

/// An image whose second layer is not in the registry but at `urls`.
fn restricted(media_type: &str, urls: &[String]) -> (Files, Digest) {
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one", b"licensed layer"]);
    let digest = Digest::of(b"licensed layer");
    files.0.remove(&format!("blobs/{digest}"));
    let path = "manifests/v1";
    let mut manifest: serde_json::Value = serde_json::from_slice(&files.0[path].1).unwrap();
    manifest["layers"][1]["mediaType"] = media_type.into();
    manifest["layers"][1]["urls"] = urls.into();
    files.document(Some("v1"), media::MANIFEST, manifest.to_string().as_bytes());
    (files, digest)
}

#[test]
fn layers_that_registries_do_not_pass_on_come_from_their_own_addresses() {
    for (media_type, oci) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", media::RESTRICTED_LAYER_GZIP),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", media::RESTRICTED_LAYER_GZIP),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", media::RESTRICTED_LAYER_ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", media::RESTRICTED_LAYER),
    ] {
        let vendor = crate::registry::testing::Server::start(|request| match request.line.as_str() {
            "GET /good" => reply(200, &b"licensed layer"[..]),
            "GET /other" => reply(200, &b"licensed layeR"[..]),
            _ => reply(404, ""),
        });
        let at = |path: &str| format!("http://{}/{path}", vendor.host);
        let urls = ["file:///etc/passwd".to_owned(), at("gone"), at("other"), at("good")];
        let (files, digest) = restricted(media_type, &urls);
        let server = files.serve();
        let here = place();
        let reference = name(&format!("{}/a/b:v1", server.host));
        let image = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap();
        assert_eq!((image.layers[1].media_type, image.layers[1].urls.as_slice()), (oci, &urls[..]));
        assert!(here.store.has_blob(&digest), "{media_type}");
        assert_eq!(vendor.lines(), ["GET /gone", "GET /other", "GET /good"]);
        assert!(vendor.seen().iter().all(|seen| seen.header("authorization").is_none()));

        // A registry that was allowed to keep it is asked last; when nobody has it, all are named.
        let (mut files, _) = restricted(media_type, &urls[..3]);
        let nobody = place();
        let server = files.serve();
        let reference = name(&format!("{}/a/b:v1", server.host));
        let error = pull(&client(), &nobody.store, &nobody.work, &reference, &amd64(), &()).unwrap_err();
        let message = error.to_string();
        for part in [&digest.to_string(), "no address", "/gone: the server answered 404", "/other: "] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(!nobody.store.has_blob(&digest));
        files.blob(b"licensed layer");
        let server = files.serve();
        let reference = name(&format!("{}/a/b:v1", server.host));
        pull(&client(), &nobody.store, &nobody.work, &reference, &amd64(), &()).unwrap();
        assert!(nobody.store.has_blob(&digest));
    }
}
