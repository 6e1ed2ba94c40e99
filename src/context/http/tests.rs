use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use super::*;
use crate::registry::testing::{Reply, Server, reply};

struct Scene {
    _dir: tempfile::TempDir,
    store: Store,
    work: WorkDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.work_dir().unwrap();
        Scene { _dir: dir, store, work }
    }

    fn fetch(&self, url: &str, checksum: Option<&Digest>) -> Result<Download, HttpError> {
        Downloader::new().fetch(&self.store, &self.work, url, checksum, &|_, _| {})
    }

    /// The files that are kept of all addresses.
    fn kept(&self) -> usize {
        let dirs = fs::read_dir(self.store.cache_path("http")).unwrap().flatten();
        dirs.map(|dir| fs::read_dir(dir.path()).unwrap().count()).sum()
    }
}

/// A server of one file that a test can change; without an answer to what it is asked, the file.
struct Changing {
    server: Server,
    file: Arc<Mutex<Reply>>,
}

impl Changing {
    fn new(file: Reply) -> Changing {
        let file = Arc::new(Mutex::new(file));
        let there = file.clone();
        let server = Server::start(move |seen| {
            let file = there.lock().unwrap().clone();
            let header = |name: &str| file.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            let same =
                |asked: &str, header: Option<&str>| seen.header(asked).is_some_and(|v| header == Some(v));
            if same("if-none-match", header("ETag")) || same("if-modified-since", header("Last-Modified")) {
                return reply(304, "");
            }
            file
        });
        Changing { server, file }
    }

    fn url(&self) -> String {
        format!("http://{}/dir/f.txt?x=y", self.server.host)
    }
}

#[test]
fn an_unchanged_file_is_not_downloaded_again() {
    for (name, one, two) in [
        ("ETag", "\"1\"", "\"2\""),
        ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:01 GMT"),
    ] {
        let scene = Scene::new();
        let changing = Changing::new(reply(200, "one").with(name, one));
        let first = scene.fetch(&changing.url(), None).unwrap();
        assert_eq!((first.cached, first.size, first.name.as_str()), (false, 3, "f.txt"));
        assert_eq!(first.digest, Digest::of(b"one"));
        let second = scene.fetch(&changing.url(), None).unwrap();
        assert_eq!(second, Download { path: second.path.clone(), cached: true, ..first.clone() });
        assert_eq!(fs::read(&second.path).unwrap(), b"one");

        *changing.file.lock().unwrap() = reply(200, "other").with(name, two);
        let third = scene.fetch(&changing.url(), None).unwrap();
        assert_eq!((third.cached, fs::read(&third.path).unwrap()), (false, b"other".to_vec()));
        assert_eq!(fs::read(&first.path).unwrap(), b"one", "who had the old one keeps it");
        assert_eq!(scene.kept(), 2, "a record and one content");
    }
}

#[test]
fn a_checksum_that_is_here_asks_nobody_and_another_is_refused() {
    let scene = Scene::new();
    let changing = Changing::new(reply(200, "one"));
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    let error = scene.fetch(&changing.url(), Some(&two)).unwrap_err();
    assert!(matches!(error, HttpError::Checksum { .. }), "{error}");
    assert!(error.to_string().contains(&one.to_string()) && error.to_string().contains(&two.to_string()));
    assert!(scene.fetch(&changing.url(), Some(&one)).is_ok());
    let asked = changing.server.seen().len();
    assert!(scene.fetch(&changing.url(), Some(&one)).unwrap().cached);
    assert_eq!(changing.server.seen().len(), asked);
    // Without a word of the server's to compare, it is downloaded again.
    assert!(!scene.fetch(&changing.url(), None).unwrap().cached);
}

#[test]
fn what_was_damaged_on_disk_is_downloaded_again() {
    let scene = Scene::new();
    let changing = Changing::new(reply(200, "one").with("ETag", "\"1\""));
    let first = scene.fetch(&changing.url(), None).unwrap();
    fs::set_permissions(&first.path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&first.path, "two").unwrap();
    let again = scene.fetch(&changing.url(), Some(&Digest::of(b"one"))).unwrap();
    assert_eq!((again.cached, fs::read(&again.path).unwrap()), (false, b"one".to_vec()));
}

