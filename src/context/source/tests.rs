use std::os::unix::fs::symlink;

use super::*;
use crate::registry::testing::{Server, reply};

fn never(_: &Path) -> bool {
    false
}

#[test]
fn contexts_of_a_command_line() {
    let dir = |text: &str| ContextSpec::Directory(PathBuf::from(text));
    assert_eq!(parse_context(".", never).unwrap(), dir("."));
    assert_eq!(parse_context("no/such", never).unwrap(), dir("no/such"));
    assert_eq!(parse_context("-", never).unwrap(), ContextSpec::Stdin);
    let url = "https://h.example/x.tar.gz";
    assert_eq!(parse_context(url, never).unwrap(), ContextSpec::Http(url.to_owned()));
    for git in ["https://h.example/x.git#v1:d", "git@h.example:x", "github.com/o/r"] {
        assert!(matches!(parse_context(git, never).unwrap(), ContextSpec::Git(_)), "{git}");
    }
    // What is there as a directory is meant.
    for text in ["github.com/o/r", "git@h.example:x", "oci:x"] {
        assert_eq!(parse_context(text, |_| true).unwrap(), dir(text));
    }
    for (wrong, part) in [
        ("", "empty"),
        ("ftp://u:secret@h.example/x.tar", "`ftp://`"),
        ("docker-image://alpine", "is an image"),
        ("oci:dir:v1", "is an image"),
        ("https://h.example/x.git?x=1", "`x` in its query"),
        ("target:base", "bake"),
    ] {
        let error = parse_context(wrong, never).unwrap_err();
        assert!(error.to_string().contains(part) && error.is_usage(), "{wrong}: {error}");
        assert!(error.hint().is_some() && !error.to_string().contains("secret"), "{wrong}: {error}");
    }
}

#[test]
fn named_contexts() {
    let named = |text: &str| parse_named(text, |path| path == Path::new("dir"));
    let layout = |dir: &str, tag: Option<&str>, digest| ContextSpec::OciLayout {
        dir: dir.into(),
        tag: tag.map(str::to_owned),
        digest,
    };
    let digest = Digest::of(b"");
    for (text, name, spec) in [
        ("src=dir", "src", ContextSpec::Directory("dir".into())),
        ("Src=a=b", "src", ContextSpec::Directory("a=b".into())),
        ("docker.io/library/alpine:latest=dir", "alpine", ContextSpec::Directory("dir".into())),
        ("base=docker-image://ghcr.io/o/r:v1", "base", ContextSpec::Image("ghcr.io/o/r:v1".into())),
        ("base=docker://alpine", "base", ContextSpec::Image("alpine".into())),
        ("base=oci:dir2", "base", layout("dir2", None, None)),
        ("base=oci:dir2:v1", "base", layout("dir2", Some("v1"), None)),
        ("base=oci-layout:///abs/dir:v1", "base", layout("/abs/dir", Some("v1"), None)),
        (&format!("base=oci-layout://dir2@{digest}"), "base", layout("dir2", None, Some(digest))),
        ("w=https://h.example/x", "w", ContextSpec::Http("https://h.example/x".into())),
    ] {
        assert_eq!(named(text).unwrap(), (name.to_owned(), spec), "{text}");
    }
    assert!(matches!(named("g=https://h.example/x.git").unwrap().1, ContextSpec::Git(_)));
    for wrong in [
        "dir",
        "=dir",
        "a=",
        "a b=dir",
        "../a=dir",
        "a=-",
        "a=docker-image://",
        "a=docker-image://A B",
        "a=oci:",
        "a=oci-layout://x@sha256:123",
        "a=s3://bucket",
        "a=git@h.example:r?x=y",
    ] {
        assert!(named(wrong).unwrap_err().is_usage(), "{wrong}");
    }
}

#[test]
fn names_that_mean_the_same_are_equal() {
    for (text, name) in [
        ("alpine", "alpine"),
        ("Alpine:latest", "alpine"),
        ("library/alpine", "alpine"),
        ("index.docker.io/library/alpine:3.20", "alpine:3.20"),
        ("o/r", "o/r"),
        ("ghcr.io/o/r:latest", "ghcr.io/o/r"),
        ("localhost:5000/r:v1", "localhost:5000/r:v1"),
        ("my_src-1.x", "my_src-1.x"),
    ] {
        assert_eq!(ImageName::familiar(text).as_deref(), Some(name), "{text}");
    }
    assert_eq!(ImageName::familiar(""), None);
    assert_eq!(ImageName::familiar("-x"), None);
}

