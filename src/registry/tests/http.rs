use super::*;

/// A registry that wants `Bearer sesame`, and sends layers from elsewhere.
fn guarded(files: Files, realm: String, elsewhere: Option<String>) -> Server {
    Server::start(move |request| {
        if request.header("authorization") != Some("Bearer sesame") {
            let challenge =
                format!(r#"Bearer realm="{realm}",service="reg & co",scope="repository:a/b:pull""#);
            return reply(401, "{}").with("WWW-Authenticate", challenge);
        }
        match &elsewhere {
            Some(host) if request.line.contains("/blobs/") => {
                let path = request.line.split_once(' ').unwrap().1;
                reply(307, "").with("Location", format!("http://{host}{path}"))
            }
            _ => files.answer(request),
        }
    })
}

#[test]
fn tokens_are_fetched_once_and_stay_with_their_host() {
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one", b"layer two"]);
    let tokens = Server::start(|_| reply(200, r#"{"token":"sesame"}"#));
    let storage = files.serve();
    let server = guarded(files, format!("http://{}/token", tokens.host), Some(storage.host.clone()));
    pull_from(&server).unwrap();
    assert_eq!(tokens.lines(), ["GET /token?service=reg%20%26%20co&scope=repository:a/b:pull"]);
    assert_eq!(tokens.seen()[0].header("authorization"), None);
    assert_eq!(storage.lines().len(), 3);
    assert!(storage.seen().iter().all(|s| s.header("authorization").is_none()), "{:?}", storage.seen());
    assert_eq!(server.seen()[0].header("user-agent"), Some(concat!("cooper/", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn without_a_token_the_error_says_that_login_is_missing() {
    let expect = |answer: Reply, part: &str| {
        let tokens = Server::start(move |_| answer.clone());
        let server = guarded(Files::default(), format!("http://{}/token", tokens.host), None);
        let message = failure(&server);
        assert!(message.contains(part), "{message}");
    };
    expect(reply(401, ""), "private images need `login`");
    expect(reply(403, ""), "private images need `login`");
    expect(reply(200, r#"{"token":"other"}"#), "private images need `login`");
    expect(reply(200, r#"{"access_token":"sesame"}"#), "has no manifest");
    expect(reply(200, "{}"), "holds no token");
    expect(reply(200, r#"{"token":"x\r\nHost: evil"}"#), "holds no token");
    expect(reply(200, "null"), "JSON");
    expect(reply(500, ""), "it answered 500");
    let basic = Server::start(|_| reply(401, "").with("WWW-Authenticate", "Basic realm=\"x\""));
    assert!(failure(&basic).contains("private images need `login`"));
    let nonsense =
        Server::start(|_| reply(401, "").with("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\""));
    assert!(failure(&nonsense).contains("not a token service's address"));
}

#[test]
fn a_401_of_another_host_is_not_answered_with_a_token() {
    let stranger = Server::start(|_| {
        reply(401, "").with("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/token\"")
    });
    let mut files = Files::default();
    files.image(Some("v1"), &[b"layer one"]);
    let tokens = Server::start(|_| reply(200, r#"{"token":"sesame"}"#));
    let server = guarded(files, format!("http://{}/token", tokens.host), Some(stranger.host.clone()));
    assert!(failure(&server).contains(&format!("{} does not let an anonymous user", stranger.host)));
    assert_eq!(tokens.lines().len(), 1);
}

#[test]
fn redirects_in_circles_and_to_nowhere_end() {
    let circle = Server::start(|_| reply(302, "").with("Location", "/v2/a/b/manifests/v1"));
    assert!(failure(&circle).contains("which is a loop"));
    assert!(circle.lines().len() <= 12);
    for nowhere in ["ftp://x/", "http://u:p@127.0.0.1/", "http://", "\u{fc}", "https://h:99999999/"] {
        let server = Server::start(move |_| reply(302, "").with("Location", nowhere));
        assert!(failure(&server).contains("not a usable address"), "{nowhere}");
    }
    let silent = Server::start(|_| reply(302, ""));
    assert!(failure(&silent).contains("answered 302"));
}