#[test]
fn what_breaks_off_or_is_not_there_is_no_file() {
    let scene = Scene::new();
    let server = Server::start(|seen| match seen.line.as_str() {
        "GET /short" => Reply { length: Some(10), ..reply(200, "four") },
        "GET /loop" => reply(302, "").with("Location", "/loop"),
        "GET /empty" => reply(200, ""),
        _ => reply(404, "no"),
    });
    let fetch = |path: &str| scene.fetch(&format!("http://u:secret@{}{path}", server.host), None);
    let error = fetch("/short").unwrap_err();
    assert!(matches!(error, HttpError::Broken { got: 4, .. }), "{error}");
    let error = fetch("/none").unwrap_err();
    assert!(error.to_string().contains("404, it has no such file"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(fetch("/loop").unwrap_err().to_string().contains("loop"));
    assert_eq!(fetch("/empty").unwrap().size, 0);
    let error = scene.fetch("http://127.0.0.1:1/x", None).unwrap_err();
    assert!(error.to_string().contains("refused the connection"), "{error}");
}

#[test]
fn progress_is_told() {
    let scene = Scene::new();
    let server = Server::start(|_| reply(200, vec![b'x'; 300_000]));
    let told = RefCell::new(Vec::new());
    let url = format!("http://{}/x", server.host);
    let note = |so_far, total| told.borrow_mut().push((so_far, total));
    Downloader::new().fetch(&scene.store, &scene.work, &url, None, &note).unwrap();
    let told = told.into_inner();
    assert_eq!((told[0], told[told.len() - 1]), ((0, Some(300_000)), (300_000, Some(300_000))));
    assert!(told.is_sorted() && told.len() > 2);
}

#[test]
fn what_the_server_says_of_it() {
    let scene = Scene::new();
    let server = Server::start(|_| {
        reply(200, "x")
            .with("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .with("Content-Disposition", "attachment; filename=\"given.txt\"")
    });
    let got = scene.fetch(&format!("http://{}/x", server.host), None).unwrap();
    assert_eq!((got.name.as_str(), got.mtime), ("given.txt", Some(Time { sec: 1_445_412_480, nsec: 0 })));
    assert_eq!(parse_time("Sun, 22 Nov 2026 02:00:00 GMT"), Some(Time { sec: 1_795_312_800, nsec: 0 }));
    for nonsense in ["", "0", "yesterday", "2015-10-21"] {
        assert_eq!(parse_time(nonsense), None, "{nonsense}");
    }
}

#[test]
fn names_of_files() {
    for (url, name) in [
        ("https://h.example/a/b.tar.gz", Some("b.tar.gz")),
        ("https://h.example/a/b?c/d#e/f", Some("b")),
        ("https://h.example/a/b/", Some("b")),
        ("https://h.example/a%20b", Some("a b")),
        ("https://h.example/a%2Fb", Some("b")),
        ("https://h.example/", None),
        ("https://h.example", None),
        ("https://h.example?x", None),
        ("https://h.example/..", None),
        ("https://h.example/a/%2e%2e", None),
        ("https://h.example/a%00", None),
    ] {
        assert_eq!(name_of_url(url).as_deref(), name, "{url}");
    }
    for (header, name) in [
        ("attachment", None),
        ("attachment; filename=a.txt", Some("a.txt")),
        ("attachment; FileName = \"a \\\"b\\\".txt\"; x=y", Some("a \"b\".txt")),
        ("attachment; filename=\"../../etc/passwd\"", Some("passwd")),
        ("attachment; filename=\"..\"", None),
        ("attachment; filename=\"dir/\"", None),
        ("attachment; filename=a; filename*=UTF-8''%C3%BC.txt", Some("ü.txt")),
        ("attachment; filename=\"open", None),
    ] {
        assert_eq!(disposition_name(header).as_deref(), name, "{header}");
    }
    assert!(is_http("HTTPS://x") && is_http("http://x") && !is_http("httpx://x") && !is_http("http:/x"));
}
