//! Counters that modules name themselves.

/// Names at most for each module; what comes under further ones is counted together.
const MAX_NAMES: usize = 128;
/// The name for what has none of its own any more.
const OTHER: &str = "other";
/// Longest name, in bytes.
const MAX_NAME_LEN: usize = 96;

/// A counter of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCounter {
    /// The module.
    pub module: &'static str,
    /// What is counted.
    pub name: Box<str>,
    /// How often it happened.
    pub count: u64,
    /// Bytes of clients that were dropped under this name.
    pub bytes: u64,
}

/// Counters that modules name themselves: what they count, and why they dropped bytes or gave sessions up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleCounters(Vec<ModuleCounter>);

impl ModuleCounters {
    /// Each counter, in the order of their first use.
    pub fn iter(&self) -> impl Iterator<Item = &ModuleCounter> {
        self.0.iter()
    }

    /// Adds the counters of another engine.
    pub fn merge(&mut self, other: &Self) {
        for counter in &other.0 {
            let own = self.entry(counter.module, &counter.name);
            own.count += counter.count;
            own.bytes += counter.bytes;
        }
    }

    pub(crate) fn add(&mut self, module: &'static str, name: &str, n: u64) {
        self.entry(module, name).count += n;
    }

    pub(crate) fn add_drop(&mut self, module: &'static str, name: &str, bytes: u64) {
        self.entry(module, name).bytes += bytes;
    }

    fn entry(&mut self, module: &'static str, name: &str) -> &mut ModuleCounter {
        let name = &name[..name.floor_char_boundary(MAX_NAME_LEN)];
        let find = |all: &[ModuleCounter], name: &str| {
            all.iter().position(|counter| counter.module == module && &*counter.name == name)
        };
        let found = find(&self.0, name).or_else(|| {
            let names = self.0.iter().filter(|counter| counter.module == module).count();
            if names < MAX_NAMES { None } else { find(&self.0, OTHER) }
        });
        let at = found.unwrap_or_else(|| {
            let names = self.0.iter().filter(|counter| counter.module == module).count();
            let name = if names < MAX_NAMES { name } else { OTHER };
            self.0.push(ModuleCounter { module, name: name.into(), count: 0, bytes: 0 });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_nothing_is_lost() {
        let mut counters = ModuleCounters::default();
        for i in 0..1_000 {
            counters.add("chatty", &format!("name {i}"), 1);
            counters.add_drop("other module", "one", 2);
        }
        assert_eq!(counters.iter().filter(|c| c.module == "chatty").map(|c| c.count).sum::<u64>(), 1_000);
        assert!(counters.iter().count() <= MAX_NAMES + 2);
        let mut total = counters.clone();
        total.merge(&counters);
        assert_eq!(total.iter().map(|c| c.count).sum::<u64>(), 2_000);
        assert_eq!(total.iter().map(|c| c.bytes).sum::<u64>(), 4_000);
    }
}
