//! What a build reads: its contexts and its Containerfile, wherever they come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::failure::Source;
use super::super::{CliError, Kind};
use super::Arguments;
use crate::build::ContextDir;
use crate::context::containerfile;
use crate::context::http::Downloader;
use crate::context::source::{self, ContextSpec, Opened, SourceError};
use crate::dockerfile::ast::Span;
use crate::plan::origin::image_source;
use crate::plan::{ContextName, ImageSource, NamedContext, PlanError};
use crate::progress::{Event, Progress};
use crate::store::{Store, WorkDir};

/// All that a build reads.
pub(super) struct Inputs {
    pub(super) source: Source,
    /// The contexts that are trees of files.
    pub(super) dirs: BTreeMap<ContextName, ContextDir>,
    /// The contexts given by name, as planning knows them.
    pub(super) named: BTreeMap<String, NamedContext>,
    /// Whether the main context has an ignore file, if it can be told.
    pub(super) has_ignore_file: Option<bool>,
    /// What was downloaded lies here until the build ends.
    _work: Option<WorkDir>,
}

/// Opens contexts, and brings those from elsewhere here.
pub(super) struct Opener<'a> {
    store: &'a dyn Fn() -> Result<&'a Store, CliError>,
    work: Option<WorkDir>,
    downloader: Option<Downloader>,
    progress: &'a dyn Progress,
    stdin_used: bool,
}

pub(super) fn read<'a>(
    arguments: &Arguments,
    store: &'a dyn Fn() -> Result<&'a Store, CliError>,
    progress: &'a dyn Progress,
) -> Result<Inputs, CliError> {
    let is_dir = |path: &Path| path.is_dir();
    let text = arguments.context.to_string_lossy();
    let spec = source::parse_context(&text, is_dir).map_err(|e| wrong(&e))?;
    let mut opener = Opener { store, work: None, downloader: None, progress, stdin_used: false };
    let file = arguments.file.as_deref();
    containerfile::check(&spec, file).map_err(|e| wrong(&e))?;
    let opened = opener.open(&spec)?;
    let (source, containerfile) = opener.containerfile(file, &opened)?;
    let has_ignore_file = opened
        .containerfile
        .is_none()
        .then(|| super::super::lint::has_ignore_file(&opened.path, containerfile.as_deref()));
    let mut dirs = BTreeMap::new();
    dirs.insert(ContextName::Main, dir_of(&opened, containerfile));
    let mut named = BTreeMap::new();
    for text in &arguments.build_contexts {
        let (name, spec) = source::parse_named(text, is_dir).map_err(|e| wrong(&e))?;
        let context = match image_of(&spec)? {
            Some(image) => NamedContext::Image(image),
            None => {
                let opened = opener.open(&spec)?;
                if opened.containerfile.is_some() {
                    let message = format!("the build context `{name}` is no archive");
                    return Err(CliError::usage(message)
                        .with_hint("name a directory, a tar archive, a Git repository or an image"));
                }
                dirs.insert(ContextName::Named(name.clone()), dir_of(&opened, None));
                NamedContext::Files
            }
        };
        if named.insert(name.clone(), context).is_some() {
            let message = format!("--build-context {name} is given twice");
            return Err(CliError::usage(message).with_hint("keep one of them"));
        }
    }
    Ok(Inputs { source, dirs, named, has_ignore_file, _work: opener.work })
}

fn dir_of(opened: &Opened, containerfile: Option<PathBuf>) -> ContextDir {
    let name = opened.remote.then(|| opened.name.clone());
    ContextDir { path: opened.path.clone(), containerfile, name }
}

/// The image that a context is, if it is one.
fn image_of(spec: &ContextSpec) -> Result<Option<ImageSource>, CliError> {
    Ok(match spec {
        ContextSpec::Image(name) => match image_source(name, Span::default()) {
            Ok(source) => Some(source),
            Err(PlanError::Source(e)) => return Err(CliError::usage(e.message)),
            Err(e) => return Err(CliError::usage(e.to_string())),
        },
        ContextSpec::OciLayout { dir, tag, digest } => {
            if let Some(digest) = digest {
                let message = format!("an image in a layout cannot be named by its digest {digest} yet");
                return Err(CliError::usage(message).with_hint("name it by its tag: oci-layout://DIR:TAG"));
            }
            let tag = tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
            Some(ImageSource::OciLayout(format!("{}{tag}", dir.display())))
        }
        _ => None,
    })
}

