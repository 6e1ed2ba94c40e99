//! Which stages are needed, found without going from one into the next.
//!
//! Planning a stage plans those that it uses first, a call inside a call. A file may be a chain of any number of
//! stages, and the stack is finite; planned in the order of this list, a stage finds what it uses planned already.

use std::collections::HashMap;

use super::Planner;
use crate::dockerfile::ast::{Kind, Run};
use crate::plan::{Images, mount};

impl<M: Images> Planner<'_, M> {
    /// The stages that `target` uses, in the order of the file, and `target` itself as the last.
    ///
    /// A reference that cannot be understood here is left out: whoever plans the stage finds out why.
    pub(in crate::plan) fn needed(&self, target: usize) -> Vec<usize> {
        let mut named: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, stage) in self.file.stages.iter().enumerate() {
            if let Some(name) = &stage.from.name {
                named.entry(name.node.to_lowercase()).or_default().push(number);
            }
        }
        let last_before = |name: &str, before: usize| {
            let numbers = named.get(name)?;
            numbers[..numbers.partition_point(|&number| number < before)].last().copied()
        };
        // Elsewhere than in `FROM` a name means the last stage that has it, which may come too late.
        let last = |name: &str, before: usize| {
            named.get(&name.to_lowercase())?.last().copied().filter(|number| *number < before)
        };
        let named_or_numbered = |name: &str, before: usize| {
            last(name, before).or_else(|| name.parse().ok().filter(|number| *number < before))
        };
        let mut needed = vec![false; target + 1];
        needed[target] = true;
        // A stage uses earlier ones only, so when its turn comes it is known whether it is needed.
        for number in (0..=target).rev() {
            if !needed[number] {
                continue;
            }
            let stage = &self.file.stages[number];
            let own_name = stage.from.name.as_ref().map(|name| name.node.to_lowercase());
            if own_name.is_some_and(|name| self.options.contexts.contains_key(&name)) {
                // A build context takes its place.
                continue;
            }
            let mut uses = |used: Option<usize>| used.into_iter().for_each(|used| needed[used] = true);
            if let Ok(name) = self.globals.expand(self.file.directives.escape, &stage.from.image) {
                uses(last_before(&name, number));
            }
            for instruction in &stage.instructions {
                match &instruction.kind {
                    Kind::Copy(copy) | Kind::Add(copy) => {
                        let from = copy.flags.iter().filter(|flag| flag.name.node == "from");
                        from.filter_map(|flag| flag.value.as_ref())
                            .for_each(|name| uses(named_or_numbered(&name.node, number)));
                    }
                    Kind::Run(run) => {
                        mounted(run).for_each(|name| uses(named_or_numbered(&name, number)));
                    }
                    _ => {}
                }
            }
        }
        (0..=target).filter(|&number| needed[number]).collect()
    }
}

/// What the mounts of a `RUN` come from.
fn mounted(run: &Run) -> impl Iterator<Item = String> + '_ {
    let values =
        run.flags.iter().filter(|flag| flag.name.node == "mount").filter_map(|flag| flag.value.as_ref());
    // `from` holds no variables; what becomes of the other options does not matter here.
    values.filter_map(|value| mount::parse(value, &|word| Ok(word.node.clone())).ok()?.from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::dockerfile::parse;
    use crate::image::{ImageConfig, Platform};
    use crate::plan::{self, ImageError, ImageSource, Images, Options};

    struct NoImages;

    impl Images for NoImages {
        type Image = ();

        fn image(&mut self, source: &ImageSource, _: &Platform) -> Result<((), ImageConfig), ImageError> {
            Err(format!("{source:?} was asked for").into())
        }
    }

    /// The numbers of the stages that are planned, in order.
    fn planned(text: &str) -> Vec<usize> {
        let options = Options {
            build_args: BTreeMap::new(),
            target: None,
            platforms: vec![Platform::host()],
            build_platform: Platform::host(),
            contexts: BTreeMap::new(),
        };
        let plan = plan::plan(&parse(text).unwrap(), &options, &mut NoImages).unwrap();
        plan.stages.iter().map(|stage| stage.number).collect()
    }

    #[test]
    fn what_is_needed_in_the_order_of_the_file() {
        let text = "ARG B=b\nFROM scratch AS a\nFROM scratch AS b\nFROM nowhere AS unused\nFROM scratch AS c\n\
                    FROM ${B} AS d\nCOPY --from=C / /\nCOPY --from=0 / /\n";
        assert_eq!(planned(text), [0, 1, 3, 4]);
        // Of two with one name the later one counts, if it is not too late.
        let text = "FROM scratch AS a\nFROM scratch AS a\nFROM a AS b\nFROM scratch AS a\nFROM b\n";
        assert_eq!(planned(text), [1, 2, 4]);
    }

    #[test]
    fn a_chain_of_any_length() {
        let chain = |line: &dyn Fn(usize) -> String| (1..3000).map(line).collect::<String>();
        let from = chain(&|i| format!("FROM s{} AS s{i}\n", i - 1));
        assert_eq!(planned(&format!("FROM scratch AS s0\n{from}")).len(), 3000);
        let copy = chain(&|i| format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", i - 1));
        assert_eq!(planned(&format!("FROM scratch AS s0\n{copy}")).len(), 3000);
    }
}
