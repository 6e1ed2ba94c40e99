//! What steps copy and mount from: build contexts, stages, images, and files from elsewhere.
//!
//! What a context or a download holds is known before anything is run, and its hash is part of a step's
//! key. Stages and images are mounted when it is not remembered what of their layers a step takes, and when
//! the step is not in the cache.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::StepError;
use crate::context::git::{Checkout, Credentials, Git};
use crate::context::http::{self, Downloader};
use crate::context::{
    DirectoryContext, IgnoreRules, SelectOptions, Selection, SourceTree, StatCache, git_url, select,
};
use crate::image::{ChainId, Digest};
use crate::plan::copy::Add;
use crate::plan::key::Description;
use crate::plan::{ContextName, CopySource, CopyStep};
use crate::rootfs::storage::ReadOnly;
use crate::store::{Store, WorkDir};

/// A build context, as the command line has found it.
#[derive(Debug, Clone)]
pub struct ContextDir {
    /// The directory.
    pub path: PathBuf,
    /// The Containerfile in or beside it, for its own ignore file.
    pub containerfile: Option<PathBuf>,
    /// How messages call it, if not by its path.
    pub name: Option<String>,
}

/// Sources that are handled alike, in order.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) selection: Selection,
    /// Whether archives among them are extracted.
    pub(super) unpack: bool,
}

/// What a part's files come to, as a step's key has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) digest: Digest,
    /// As of [`Part`].
    pub(super) unpack: bool,
}

/// A stage or an image that is read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Seen {
    /// By its position in the plan.
    Stage(usize),
    /// By the chain ID of its layers.
    Image(Option<ChainId>),
}

/// Where a mounted one will be. Locked while it is being mounted.
type Mounting = Arc<Mutex<Option<Arc<ReadOnly>>>>;

/// All that is open of what can be copied from. Several stages may ask at the same time.
pub(super) struct Sources<'a> {
    store: &'a Store,
    dirs: &'a BTreeMap<ContextName, ContextDir>,
    contexts: Mutex<BTreeMap<ContextName, Arc<OpenContext>>>,
    mounted: Mutex<HashMap<Seen, Mounting>>,
    /// What was downloaded lies here.
    work: Mutex<Option<Arc<WorkDir>>>,
}

