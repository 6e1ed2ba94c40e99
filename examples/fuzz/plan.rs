//! Planning, with images that are made up.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};

use cooper::dockerfile::ast::Span;
use cooper::dockerfile::parse;
use cooper::image::{ImageConfig, Platform};
use cooper::plan::key::{self, InstructionKey};
use cooper::plan::{
    self, Action, CopyStep, ImageError, ImageSource, Images, MountKind, NamedContext, Options, Origin,
    PlanError,
};

use crate::targets::check_error;

/// Images whose configuration depends on nothing but their names.
struct MadeUp;

impl Images for MadeUp {
    type Image = ();

    fn image(&mut self, source: &ImageSource, _: &Platform) -> Result<((), ImageConfig), ImageError> {
        let name = format!("{source:?}");
        if name.contains("x@") {
            return Err("there is no such image".into());
        }
        let mut config = ImageConfig::default();
        if name.contains("debian") {
            config.config.env = vec!["PATH=/bin".into(), "A=from the image".into(), "odd".into(), "=".into()];
            config.config.working_dir = "relative/..".into();
            config.config.cmd = Some(vec!["sh".into()]);
        }
        Ok(((), config))
    }
}

/// Keys that were seen, and hashes of what they stand for.
static KEYS: LazyLock<Mutex<HashMap<InstructionKey, u64>>> = LazyLock::new(Mutex::default);

/// Two steps that see something else never have one key.
fn check_key(action: &Action<()>) {
    let (key, seen) = match action {
        Action::Run(step) => {
            let mut env = step.env.clone();
            env.sort();
            let mut mounts = step.mounts.clone();
            for mount in &mut mounts {
                mount.span = Span::default();
                // What lies there comes into the key later, by its content.
                match &mut mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => {
                        *from = Origin::Scratch;
                    }
                    _ => {}
                }
            }
            (key::run(step, "").key(), format!("run {:?}", (&step.argv, env, &step.user, &step.cwd, mounts)))
        }
        Action::Copy(step) => {
            let CopyStep { dest, chown, chmod, parents, excludes, link, add, .. } = step;
            let seen = (dest, chown, chmod, parents, excludes, link, add.is_some());
            (key::copy(step, "").key(), format!("copy {seen:?}"))
        }
        Action::Workdir { path, user } => {
            (key::workdir(path, user, ""), format!("workdir {path:?} {user:?}"))
        }
    };
    let mut hasher = DefaultHasher::new();
    seen.hash(&mut hasher);
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    // So that a run of any length has room.
    if keys.len() < 4_000_000 {
        let known = *keys.entry(key).or_insert(hasher.finish());
        assert_eq!(known, hasher.finish(), "another step has the key of: {seen}");
    }
}

/// Plans `text`.
pub(crate) fn check(text: &str) {
    let Ok(file) = parse(text) else { return };
    let build_args = [("A", "b"), ("C1", "$A"), ("http_proxy", "x"), ("HTTP_PROXY", "")];
    let options = Options {
        build_args: build_args
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect::<BTreeMap<_, _>>(),
        target: None,
        platforms: vec![amd64(), Platform { architecture: "arm64".into(), ..amd64() }],
        build_platform: amd64(),
        contexts: [("named".to_owned(), NamedContext::Files)].into(),
    };
    match plan::plan(&file, &options, &mut MadeUp) {
        Ok(plan) => {
            assert!(
                plan.targets.iter().all(|target| target.stage < plan.stages.len()),
                "a target is no stage"
            );
            plan.stages.iter().flat_map(|stage| &stage.steps).for_each(|step| check_key(&step.action));
        }
        Err(PlanError::Source(error)) => check_error(text, &error),
        Err(PlanError::Image { span, .. }) => {
            assert!(text.get(span.range()).is_some(), "the place {span:?} is none")
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}
