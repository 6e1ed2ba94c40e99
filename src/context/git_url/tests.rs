use super::*;

#[track_caller]
fn git(text: &str) -> GitRef {
    parse_git(text).unwrap_or_else(|| panic!("{text} is no repository")).unwrap()
}

#[track_caller]
fn wrong(text: &str) -> String {
    parse_git(text).unwrap_or_else(|| panic!("{text} is no repository")).unwrap_err().to_string()
}

/// remote, reference, subdir
fn three(text: &str) -> (String, Option<String>, Option<String>) {
    let git = git(text);
    (git.remote, git.reference, git.subdir)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn all_forms_of_addresses() {
    for (text, remote, transport, short) in [
        ("https://h.example/o/r.git", "https://h.example/o/r.git", Transport::Https, "r"),
        ("HTTPS://h.example/o/r.git", "https://h.example/o/r.git", Transport::Https, "r"),
        ("http://h.example:81/r.git", "http://h.example:81/r.git", Transport::Http, "r"),
        ("https://u:p@h.example/r.git", "https://u:p@h.example/r.git", Transport::Https, "r"),
        ("https://h.example/r%2Egit", "https://h.example/r%2Egit", Transport::Https, "r%2Egit"),
        ("git://h.example/o/r", "git://h.example/o/r", Transport::Git, "r"),
        ("git://h.example/o/r.git", "git://h.example/o/r.git", Transport::Git, "r"),
        ("ssh://git@h.example:22/o/r", "ssh://git@h.example:22/o/r", Transport::Ssh, "r"),
        ("git@h.example:o/r.git", "git@h.example:o/r.git", Transport::Ssh, "r"),
        ("some_one@h-1.example:o/r", "some_one@h-1.example:o/r", Transport::Ssh, "r"),
        ("github.com/o/r", "https://github.com/o/r", Transport::Https, "r"),
        ("github.com/o/r.git", "https://github.com/o/r.git", Transport::Https, "r"),
        ("file:///srv/r.git", "file:///srv/r.git", Transport::File, "r"),
        ("git+file:///srv/work", "file:///srv/work", Transport::File, "work"),
    ] {
        let found = git(text);
        assert_eq!(
            (found.remote.as_str(), found.transport, found.short_name.as_str()),
            (remote, transport, short),
            "{text}"
        );
        assert_eq!((found.reference, found.subdir), (None, None), "{text}");
    }
}

#[test]
fn what_is_something_else() {
    for text in [
        "",
        ".",
        "dir",
        "./github.com/o/r",
        "/srv/r.git",
        "r.git",
        "github.com",
        "gitlab.com/o/r",
        "GitHub.com/o/r",
        "https://github.com/o/r",
        "https://h.example/x.tar.gz",
        "https://h.example.git",
        "https://h.example/r.gitx",
        "https://h.example/r.git/",
        "https://h.example/x?y=.git",
        "https://h.example/x#.git",
        "file:///srv/work",
        "ftp://h.example/r.git",
        "docker-image://a@b:c",
        "ext::sh -c touch% /tmp/x",
        "a/b@h.example:r",
        "@h:r",
        "u@:r",
        "u@h/r:x",
    ] {
        assert_eq!(parse_git(text), None, "{text:?}");
    }
}

#[test]
fn only_contexts_may_look_like_paths() {
    assert_eq!(parse_git_add("github.com/o/r"), None);
    assert!(parse_git_add("git@h.example:r").unwrap().is_ok());
    assert!(parse_git_add("https://h.example/r.git#v1").unwrap().is_ok());
    for local in ["file:///srv/r.git", "git+file:///srv/work"] {
        let error = parse_git_add(local).unwrap().unwrap_err();
        assert!(error.to_string().contains("this machine"), "{error}");
        assert!(error.hint().unwrap().contains("--build-context"));
    }
}

#[test]
fn fragments() {
    let r = "https://h.example/r.git";
    for (fragment, reference, subdir) in [
        ("#", None, None),
        ("#main", some("main"), None),
        ("#main:", some("main"), None),
        ("#:sub", None, some("sub")),
        ("#a/b:c/d", some("a/b"), some("c/d")),
        ("#v1:/c//d/", some("v1"), some("c/d")),
        ("#v1:c/../d/.", some("v1"), some("d")),
        ("#v1:/", some("v1"), None),
        ("#v%231:a%20b", some("v#1"), some("a b")),
        ("#v1:a:b", some("v1"), some("a:b")),
        ("#v1+x", some("v1+x"), None),
        ("#refs/pull/7/head", some("refs/pull/7/head"), None),
    ] {
        let text = format!("{r}{fragment}");
        assert_eq!(three(&text), (r.to_owned(), reference, subdir), "{text}");
    }
    assert_eq!(three("git@h.example:o/r#v1:s"), ("git@h.example:o/r".into(), some("v1"), some("s")));
    assert_eq!(three("github.com/o/r#v1:s"), ("https://github.com/o/r".into(), some("v1"), some("s")));
}

#[test]
fn queries() {
    let r = "https://h.example/r.git";
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (rest, reference, subdir) in [
        ("?ref=v1".to_owned(), some("v1"), None),
        ("?ref=v1#v1:x".to_owned(), some("v1"), some("x")),
        ("?branch=a&subdir=b%2Fc".to_owned(), some("refs/heads/a"), some("b/c")),
        ("?branch=refs/heads/a".to_owned(), some("refs/heads/a"), None),
        ("?tag=v1".to_owned(), some("refs/tags/v1"), None),
        ("?tag=v1&ref=refs/tags/v1".to_owned(), some("refs/tags/v1"), None),
        (format!("?commit={commit}"), some(commit), None),
        (format!("?tag=v1&checksum={commit}"), some("refs/tags/v1"), None),
        ("?subdir=a+b&".to_owned(), None, some("a b")),
    ] {
        let text = format!("{r}{rest}");
        assert_eq!(three(&text), (r.to_owned(), reference, subdir), "{text}");
    }
    let found = git(&format!("{r}?checksum={}&keep-git-dir&submodules=false", &commit[..7]));
    assert_eq!(found.checksum.as_deref(), Some("0123456"));
    assert_eq!((found.keep_git_dir, found.submodules), (Some(true), Some(false)));
    assert_eq!(git(&format!("{r}?keep-git-dir=0")).keep_git_dir, Some(false));
    assert_eq!(git("git@h.example:r?ref=v1").reference, some("v1"));
}

#[test]
fn queries_that_say_too_little_too_much_or_what_nobody_knows() {
    let with = |query: &str| wrong(&format!("https://h.example/r.git?{query}"));
    for (query, part) in [
        ("ref=", "`ref` has no value"),
        ("ref", "`ref` has no value"),
        ("ref=a&ref=a", "twice"),
        ("ref=a#b", "both `b` and `a`"),
        ("subdir=a#v:b", "both `b` and `a`"),
        ("tag=a&branch=a", "both a tag and a branch"),
        ("tag=a&ref=a", "both `a` and `refs/tags/a`"),
        ("depth=1", "`depth` in its query is not known"),
        ("Ref=a", "`Ref` in its query is not known"),
        ("keep-git-dir=yes", "expected true or false"),
        ("submodules=2", "expected true or false"),
        ("checksum=abc", "7 to 64"),
        ("checksum=ABCDEF0", "7 to 64"),
        ("commit=0123456&checksum=7654321", "both"),
        ("ref=%zz", "two hexadecimal digits"),
        ("ref=%+1", "two hexadecimal digits"),
        ("ref=%4", "two hexadecimal digits"),
    ] {
        let message = with(query);
        assert!(message.contains(part), "{query}: {message}");
    }
}

#[test]
fn what_could_be_taken_for_something_else_is_refused() {
    for text in [
        "https://h.example/r.git#-x",
        "https://h.example/r.git#--upload-pack=touch",
        "https://h.example/r.git#+main",
        "https://h.example/r.git?ref=a:b",
        "https://h.example/r.git#a..b",
        "https://h.example/r.git#main@{1}",
        "https://h.example/r.git#main^",
        "https://h.example/r.git#a%0ab",
        "https://h.example/r.git#v1:../x",
        "https://h.example/r.git#v1:a/../../x",
        "https://h.example/r.git#v1:.git/hooks",
        "https://h.example/r.git#v1:a%00b",
        "https://h.example/r .git",
        "https://h.example/r\n.git",
        "https:///r.git",
        "https://:81/r.git",
        "ssh://-oProxyCommand=x/r",
        "ssh://u@-oProxyCommand=x/r",
        "git://-h/r",
        "-u@h.example:r",
        "u@-h:r",
        "git@h.example:",
        "git://h.example",
        "git://h.example/",
        "git+file://host/srv/r",
        "git+file://relative",
        "git+file:///",
    ] {
        assert!(parse_git(text).is_some_and(|r| r.is_err()), "{text:?}");
    }
}

#[test]
fn passwords_are_not_shown() {
    let found = git("https://user:secret@h.example/r.git#v1:s");
    assert_eq!(found.to_string(), "https://user:…@h.example/r.git#v1:s");
    assert!(!wrong("https://user:secret@h.example/r.git?x=1").contains("secret"));
    assert_eq!(git("git@h.example:r#:s").to_string(), "git@h.example:r#:s");
    assert_eq!(redacted("https://h.example/a@b:c"), "https://h.example/a@b:c");
}

#[test]
fn no_text_is_too_strange() {
    use proptest::prelude::*;
    let pieces = prop::sample::select(vec![
        "https://",
        "git@",
        "h",
        ".git",
        "#",
        "?",
        ":",
        "/",
        "..",
        "%",
        "%41",
        "&",
        "=",
        "ref",
        "ü",
        "\0",
        "github.com/",
    ]);
    proptest!(|(parts in prop::collection::vec(pieces, 0..12))| {
        let text = parts.concat();
        if let Some(Ok(git)) = parse_git(&text) {
            prop_assert!(!git.reference.is_some_and(|r| r.starts_with('-')));
            prop_assert!(!git.subdir.is_some_and(|s| s.split('/').any(|p| matches!(p, "" | "." | ".."))));
        }
    });
}
