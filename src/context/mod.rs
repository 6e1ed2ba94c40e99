//! Where COPY and ADD take files from, and what exactly they take.
//!
//! | module | does |
//! |---|---|
//! | [`directory`] | opens a build context, and reads its `.dockerignore` |
//! | [`tree`] | a directory that may be copied from: the context, or the root of a stage or image |
//! | [`mod@select`] | source words → the files that they mean, with what `stat` says of each |
//! | `wanted` | what `--parents` and `--exclude` want of a directory |
//! | [`hash`] | a selection → the digest that a step's cache key is made of |
//! | [`stat_cache`] | remembers hashes of files that did not change, in `cache/context/` |
//!
//! The trees are untrusted: they may hold any links and may change under way. So below a tree's root
//! everything is opened by a descriptor and one name, and no link is followed by the kernel.

pub mod directory;
pub mod git;
pub mod git_url;
pub mod hash;
pub mod http;
mod resolve;
pub mod select;
pub mod stat_cache;
pub mod tree;
mod wanted;

pub use directory::{ContextError, DirectoryContext, IgnoreRules};
pub use select::{Item, ItemKind, Origin, SelectError, SelectOptions, Selection, Source, select};
pub use stat_cache::StatCache;
pub use tree::SourceTree;
