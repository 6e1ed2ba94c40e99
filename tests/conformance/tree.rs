//! The file system that an image's layers make, read in the plainest way: all of it in memory.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;

use crate::case::Kind;

/// Paths, with a slash first, and what is there.
pub type Files = BTreeMap<String, Node>;

#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    pub kind: NodeKind,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub xattrs: BTreeMap<String, String>,
    /// Names of one file have one number.
    pub inode: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub enum NodeKind {
    Directory,
    File(Rc<Vec<u8>>),
    Symlink(String),
    Other(&'static str),
}

/// An image of a layout: its configuration, layers and files.
pub struct Image {
    pub config: Value,
    pub layers: Vec<String>,
    pub files: Files,
}

/// Reads the image of `platform` (an empty one: of the only image) from the layout `dir`.
pub fn read_image(dir: &Path, platform: &str) -> Result<Image, String> {
    let index = json(&dir.join("index.json"))?;
    let top = index["manifests"].as_array().ok_or("no manifests")?;
    let [descriptor] = top.as_slice() else {
        return Err(format!("{} entries in index.json", top.len()));
    };
    let mut manifest = json(&blob(dir, descriptor))?;
    if let Some(list) = manifest["manifests"].as_array() {
        let wanted = |d: &&Value| {
            let p = &d["platform"];
            let text = |key: &str| p[key].as_str().unwrap_or("").to_owned();
            let name = format!("{}/{}", text("os"), text("architecture"));
            platform == name || platform == format!("{name}/{}", text("variant"))
        };
        let found: Vec<&Value> = list.iter().filter(wanted).collect();
        let [descriptor] = found.as_slice() else {
            return Err(format!("{} images for `{platform}` in {list:?}", found.len()));
        };
        manifest = json(&blob(dir, descriptor))?;
    } else if !platform.is_empty() {
        return Err("there is one image, and no index of several platforms".into());
    }
    let config = json(&blob(dir, &manifest["config"]))?;
    let mut files = Files::new();
    let mut layers = Vec::new();
    let mut inode = 0;
    for layer in manifest["layers"].as_array().ok_or("no layers")? {
        layers.push(layer["digest"].as_str().unwrap_or("").to_owned());
        let file = std::fs::File::open(blob(dir, layer)).map_err(|e| e.to_string())?;
        let reader: Box<dyn Read> = match layer["mediaType"].as_str().unwrap_or("").rsplit('+').next() {
            Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Some("zstd") => Box::new(zstd::Decoder::new(file).map_err(|e| e.to_string())?),
            _ => Box::new(file),
        };
        apply(reader, &mut files, &mut inode)?;
    }
    Ok(Image { config, layers, files })
}

fn json(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

fn blob(dir: &Path, descriptor: &Value) -> std::path::PathBuf {
    dir.join("blobs").join(descriptor["digest"].as_str().unwrap_or("").replace(':', "/"))
}

fn apply(layer: Box<dyn Read>, files: &mut Files, inode: &mut usize) -> Result<(), String> {
    let mut new = Files::new();
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| e.to_string())?;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = format!("/{}", raw.trim_start_matches("./").trim_matches('/'));
        let (parent, name) = path.rsplit_once('/').unwrap();
        if name == ".wh..wh..opq" {
            remove(files, parent, false);
            continue;
        }
        if let Some(name) = name.strip_prefix(".wh.") {
            remove(files, &format!("{parent}/{name}"), true);
            continue;
        }
        let mut xattrs = BTreeMap::new();
        if let Ok(Some(records)) = entry.pax_extensions() {
            for record in records.flatten() {
                if let Some(name) = record.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) {
                    let value = record.value_bytes().iter().map(|b| format!("{b:02x}")).collect();
                    xattrs.insert(name.to_owned(), value);
                }
            }
        }
        let header = entry.header();
        let number = |n: std::io::Result<u64>| n.map_err(|e| format!("{path}: {e}"));
        let link = |e: &tar::Entry<'_, Box<dyn Read>>| {
            String::from_utf8_lossy(&e.link_name_bytes().unwrap_or_default()).into_owned()
        };
        let (mode, uid, gid, mtime) = (
            header.mode().map_err(|e| e.to_string())? & 0o7777,
            number(header.uid())?,
            number(header.gid())?,
            number(header.mtime())?,
        );
        let kind = match header.entry_type() {
            tar::EntryType::Directory => NodeKind::Directory,
            tar::EntryType::Symlink => NodeKind::Symlink(link(&entry)),
            tar::EntryType::Fifo => NodeKind::Other("fifo"),
            tar::EntryType::Char => NodeKind::Other("char"),
            tar::EntryType::Block => NodeKind::Other("block"),
            tar::EntryType::Link => {
                let target = format!("/{}", link(&entry).trim_start_matches("./").trim_matches('/'));
                let node = new.get(&target).or_else(|| files.get(&target));
                let node =
                    node.ok_or(format!("{path} is a hardlink to {target}, which is not there"))?.clone();
                new.insert(path, node);
                continue;
            }
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(|e| e.to_string())?;
                NodeKind::File(Rc::new(content))
            }
        };
        *inode += 1;
        new.insert(path, Node { kind, mode, owner: (uid, gid), mtime, xattrs, inode: *inode });
    }
    for (path, node) in new {
        // Children of a directory stay when it is only described anew.
        if node.kind != NodeKind::Directory {
            remove(files, &path, true);
        }
        files.insert(path, node);
    }
    Ok(())
}

