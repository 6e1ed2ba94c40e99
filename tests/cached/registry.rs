//! A registry that counts: it serves one OCI layout, to be read only, and writes down what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(crate) struct Registry {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    /// Serves the layout's image under every tag of every repository. It ends with the process.
    pub(crate) fn serve(layout: PathBuf) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (layout, log) = (layout.clone(), log.clone());
                std::thread::spawn(move || while answer(&connection, &layout, &log).is_some() {});
            }
        });
        Registry { port, asked }
    }

    /// A name in it.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    /// What it was asked since the last time, such as `HEAD /v2/base/manifests/1`. That of a host which may speak
    /// plain HTTP, like this one, it is first found out what it speaks does not count.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.retain(|request| request != "GET /v2/");
        asked
    }
}

fn answer(mut connection: &TcpStream, layout: &Path, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    log.lock().unwrap().push(format!("{method} {target}"));
    let index = std::fs::read(layout.join("index.json")).ok()?;
    let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
    let root = &index["manifests"][0];
    let (_, wanted) = target.rsplit_once('/')?;
    let digest = match target.contains("/manifests/") && !wanted.contains(':') {
        true => root["digest"].as_str()?,
        false => wanted,
    };
    let (status, body) = match std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let (kind, length) = match target.contains("/manifests/") {
        true => (root["mediaType"].as_str()?, body.len()),
        false => ("application/octet-stream", body.len()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nDocker-Content-Digest: {digest}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        connection.write_all(&body).ok()?;
    }
    Some(())
}
