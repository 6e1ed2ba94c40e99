//! Random worlds, and random changes of them.
//!
//! What a step writes depends only on what it sees: no times of day, no order of directory entries, nothing
//! of what a cache mount holds.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::world::{Node, Stage, Step, World};

/// The image that stages start from; see `main.rs`.
pub const BASE: &str = "base";

const WORDS: &[&str] = &["one", "two", "three", "$A", "$B", "${C:-none}", ""];
const PLACES: &[&str] = &[
    "/out/a", "/out/b", "/out/d", "/out/d/a", "/out/d/b", "/srv/a", "/srv/b", "/srv/d/a", "/w/a", "rel",
    "d/rel",
];
const FILES: &[&str] = &["a.txt", "b.txt", "c", "d/a", "d/b.txt", "d/e/f", "x", "y.txt"];
/// No bits that fuse-overlayfs loses when `cp` makes the file; see docs/src/storage.md.
const MODES: &[u32] = &[0o644, 0o600, 0o755, 0o664, 0o711];

/// Makes worlds out of random numbers.
pub struct Generator {
    pub random: Random,
    numbers: usize,
}

impl Generator {
    pub fn new(random: Random) -> Generator {
        Generator { random, numbers: 0 }
    }

    fn one(&mut self, list: &[&'static str]) -> &'static str {
        list[self.random.below(list.len())]
    }

    fn mode(&mut self) -> u32 {
        MODES[self.random.below(MODES.len())]
    }

    pub fn world(&mut self) -> World {
        let mut context = BTreeMap::new();
        for directory in ["d", "d/e"] {
            context.insert(directory.to_owned(), Node::Directory { mode: 0o755 });
        }
        context.insert("link".to_owned(), Node::Symlink("d/a".to_owned()));
        context
            .insert("t.tar".to_owned(), Node::Archive { name: "in/t".to_owned(), content: "t".to_owned() });
        for path in FILES {
            if !self.random.once_in(4) || matches!(*path, "a.txt" | "d/a") {
                let content = self.one(WORDS).to_owned();
                let mode = self.mode();
                context.insert((*path).to_owned(), Node::File { content, mode });
            }
        }
        let mut world = World { stages: Vec::new(), context, ignore: Vec::new(), args: BTreeMap::new() };
        for name in ["A", "B", "C"] {
            if self.random.once_in(2) {
                world.args.insert(name.to_owned(), self.one(&["1", "2", "x y", ""]).to_owned());
            }
        }
        for at in 0..1 + self.random.below(4) {
            let base = match self.random.below(6) {
                0 if at > 0 => "scratch".to_owned(),
                1 | 2 if at > 0 => format!("s{}", self.random.below(at)),
                _ => BASE.to_owned(),
            };
            let mut stage = Stage { base, steps: Vec::new() };
            if stage.base == "scratch" {
                stage.steps.push(self.numbered("COPY a.txt /out/".to_owned()));
            }
            for _ in 0..1 + self.random.below(5) {
                let step = self.step(&world, at, &stage.base);
                stage.steps.push(step);
            }
            world.stages.push(stage);
        }
        world
    }

    fn numbered(&mut self, text: String) -> Step {
        self.numbers += 1;
        Step { number: self.numbers, text }
    }

    /// A step for the stage `at`.
    fn step(&mut self, world: &World, at: usize, base: &str) -> Step {
        let mut root = base.to_owned();
        while let Some(stage) = root.strip_prefix('s').and_then(|n| n.parse::<usize>().ok()) {
            root.clone_from(&world.stages[stage].base);
        }
        // Whether there are a shell and users.
        let named = root == BASE;
        let text = match self.random.below(20) {
            0..8 if named => self.run(at),
            0..10 => self.copy_from_context(named),
            10..14 if at > 0 => self.copy_from_stage(at, named),
            10..14 => self.copy_from_context(named),
            14 => format!("ENV {}={}", self.one(&["A", "C", "E"]), self.one(&["1", "'x y'", "$B"])),
            15 => format!("ARG {}{}", self.one(&["A", "B", "C"]), self.one(&["", "=3"])),
            16 => format!("WORKDIR {}", self.one(&["/w", "/out/d", "sub", "/srv/w"])),
            17 => format!("USER {}", self.one(&["app", "root", "12:34", "app:staff"])),
            18 => format!("COPY <<E /out/{}\n{} text\nE", self.one(&["a", "h"]), self.one(WORDS)),
            _ => self
                .one(&["LABEL l=$A", "CMD [\"x\"]", "EXPOSE 80", "VOLUME /vol", "STOPSIGNAL 9"])
                .to_owned(),
        };
        self.numbered(text)
    }

    fn run(&mut self, at: usize) -> String {
        let mut text = "RUN".to_owned();
        let mut commands = Vec::new();
        match self.random.below(10) {
            0 | 1 => {
                let source = self.one(&["d", "a.txt", ".", "d/e"]);
                text.push_str(&format!(" --mount=type=bind,source={source},target=/m"));
                commands.push(format!("rm -rf /out/got; cp -r /m /out/got; echo {source} >> /out/b"));
            }
            2 if at > 0 => {
                let stage = self.random.below(at);
                let (source, rw) = (self.one(&["/out", "/srv", "/", "/out/d"]), self.one(&["", ",rw"]));
                text.push_str(&format!(" --mount=type=bind,from=s{stage},source={source},target=/m{rw}"));
                commands.push(
                    "touch /m/x; ls -R /m/out /m/d /m/a /m/b | sort > /out/listed; cat /m/a /m/d/a > /out/b"
                        .to_owned(),
                );
            }
            3 => {
                text.push_str(" --mount=type=cache,target=/c");
                commands.push("echo more >> /c/file".to_owned());
            }
            4 => {
                text.push_str(" --mount=type=tmpfs,target=/out/d");
                commands.push("echo lost > /out/d/lost; ls /out/d > /out/b".to_owned());
            }
            _ => {}
        }
        for _ in 0..1 + self.random.below(3) {
            commands.push(self.command());
        }
        // A command that fails is as good as another; what it says is not.
        format!("{text} {{ {}; }} 2>/dev/null; true", commands.join("; "))
    }

    fn command(&mut self) -> String {
        let (p, q, word) = (self.one(PLACES), self.one(PLACES), self.one(WORDS));
        match self.random.below(22) {
            0..3 => format!("echo {word} > {p}"),
            3 => format!("echo {word} >> {p}"),
            4 => format!("mkdir -p {p}/{}", self.one(&["n", "n/m", ""])),
            5 | 6 => format!("rm -rf {p}"),
            7 => format!("[ -d {p} ] || mv {p} {q}"),
            8 => format!("[ -d {p} ] || cp -a {p} {q}"),
            9 => format!("ln {p} {q}"),
            10 => format!("ln -sfn {p} {q}"),
            11 => format!("chmod {} {p}", self.one(&["600", "755", "4711", "a+w", "go-rwx"])),
            12 => format!("chown {} {p}", self.one(&["app", "0:0", "12:34", ":staff"])),
            13 => format!("touch -d @1{} {p}", self.random.below(3)),
            14 => format!("touch {p}"),
            15 => "mkfifo /log/fifo".to_owned(),
            16 => format!("all=$(cat /out/* /srv/*); echo \"$all\" > {p}"),
            17 => format!("env | sort > {p}"),
            18 => format!("{{ id; pwd; umask; }} > {p}"),
            19 => "mkdir -p /w/t; tar c -f - -C /out . | tar x -f - -C /w/t".to_owned(),
            20 => format!("echo {word} > {p}; rm {p}"),
            _ => format!(
                "find /out /srv /etc ! -type d -exec stat -c '%n %a %u:%g %s %h' {{}} + | sort > /log/{}",
                self.one(&["1", "2"])
            ),
        }
    }

    /// `named` says whether there are names of users.
    fn flags(&mut self, named: bool) -> String {
        let mut flags = String::new();
        let names =
            if named { &["--chown=app", "--chown=12", "--chown=app:staff"][..] } else { &["--chown=0:7"] };
        for (once_in, values) in [
            (4, &["--link", "--link"][..]),
            (4, names),
            (5, &["--chmod=640", "--chmod=0755", "--chmod=u+x", "--chmod=go="]),
            (8, &["--exclude=*.txt", "--exclude=**/a", "--exclude=e"]),
            (9, &["--parents", "--parents"]),
        ] {
            if self.random.once_in(once_in) {
                flags.push_str(self.one(values));
                flags.push(' ');
            }
        }
        flags
    }

    fn copy_from_context(&mut self, named: bool) -> String {
        let (flags, source) = (
            self.flags(named),
            self.one(&["a.txt", "d", "d/", ".", "*.txt", "d/a", "link", "d/*", "a.txt d"]),
        );
        let dest = self.one(&["/out/", "/srv/new/", "./", "/out/d/", "/deep/er/"]);
        match self.random.below(8) {
            0 => format!("ADD t.tar {dest}"),
            1 => format!("COPY {flags}a.txt {}", self.one(&["/out/a", "/srv/b", "/srv/n/a"])),
            _ => format!("COPY {flags}{source} {dest}"),
        }
    }

    fn copy_from_stage(&mut self, at: usize, named: bool) -> String {
        let flags = self.flags(named);
        let stage = self.random.below(at);
        let source =
            self.one(&["/out", "/out/", "/out/*", "/out/", "/out", "/srv/d", "/etc/passwd", "/out /log"]);
        let dest = self.one(&["/out/", "/srv/new/", "./", "/from/"]);
        match self.random.below(8) {
            0 => format!("COPY {flags}--from={BASE} /srv/ {dest}"),
            _ => format!("COPY {flags}--from=s{stage} {source} {dest}"),
        }
    }

    /// The same world with a change or two.
    pub fn changed(&mut self, world: &World) -> World {
        let mut world = world.clone();
        for _ in 0..1 + self.random.below(2) {
            match self.random.once_in(2) {
                true => self.change_context(&mut world),
                false => self.change_steps(&mut world),
            }
        }
        world
    }

    fn change_context(&mut self, world: &mut World) {
        let path = self.one(FILES).to_owned();
        let fixed = matches!(&*path, "a.txt" | "d/a");
        let (other, mode) = (self.one(WORDS), self.mode());
        match (self.random.below(9), world.context.get_mut(&path)) {
            (0 | 1, Some(Node::File { content, .. })) => content.push_str(other),
            (2, Some(Node::File { content, .. })) => other.clone_into(content),
            (3, Some(Node::File { mode: old, .. })) => *old = mode,
            (4, Some(_)) if !fixed => {
                world.context.remove(&path);
            }
            (5, _) => {
                let name = self.one(&["in/t", "in/u", "t"]).to_owned();
                world.context.insert("t.tar".to_owned(), Node::Archive { name, content: other.to_owned() });
            }
            (6, _) => {
                let lines =
                    [&[][..], &["c"], &["*.txt", "!a.txt"], &["d/e"], &["d/*", "!d/a"], &["x", "y.txt"]];
                world.ignore = lines[self.random.below(6)].iter().map(|l| (*l).to_owned()).collect();
            }
            (7, _) => {
                let mode = [0o700, 0o755, 0o711, 0o775][self.random.below(4)];
                world.context.insert(self.one(&["d", "d/e"]).to_owned(), Node::Directory { mode });
            }
            (8, _) => {
                let target = self.one(&["d/a", "a.txt", "d"]);
                world.context.insert("link".to_owned(), Node::Symlink(target.to_owned()));
            }
            (_, old) => {
                // What two files hold changes places, or a new one comes.
                let content = match old {
                    Some(Node::File { content, .. }) => std::mem::take(content),
                    _ => other.to_owned(),
                };
                match world.context.get_mut("d/a") {
                    Some(Node::File { content: there, .. }) if path != "d/a" => {
                        let earlier = std::mem::replace(there, content);
                        world.context.insert(path, Node::File { content: earlier, mode });
                    }
                    _ => {}
                }
            }
        }
    }

    fn change_steps(&mut self, world: &mut World) {
        let at = self.random.below(world.stages.len());
        let base = world.stages[at].base.clone();
        let count = world.stages[at].steps.len();
        let step = self.random.below(count);
        let new = self.step(world, at, &base);
        let steps = &mut world.stages[at].steps;
        match self.random.below(9) {
            0 | 1 => steps[step].text = new.text,
            2 => steps.insert(step, new),
            3 if count > 1 => drop(steps.remove(step)),
            4 if count > 1 => steps.swap(step, (step + 1) % count),
            5 => {
                let name = self.one(&["A", "B", "C"]).to_owned();
                world.args.insert(name, self.one(&["1", "2", "x y", ""]).to_owned());
            }
            // Another text that does the same.
            6 if steps[step].text.starts_with("RUN") => steps[step].text.push_str("; true"),
            7 if !steps[step].text.contains('\n') => {
                steps[step].text = steps[step].text.replacen(' ', " \\\n# nothing\n  ", 1);
            }
            // One step as in another place.
            _ => {
                let text = steps[step].text.clone();
                let copy = self.numbered(text);
                world.stages[at].steps.push(copy);
            }
        }
    }
}