/// A store with a work directory, and a server that has one file.
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

    fn with<T>(&self, act: impl FnOnce(Opener<'_>) -> T) -> T {
        let downloader = Downloader::new();
        act(Opener { store: &self.store, work: &self.work, downloader: &downloader, progress: &|_, _| {} })
    }

    fn stdin(&self, content: &[u8]) -> Result<Opened, SourceError> {
        self.with(|opener| opener.open(&ContextSpec::Stdin, &mut &*content))
    }

    /// What comes of the content when a server has it.
    fn served(&self, content: &[u8]) -> Result<Opened, SourceError> {
        let content = content.to_vec();
        let server = Server::start(move |_| reply(200, content.clone()));
        let url = format!("http://u:secret@{}/x", server.host);
        self.with(|opener| opener.open(&ContextSpec::Http(url), &mut io::empty()))
    }
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, "dir/Containerfile", &b"x"[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn an_archive_is_the_context_and_text_is_the_containerfile() {
    let scene = Scene::new();
    for server in [false, true] {
        let open = |content: &[u8]| if server { scene.served(content) } else { scene.stdin(content) };
        let opened = open(&archive()).unwrap();
        assert!(opened.remote && opened.containerfile.is_none() && !opened.name.contains("secret"));
        assert_eq!(read_inside(&opened.path, Path::new("./dir/Containerfile")).unwrap().unwrap(), b"x");
        assert_eq!(read_inside(&opened.path, Path::new("Containerfile")).unwrap(), None);

        let opened = open(b"FROM scratch\n").unwrap();
        assert_eq!(opened.containerfile.as_deref(), Some(&b"FROM scratch\n"[..]));
        assert_eq!(fs::read_dir(&opened.path).unwrap().count(), 0);

        for (content, part) in [
            (&b""[..], "is empty"),
            (b"\x7fELF\0\0", "neither"),
            (b"\n <!DOCTYPE html><p>", "web page"),
            (&archive()[..600], "cut off"),
        ] {
            let error = open(content).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
    assert!(scene.with(|o| o.open(&ContextSpec::Image("a".into()), &mut io::empty())).is_err());
}

#[test]
fn a_containerfile_from_a_server() {
    let scene = Scene::new();
    let server = Server::start(|seen| match seen.line.as_str() {
        "GET /c" => reply(200, "FROM scratch\n"),
        _ => reply(404, ""),
    });
    let fetch =
        |path: &str| scene.with(|opener| opener.containerfile(&format!("http://{}{path}", server.host)));
    assert_eq!(fetch("/c").unwrap(), b"FROM scratch\n");
    assert!(matches!(fetch("/none").unwrap_err(), SourceError::Http(HttpError::Status { status: 404, .. })));
}

#[test]
fn the_containerfile_of_a_fetched_context_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("sub")).unwrap();
    fs::write(context.join("real"), "x").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("../real", context.join("sub/inside")).unwrap();
    symlink("../secret", context.join("out")).unwrap();
    symlink(dir.path(), context.join("up")).unwrap();
    symlink("/etc/passwd", context.join("passwd")).unwrap();
    symlink("gone", context.join("dangling")).unwrap();
    let read = |name: &str| read_inside(&context, Path::new(name));
    assert_eq!(read("real").unwrap().unwrap(), b"x");
    assert_eq!(read("sub/inside").unwrap().unwrap(), b"x");
    assert_eq!(read("none").unwrap(), None);
    assert_eq!(read("real/none").unwrap(), None);
    for name in ["../secret", "/etc/passwd", "sub/../../secret", "out", "up/secret", "passwd", "dangling"] {
        let error = read(name).unwrap_err();
        assert!(error.is_usage() && error.hint().is_some(), "{name}: {error}");
    }
    assert!(read("sub").unwrap_err().to_string().contains("not a regular file"));
}
