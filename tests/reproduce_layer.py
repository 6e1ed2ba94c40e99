#!/usr/bin/env python3
"""Writes a layer's archive as docs/src/layers.md defines it. Written from that page alone, with nothing of
cooper in it, to show that the page says enough: it must come to the same bytes.

    reproduce_layer.py entries < DESCRIPTION    the archive of described entries, as text (see Shown)
    reproduce_layer.py tree ROOT NAME...        the diff ID of a layer with these names of ROOT and what is
                                                below them, and the directories on the way
"""

import hashlib
import json
import os
import stat
import sys

BLOCK = 512


class Shown:
    """An archive as text: a line for each block, and one for each run of blocks of NULs. For archives
    that are too large to be kept."""

    def __init__(self):
        self.run = 0

    def write(self, data):
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            if any(block):
                self.flush()
                print(block.hex())
            else:
                self.run += 1

    def nuls(self, count):
        self.run += count // BLOCK

    def flush(self):
        if self.run:
            print("NUL", self.run)
        self.run = 0


class Digest:
    """An archive as its digest."""

    def __init__(self):
        self.sha = hashlib.sha256()

    def write(self, data):
        self.sha.update(data)

    def flush(self):
        print("sha256:" + self.sha.hexdigest())


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def header(name, kind, target=b"", mode=0, uid=0, gid=0, size=0, mtime=0, device=(0, 0)):
    fields = [
        (0, name[:100]),
        (100, octal(mode, 8)),
        (108, octal(uid, 8)),
        (116, octal(gid, 8)),
        (124, octal(size, 12)),
        (136, octal(mtime, 12)),
        (148, b" " * 8),
        (156, kind),
        (157, target[:100]),
        (257, b"ustar\x0000"),
        (329, octal(device[0], 8)),
        (337, octal(device[1], 8)),
    ]
    block = bytearray(BLOCK)
    for offset, value in fields:
        block[offset : offset + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def record(key, value):
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def entry(out, e):
    """One entry, without its content."""
    path, kind = e["path"], e["kind"]
    name = path
    if kind == "directory":
        name = path + b"/" if path else b"./"
    if kind == "whiteout":
        parent, slash, last = path.rpartition(b"/")
        name = parent + slash + b".wh." + last
        e = {"mode": 0, "uid": 0, "gid": 0, "mtime": 0}
    target = e.get("target", b"")
    numbers = {"size": e.get("size", 0), "uid": e["uid"], "gid": e["gid"], "mtime": e["mtime"]}
    most = {"size": 8589934591, "uid": 2097151, "gid": 2097151, "mtime": 8589934591}
    records = {}
    if kind != "hardlink":
        for key, value in e.get("xattrs", {}).items():
            records[b"SCHILY.xattr." + key] = value
    for key, value in (b"path", name), (b"linkpath", target):
        if len(value) > 100 or any(byte > 0x7F for byte in value):
            records[key] = value
    for key, value in numbers.items():
        if not 0 <= value <= most[key]:
            records[key.encode()] = b"%d" % value
            numbers[key] = 0
    if records:
        body = b"".join(record(key, records[key]) for key in sorted(records))
        out.write(header(b"PaxHeader", b"x", mode=0o644, size=len(body)))
        out.write(padded(body))
    types = {"file": b"0", "whiteout": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4"}
    types |= {"directory": b"5", "fifo": b"6"}
    mode = 0o777 if kind == "symlink" else e["mode"]
    out.write(header(name, types[kind], target, mode, device=e.get("device", (0, 0)), **numbers))


def end(out):
    out.write(bytes(2 * BLOCK))
    out.flush()


def entries():
    """A line of JSON for each, bytes in hexadecimal."""
    found = []
    for line in sys.stdin:
        e = json.loads(line)
        for key in "path", "target", "content":
            if key in e:
                e[key] = bytes.fromhex(e[key])
        e["xattrs"] = {bytes.fromhex(k): bytes.fromhex(v) for k, v in e.get("xattrs", {}).items()}
        if "content" in e:
            e["size"] = len(e["content"])
        found.append(e)
    out = Shown()
    for e in sorted(found, key=lambda e: e["path"]):
        entry(out, e)
        if "content" in e:
            out.write(padded(e["content"]))
        else:
            out.nuls(-(-e.get("size", 0) // BLOCK) * BLOCK)
    end(out)


def kept(name):
    if name in (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"):
        return True
    return name.startswith(b"user.") and not name.startswith((b"user.overlay.", b"user.cooper."))


def described(root, path):
    full = os.path.join(root, path)
    s = os.lstat(full)
    names = {os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False)}
    e = {
        "path": path,
        "mode": stat.S_IMODE(s.st_mode),
        "uid": s.st_uid,
        "gid": s.st_gid,
        "mtime": s.st_mtime_ns // 1_000_000_000,
        "xattrs": {n: os.getxattr(full, n, follow_symlinks=False) for n in names if kept(n)},
        "file": (s.st_dev, s.st_ino) if s.st_nlink > 1 and not stat.S_ISDIR(s.st_mode) else None,
    }
    if stat.S_ISDIR(s.st_mode):
        e["kind"] = "directory"
    elif stat.S_ISLNK(s.st_mode):
        e |= {"kind": "symlink", "target": os.readlink(full)}
    elif stat.S_ISFIFO(s.st_mode):
        e["kind"] = "fifo"
    else:
        e |= {"kind": "file", "size": s.st_size}
    return e


def tree(root, names):
    paths = set()
    for name in names:
        for directory, below, files in os.walk(os.path.join(root, name)):
            paths.update(os.path.relpath(os.path.join(directory, n), root) for n in [b".", *below, *files])
        while name:
            paths.add(name)
            name = os.path.dirname(name)
    out = Digest()
    first = {}
    for e in sorted((described(root, path) for path in paths), key=lambda e: e["path"]):
        if e["file"]:
            target = first.setdefault(e["file"], e["path"])
            if target != e["path"]:
                e |= {"kind": "hardlink", "target": target, "size": 0}
        entry(out, e)
        if e["kind"] == "file":
            with open(os.path.join(root, e["path"]), "rb") as content:
                out.write(padded(content.read()))
    end(out)


if sys.argv[1] == "entries":
    entries()
else:
    tree(os.fsencode(sys.argv[2]), [os.fsencode(name) for name in sys.argv[3:]])
