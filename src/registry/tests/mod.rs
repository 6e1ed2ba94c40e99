//! Pulling from and pushing to servers that are honest, broken or hostile.

mod http;
mod pull;
mod push;

use std::collections::HashMap;

use serde_json::json;

use super::testing::{Reply, Seen, Server, reply};
use super::*;
use crate::image::{Digest, ImageName, Platform, Reference, media};
use crate::store::{ReceiveError, Store, WorkDir};

/// An image as files of a registry: path below the repository → media type and content.
#[derive(Clone, Default)]
struct Files(HashMap<String, (String, Vec<u8>)>);

impl Files {
    fn blob(&mut self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.0.insert(format!("blobs/{digest}"), ("application/octet-stream".to_owned(), content.to_vec()));
        digest
    }

    /// Puts a document under its digest and, if it has one, its tag.
    fn document(&mut self, tag: Option<&str>, media_type: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        for name in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            self.0.insert(format!("manifests/{name}"), (media_type.to_owned(), content.to_vec()));
        }
        digest
    }

    /// An image with these layers; gives its manifest's digest.
    fn image(&mut self, tag: Option<&str>, layers: &[&[u8]]) -> Digest {
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = config.to_string();
        let digest = self.blob(config.as_bytes());
        let descriptor = |media_type: &str, digest: Digest, size: usize| json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size });
        let layers: Vec<_> = layers.iter().map(|l| descriptor(media::LAYER, self.blob(l), l.len())).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": descriptor(media::CONFIG, digest, config.len()), "layers": layers,
        });
        self.document(tag, media::MANIFEST, manifest.to_string().as_bytes())
    }

    fn index(&mut self, tag: &str, entries: &[(&str, &str, Digest)]) -> Digest {
        let manifests: Vec<_> = entries
            .iter()
            .map(|(os, architecture, digest)| {
                let size = self.0[&format!("manifests/{digest}")].1.len();
                json!({
                    "mediaType": media::MANIFEST, "digest": digest.to_string(), "size": size,
                    "platform": { "os": os, "architecture": architecture },
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests });
        self.document(Some(tag), media::INDEX, index.to_string().as_bytes())
    }

    /// Answers as a registry would, for the repository `a/b`.
    fn answer(&self, request: &Seen) -> Reply {
        let path = request.line.split_once(" /v2/a/b/").map_or("", |(_, p)| p);
        match self.0.get(path) {
            Some((media_type, content)) => reply(200, content.clone())
                .with("Content-Type", media_type)
                .with("Docker-Content-Digest", Digest::of(content).to_string()),
            None => reply(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest \u001b[31munknown"}]}"#,
            ),
        }
    }

    fn serve(&self) -> Server {
        let files = self.clone();
        Server::start(move |request| files.answer(request))
    }
}

struct Place {
    _dir: tempfile::TempDir,
    store: Store,
    work: WorkDir,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let work = store.work_dir().unwrap();
    Place { _dir: dir, store, work }
}

fn amd64() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
}

fn name(text: &str) -> Reference {
    text.parse::<ImageName>().unwrap().normalised()
}

fn client() -> Client {
    Client::new(Registries::default())
}

/// Pulls `a/b:v1` into a new store.
fn pull_from(server: &Server) -> Result<Pulled, RegistryError> {
    let here = place();
    pull(&client(), &here.store, &here.work, &name(&format!("{}/a/b:v1", server.host)), &amd64(), &())
}

#[track_caller]
fn failure(server: &Server) -> String {
    pull_from(server).unwrap_err().to_string()
}

/// A server for an image in which one file is something else.
fn with_file(change: impl Fn(&mut Files)) -> Server {
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one", b"layer two"]);
    change(&mut files);
    files.serve()
}