/// An error about a context, as a person reads it.
pub(super) fn wrong(e: &SourceError) -> CliError {
    let kind = match (e.is_usage(), e.is_environment()) {
        (true, _) => Kind::Usage,
        (_, true) => Kind::Environment,
        _ => Kind::Failed,
    };
    let error = match e {
        SourceError::Io { what, path, source } => CliError::io(what, path, source),
        e => CliError::new(kind, e.to_string()),
    };
    match e.hint() {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

impl Opener<'_> {
    fn open(&mut self, spec: &ContextSpec) -> Result<Opened, CliError> {
        if let ContextSpec::Directory(path) = spec {
            return match std::fs::metadata(path) {
                Ok(m) if m.is_dir() => Ok(Opened {
                    path: path.clone(),
                    containerfile: None,
                    remote: false,
                    name: path.display().to_string(),
                    notes: Vec::new(),
                }),
                Ok(_) => {
                    Err(CliError::usage(format!("the build context {} is not a directory", path.display()))
                        .with_hint("name the directory, and the Containerfile with -f"))
                }
                Err(e) => Err(CliError::io("cannot open the build context", path, &e)),
            };
        }
        if matches!(spec, ContextSpec::Stdin) && std::mem::replace(&mut self.stdin_used, true) {
            return Err(CliError::usage("only one build context can come from standard input"));
        }
        let store = (self.store)()?;
        self.work()?;
        let downloader = self.downloader.get_or_insert_with(Downloader::new);
        let Some(work) = &self.work else { return Err(CliError::failed("there is no work directory")) };
        let opener = source::Opener { store, work, downloader, progress: &|_, _| {} };
        let opened = opener.open(spec, &mut std::io::stdin()).map_err(|e| wrong(&e))?;
        for text in &opened.notes {
            self.progress.event(Event::Warning { text: text.clone() });
        }
        Ok(opened)
    }

    fn work(&mut self) -> Result<&WorkDir, CliError> {
        if self.work.is_none() {
            let work = (self.store)()?.work_dir().map_err(|e| super::super::failure::store(&e))?;
            self.work = Some(work);
        }
        self.work.as_ref().ok_or_else(|| CliError::failed("there is no work directory"))
    }

    fn fetch(&mut self, url: &str) -> Result<Result<Vec<u8>, SourceError>, CliError> {
        let store = (self.store)()?;
        self.work()?;
        let downloader = self.downloader.get_or_insert_with(Downloader::new);
        let Some(work) = &self.work else { return Err(CliError::failed("there is no work directory")) };
        let opener = source::Opener { store, work, downloader, progress: &|_, _| {} };
        Ok(opener.containerfile(url))
    }

    /// The Containerfile, and where it lies, if that is beside an ignore file of its own.
    fn containerfile(
        &mut self,
        file: Option<&Path>,
        context: &Opened,
    ) -> Result<(Source, Option<PathBuf>), CliError> {
        // Only one that is an address needs a store.
        let mut unfetched = None;
        let mut fetch = |url: &str| match self.fetch(url) {
            Ok(bytes) => bytes,
            Err(e) => {
                unfetched = Some(e);
                Ok(Vec::new())
            }
        };
        let found = containerfile::read(&mut fetch, context, file, &mut std::io::stdin());
        if let Some(e) = unfetched {
            return Err(e);
        }
        let found = found.map_err(|e| wrong(&e))?;
        Ok((text(&found.name, found.bytes)?, found.path))
    }
}

fn text(name: &str, bytes: Vec<u8>) -> Result<Source, CliError> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        CliError::usage(format!("{name} is not UTF-8 text: line {line}"))
    })?;
    Ok(Source { name: name.to_owned(), text })
}
