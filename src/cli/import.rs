//! `cooper import`

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use cooper_runtime::sys::process::processors;

use super::build::{parse_tag, times};
use super::failure::{self, Source, general};
use super::{CliError, Global, Stop};
use crate::build::assemble::{ImageLayer, assemble};
use crate::dockerfile;
use crate::image::{ImageConfig, Platform};
use crate::layer::compress::Compression;
use crate::plan::{self, Action, ImageError, ImageSource, Images};
use crate::transport::tarball;

/// Make an image from a root file system in a tar archive
///
/// The archive may be compressed with gzip or zstd. The image has one layer, the archive as it is, times and all;
/// it is dated by the newest file in it, so that the same archive always makes the same image. Its digest is printed on standard
/// output.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The archive, `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the image is to be called
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Apply a Containerfile instruction such as `CMD ["sh"]` or `ENV A=1`; may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Date the image so, in seconds since 1970 [default: $SOURCE_DATE_EPOCH, else that of the newest file]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = times::seconds)]
    source_date_epoch: Option<i64>,
    /// How the layer is compressed: gzip, zstd or none, and a level, as in zstd:9
    #[arg(long, value_name = "KIND[:LEVEL]", default_value = "gzip", value_parser = |t: &str| Compression::parse(t).map_err(|e| e.to_string()))]
    compression: Compression,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Arguments) -> Result<(), Stop> {
    let name = parse_tag(&arguments.name)?;
    let date = match arguments.source_date_epoch {
        Some(epoch) => Some(epoch),
        None => times::of_environment()?,
    };
    let mut stage = changed_config(&arguments.changes)?;
    let from_stdin = arguments.file == Path::new("-");
    let input: Box<dyn Read> = if from_stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(&arguments.file).map_err(|e| CliError::io("cannot read", &arguments.file, &e))?)
    };
    let store = global.open_store()?;
    let work = store.work_dir().map_err(|e| failure::store(&e))?;
    let workers = processors();
    let imported = tarball::import(&store, &work, input, arguments.compression, workers).map_err(|e| {
        let mut error = general(&e, store.root());
        let what =
            if from_stdin { "standard input".to_owned() } else { arguments.file.display().to_string() };
        error.message = format!("cannot import {what}: {}", error.message);
        error
    })?;
    let layer = imported.layer;
    stage.history.insert(
        0,
        crate::image::History {
            created_by: Some("cooper import".to_owned()),
            ..crate::image::History::default()
        },
    );
    let layer = ImageLayer {
        diff_id: layer.diff_id,
        digest: layer.digest,
        size: layer.size,
        media_type: layer.media_type,
        urls: Vec::new(),
    };
    let built = assemble(&store, &stage, vec![layer], Some(date.unwrap_or(imported.newest)), true)
        .map_err(|e| general(&e, store.root()))?;
    store.set_name(&name.to_string(), &built.manifest).map_err(|e| failure::store(&e))?;
    Ok(super::print_result(built.digest)?)
}

/// The configuration that the changes make of an empty one.
fn changed_config(changes: &[String]) -> Result<plan::Stage<()>, CliError> {
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let source = Source { name: "--change".to_owned(), text };
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse_error(&e))?;
    let options = plan::Options {
        build_args: Default::default(),
        target: None,
        platforms: vec![Platform::host()],
        build_platform: Platform::host(),
        contexts: Default::default(),
    };
    let planned = plan::plan(&file, &options, &mut NoImages).map_err(|e| source.plan_error(&e))?;
    let mut stages = planned.stages;
    let stage = stages.pop().filter(|_| stages.is_empty());
    let unfit = || CliError::usage("--change takes instructions that change the image's configuration only");
    let stage = stage.ok_or_else(unfit)?;
    // WORKDIR sets the directory here and does not make it, as with Docker.
    if stage.steps.iter().any(|s| !matches!(s.action, Action::Workdir { .. })) {
        return Err(
            unfit().with_hint("use ENV, CMD, ENTRYPOINT, USER, WORKDIR, LABEL, EXPOSE, VOLUME, STOPSIGNAL")
        );
    }
    let mut stage = stage;
    stage.history.iter_mut().for_each(|h| h.empty_layer = true);
    Ok(stage)
}

/// There is nothing to start from but `scratch`.
struct NoImages;

impl Images for NoImages {
    type Image = ();

    fn image(&mut self, _: &ImageSource, _: &Platform) -> Result<((), ImageConfig), ImageError> {
        Err("--change cannot name an image".into())
    }
}
