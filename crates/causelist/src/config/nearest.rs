//! Which known name a misspelt one was meant to be.

/// The known name with the fewest changes from `name`, unless nearly everything would have to
/// change. `worker.pool_size` finds `database.pool_size`: the right key in the wrong section.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |text: &str| text.rsplit('.').next().unwrap_or(text).to_owned();
    known
        .map(|candidate| {
            let whole = distance(name, candidate);
            // A wrong section counts as one change, and loses to a right one.
            let key = 1 + distance(&last(name), &last(candidate)) * 2;
            (whole.min(key), candidate)
        })
        .min()
        .filter(|(changes, candidate)| *changes * 2 <= candidate.len().max(name.len()))
        .map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, deleted or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_changes() {
        for (a, b, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("lease", "leese", 1),
            ("kitten", "sitting", 3),
            ("abc", "cba", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (changes, changes), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_is_found() {
        let known = ["database.pool_size", "worker.lease", "worker.poll", "api.listen"];
        let nearest = |name| nearest(name, known.into_iter());
        assert_eq!(nearest("worker.leese"), Some("worker.lease"));
        assert_eq!(nearest("wroker.lease"), Some("worker.lease"));
        assert_eq!(nearest("worker.pool_size"), Some("database.pool_size"));
        assert_eq!(nearest("listen"), Some("api.listen"));
        assert_eq!(nearest("worker.pol"), Some("worker.poll"));
        assert_eq!(nearest("xyzzy"), None);
    }
}
