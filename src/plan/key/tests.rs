mod properties;

use super::*;

fn step(argv: &[&str], env: &[&str]) -> RunStep<()> {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    RunStep {
        argv: own(argv),
        env: own(env),
        proxies: Vec::new(),
        user: String::new(),
        cwd: "/".to_owned(),
        mounts: Vec::new(),
        platform: crate::image::Platform::host(),
    }
}

fn key(step: &RunStep<()>) -> InstructionKey {
    run(step, "").key()
}

#[test]
fn parts_do_not_run_into_each_other() {
    assert_ne!(key(&step(&["ab", "c"], &[])), key(&step(&["a", "bc"], &[])));
    assert_ne!(key(&step(&["a"], &["b"])), key(&step(&["a", "b"], &[])));
    assert_ne!(workdir("/a", "b", ""), workdir("/a", "", "b"));
}

#[test]
fn what_a_step_cannot_see_is_not_in_its_key() {
    let mut with_proxy = step(&["a"], &["X=1", "Y=2"]);
    with_proxy.proxies.push("HTTP_PROXY=http://localhost:1".to_owned());
    assert_eq!(key(&with_proxy), key(&step(&["a"], &["Y=2", "X=1"])));
}

#[test]
fn every_field_of_a_mount_is_in_the_key() {
    let with = |kind: MountKind<()>| {
        let mut step = step(&["a"], &[]);
        step.mounts.push(RunMount { target: "/m".to_owned(), kind, span: Default::default() });
        key(&step)
    };
    let secret = |id: &str, required| MountKind::Secret {
        id: id.to_owned(),
        file: true,
        env: None,
        required,
        mode: 0o400,
        owner: (0, 0),
    };
    let keys = [
        key(&step(&["a"], &[])),
        with(MountKind::Tmpfs { size: None }),
        with(MountKind::Tmpfs { size: Some(1) }),
        with(secret("x", true)),
        with(secret("x", false)),
        with(secret("y", true)),
        with(MountKind::Script { content: "x".to_owned() }),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(keys[..at].iter().all(|other| other != one), "{at}");
    }
}

#[test]
fn the_parent_counts() {
    let key = workdir("/a", "", "");
    let parent = ChainId(Digest::of(b"x"));
    assert_ne!(key.on(None).record(), key.on(Some(parent)).record());
}
