//! What `FROM`, `COPY --from` and `RUN --mount=from=` name: stages, images, build contexts.

use super::stage::Planner;
use super::{Base, ImageSource, Images, NamedContext, PlanError, fail};
use crate::dockerfile::ast::{self, Span};
use crate::dockerfile::error::closest;
use crate::image::{ImageConfig, ImageName, Platform};

/// Where files are copied or mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<I> {
    /// A build context.
    Context(ContextName),
    /// Another stage: its position in the plan.
    Stage(usize),
    /// An image.
    Image(I),
    /// `scratch`: an empty tree.
    Scratch,
}

/// Which build context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContextName {
    /// The one that the command line names last.
    Main,
    /// One given with `--build-context`, by its name.
    Named(String),
}

/// Where a stage starts.
pub(super) enum Start<I> {
    Base(Base<I>, Option<Box<ImageConfig>>),
    /// The content of a named context is the stage's first layer.
    Files(ContextName),
}

impl<M: Images> Planner<'_, M> {
    /// What a `FROM` names, its variables expanded.
    pub(super) fn start(
        &mut self,
        number: usize,
        from: &ast::From,
        name: &str,
        platform: &Platform,
    ) -> Result<Start<M::Image>, PlanError> {
        // A context with the stage's own name takes the place of the whole stage.
        let own_name = from.name.as_ref().map(|n| n.node.to_lowercase());
        if let Some(own) = own_name
            && let Some(context) = self.context_named(&own)
        {
            return self.context_start(context, &own, from.image.span, platform);
        }
        if let Some(earlier) = self.stage_named(name, number) {
            return Ok(Start::Base(Base::Stage(self.stage(earlier)?), None));
        }
        let key = context_key(name);
        if let Some(context) = self.context_named(&key) {
            return self.context_start(context, &key, from.image.span, platform);
        }
        if name == "scratch" {
            return Ok(Start::Base(Base::Scratch, None));
        }
        let source = image_source(name, from.image.span)?;
        self.image_start(&source, from.image.span, platform)
    }

    /// Whether a `FROM` can name something at all.
    pub(super) fn check_base(&self, number: usize, from: &ast::From, name: &str) -> Result<(), PlanError> {
        let known = name == "scratch"
            || self.replaced(from)
            || self.stage_named(name, number).is_some()
            || self.context_named(&context_key(name)).is_some();
        if known { Ok(()) } else { image_source(name, from.image.span).map(drop) }
    }

    fn context_start(
        &mut self,
        context: NamedContext,
        name: &str,
        span: Span,
        platform: &Platform,
    ) -> Result<Start<M::Image>, PlanError> {
        match context {
            NamedContext::Image(source) => self.image_start(&source, span, platform),
            NamedContext::Files => Ok(Start::Files(ContextName::Named(name.to_owned()))),
        }
    }

    fn image_start(
        &mut self,
        source: &ImageSource,
        span: Span,
        platform: &Platform,
    ) -> Result<Start<M::Image>, PlanError> {
        let found = self.images.image(source, platform);
        let (image, config) = found.map_err(|source| PlanError::Image { span, source })?;
        Ok(Start::Base(Base::Image(image), Some(Box::new(config))))
    }

    /// What a `--from` names, or the `from` of a mount.
    pub(super) fn origin(
        &mut self,
        name: &str,
        span: Span,
        number: usize,
    ) -> Result<Origin<M::Image>, PlanError> {
        check_from(name, span)?;
        let lower = name.to_lowercase();
        // Of equal names the last in the whole file is meant, even when it comes too late.
        let named = self.stage_named(&lower, self.file.stages.len());
        if let Some(earlier) = named.filter(|named| *named < number) {
            return Ok(Origin::Stage(self.stage(earlier)?));
        }
        let key = context_key(&lower);
        let context = self.context_named(&key);
        if context.is_none() {
            if let Ok(index) = name.parse::<usize>() {
                if index < number {
                    return Ok(Origin::Stage(self.stage(index)?));
                }
                let message = format!("there is no stage {index} before this one");
                let help = "stages count from 0; better give the stage a name with AS";
                return Err(fail(span, message, help));
            }
            if named.is_some() {
                let message = format!("stage `{name}` does not come before this one");
                let help = "move the stage up: a stage can copy from earlier ones only";
                return Err(fail(span, message, help));
            }
        }
        let source = match context {
            Some(NamedContext::Files) => return Ok(Origin::Context(ContextName::Named(key))),
            Some(NamedContext::Image(source)) => source,
            None if lower == "scratch" => return Ok(Origin::Scratch),
            None => image_source(name, span)?,
        };
        let platform = self.platform.clone();
        match self.images.image(&source, &platform) {
            Ok((image, _)) => Ok(Origin::Image(image)),
            Err(source) => Err(self.not_found(name, span, number, source)),
        }
    }

    fn not_found(&self, name: &str, span: Span, number: usize, source: super::ImageError) -> PlanError {
        let stages = self.file.stages[..number].iter().filter_map(|s| s.from.name.as_ref());
        let stages: Vec<String> = stages.map(|n| n.node.to_lowercase()).collect();
        let contexts = self.options.contexts.keys();
        let known: Vec<&str> = stages.iter().chain(contexts).map(String::as_str).collect();
        let Some(near) = closest(&name.to_lowercase(), &known) else {
            return PlanError::Image { span, source };
        };
        let what = if stages.iter().any(|s| s == near) { "stage" } else { "build context" };
        let message = format!("there is no {what} `{name}`, and as an image it was not found: {source}");
        fail(span, message, format!("did you mean the {what} `{near}`?"))
    }

    /// An earlier stage by name, the last of equal names. Stage names are lower case; whether `name`
    /// may be written otherwise is the caller's business.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        self.file.stages[..before]
            .iter()
            .rposition(|s| s.from.name.as_ref().is_some_and(|n| n.node.to_lowercase() == name))
    }

    /// Whether a build context takes the place of a stage.
    pub(super) fn replaced(&self, from: &ast::From) -> bool {
        let name = from.name.as_ref().map(|n| n.node.to_lowercase());
        name.is_some_and(|name| self.options.contexts.contains_key(&name))
    }

    fn context_named(&self, name: &str) -> Option<NamedContext> {
        self.options.contexts.get(name).cloned()
    }
}

