use std::sync::{Arc, Mutex};

use super::*;

/// A registry that takes pushes; what it has got is in `taken`.
fn taking(location: impl Fn(&str) -> String + Send + Sync + 'static) -> (Server, Arc<Mutex<Files>>) {
    let taken = Arc::new(Mutex::new(Files::default()));
    let there = taken.clone();
    let server = Server::start(move |request| {
        let mut files = there.lock().unwrap();
        let (method, path) = request.line.split_once(" /v2/a/b/").unwrap_or(("", ""));
        match method {
            "POST" => reply(202, "").with("Location", location(request.header("host").unwrap())),
            "PUT" => match path.split_once("digest=") {
                Some((_, digest)) if Digest::of(&request.body).to_string() == digest => {
                    files.blob(&request.body);
                    reply(201, "")
                }
                Some(_) => reply(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#),
                None => {
                    let tag = path.strip_prefix("manifests/").filter(|t| !t.contains(':'));
                    files.document(tag, request.header("content-type").unwrap(), &request.body);
                    reply(201, "").with("Docker-Content-Digest", Digest::of(&request.body).to_string())
                }
            },
            _ => files.answer(request),
        }
    });
    (server, taken)
}

#[test]
fn pushes_send_what_is_missing_then_the_manifest() {
    for location in [
        |_: &str| "/v2/a/b/blobs/uploads/1?_state=x%3D".to_owned(),
        |host: &str| format!("http://{host}/v2/a/b/blobs/uploads/2"),
        |_: &str| "3".to_owned(),
    ] {
        let source = with_file(|_| {});
        let here = place();
        let reference = name(&format!("{}/a/b:v1", source.host));
        let image = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap();
        let (server, taken) = taking(location);
        taken.lock().unwrap().blob(b"layer one");
        let to = name(&format!("{}/a/b:new", server.host));
        assert_eq!(push(&client(), &here.store, &image.manifest, &to, &()).unwrap(), image.pinned);
        let posts = server.lines().iter().filter(|l| l.starts_with("POST")).count();
        assert_eq!(posts, 2, "{:?}", server.lines());
        let again = place();
        let back = pull(&client(), &again.store, &again.work, &to, &amd64(), &()).unwrap();
        assert_eq!(back.pinned, image.pinned);
        push(&client(), &here.store, &image.manifest, &to, &()).unwrap();
        assert_eq!(
            server.lines().iter().filter(|l| l.starts_with("POST")).count(),
            posts,
            "nothing is sent twice"
        );
    }
}

#[test]
fn a_push_that_fails_says_what() {
    let source = with_file(|_| {});
    let here = place();
    let reference = name(&format!("{}/a/b:v1", source.host));
    let image = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap();
    let push_to = |server: &Server, tag: &str| {
        let to = name(&format!("{}/a/b{tag}", server.host));
        push(&client(), &here.store, &image.manifest, &to, &()).unwrap_err().to_string()
    };
    let (server, _) = taking(|_| "gopher://x".to_owned());
    assert!(push_to(&server, ":x").contains("not a usable address"));
    assert!(push_to(&server, &format!("@{}", Digest::of(b"other"))).contains("another digest"));
    let denied = Server::start(|_| reply(403, r#"{"errors":[{"code":"DENIED"}]}"#));
    let message = push_to(&denied, ":x");
    assert!(message.contains("push to a/b (DENIED)") || message.contains("push to a/b:"), "{message}");
    let full = Server::start(|r| reply(if r.line.starts_with("HEAD") { 404 } else { 507 }, ""));
    assert!(push_to(&full, ":x").contains("answered 507 when asked to push to a/b"));
    std::fs::remove_file(here.store.blob_path(&Digest::of(b"layer one"))).unwrap();
    assert!(push_to(&server, ":x").contains("the store lacks layer"));
}

#[test]
fn a_whole_index_is_pushed_if_it_is_all_there() {
    let mut files = Files::default();
    let (one, two) = (files.image(None, &[b"one"]), files.image(None, &[b"two"]));
    let index = files.index("v1", &[("linux", "amd64", one), ("linux", "arm64", two)]);
    let source = files.serve();
    let here = place();
    let reference = name(&format!("{}/a/b:v1", source.host));
    pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap();
    let size = here.store.blob_size(&index).unwrap();
    let descriptor = document::descriptor(media::INDEX, size, &index);
    let (server, taken) = taking(|_| "x".to_owned());
    let to = name(&format!("{}/a/b:all", server.host));
    let error = push(&client(), &here.store, &descriptor, &to, &()).unwrap_err().to_string();
    assert!(error.contains("the store lacks manifest"), "{error}");
    let arm64 = Platform { architecture: "arm64".to_owned(), ..amd64() };
    pull(&client(), &here.store, &here.work, &reference, &arm64, &()).unwrap();
    assert_eq!(push(&client(), &here.store, &descriptor, &to, &()).unwrap(), index);
    let taken = taken.lock().unwrap();
    for path in ["manifests/all".to_owned(), format!("manifests/{one}"), format!("manifests/{two}")] {
        assert!(taken.0.contains_key(&path), "{path}");
    }
}

#[test]
fn layers_that_may_not_be_passed_on_are_not_uploaded() {
    let layer = b"licensed layer";
    for (media_type, urls, uploads) in [
        (media::RESTRICTED_LAYER_GZIP, &["https://127.0.0.1:1/layer"][..], 2),
        // Without an address nobody could get it, and an address alone forbids nothing.
        (media::RESTRICTED_LAYER_GZIP, &[], 3),
        (media::LAYER_GZIP, &["https://127.0.0.1:1/layer"], 3),
    ] {
        let mut files = Files::default();
        files.image(Some("v1"), &[b"layer one", layer]);
        let mut manifest: serde_json::Value = serde_json::from_slice(&files.0["manifests/v1"].1).unwrap();
        manifest["layers"][1]["mediaType"] = media_type.into();
        manifest["layers"][1]["urls"] = urls.into();
        files.document(Some("v1"), media::MANIFEST, manifest.to_string().as_bytes());
        let source = files.serve();
        let here = place();
        let reference = name(&format!("{}/a/b:v1", source.host));
        // The registry that it comes from has it, so the address need not.
        let image = pull(&client(), &here.store, &here.work, &reference, &amd64(), &()).unwrap();
        let (server, taken) = taking(|_| "/v2/a/b/blobs/uploads/1".to_owned());
        let to = name(&format!("{}/a/b:new", server.host));
        assert_eq!(push(&client(), &here.store, &image.manifest, &to, &()).unwrap(), image.pinned);
        let posts = server.lines().iter().filter(|l| l.starts_with("POST")).count();
        assert_eq!(posts, uploads, "{media_type} {urls:?}");
        let sent = taken.lock().unwrap().0.contains_key(&format!("blobs/{}", Digest::of(layer)));
        assert_eq!(sent, uploads == 3, "{media_type} {urls:?}");
    }
}
