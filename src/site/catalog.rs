//! Which profiles there are, what each says with its base, and which one holds here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_norway::{Mapping, Value};

use super::decode::{self, Problem};
use super::profile::{Match, Profile};
use super::surroundings::Surroundings;

/// The profiles that are compiled in.
const BUILT_IN: [(&str, &str); 4] = [
    ("local", include_str!("profiles/local.yaml")),
    ("jiriaf2301", include_str!("profiles/jiriaf2301.yaml")),
    ("ifarm", include_str!("profiles/ifarm.yaml")),
    ("perlmutter", include_str!("profiles/perlmutter.yaml")),
];

/// The profile of machines that no other fits.
pub const FALLBACK: &str = "local";

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A file that cannot be read.
    #[error("site profile {}: {source}; name a file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is no YAML.
    #[error("site profile {}: {problem}; see docs/sites.md for the schema", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        problem: String,
    },
    /// A file with something in it that does not fit.
    #[error("site profile {origin}: {problem}")]
    Schema {
        /// Where it is written.
        origin: Origin,
        /// What.
        problem: Problem,
    },
    /// A name that no profile has.
    #[error("{key}: {name:?} is no known site (from {source_of_name}); {mend}")]
    Unknown {
        /// `--site`, or the key `base`.
        key: String,
        /// The name.
        name: String,
        /// The nearest name, or all of them.
        mend: String,
        /// Flag, variable or file.
        source_of_name: String,
    },
    /// Bases that lead back to where they began.
    #[error("site profile {name:?} is its own base, by way of {chain}; take one base out")]
    Circle {
        /// The profile.
        name: String,
        /// The names passed.
        chain: String,
    },
}

/// Where a profile is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In this program.
    BuiltIn,
    /// In a file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Why a profile was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// It was named; by what.
    Named(String),
    /// It fits what was found; what that is.
    Probed(String),
    /// Nothing fits better.
    Fallback,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(by) => write!(f, "named by {by}"),
            Self::Probed(why) => write!(f, "found by {why}"),
            Self::Fallback => f.write_str("no other profile fits"),
        }
    }
}

/// A written profile, before its base.
#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    origin: Origin,
}

/// All profiles by name. A file stands before a built-in of the same name, which then is its base.
#[derive(Clone, Debug)]
pub struct Catalog {
    built_in: BTreeMap<String, Entry>,
    files: BTreeMap<String, Entry>,
    /// The profile of `--site-file`.
    named_file: Option<String>,
}

impl Catalog {
    /// The built-in profiles, those of a directory (missing is fine), and one file that was named.
    ///
    /// # Errors
    /// The first file that cannot be read or does not fit.
    pub fn load(directory: Option<&Path>, file: Option<&Path>) -> Result<Self, SiteError> {
        let mut catalog = Self {
            built_in: BTreeMap::new(),
            files: BTreeMap::new(),
            named_file: None,
        };
        for (name, text) in BUILT_IN {
            let value = parse(Path::new(name), text)?;
            let origin = Origin::BuiltIn;
            catalog
                .built_in
                .insert(name.to_owned(), Entry { value, origin });
        }
        for path in directory.map(profiles_in).transpose()?.unwrap_or_default() {
            catalog.read(&path)?;
        }
        if let Some(path) = file {
            catalog.named_file = Some(catalog.read(path)?);
        }
        Ok(catalog)
    }