/// Refuses a `--from` that could name nothing, whichever stages and images there are.
fn check_from(name: &str, span: Span) -> Result<(), PlanError> {
    if name.contains('$') {
        let help = "--from takes no variables; add a stage `FROM $NAME AS name` and copy from that";
        return Err(fail(span, "a variable in --from", help));
    }
    if name.is_empty() {
        return Err(fail(span, "--from names nothing", "name a stage, an image or a build context"));
    }
    Ok(())
}

/// The name under which a `--build-context` for an image is looked for: as Docker shows the image, without
/// its registry and without `latest`.
fn context_key(name: &str) -> String {
    ImageName::familiar(name).unwrap_or_else(|| name.to_owned())
}

/// What `--from` or `FROM` may name besides stages and contexts.
///
/// # Errors
/// When the name is no image name.
pub fn image_source(name: &str, span: Span) -> Result<ImageSource, PlanError> {
    if let Some(layout) = name.strip_prefix("oci:") {
        return Ok(ImageSource::OciLayout(layout.to_owned()));
    }
    for (prefix, instead) in [
        ("docker-archive:", "`cooper` reads OCI layouts: skopeo copy docker-archive:FILE oci:DIR"),
        ("oci-archive:", "unpack it: mkdir DIR && tar -xf FILE -C DIR, then use oci:DIR"),
        ("docker://", "leave `docker://` out"),
    ] {
        if name.starts_with(prefix) {
            return Err(fail(
                span,
                format!("`{prefix}` is not there yet in this version of cooper"),
                instead,
            ));
        }
    }
    name.parse().map(ImageSource::Name).map_err(|e| fail(span, format!("{e}"), ""))
}
