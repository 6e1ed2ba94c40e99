//! `cooper push`

use clap::Args;

use super::build::parse_tag;
use super::failure::general;
use super::{CliError, Global, Stop};
use crate::build::images::Transfers;
use crate::image::{Descriptor, Reference};
use crate::progress::{self, Event, Progress};
use crate::registry::{self, Client, Registries};
use crate::store::Store;

/// Push an image from the store to a registry
///
/// The registry is part of the name; with DEST the image goes to another name than it has here.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image, as `build -t` or `import` has named it
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Where to push it
    #[arg(value_name = "DEST")]
    dest: Option<String>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Arguments) -> Result<(), Stop> {
    let name = parse_tag(&arguments.name)?;
    let dest = match &arguments.dest {
        Some(dest) => parse_tag(dest.strip_prefix("docker://").unwrap_or(dest))?,
        None => name.clone(),
    };
    let store = global.open_store()?;
    let found = store.find(&name.to_string()).map_err(|e| super::failure::store(&e))?;
    let Some(manifest) = found else {
        let error = CliError::failed(format!("the store has no image {name}"));
        return Err(error
            .with_hint("build it with `cooper build -t NAME`, or make it with `cooper import`")
            .into());
    };
    let registries = Registries::from_environment().map_err(|e| general(&e, store.root()))?;
    let progress = progress::start(global.progress);
    let pushed = push_one(&Client::new(registries), &store, &manifest, &dest, &*progress);
    progress.finish();
    Ok(super::print_result(pushed?)?)
}

/// Pushes an image under one name; gives its digest.
pub(super) fn push_one(
    client: &Client,
    store: &Store,
    manifest: &Descriptor,
    dest: &Reference,
    progress: &dyn Progress,
) -> Result<crate::image::Digest, CliError> {
    // Away from the numbers of steps and pulls.
    const FIRST_TASK: usize = 2_000_000;
    let observer = Transfers::new(progress, FIRST_TASK);
    let digest =
        registry::push(client, store, manifest, dest, &observer).map_err(|e| general(&e, store.root()))?;
    progress.event(Event::Note { text: format!("pushed {dest} {digest}") });
    Ok(digest)
}
