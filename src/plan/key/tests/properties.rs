//! Two steps have one key exactly when they see the same.
//!
//! Texts are made of few characters, so that steps that differ often differ only in where a part ends.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::dockerfile::ast::Span;
use crate::plan::copy::Add;
use crate::plan::{ContextName, Origin, Sharing};

type Run = RunStep<()>;
type Copy = CopyStep<()>;

fn text() -> impl Strategy<Value = String> {
    const TEXTS: [&str; 9] = ["", "a", "b", "ab", "ba", "aa", "a=", "=b", "a=b"];
    (0..TEXTS.len()).prop_map(|at| TEXTS[at].to_owned())
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn origin() -> impl Strategy<Value = Origin<()>> {
    prop_oneof![
        Just(Origin::Context(ContextName::Main)),
        (0..2usize).prop_map(Origin::Stage),
        Just(Origin::Image(())),
        Just(Origin::Scratch),
    ]
}

fn kind() -> impl Strategy<Value = MountKind<()>> {
    let number = || option::of(0..3u32);
    let sharing = prop_oneof![Just(Sharing::Shared), Just(Sharing::Private), Just(Sharing::Locked)];
    prop_oneof![
        (origin(), text(), any::<bool>()).prop_map(|(from, source, read_only)| MountKind::Bind {
            from,
            source,
            read_only
        }),
        ((text(), option::of(origin()), text(), sharing), (number(), number(), number(), any::<bool>()))
            .prop_map(|((id, from, source, sharing), (mode, uid, gid, read_only))| MountKind::Cache {
                id,
                from,
                source,
                sharing,
                mode,
                uid,
                gid,
                read_only
            }),
        option::of(0..3u64).prop_map(|size| MountKind::Tmpfs { size }),
        (text(), any::<bool>(), option::of(text()), any::<bool>(), 0..3u32, (0..2u32, 0..2u32)).prop_map(
            |(id, file, env, required, mode, owner)| MountKind::Secret {
                id,
                file,
                env,
                required,
                mode,
                owner
            }
        ),
        text().prop_map(|content| MountKind::Script { content }),
    ]
}

fn mount() -> impl Strategy<Value = RunMount<()>> {
    (text(), kind(), 0..9usize).prop_map(|(target, kind, at)| RunMount {
        target,
        kind,
        span: Span::new(at, at + 1),
    })
}

fn run_step() -> impl Strategy<Value = Run> {
    (texts(), texts(), texts(), text(), text(), vec(mount(), 0..3)).prop_map(
        |(argv, env, proxies, user, cwd, mounts)| RunStep {
            argv,
            env,
            proxies,
            user,
            cwd,
            mounts,
            platform: crate::image::Platform::host(),
        },
    )
}

fn source() -> impl Strategy<Value = CopySource> {
    prop_oneof![
        text().prop_map(CopySource::Path),
        (text(), text()).prop_map(|(name, content)| CopySource::Inline { name, content }),
        text().prop_map(CopySource::Http),
        text().prop_map(CopySource::Git),
    ]
}

fn copy_step() -> impl Strategy<Value = Copy> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let names = (option::of(text()), option::of(text()));
    (origin(), vec(source(), 0..3), text(), names, texts(), flags).prop_map(
        |(from, sources, dest, (chown, chmod), excludes, (parents, link, add))| CopyStep {
            from,
            sources,
            dest,
            chown,
            chmod,
            parents,
            excludes,
            link,
            add: add.then(Add::default),
        },
    )
}

/// All of a `RUN` that its half of the key is about.
fn seen(step: &Run) -> String {
    let mut env = step.env.clone();
    env.sort();
    let mounts: Vec<_> = step
        .mounts
        .iter()
        .map(|mount| {
            let mut kind = mount.kind.clone();
            // What lies there is added by its content.
            match &mut kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => {
                    *from = Origin::Scratch;
                }
                _ => {}
            }
            (mount.target.clone(), kind)
        })
        .collect();
    format!("{:?}", (&step.argv, env, &step.user, &step.cwd, mounts))
}

/// The same of a `COPY`, and of the question what it takes.
fn seen_copy(step: &Copy) -> [String; 2] {
    let CopyStep { from: _, sources, dest, chown, chmod, parents, excludes, link, add } = step;
    let adds = add.is_some();
    [
        format!("{:?}", (dest, chown, chmod, parents, excludes, link, adds)),
        format!("{:?}", (sources, dest, parents, excludes, adds)),
    ]
}

/// Fails when a key has two descriptions, or a description two keys.
#[derive(Default)]
struct Known {
    keys: HashMap<InstructionKey, String>,
    descriptions: HashMap<String, InstructionKey>,
}

impl Known {
    fn add(&mut self, kind: &str, key: InstructionKey, description: &str) {
        let description = format!("{kind} {description}");
        let earlier = self.keys.entry(key).or_insert_with(|| description.clone());
        assert_eq!(*earlier, description, "two different steps have one key");
        let earlier = self.descriptions.entry(description.clone()).or_insert(key);
        assert_eq!(*earlier, key, "one step has two keys: {description}");
    }
}

