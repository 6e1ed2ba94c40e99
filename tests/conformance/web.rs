//! A web server for what a case puts into its `web` directory.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// When every file is said to have been changed: 1445412480 seconds after 1970.
const LAST_MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Serves `root`, in which `/CASE/FILE` is `CASE/web/FILE`; gives the port. It ends with the process.
pub fn serve(root: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let root = root.clone();
            std::thread::spawn(move || answer(connection, &root));
        }
    });
    port
}

/// One request a connection.
fn answer(mut connection: TcpStream, root: &Path) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?.trim_start_matches('/');
    let (case, file) = path.split_once('/')?;
    let found = std::fs::read(root.join(case).join("web").join(file)).ok().filter(|_| !path.contains(".."));
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nLast-Modified: {LAST_MODIFIED}\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        connection.write_all(&body).ok()?;
    }
    Some(())
}
