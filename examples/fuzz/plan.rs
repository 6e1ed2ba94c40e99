//! Planning, with images that are made up.

use std::collections::BTreeMap;

use cooper::dockerfile::parse;
use cooper::image::{ImageConfig, Platform};
use cooper::plan::{self, ImageError, ImageSource, Images, NamedContext, Options, PlanError};

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
        Ok(plan) => assert!(
            plan.targets.iter().all(|target| target.stage < plan.stages.len()),
            "a target is no stage"
        ),
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