/// Removes what is below a directory, and with `itself` the path too.
fn remove(files: &mut Files, path: &str, itself: bool) {
    let below = format!("{}/", path.trim_end_matches('/'));
    files.retain(|p, _| !(p.starts_with(&below) || itself && p == path));
}

impl Node {
    /// Whether an image has the same here; times and the numbers of files aside.
    pub fn same(&self, other: &Node) -> bool {
        (&self.kind, self.mode, self.owner, &self.xattrs)
            == (&other.kind, other.mode, other.owner, &other.xattrs)
    }

    /// A line as in a case.
    pub fn line(&self, path: &str) -> String {
        let path = if path.contains([' ', '"', '\n', '\\']) { format!("{path:?}") } else { path.to_owned() };
        let owner = match self.owner {
            (0, 0) => String::new(),
            (user, group) => format!(" {user}:{group}"),
        };
        let mode = |usual| if self.mode == usual { String::new() } else { format!(" {:04o}", self.mode) };
        let mut line = match &self.kind {
            NodeKind::Directory => format!("{path} dir{}{owner}", mode(0o755)),
            NodeKind::Symlink(target) => format!("{path} link{owner} -> {}", quoted(target)),
            NodeKind::Other(kind) => format!("{path} {kind}{}{owner}", mode(0o644)),
            NodeKind::File(content) => {
                let shown = match std::str::from_utf8(content) {
                    Ok(text) if content.len() < 400 => serde_json::to_string(text).unwrap(),
                    _ => format!("({} bytes)", content.len()),
                };
                format!("{path} file{}{owner} {shown}", mode(0o644))
            }
        };
        for (name, value) in &self.xattrs {
            line += &format!(" xattr={name}:{value}");
        }
        line
    }

    /// Whether it is what a case expects, hardlinks aside.
    pub fn is(&self, kind: &Kind) -> bool {
        match (&self.kind, kind) {
            (NodeKind::Directory, Kind::Directory) => true,
            (NodeKind::File(_), Kind::File(None)) => true,
            (NodeKind::File(found), Kind::File(Some(expected))) => **found == *expected,
            (NodeKind::Symlink(found), Kind::Symlink(expected)) => found == expected,
            (NodeKind::Other(found), Kind::Other(expected)) => found == expected,
            _ => false,
        }
    }
}

fn quoted(text: &str) -> String {
    if text.contains([' ', '"', '\n', '\\']) { format!("{text:?}") } else { text.to_owned() }
}
