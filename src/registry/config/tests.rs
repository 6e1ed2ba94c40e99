use super::*;
use crate::image::Digest;

fn parse(text: &str) -> Registries {
    Registries::parse("test.conf", text).unwrap().0
}

#[track_caller]
fn error(text: &str) -> String {
    Registries::parse("test.conf", text).unwrap_err().to_string()
}

fn reference(name: &str) -> Reference {
    name.parse::<ImageName>().unwrap().normalised()
}

/// The endpoints as text: `host/repository:tag`, `!` for relaxed ones, `mirror` for mirrors.
#[track_caller]
fn places(registries: &Registries, name: &str) -> Vec<String> {
    let describe = |e: Endpoint| {
        let relaxed = if e.security == Security::Relaxed { "!" } else { "" };
        let mirror = if e.mirror { "mirror " } else { "" };
        let target = e.reference.tag.map(|t| format!(":{t}")).unwrap_or_default();
        format!("{relaxed}{mirror}{}/{}{target}", e.host, e.repository)
    };
    registries.endpoints(&reference(name)).unwrap().into_iter().map(describe).collect()
}

#[track_caller]
fn names(registries: &Registries, name: &str) -> Vec<String> {
    registries.candidates(&name.parse().unwrap()).iter().map(ToString::to_string).collect()
}

const MANUAL: &str = r#"
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"#;

#[test]
fn without_a_file_docker_hub_and_loopback_are_as_with_docker() {
    let none = Registries::default();
    assert_eq!(names(&none, "busybox"), ["docker.io/library/busybox:latest"]);
    assert_eq!(places(&none, "busybox:1"), ["registry-1.docker.io/library/busybox:1"]);
    assert_eq!(places(&none, "quay.io/a/b"), ["quay.io/a/b:latest"]);
    assert_eq!(places(&none, "localhost:5000/a"), ["!localhost:5000/a:latest"]);
    assert_eq!(places(&none, "localhost/a"), ["!localhost/a:latest"]);
    assert_eq!(places(&none, "127.3.2.1:5000/a"), ["!127.3.2.1:5000/a:latest"]);
    assert_eq!(places(&none, "[::1]:5000/a"), ["![::1]:5000/a:latest"]);
    // Names that only look like this machine.
    assert_eq!(places(&none, "localhost.example/a"), ["localhost.example/a:latest"]);
    assert_eq!(places(&none, "127.0.0.1.example/a"), ["127.0.0.1.example/a:latest"]);
    assert_eq!(places(&none, "192.168.0.1:5000/a"), ["192.168.0.1:5000/a:latest"]);
}

#[test]
fn the_manuals_example_works_as_the_manual_says() {
    let registries = parse(MANUAL);
    assert_eq!(
        places(&registries, "example.com/foo/image:latest"),
        [
            "mirror example-mirror-0.local/mirror-for-foo/image:latest",
            "!mirror example-mirror-1.local/mirrors/foo/image:latest",
            "internal-registry-for-example.com/bar/image:latest",
        ]
    );
    assert_eq!(
        places(&registries, "registry.com/image"),
        ["mirror mirror.registry.com/image:latest", "registry.com/image:latest"]
    );
    assert_eq!(places(&registries, "example.com/foobar"), ["example.com/foobar:latest"]);
    assert_eq!(
        places(&registries, "example.com/foo"),
        [
            "mirror example-mirror-0.local/mirror-for-foo:latest",
            "!mirror example-mirror-1.local/mirrors/foo:latest",
            "internal-registry-for-example.com/bar:latest",
        ]
    );
}

#[test]
fn the_longest_prefix_counts_and_no_other() {
    let registries = parse(
        r#"
        [[registry]]
        location = "a.example"
        insecure = true
        [[registry]]
        prefix = "a.example/team"
        location = "b.example/team"
        [[registry]]
        prefix = "a.example/team/app:old"
        location = "c.example/archive:older"
        "#,
    );
    assert_eq!(places(&registries, "a.example/x"), ["!a.example/x:latest"]);
    assert_eq!(places(&registries, "a.example/team/x"), ["b.example/team/x:latest"]);
    assert_eq!(places(&registries, "a.example/team/app:old"), ["c.example/archive:older"]);
    assert_eq!(places(&registries, "a.example/team/app:older"), ["b.example/team/app:older"]);
    // Another port is another registry.
    assert_eq!(places(&registries, "a.example:5000/x"), ["a.example:5000/x:latest"]);
}