#[test]
fn no_two_steps_have_one_key_and_no_step_two() {
    let mut runner = TestRunner::deterministic();
    let mut known = Known::default();
    let (runs, copies, texts) = (run_step(), copy_step(), (text(), text(), text()));
    for _ in 0..3000 {
        let step = runs.new_tree(&mut runner).unwrap().current();
        known.add("run", run(&step, "t").key(), &seen(&step));
        let step = copies.new_tree(&mut runner).unwrap().current();
        let [of_step, of_question] = seen_copy(&step);
        known.add("copy", copy(&step, "t").key(), &of_step);
        known.add("copied", copied(&step), &of_question);
        let (path, user, times) = texts.new_tree(&mut runner).unwrap().current();
        known.add("workdir", workdir(&path, &user, &times), &format!("{path:?} {user:?} {times:?}"));
        known.add("mounted", mounted(&path), &format!("{path:?}"));
    }
    assert!(known.keys.len() > 5000, "{}", known.keys.len());
}

/// Each field of a step changed, alone; none of these steps sees the same as another.
fn changes(step: &Run) -> Vec<Run> {
    let change = |how: &dyn Fn(&mut Run)| {
        let mut changed = step.clone();
        how(&mut changed);
        changed
    };
    let mut all = vec![
        change(&|s| s.argv.push("new".to_owned())),
        change(&|s| s.argv.insert(0, String::new())),
        change(&|s| s.env.push("NEW=".to_owned())),
        change(&|s| s.user.push('x')),
        change(&|s| s.cwd.push('x')),
        change(&|s| {
            s.user.push('y');
            s.cwd.insert(0, 'y');
        }),
        change(&|s| {
            let kind = MountKind::Tmpfs { size: Some(99) };
            s.mounts.push(RunMount { target: "new".to_owned(), kind, span: Span::default() });
        }),
    ];
    for at in 0..step.mounts.len() {
        all.push(change(&|s| s.mounts[at].target.push('x')));
        all.push(change(&|s| match &mut s.mounts[at].kind {
            MountKind::Bind { source, .. } => source.push('x'),
            MountKind::Cache { id, .. } | MountKind::Secret { id, .. } => id.push('x'),
            MountKind::Tmpfs { size } => *size = Some(size.map_or(77, |size| size + 77)),
            MountKind::Script { content } => content.push('x'),
        }));
        all.push(change(&|s| match &mut s.mounts[at].kind {
            MountKind::Bind { read_only, .. } | MountKind::Cache { read_only, .. } => *read_only ^= true,
            MountKind::Secret { required, .. } => *required ^= true,
            kind => *kind = MountKind::Script { content: "other".to_owned() },
        }));
        all.push(change(&|s| match &mut s.mounts[at].kind {
            MountKind::Cache { from, .. } => *from = from.is_none().then_some(Origin::Scratch),
            MountKind::Secret { mode, .. } => *mode += 7,
            kind => *kind = MountKind::Tmpfs { size: Some(55) },
        }));
    }
    if let [first, second, ..] = step.argv.as_slice() {
        let joined = format!("{first}{second}");
        all.push(change(&|s| drop(s.argv.splice(..2, [joined.clone()]))));
        all.push(change(&|s| {
            s.argv[0].push_str("x=");
            s.argv[1].insert_str(0, "=x");
        }));
        // From one list to the next.
        all.push(change(&|s| {
            let moved = s.argv.pop().unwrap();
            s.env.push(format!("moved{moved}"));
        }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_change_of_what_a_run_sees_changes_its_key(step in run_step()) {
        let mut known = Known::default();
        known.add("run", key(&step), &seen(&step));
        for changed in changes(&step) {
            prop_assert_ne!(seen(&changed), seen(&step));
            prop_assert_ne!(key(&changed), key(&step));
            known.add("run", key(&changed), &seen(&changed));
        }
        prop_assert_ne!(run(&step, "").key(), run(&step, "x").key());
    }

    #[test]
    fn what_a_run_does_not_see_leaves_its_key(step in run_step(), more in texts()) {
        let mut other = step.clone();
        other.env.reverse();
        other.proxies = more;
        for mount in &mut other.mounts {
            mount.span = Span::new(70, 80);
        }
        prop_assert_eq!(key(&other), key(&step));
    }

    #[test]
    fn what_lies_below_is_kept_apart(step in run_step(), other in run_step()) {
        let chain = |text: &str| Some(ChainId(Digest::of(text.as_bytes())));
        let (key, other_key) = (key(&step), key(&other));
        prop_assert_ne!(key.on(chain("a")).record(), key.on(chain("b")).record());
        prop_assert_ne!(key.on(None).record(), key.on(chain("b")).record());
        let same = seen(&step) == seen(&other);
        prop_assert_eq!(key.on(chain("a")).record() == other_key.on(chain("a")).record(), same);
        // A lineage is not another for being as long.
        let lineage = |first: InstructionKey, second: InstructionKey| second.after(Some(first.after(None)));
        prop_assert_eq!(lineage(key, other_key) == lineage(other_key, key), same);
        prop_assert_ne!(key.after(None), key.after(Some(key.after(None))));
    }
}