struct OpenContext {
    context: DirectoryContext,
    cache: Mutex<StatCache>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(store: &'a Store, dirs: &'a BTreeMap<ContextName, ContextDir>) -> Sources<'a> {
        let (contexts, mounted, work) = Default::default();
        Sources { store, dirs, contexts, mounted, work }
    }

    fn open(&self, name: &ContextName) -> Result<Arc<OpenContext>, StepError> {
        let mut contexts = lock(&self.contexts);
        if let Some(open) = contexts.get(name) {
            return Ok(open.clone());
        }
        let missing = || StepError::NoContext { name: name.clone() };
        let dir = self.dirs.get(name).ok_or_else(missing)?;
        let rules = IgnoreRules::read(&dir.path, dir.containerfile.as_deref())?;
        let context = DirectoryContext::open_as(&dir.path, dir.name.as_deref(), rules)?;
        let cache = Mutex::new(StatCache::load(self.store, &dir.path));
        let open = Arc::new(OpenContext { context, cache });
        contexts.insert(name.clone(), open.clone());
        Ok(open)
    }

    /// The tree of a build context.
    pub(super) fn context(&self, name: &ContextName) -> Result<SourceTree, StepError> {
        Ok(self.open(name)?.context.tree().clone())
    }

    /// The directory of a build context, and whether an ignore file hides something in it.
    pub(super) fn context_dir(&self, name: &ContextName) -> Result<(PathBuf, bool), StepError> {
        let open = self.open(name)?;
        Ok((open.context.path().to_owned(), open.context.tree().ignore().is_some()))
    }

    /// The digest of what was selected; contents of files that did not change are remembered.
    pub(super) fn digest(
        &self,
        context: Option<&ContextName>,
        selection: &Selection,
    ) -> Result<Digest, StepError> {
        Ok(match context {
            Some(name) => selection.digest(&mut lock(&self.open(name)?.cache))?,
            None => selection.digest(&mut StatCache::disabled())?,
        })
    }

    /// The contents of parts.
    pub(super) fn contents(
        &self,
        context: Option<&ContextName>,
        parts: &[Part],
    ) -> Result<Vec<Content>, StepError> {
        let content =
            |part: &Part| Ok(Content { digest: self.digest(context, &part.selection)?, unpack: part.unpack });
        parts.iter().map(content).collect()
    }

    /// A stage or image that is mounted; if it is not yet, `mount` does it.
    pub(super) fn mounted<E>(
        &self,
        what: Seen,
        mount: impl FnOnce() -> Result<ReadOnly, E>,
    ) -> Result<Arc<ReadOnly>, E> {
        let place = lock(&self.mounted).entry(what).or_default().clone();
        let mut place = lock(&place);
        if let Some(mounted) = &*place {
            return Ok(mounted.clone());
        }
        let mounted = Arc::new(mount()?);
        *place = Some(mounted.clone());
        Ok(mounted)
    }

    /// What a `COPY` takes, its paths from `tree`.
    pub(super) fn parts<I>(
        &self,
        copy: &CopyStep<I>,
        tree: Option<&SourceTree>,
    ) -> Result<Vec<Part>, StepError> {
        let options = SelectOptions {
            parents: copy.parents,
            excludes: copy.excludes.iter().map(|e| e.clone().into_bytes()).collect(),
        };
        let dest = copy.dest.as_bytes();
        let mut parts: Vec<Part> = Vec::new();
        for source in &copy.sources {
            let (mut selection, local) = match source {
                CopySource::Path(path) => {
                    let tree = tree.ok_or(StepError::NoContext { name: ContextName::Main })?;
                    (select(tree, &[path.as_str()], dest, &options)?, true)
                }
                CopySource::Inline { name, content } => {
                    (Selection::inline(name.as_bytes(), content.as_bytes()), false)
                }
                CopySource::Http(url) => (self.download(url, copy.add.as_ref())?, false),
                CopySource::Git(url) => (self.clone_git(url, copy, &options)?, false),
            };
            selection.dest_is_directory |= crate::context::select::names_directory(dest);
            // A repository is never an archive; what was downloaded is extracted only if asked for.
            let unpack = match (&copy.add, source) {
                (Some(add), CopySource::Path(_)) => add.unpack.unwrap_or(local),
                (Some(add), CopySource::Http(_)) => add.unpack.unwrap_or(false),
                _ => false,
            };
            match parts.last_mut() {
                Some(last) if last.unpack == unpack => last.selection.append(selection),
                _ => parts.push(Part { selection, unpack }),
            }
        }
        Ok(parts)
    }

    /// A tree without anything in it, which `--from=scratch` names.
    pub(super) fn nothing(&self) -> Result<SourceTree, StepError> {
        let dir = self.work()?.fresh("empty-");
        std::fs::create_dir(&dir)
            .map_err(|source| StepError::Io { what: "cannot create a directory", source })?;
        open_tree(&dir, "scratch")
    }

    fn work(&self) -> Result<Arc<WorkDir>, StepError> {
        let mut work = lock(&self.work);
        if let Some(work) = &*work {
            return Ok(work.clone());
        }
        let made = Arc::new(self.store.work_dir().map_err(StepError::Store)?);
        *work = Some(made.clone());
        Ok(made)
    }

    /// A file of the web. As in BuildKit it is named by the last part of its URL's path, and only its owner
    /// can read it.
    fn download(&self, url: &str, add: Option<&Add>) -> Result<Selection, StepError> {
        const MODE: u32 = 0o600;
        // Without a name the destination is one: planning has seen to that.
        let name = http::name_of_url(url).unwrap_or_default();
        let checksum = match add.and_then(|a| a.checksum.as_ref()) {
            Some((text, _)) => Some(text.parse::<Digest>().map_err(|e| StepError::Remote {
                message: format!("--checksum={text}: {e}"),
                hint: Some("write it as sha256: and 64 hexadecimal digits".to_owned()),
                environment: false,
            })?),
            None => None,
        };
        let work = self.work()?;
        let fetched = Downloader::new().fetch(self.store, &work, url, checksum.as_ref(), &|_, _| {});
        let fetched = fetched.map_err(|e| StepError::Remote {
            message: e.to_string(),
            hint: e.hint().map(str::to_owned),
            environment: false,
        })?;
        let (dir, file) = (fetched.path.parent().unwrap_or(Path::new("/")), fetched.path.file_name());
        let tree = open_tree(dir, url)?;
        let file = file.unwrap_or_default();
        let mtime = fetched.mtime.unwrap_or_default();
        use std::os::unix::ffi::OsStrExt;
        Ok(Selection::single_file(&tree, file.as_bytes(), name.into_bytes(), MODE, mtime)?)
    }

    /// What a Git repository holds at a commit.
    fn clone_git<I>(
        &self,
        url: &str,
        copy: &CopyStep<I>,
        options: &SelectOptions,
    ) -> Result<Selection, StepError> {
        let remote = |message: String, hint: Option<&str>, environment: bool| StepError::Remote {
            message,
            hint: hint.map(str::to_owned),
            environment,
        };
        let mut reference = match git_url::parse_git_add(url) {
            Some(Ok(reference)) => reference,
            Some(Err(e)) => return Err(remote(e.to_string(), e.hint(), false)),
            None => return Err(remote(format!("{url} is not a Git repository"), None, false)),
        };
        let add = copy.add.clone().unwrap_or_default();
        if let Some((checksum, _)) = &add.checksum {
            git_url::check_commit(checksum).map_err(|e| remote(e.to_string(), e.hint(), false))?;
            reference.checksum = Some(checksum.clone());
        }
        let git = |e: crate::context::git::GitError| remote(e.to_string(), e.hint(), e.is_environment());
        let work = self.work()?;
        let program = Git::new(&work, Credentials::None);
        let commit = program.resolve(&reference).map_err(git)?;
        let checkout = Checkout::of(&reference, add.keep_git_dir);
        let dir = program.checkout(&reference, &commit, checkout).map_err(git)?;
        let tree = open_tree(&dir, url)?;
        Ok(select(&tree, &["/"], copy.dest.as_bytes(), options)?)
    }

    /// Unmounts stages and images.
    pub(super) fn unmount(&self) {
        lock(&self.mounted).clear();
    }

    /// Writes what was learned of contexts.
    pub(super) fn save(&self) -> Result<(), crate::store::StoreError> {
        lock(&self.contexts).values().try_for_each(|open| lock(&open.cache).save(self.store))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory below the work directory as a tree to copy from.
fn open_tree(dir: &Path, name: &str) -> Result<SourceTree, StepError> {
    let root = cooper_runtime::sys::fs::open_dir(dir)
        .map_err(|source| StepError::Io { what: "cannot open what was downloaded", source })?;
    Ok(SourceTree::context(root, name, IgnoreRules::none()))
}

/// What a part brings into a key.
pub(super) fn describe(description: &mut Description, content: &Content) {
    description.text(if content.unpack { "unpack" } else { "content" }).text(&content.digest.to_string());
}
