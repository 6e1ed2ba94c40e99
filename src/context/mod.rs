//! Where COPY and ADD take files from, and what exactly they take.
//!
//! | module | does |
//! |---|---|
//! | [`source`] | what a context may be, and how all that is not a directory becomes one |
//! | [`containerfile`] | where the Containerfile of a build comes from |
//! | [`git_url`], [`git`] | addresses of Git repositories; commits and checkouts of them |
//! | [`http`] | files of web servers, and what is remembered of them in `cache/http/` |
//! | [`unpack`] | an archive → a directory, as the plain user |
//! | [`directory`] | opens a build context, and reads its `.dockerignore` |
//! | [`tree`] | a directory that may be copied from: the context, or the root of a stage or image |
//! | [`mod@select`] | source words → the files that they mean, with what `stat` says of each |
//! | `walk` | one source word → all that is wanted of it |
//! | `wanted` | what `--parents` and `--exclude` want of a directory |
//! | [`hash`] | a selection → the digest that a step's cache key is made of |
//! | `threads` | helpers for both, which are gone before a namespace is entered |
//! | [`stat_cache`] | remembers hashes of files that did not change, in `cache/context/` |
//!
//! The trees are untrusted: they may hold any links and may change under way. So below a tree's root
//! everything is opened by a descriptor and one name, and no link is followed by the kernel.

pub mod containerfile;
pub mod directory;
pub mod git;
pub mod git_url;
pub mod hash;
pub mod http;
mod resolve;
pub mod select;
pub mod source;
pub mod stat_cache;
mod threads;
pub mod tree;
pub mod unpack;
mod walk;
mod wanted;

pub use directory::{ContextError, DirectoryContext, IgnoreRules};
pub use select::{Item, ItemKind, Origin, SelectError, SelectOptions, Selection, Source, select};
pub use source::{ContextSpec, Opened, Opener, SourceError};
pub use stat_cache::StatCache;
pub use tree::SourceTree;