    /// Reads a file; its name is the key `name`, else the file's own.
    fn read(&mut self, path: &Path) -> Result<String, SiteError> {
        let text = std::fs::read_to_string(path).map_err(|source| SiteError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let value = parse(path, &text)?;
        let origin = Origin::File(path.to_owned());
        // Alone, so that what does not fit is told of the file that it stands in.
        let profile: Profile = decode::decode(&value).map_err(|problem| SiteError::Schema {
            origin: origin.clone(),
            problem,
        })?;
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match profile.name.as_str() {
            "" => stem().into_owned(),
            name => name.to_owned(),
        };
        self.files.insert(name.clone(), Entry { value, origin });
        Ok(name)
    }

    /// Names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .built_in
            .keys()
            .chain(self.files.keys())
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The profile of a name, with all that its bases say.
    ///
    /// # Errors
    /// A name that nothing has, or bases in a circle.
    pub fn get(&self, name: &str, key: &str, from: &str) -> Result<(Profile, Origin), SiteError> {
        let entry = self
            .files
            .get(name)
            .or_else(|| self.built_in.get(name))
            .ok_or_else(|| self.unknown(name, key, from))?;
        let mut passed = Vec::new();
        let mut value = self.whole(name, entry, &mut passed)?;
        if let Value::Mapping(map) = &mut value {
            map.insert("name".into(), name.into());
        }
        let profile = decode::decode(&value).map_err(|problem| SiteError::Schema {
            origin: entry.origin.clone(),
            problem,
        })?;
        Ok((profile, entry.origin.clone()))
    }

    fn unknown(&self, name: &str, key: &str, from: &str) -> SiteError {
        SiteError::Unknown {
            key: key.to_owned(),
            name: name.to_owned(),
            mend: decode::nearest(name, &self.names()),
            source_of_name: from.to_owned(),
        }
    }

    /// An entry over its base.
    fn whole(
        &self,
        name: &str,
        entry: &Entry,
        passed: &mut Vec<String>,
    ) -> Result<Value, SiteError> {
        let mark = format!("{name} ({})", entry.origin);
        if passed.contains(&mark) {
            return Err(SiteError::Circle {
                name: name.to_owned(),
                chain: passed.join(", "),
            });
        }
        passed.push(mark);
        let written = entry.value.get("base").and_then(Value::as_str);
        let base = match (written, &entry.origin) {
            (Some(base), origin) if base == name => match origin {
                Origin::File(_) => self.built_in.get(base),
                Origin::BuiltIn => None,
            },
            (Some(base), origin) => {
                let found = self.files.get(base).or_else(|| self.built_in.get(base));
                Some(found.ok_or_else(|| self.unknown(base, "base", &origin.to_string()))?)
            }
            (None, Origin::File(_)) => self.built_in.get(name),
            (None, Origin::BuiltIn) => None,
        };
        let Some(base) = base else {
            return Ok(entry.value.clone());
        };
        let below = self.whole(written.unwrap_or(name), base, passed)?;
        let mut merged = merge(below, entry.value.clone());
        // How a site is known is not inherited: two sites would be found at once.
        if written.is_some_and(|base| base != name)
            && entry.value.get("match").is_none()
            && let Value::Mapping(map) = &mut merged
        {
            map.remove("match");
        }
        Ok(merged)
    }

    /// The profile that holds here: the one that `site` or a file names, else the one that fits, files
    /// first, else [`FALLBACK`].
    ///
    /// # Errors
    /// A name that nothing has, or a profile that does not fit the schema.
    pub fn choose(
        &self,
        site: Option<(&str, &str)>,
        here: &Surroundings,
    ) -> Result<(Profile, Origin, Chosen), SiteError> {
        let done = |(profile, origin), chosen| Ok((profile, origin, chosen));
        if let Some((name, from)) = site {
            let key = if from == "environment" {
                "VK_CMD_SITE"
            } else {
                "--site"
            };
            return done(self.get(name, key, from)?, Chosen::Named(key.to_owned()));
        }
        if let Some(name) = &self.named_file {
            let named = Chosen::Named("--site-file".to_owned());
            return done(self.get(name, "--site-file", "file")?, named);
        }
        for name in self.files.keys().chain(self.built_in.keys()) {
            let (profile, origin) = self.get(name, "site", "catalog")?;
            if let Some(why) = fits(&profile.matches, here) {
                return done((profile, origin), Chosen::Probed(why));
            }
        }
        done(self.get(FALLBACK, "site", "default")?, Chosen::Fallback)
    }
}

fn parse(path: &Path, text: &str) -> Result<Value, SiteError> {
    let value: Value = serde_norway::from_str(text).map_err(|error| SiteError::Syntax {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    match value {
        // A file of comments alone.
        Value::Null => Ok(Value::Mapping(Mapping::new())),
        value => Ok(value),
    }
}

/// `*.yaml` and `*.yml` of a directory, sorted.
fn profiles_in(directory: &Path) -> Result<Vec<PathBuf>, SiteError> {
    let unreadable = |source| SiteError::Unreadable {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// `above` over `below`: keys of mappings one by one, anything else as a whole; `null` takes a key out.
fn merge(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Mapping(mut below), Value::Mapping(above)) => {
            for (key, value) in above {
                let merged = match below.remove(&key) {
                    _ if value.is_null() => continue,
                    Some(old) => merge(old, value),
                    None => value,
                };
                below.insert(key, merged);
            }
            Value::Mapping(below)
        }
        (_, above) => above,
    }
}

/// What of the surroundings a site is known by; none where it is not this one.
fn fits(wanted: &Match, here: &Surroundings) -> Option<String> {
    if wanted.is_empty() {
        return None;
    }
    let mut why = Vec::new();
    for (name, pattern) in &wanted.environment {
        let value = here.environment.get(name).filter(|it| glob(pattern, it))?;
        why.push(format!("{name}={value}"));
    }
    if !wanted.hostname.is_empty() {
        let name = &here.hostname;
        wanted.hostname.iter().find(|pattern| glob(pattern, name))?;
        why.push(format!("host name {name}"));
    }
    Some(why.join(", "))
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::engine::Kind;
    use crate::site::profile::{EngineChoice, Launch};
    use crate::site::surroundings::Seat;
    use crate::site::{EngineAccess, LaunchMode, Site};
    use proptest::prelude::*;

    fn catalog(files: &[(&str, &str)]) -> Result<Catalog, SiteError> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        Catalog::load(Some(dir.path()), None)
    }

    fn here(variables: &[(&str, &str)], hostname: &str) -> Surroundings {
        Surroundings {
            environment: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            hostname: hostname.to_owned(),
            ..Surroundings::default()
        }
    }

    #[test]
    fn the_built_in_profiles_fit_the_schema_and_say_what_table_1_says() {
        let catalog = catalog(&[]).expect("profiles");
        assert_eq!(
            catalog.names(),
            ["ifarm", "jiriaf2301", "local", "perlmutter"]
        );
        for (name, kind, home) in [
            ("jiriaf2301", Kind::Docker, false),
            ("ifarm", Kind::Apptainer, true),
            ("perlmutter", Kind::Shifter, true),
        ] {
            let (profile, origin) = catalog.get(name, "--site", "flag").expect(name);
            assert_eq!(profile.name, name);
            assert_eq!(origin, Origin::BuiltIn);
            assert_eq!(profile.engine.kind, EngineChoice::Use(kind));
            assert_eq!(profile.environment.home, home, "{name}");
            assert_eq!(!profile.environment.pass.is_empty(), home, "{name}");
        }
    }

    #[test]
    fn a_site_is_found_by_what_it_is_known_by() {
        let catalog = catalog(&[(
            "mine.yaml",
            "{base: ifarm, match: {environment: {CENTRE: 'x*'}, hostname: ['n*']}}",
        )])
        .expect("profiles");
        let found = |variables: &[(&str, &str)], host: &str| {
            let (profile, _, chosen) = catalog.choose(None, &here(variables, host)).expect("one");
            (profile.name, chosen.to_string())
        };
        let said = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        assert_eq!(
            found(&[("NERSC_HOST", "perlmutter")], "nid001"),
            said("perlmutter", "found by NERSC_HOST=perlmutter")
        );
        assert_eq!(found(&[], "ifarm1901.jlab.org").0, "ifarm");
        assert_eq!(found(&[], "jiriaf2301").0, "jiriaf2301");
        assert_eq!(found(&[], "laptop"), said("local", "no other profile fits"));
        assert_eq!(
            found(&[("CENTRE", "xy")], "n1"),
            said("mine", "found by CENTRE=xy, host name n1")
        );
        assert_eq!(found(&[("CENTRE", "xy")], "m1").0, "local");
    }

    #[test]
    fn a_file_goes_over_the_built_in_of_its_name() {
        let catalog = catalog(&[(
            "perlmutter.yaml",
            "{engine: {runArgs: [--x]}, batch: {account: m1, constraint: null}}",
        )])
        .expect("profiles");
        let (profile, origin) = catalog.get("perlmutter", "--site", "flag").expect("one");
        assert_eq!(profile.engine.kind, EngineChoice::Use(Kind::Shifter));
        assert_eq!(profile.engine.run_args, ["--x"]);
        assert_eq!(profile.batch.account.as_deref(), Some("m1"));
        assert_eq!(profile.batch.constraint, None);
        assert_eq!(profile.batch.queue.as_deref(), Some("regular"));
        assert!(matches!(origin, Origin::File(_)));
    }

    #[test]
    fn what_is_wrong_names_file_key_value_and_mend() {
        let said = |files: &[(&str, &str)], name: &str| {
            let error = match catalog(files) {
                Ok(catalog) => catalog
                    .get(name, "--site", "flag")
                    .map(drop)
                    .expect_err("wrong"),
                Err(error) => error,
            };
            error.to_string()
        };
        let text = said(&[("a.yaml", "engine: {kid: docker}")], "a");
        assert!(
            text.ends_with("/a.yaml: engine.kid: \"kid\" is no known key; did you mean \"kind\"?"),
            "{text}"
        );
        let text = said(&[("a.yaml", "engine: [")], "a");
        assert!(
            text.contains("/a.yaml: ") && text.contains("line 2"),
            "{text}"
        );
        assert_eq!(
            said(&[], "perlmuter"),
            "--site: \"perlmuter\" is no known site (from flag); did you mean \"perlmutter\"?"
        );
        let text = said(&[("a.yaml", "base: b"), ("b.yaml", "base: a")], "a");
        assert!(text.contains("is its own base"), "{text}");
        let text = said(&[("a.yaml", "base: ifarn")], "a");
        assert!(text.contains("did you mean \"ifarm\"?"), "{text}");
    }

    #[test]
    fn placement_and_engine_follow_from_where_the_agent_sits() {
        let catalog = catalog(&[]).expect("profiles");
        let settle = |site: &str, here: &Surroundings| {
            let (profile, origin, chosen) =
                catalog.choose(Some((site, "flag")), here).expect("one");
            Site::settle(profile, origin, chosen, here)
        };
        // In Docker, with the pipe: all goes to the host.
        let mut inside = here(&[("HOME", "/root")], "jiriaf2301");
        inside.seat = Seat::Inside(Kind::Docker);
        inside.hostpipe = Some("/root/hostpipe/vk-cmd".into());
        let site = settle("jiriaf2301", &inside);
        assert_eq!(site.launch, LaunchMode::Hostpipe);
        assert_eq!(site.hostpipe, Path::new("/root/hostpipe"));
        let EngineAccess::Reached { kind, launch, .. } = site.engine else {
            panic!("{:?}", site.engine)
        };
        assert_eq!((kind, launch), (Kind::Docker, LaunchMode::Hostpipe));
        // In Shifter: scripts run there, images need the host.
        let mut inside = here(&[("HOME", "/home/u")], "nid1");
        inside.seat = Seat::Inside(Kind::Shifter);
        let site = settle("perlmutter", &inside);
        assert_eq!(site.launch, LaunchMode::Direct);
        let EngineAccess::Unreached { mend } = site.engine else {
            panic!("{:?}", site.engine)
        };
        assert!(mend.contains("cp -r /vk-cmd ."), "{mend}");
        inside.hostpipe = Some("/home/u/hostpipe/vk-cmd".into());
        let site = settle("perlmutter", &inside);
        assert!(
            matches!(
                site.engine,
                EngineAccess::Reached {
                    launch: LaunchMode::Hostpipe,
                    ..
                }
            ),
            "{:?}",
            site.engine
        );
        assert_eq!(site.launch, LaunchMode::Direct);
        // On the host, without the program.
        let site = settle("perlmutter", &here(&[("PATH", "/nowhere")], "nid1"));
        let EngineAccess::Unreached { mend } = site.engine else {
            panic!("{:?}", site.engine)
        };
        assert!(mend.contains("\"shifter\""), "{mend}");
        assert_eq!(
            settle("local", &here(&[], "x")).profile.launch,
            Launch::Auto
        );
    }

    proptest! {
        #[test]
        fn merging_nothing_changes_nothing_and_the_upper_one_wins(
            keys in prop::collection::btree_map("[a-c]{1,2}", 0_u8..9, 0..5),
            over in prop::collection::btree_map("[a-c]{1,2}", 0_u8..9, 0..5),
        ) {
            let value = |map: &BTreeMap<String, u8>| serde_norway::to_value(map).expect("a value");
            let empty = Value::Mapping(Mapping::new());
            prop_assert_eq!(merge(value(&keys), empty.clone()), value(&keys));
            prop_assert_eq!(merge(empty, value(&keys)), value(&keys));
            let mut both = keys.clone();
            both.extend(over.clone());
            let merged = merge(value(&keys), value(&over));
            let merged: BTreeMap<String, u8> = serde_norway::from_value(merged).expect("a map");
            prop_assert_eq!(merged, both);
        }

        #[test]
        fn a_pattern_without_a_star_is_the_text(text in "[a-z.]{0,8}", other in "[a-z.]{0,8}") {
            prop_assert_eq!(glob(&text, &other), text == other);
            let around = format!("*{text}*");
            let long = format!("x{text}y");
            prop_assert!(glob(&around, &long));
        }
    }
}