#[test]
fn wildcards_are_whole_domains() {
    let registries = parse(
        r#"
        [[registry]]
        prefix = "*.example.com"
        insecure = true
        [[registry.mirror]]
        location = "mirror.local/cache"
        [[registry]]
        prefix = "*.deep.example.com"
        location = "deep.local"
        "#,
    );
    assert_eq!(
        places(&registries, "a.b.example.com/foo/x:1"),
        ["mirror mirror.local/cache/foo/x:1", "!a.b.example.com/foo/x:1"]
    );
    assert_eq!(places(&registries, "a.deep.example.com/x:1"), ["deep.local/x:1"]);
    for other in
        ["example.com/x:1", "badexample.com/x:1", "quay.io/a.example.com/x:1", "a.example.com.evil.org/x:1"]
    {
        assert_eq!(places(&registries, other), [other]);
    }
}

#[test]
fn docker_hub_is_rewritten_by_its_canonical_name() {
    let registries = parse(
        r#"
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example/hub"
        [[registry]]
        prefix = "old.example"
        location = "docker.io/library"
        "#,
    );
    assert_eq!(
        places(&registries, "busybox:1"),
        ["mirror mirror.example/hub/library/busybox:1", "registry-1.docker.io/library/busybox:1"]
    );
    assert_eq!(places(&registries, "old.example/debian:13"), ["registry-1.docker.io/library/debian:13"]);
}

#[test]
fn mirrors_may_be_for_digests_or_tags_only() {
    let pinned = format!("r.example/a@{}", Digest::of(b""));
    let by_digest = parse(
        "[[registry]]\nlocation = \"r.example\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"m.example\"",
    );
    assert_eq!(places(&by_digest, "r.example/a:1"), ["r.example/a:1"]);
    assert_eq!(places(&by_digest, &pinned), ["mirror m.example/a", "r.example/a"]);
    let each = parse(
        r#"
        [[registry]]
        location = "r.example"
        mirror = [
          { location = "t.example", pull-from-mirror = "tag-only" },
          { location = "d.example", pull-from-mirror = "digest-only" },
          { location = "a.example", pull-from-mirror = "all" },
        ]
        "#,
    );
    assert_eq!(
        places(&each, "r.example/a:1"),
        ["mirror t.example/a:1", "mirror a.example/a:1", "r.example/a:1"]
    );
    assert_eq!(places(&each, &pinned), ["mirror d.example/a", "mirror a.example/a", "r.example/a"]);
}

#[test]
fn blocked_is_an_error_with_any_port() {
    let registries = parse(
        "[[registry]]\nlocation = \"bad.example\"\nblocked = true\n[[registry]]\nlocation = \"bad.example/good\"\n\
         [[registry]]\nprefix = \"*.worse.example\"\nblocked = true",
    );
    for name in ["bad.example/x", "bad.example:5000/x", "a.worse.example/x", "a.worse.example:5000/x"] {
        let error = registries.endpoints(&reference(name)).unwrap_err();
        assert!(matches!(&error, ConfigError::Blocked { .. }), "{name}: {error}");
        assert!(registries.push_endpoint(&reference(name)).is_err());
    }
    assert_eq!(places(&registries, "bad.example/good/x"), ["bad.example/good/x:latest"]);
}

#[test]
fn pushes_go_where_the_name_says() {
    let endpoint = parse(MANUAL).push_endpoint(&reference("example.com/foo/image")).unwrap();
    assert_eq!((endpoint.host.as_str(), endpoint.repository.as_str()), ("example.com", "foo/image"));
    let insecure = parse("[[registry]]\nlocation = \"r.example\"\ninsecure = true");
    assert_eq!(insecure.push_endpoint(&reference("r.example/a")).unwrap().security, Security::Relaxed);
}

#[test]
fn short_names_have_aliases_then_search_registries() {
    let mut registries = parse(
        r#"
        unqualified-search-registries = ["one.example", "two.example:5000", "docker.io"]
        [aliases]
        "debian" = "docker.io/library/debian"
        "team/app" = "quay.io/team/app"
        "gone" = "quay.io/gone"
        "#,
    );
    registries.merge(parse("[aliases]\n\"gone\" = \"\"\n"));
    let digest = Digest::of(b"");
    assert_eq!(names(&registries, "debian:13"), ["docker.io/library/debian:13"]);
    assert_eq!(names(&registries, &format!("team/app@{digest}")), [format!("quay.io/team/app@{digest}")]);
    assert_eq!(
        names(&registries, "gone"),
        ["one.example/gone:latest", "two.example:5000/gone:latest", "docker.io/library/gone:latest"]
    );
    assert_eq!(names(&registries, "r.example/debian"), ["r.example/debian:latest"]);
    assert!(names(&parse("unqualified-search-registries = []"), "x").is_empty());
}

