//! `cooper build`

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::failure::{Source, general};
use super::{CliError, Global, Stop, push};
use crate::build::images::{Finder, PullPolicy};
use crate::build::{self, Built};
use crate::dockerfile;
use crate::image::{ImageName, Platform, Reference};
use crate::layer::compress::Compression;
use crate::plan;
use crate::progress::{self, Event, Progress};
use crate::store::Store;
use crate::transport::oci::{self, OciName};

/// Build an image from a Containerfile
///
/// Steps run as an ordinary user, in namespaces of their own; nothing is left running. The image is put into
/// the store, with -t under a name, and with -o written somewhere else as well. Its digest is printed on standard
/// output.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The Containerfile, `-` for standard input [default: Containerfile, else Dockerfile, in CONTEXT]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name the image; may be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Stop at this stage
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set an ARG; without a value, the variable of that name in the environment is taken
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Write the image as an OCI layout directory; may be repeated
    #[arg(short, long = "output", value_name = "oci:DIR[:TAG]")]
    outputs: Vec<String>,
    /// Push the image to the registries that its names say
    #[arg(long, requires = "tags")]
    push: bool,
    /// Run every step, whatever the cache has
    #[arg(long)]
    no_cache: bool,
    /// When to ask registries for base images
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "missing",
          default_missing_value = "always")]
    pull: PullPolicy,
    /// How new layers are compressed: gzip, zstd or none, and a level, as in zstd:9
    #[arg(long, value_name = "KIND[:LEVEL]", default_value = "gzip", value_parser = parse_compression)]
    compression: Compression,
    /// No time in the image is later than this, in seconds since 1970, and the image is dated so
    /// [default: $SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    source_date_epoch: Option<i64>,
    /// Write the image's ID, the digest of its configuration, to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// The directory that COPY and ADD take files from
    #[arg(value_name = "CONTEXT")]
    context: PathBuf,
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    Compression::parse(text).map_err(|e| e.to_string())
}

/// Arguments that have been checked.
struct Request {
    source: Source,
    file: dockerfile::Containerfile,
    plan: plan::Options,
    build: build::Options,
    tags: Vec<Reference>,
    outputs: Vec<OciName>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Arguments) -> Result<(), Stop> {
    let began = Instant::now();
    let request = check(&arguments)?;
    let store = Arc::new(global.open_store()?);
    let progress = progress::start(global.progress);
    let result = carry_out(&request, &arguments, &store, &*progress);
    if let Ok(built) = &result {
        progress.event(Event::Note { text: summary(&request, built, began) });
    }
    progress.finish();
    Ok(super::print_result(result?.digest)?)
}

fn carry_out(
    request: &Request,
    arguments: &Arguments,
    store: &Arc<Store>,
    progress: &dyn Progress,
) -> Result<Built, Stop> {
    let source = &request.source;
    let mut finder = Finder::new(store, request.plan.platform.clone(), arguments.pull, progress);
    let plan = plan::plan(&request.file, &request.plan, &mut finder).map_err(|e| source.plan_error(&e))?;
    for text in &plan.warnings {
        progress.event(Event::Warning { text: text.clone() });
    }
    let built = build::build(store, &plan, &mut finder, &request.build, progress)
        .map_err(|e| source.build_error(e, store.root()))?;
    for tag in &request.tags {
        store.set_name(&tag.to_string(), &built.manifest).map_err(|e| super::failure::store(&e))?;
    }
    for output in &request.outputs {
        oci::write_layout(store, &built.manifest, &output.dir, output.tag.as_deref())
            .map_err(|e| general(&e, &output.dir))?;
    }
    if arguments.push {
        for tag in &request.tags {
            push::push_one(
                finder.client().map_err(|e| general(&e, store.root()))?,
                store,
                &built.manifest,
                tag,
                progress,
            )?;
        }
    }
    if let Some(path) = &arguments.iidfile {
        write_file(path, format!("{}", built.config_digest).as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
        let metadata = serde_json::json!({
            "containerimage.config.digest": built.config_digest,
            "containerimage.digest": built.digest,
            "containerimage.descriptor": built.manifest,
            "image.name": names.join(","),
        });
        write_file(path, format!("{metadata:#}\n").as_bytes())?;
    }
    Ok(built)
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), CliError> {
    std::fs::write(path, content).map_err(|e| CliError::io("cannot write", path, &e))
}

fn summary(request: &Request, built: &Built, began: Instant) -> String {
    let bytes: u64 = built.layers.iter().map(|l| l.size).sum();
    let names: Vec<String> = request
        .tags
        .iter()
        .map(ToString::to_string)
        .chain(request.outputs.iter().map(|o| format!("oci:{}", o.dir.display())))
        .collect();
    let what = if names.is_empty() { "image".to_owned() } else { names.join(", ") };
    let layers = built.layers.len();
    format!(
        "built {what}: {layers} layer{}, {}, in {:.1} s",
        if layers == 1 { "" } else { "s" },
        size(bytes),
        began.elapsed().as_secs_f64()
    )
}

/// Bytes for people, in powers of ten as image tools have it.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn check(arguments: &Arguments) -> Result<Request, CliError> {
    let context = &arguments.context;
    check_context(context)?;
    let (source, containerfile) = read_containerfile(arguments)?;
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse_error(&e))?;
    let build_args = build_args(&arguments.build_args)?;
    let epoch = match (arguments.source_date_epoch, build_args.get("SOURCE_DATE_EPOCH")) {
        (Some(epoch), _) => Some(epoch),
        (None, Some(text)) => Some(parse_epoch("--build-arg SOURCE_DATE_EPOCH", text)?),
        (None, None) => match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) if !text.is_empty() => Some(parse_epoch("SOURCE_DATE_EPOCH", &text)?),
            _ => None,
        },
    };
    let tags = arguments.tags.iter().map(|t| parse_tag(t)).collect::<Result<_, _>>()?;
    let outputs = arguments.outputs.iter().map(|o| parse_output(o)).collect::<Result<_, _>>()?;
    Ok(Request {
        source,
        file,
        plan: plan::Options { build_args, target: arguments.target.clone(), platform: Platform::host() },
        build: build::Options {
            context: context.clone(),
            containerfile,
            no_cache: arguments.no_cache,
            compression: arguments.compression,
            epoch,
        },
        tags,
        outputs,
    })
}

