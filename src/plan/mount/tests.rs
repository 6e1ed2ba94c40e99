use super::*;

/// A value as it stands in a file that begins with twenty bytes of something else.
fn word(text: &str) -> Word {
    Word { node: text.to_owned(), span: Span::new(20, 20 + text.len()) }
}

/// `$DIR` is `/dir`, `$KIND` is `cache`; everything else stays.
fn expand(word: &Word) -> Result<String, ParseError> {
    if word.node.contains("$BAD") {
        return Err(ParseError::new("bad", word.span));
    }
    Ok(word.node.replace("$DIR", "/dir").replace("$KIND", "cache").replace("$NOTHING", ""))
}

fn read(text: &str) -> MountOptions {
    parse(&word(text), &expand).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// The message, the text underlined, the advice.
fn refused(text: &str) -> (String, String, String) {
    let error = parse(&word(text), &expand).expect_err(text);
    let place = text[error.span.start - 20..error.span.end - 20].to_owned();
    (error.message, place, error.help.unwrap_or_default())
}

#[test]
fn a_bind_mount() {
    let plain = read("target=/src");
    assert_eq!((plain.kind, plain.read_only), (MountType::Bind, true));
    assert_eq!(plain.target.as_deref(), Some("/src"));
    let full = read("type=bind,from=build,source=$DIR/x,dst=y,rw");
    assert_eq!(full.from.as_deref(), Some("build"));
    assert_eq!(full.source.as_deref(), Some("/dir/x"));
    assert_eq!(full.target.as_deref(), Some("y"));
    assert!(!full.read_only);
    // Without a target it is the working directory.
    assert_eq!(read("type=bind").target, None);
    assert_eq!(read("type=bind,target=$NOTHING").target, None);
}

#[test]
fn a_cache() {
    let plain = read("type=$KIND,target=/root/.cache");
    assert_eq!((plain.kind, plain.read_only, plain.sharing), (MountType::Cache, false, None));
    let full =
        read("TYPE=Cache,ID=go,destination=/go,sharing=LOCKED,mode=0770,uid=7,gid=4294967295,ro=false");
    assert_eq!(full.id.as_deref(), Some("go"));
    assert_eq!(full.sharing, Some(Sharing::Locked));
    assert_eq!((full.mode, full.uid, full.gid), (Some(0o770), Some(7), Some(u32::MAX)));
    assert!(!full.read_only);
    assert!(read("type=cache,target=/x,readonly").read_only);
    assert!(read("type=cache,target=/x,readwrite=0").read_only);
    // Keys may stand before the type where the type is asked for only at the end.
    assert_eq!(read("sharing=private,target=/x,type=cache").sharing, Some(Sharing::Private));
}

#[test]
fn a_tmpfs() {
    let mount = read("type=tmpfs,target=/tmp,size=64m");
    assert_eq!((mount.size, mount.read_only), (Some(64 << 20), false));
    assert_eq!(read("type=tmpfs,target=/tmp,size=0").size, None);
    assert!(read("type=tmpfs,target=/tmp,ro").read_only);
}

#[test]
fn a_secret() {
    let mount = read("type=secret,id=token,required,mode=0444,uid=0,gid=5");
    assert!(mount.required && mount.read_only);
    assert_eq!((mount.id.as_deref(), mount.mode), (Some("token"), Some(0o444)));
    assert!(!read("type=secret,id=token,required=false").required);
    let env = read("type=secret,source=token,env=TOKEN");
    assert_eq!((env.source.as_deref(), env.env.as_deref()), (Some("token"), Some("TOKEN")));
    assert_eq!(read("type=secret,target=/etc/token").target.as_deref(), Some("/etc/token"));
}

#[test]
fn an_ssh_socket() {
    let mount = read("type=ssh,id=work,target=/s,required=1,mode=600,uid=1,gid=1");
    assert!(mount.required);
    assert_eq!((mount.kind, mount.id.as_deref()), (MountType::Ssh, Some("work")));
    assert_eq!(read("type=ssh").id, None);
}

#[test]
fn quoted_options() {
    let mount = read("type=bind,\"source=a,b\",target=/x");
    assert_eq!(mount.source.as_deref(), Some("a,b"));
    assert_eq!(read("\"target=/a\"\"b\"").target.as_deref(), Some("/a\"b"));
    assert_eq!(read("target=a=b").target.as_deref(), Some("a=b"));
}

#[test]
fn the_later_of_two_wins() {
    assert_eq!(read("target=/a,dst=/b").target.as_deref(), Some("/b"));
    assert!(!read("ro,rw,target=/a").read_only);
}

#[test]
fn refusals() {
    for (text, message, place, help) in [
        ("", "the flag has no options", "", "key=value"),
        ("type=bnid", "`bnid` is not a type of mount", "bnid", "did you mean `bind`"),
        ("type=volume", "`volume` is not a type of mount", "volume", "one of bind, cache, tmpfs"),
        ("type=", "`` is not a type of mount", "", "one of"),
        ("type=bind,", "a mount option is empty", "", "one comma"),
        ("traget=/x", "a mount has no option `traget`", "traget=/x", "did you mean `target`"),
        ("target=/x,wibble", "a mount has no option `wibble`", "wibble", "it has type, from"),
        (
            "type=bind,target=/x,propagation=rshared",
            "a mount has no option `propagation`",
            "propagation=rshared",
            "is ever seen",
        ),
        (
            "target=/x,bind-propagation=shared",
            "a mount has no option `bind-propagation`",
            "bind-propagation=shared",
            "outside",
        ),
        ("target=/x,z", "a mount has no option `z`", "z", "SELinux"),
        ("target", "`target` needs a value", "target", "write `target=…`"),
        ("type=bind,from=$IMAGE,target=/x", "`from` of a mount takes no variables", "$IMAGE", "FROM $NAME"),
        ("type=bind,from=${X},target=/x", "`from` of a mount takes no variables", "${X}", "from=name"),
        ("target=/x,ro=maybe", "`ro` is either true or false", "maybe", "`ro=false`"),
        (
            "target=/x,required",
            "`required` means nothing for a mount of type bind",
            "required",
            "secret or ssh",
        ),
        (
            "required,type=secret,id=a",
            "`required` means nothing for a mount of type bind",
            "required",
            "before",
        ),
        ("type=secret,id=a,required=", "`required` is either true or false", "", "required"),
        ("type=cache,target=/x,size=1", "`size` means nothing for a mount of type cache", "size=1", "tmpfs"),
        ("type=tmpfs,target=/x,size=big", "`big` is not a size", "big", "64m"),
        (
            "type=cache,target=/x,sharing=lock",
            "`lock` is not a way of sharing",
            "lock",
            "shared, private, locked",
        ),
        ("type=cache,target=/x,sharing=loked", "`loked` is not a way of sharing", "loked", "`locked`"),
        (
            "target=/x,sharing=shared",
            "`sharing` means nothing for a mount of type bind",
            "sharing=shared",
            "bind mount has",
        ),
        ("type=cache,target=/x,mode=0o7", "`0o7` is not a mode", "0o7", "octal"),
        ("type=cache,target=/x,mode=888", "`888` is not a mode", "888", "octal"),
        ("type=cache,target=/x,uid=app", "`app` is not a number", "app", "uid=1000"),
        ("type=cache,target=/x,gid=+1", "`+1` is not a number", "+1", "gid=1000"),
        ("type=cache,target=/x,uid=4294967296", "`4294967296` is not a number", "4294967296", "uid"),
        ("target=/x,mode=755", "`mode` means nothing for a mount of type bind", "mode=755", "has type"),
        ("type=tmpfs,target=/x,uid=1", "`uid` means nothing for a mount of type tmpfs", "uid=1", "has type"),
        ("type=tmpfs,target=/x,src=a", "`source` means nothing for a mount of type tmpfs", "src=a", "size"),
        ("type=bind,target=/x,id=1", "`id` means nothing for a mount of type bind", "id=1", "from"),
        ("type=secret,from=a,id=b", "`from` means nothing for a mount of type secret", "from=a", "--secret"),
        ("type=secret,id=b,rw", "`readwrite` means nothing for a mount of type secret", "rw", "cannot write"),
        ("type=secret", "a secret mount needs to say which secret", "type=secret", "id=NAME"),
        ("type=secret,env=X", "a secret mount needs to say which secret", "type=secret,env=X", "id=NAME"),
        (
            "type=secret,id=a,src=b",
            "a secret mount has both `id` and `source`",
            "type=secret,id=a,src=b",
            "keep `id`",
        ),
        ("type=ssh,source=a", "`source` means nothing for a mount of type ssh", "source=a", "ssh mount has"),
        ("target=/x,env=X", "`env` means nothing for a mount of type bind", "env=X", "bind mount has"),
        ("source=a\"b", "a double quote stands inside an option", "source=a\"b", "whole option"),
        ("\"source=a", "the closing double quote is missing", "\"source=a", "double the quotes"),
        ("\"a\"b", "a comma must follow the closing double quote", "\"a\"", "whole option"),
        ("target=$BAD", "bad", "$BAD", ""),
    ] {
        let (said, underlined, advice) = refused(text);
        assert_eq!((said.as_str(), underlined.as_str()), (message, place), "{text}");
        assert!(advice.contains(help), "{text}: {advice}");
    }
}

#[test]
fn a_place_that_is_not_known_is_the_whole_value() {
    // Quotes were removed from what stands in the file.
    let value = Word { node: "type=bnid".into(), span: Span::new(3, 14) };
    assert_eq!(parse(&value, &expand).unwrap_err().span, Span::new(3, 14));
}

#[test]
fn networks() {
    assert_eq!(network(&word("default")), Ok(Network::Default));
    assert_eq!(network(&word("none")), Ok(Network::None));
    assert_eq!(network(&word("host")), Ok(Network::Host));
    for (text, help) in
        [("hots", "did you mean `host`?"), ("bridge", "it is one of default, none, host"), ("", "")]
    {
        let error = network(&word(text)).unwrap_err();
        assert!(error.help.unwrap().contains(help), "{text}");
    }
    assert!(network(&word("NONE")).is_err());
}

#[test]
fn securities() {
    assert_eq!(security(&word("sandbox")), Ok(Security::Sandbox));
    assert_eq!(security(&word("insecure")), Ok(Security::Insecure));
    assert_eq!(security(&word("secure")).unwrap_err().help.unwrap(), "did you mean `insecure`?");
    assert!(security(&word("")).is_err());
}

#[test]
fn devices() {
    let read = |text: &str| device(&word(text)).map(|device| (device.name, device.required));
    let gpu = || "vendor.com/gpu=0".to_owned();
    assert_eq!(read("vendor.com/gpu=0"), Ok((gpu(), false)));
    assert_eq!(read("vendor.com/gpu=0,required"), Ok((gpu(), true)));
    assert_eq!(read("required=true,name=vendor.com/gpu=0"), Ok((gpu(), true)));
    assert_eq!(read("vendor.com/gpu,required=f"), Ok(("vendor.com/gpu".to_owned(), false)));
    for (text, message) in [
        ("", "the flag has no options"),
        ("required", "the device has no name"),
        ("name=", "the device has no name"),
        ("a,b", "the device has two names"),
        ("name=a,name=b", "the device has two names"),
        ("a,required=x", "`required` is either true or false"),
        ("a,requird", "a device has no option `requird`"),
    ] {
        assert_eq!(device(&word(text)).expect_err(text).message, message, "{text}");
    }
}