#[test]
fn drop_ins_replace_what_has_the_same_prefix() {
    let mut registries = parse(MANUAL);
    registries.merge(parse("[[registry]]\nlocation = \"registry.com\"\ninsecure = true"));
    assert_eq!(places(&registries, "registry.com/image"), ["!registry.com/image:latest"]);
    assert_eq!(names(&registries, "x"), ["example.com/x:latest"], "the search list stays");
    registries.merge(parse("unqualified-search-registries = [\"other.example\"]"));
    assert_eq!(names(&registries, "x"), ["other.example/x:latest"]);
}

#[test]
fn what_contradicts_itself_is_refused_with_a_reason() {
    for (text, part) in [
        ("[registries.search]\nregistries = ['docker.io']", "version 1"),
        ("[registries.block]\nregistries = []", "registries.block"),
        ("[[registry]]\nprefix = \"a.example\"", "needs a location"),
        ("[[registry]]\ninsecure = true", "needs a location"),
        ("[[registry]]\nlocation = \"https://a.example\"", "without `https://`"),
        ("[[registry]]\nprefix = \"*.example.com/foo\"\nlocation = \"x\"", "wildcard"),
        ("[[registry]]\nprefix = \"*example.com\"\nlocation = \"x\"", "wildcard"),
        ("[[registry]]\nprefix = \"a.*.example\"\nlocation = \"x\"", "beginning"),
        ("[[registry]]\nlocation = \"*.example\"", "beginning"),
        ("[[registry]]\nlocation = \"a\"\n[[registry]]\nlocation = \"a/\"", "two [[registry]] tables"),
        ("[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\ninsecure = true", "no usable location"),
        (
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"some\"",
            "none of",
        ),
        (
            "[[registry]]\nlocation = \"a\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"all\"",
            "use one",
        ),
        ("unqualified-search-registries = [\"a.example/b\"]", "host name"),
        ("unqualified-search-registries = [\"\"]", "host name"),
        ("unqualified-search-registries = \"docker.io\"", "line 1"),
        ("[[registry]]\nlocation = 7", "line 2"),
        ("[aliases]\n\"a.example/x\" = \"b.example/x\"", "short name"),
        ("[aliases]\n\"x:1\" = \"b.example/x\"", "short name"),
        ("[aliases]\nx = \"b.example/x:1\"", "without tag"),
        ("[aliases]\nx = \"y\"", "without tag"),
        ("this is = not [toml", "line 1"),
    ] {
        let message = error(text);
        assert!(message.contains("test.conf") && message.contains(part), "{text}\n{message}");
    }
}

#[test]
fn fields_of_others_are_named_in_warnings_unless_they_do_not_matter() {
    let text = r#"
        short-name-mode = "enforcing"
        credential-helpers = ["secret-service"]
        new-thing = 1
        [[registry]]
        location = "a.example"
        retries = 3
        [[registry.mirror]]
        location = "b.example"
        weight = 3
    "#;
    let (_, warnings) = Registries::parse("f", text).unwrap();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, word) in warnings.iter().zip(["new-thing", "retries", "weight"]) {
        assert!(warning.contains(word) && warning.starts_with("f: "), "{warning}");
    }
}

#[test]
fn a_rewrite_that_gives_no_name_is_an_error() {
    let registries = parse("[[registry]]\nprefix = \"a.example\"\nlocation = \"Not A Host\"");
    let error = registries.endpoints(&reference("a.example/x")).unwrap_err();
    assert!(matches!(error, ConfigError::Rewrite { .. }), "{error}");
    let short = parse("[[registry]]\nprefix = \"a.example\"\nlocation = \"nohost\"");
    assert!(short.endpoints(&reference("a.example/x")).unwrap_err().to_string().contains("no registry"));
}

#[test]
fn debians_own_files_parse() {
    // What is on every machine with containers' tools, if it is here.
    for file in ["/etc/containers/registries.conf", "/etc/containers/registries.conf.d/shortnames.conf"] {
        if let Ok(text) = std::fs::read_to_string(file) {
            let (_, warnings) = Registries::parse(file, &text).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
}