fn check_context(context: &Path) -> Result<(), CliError> {
    let text = context.to_string_lossy();
    let remote = ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|p| text.starts_with(p));
    if text == "-" || remote {
        return Err(CliError::usage(format!(
            "a build context like `{text}` is not there yet in this version of cooper"
        ))
        .with_hint("unpack or clone it into a directory, and name that"));
    }
    match std::fs::metadata(context) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(CliError::usage(format!("the build context {text} is not a directory"))
            .with_hint("name the directory, and the Containerfile with -f")),
        Err(e) => Err(CliError::io("cannot open the build context", context, &e)),
    }
}

fn read_containerfile(arguments: &Arguments) -> Result<(Source, Option<PathBuf>), CliError> {
    let utf8 = |name: &str, bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).map_err(|e| {
            let line =
                e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            CliError::usage(format!("{name} is not UTF-8 text: line {line}"))
        })?;
        Ok(Source { name: name.to_owned(), text })
    };
    if arguments.file.as_deref() == Some(Path::new("-")) {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(CONTAINERFILE_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|e| CliError::io("cannot read", Path::new("standard input"), &e))?;
        return Ok((utf8("standard input", bytes)?, None));
    }
    let candidates = match &arguments.file {
        Some(path) => vec![path.clone()],
        None => ["Containerfile", "Dockerfile"].iter().map(|n| arguments.context.join(n)).collect(),
    };
    for path in &candidates {
        match read_capped(path) {
            Ok(bytes) => return Ok((utf8(&path.display().to_string(), bytes)?, Some(path.clone()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && arguments.file.is_none() => {}
            Err(e) => return Err(CliError::io("cannot read", path, &e)),
        }
    }
    let message = format!("{} has neither Containerfile nor Dockerfile", arguments.context.display());
    Err(CliError::usage(message).with_hint("name the file with -f FILE"))
}

/// No honest Containerfile is larger.
const CONTAINERFILE_LIMIT: u64 = 8 << 20;

fn read_capped(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(CONTAINERFILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONTAINERFILE_LIMIT {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 8 MiB"));
    }
    Ok(bytes)
}

fn build_args(arguments: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut args = BTreeMap::new();
    for text in arguments {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(CliError::usage(format!("--build-arg `{text}` has no name"))
                .with_hint("write it as --build-arg NAME=VALUE"));
        }
        // A name that the environment does not have either is as if it was not given.
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        }
    }
    Ok(args)
}

fn parse_epoch(name: &str, text: &str) -> Result<i64, CliError> {
    text.trim().parse().map_err(|_| {
        CliError::usage(format!("{name} is `{text}`, which is not a number of seconds since 1970"))
            .with_hint("`git log -1 --format=%ct` prints that of the last commit")
    })
}

/// A name for a new image.
pub(super) fn parse_tag(text: &str) -> Result<Reference, CliError> {
    let name: ImageName = text.parse().map_err(|e| CliError::usage(format!("{e}")))?;
    if name.digest.is_some() {
        return Err(CliError::usage(format!("`{text}` has a digest, which only a finished image has"))
            .with_hint("name the image without `@sha256:…`"));
    }
    Ok(name.normalised())
}

fn parse_output(text: &str) -> Result<OciName, CliError> {
    if text.starts_with("oci:") {
        return oci::parse_oci(text).map_err(|e| CliError::usage(e.to_string()));
    }
    if let Some(fields) = text.strip_prefix("type=oci,") {
        let mut dest = None;
        let mut tar = true;
        for field in fields.split(',') {
            match field.split_once('=') {
                Some(("dest", value)) => dest = Some(PathBuf::from(value)),
                Some(("tar", "false")) => tar = false,
                Some(("tar", "true")) => tar = true,
                _ => {
                    return Err(CliError::usage(format!("--output: `{field}` is not understood"))
                        .with_hint("write -o oci:DIR[:TAG], or -o type=oci,dest=DIR,tar=false"));
                }
            }
        }
        if let (Some(dir), false) = (dest, tar) {
            return Ok(OciName { dir, tag: None });
        }
    }
    Err(CliError::usage(format!("--output `{text}` is not there yet in this version of cooper")).with_hint(
        "write an OCI layout with -o oci:DIR[:TAG]; skopeo copies it into other forms, such as \
         `skopeo copy oci:DIR:TAG docker-archive:FILE`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_layouts_or_refused() {
        let layout = |dir: &str, tag: Option<&str>| OciName { dir: dir.into(), tag: tag.map(str::to_owned) };
        assert_eq!(parse_output("oci:out:v1").unwrap(), layout("out", Some("v1")));
        assert_eq!(parse_output("type=oci,dest=out,tar=false").unwrap(), layout("out", None));
        for refused in
            ["out", "docker-archive:x", "type=oci,dest=x", "type=local,dest=x", "type=oci,tar=false"]
        {
            assert_eq!(parse_output(refused).unwrap_err().kind.exit_code(), 2, "{refused}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            [size(999), size(1_500), size(2_500_000), size(3_000_000_000)],
            ["999 B", "1.5 kB", "2.5 MB", "3.00 GB"]
        );
    }
}
