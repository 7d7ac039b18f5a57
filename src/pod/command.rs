//! What a container runs: argv from image, command, args and mounts.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::core::v1::Container;

use super::{Host, env::expand, machine::Waiting};
use crate::hostpipe;

/// Annotation `vk-cmd/script.<container>` names the file that script mode runs.
pub const SCRIPT_ANNOTATION: &str = "vk-cmd/script.";

/// The mount that holds a container's script.
#[derive(Clone, Copy)]
pub struct Script<'a> {
    /// Where the mount is, absolute.
    pub directory: &'a Path,
    /// Names of the files in it, sorted.
    pub files: &'a [String],
    /// The file that an annotation names.
    pub wanted: Option<&'a str>,
    /// The first line of a file.
    pub first_line: &'a dyn Fn(&str) -> Option<String>,
}

/// A command, and what the user should know about how it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// That one of several scripts was taken.
    pub notice: Option<String>,
    /// Whether it was a line for the hostpipe, the command in which is run in its place: managed, on the host.
    pub for_host: bool,
}

/// Builds argv. `own` are the container's variables, `is_file` tells whether a path
/// with white space is a program after all.
pub fn command(
    container: &Container,
    script: Option<Script<'_>>,
    host: &Host,
    own: &BTreeMap<String, String>,
    is_file: impl Fn(&Path) -> bool,
) -> Result<Command, Waiting> {
    let home = host.home_for(own.get("HOME"));
    let expand = |text: &String| {
        let text = expand::references(text, |name| own.get(name).map(String::as_str));
        expand::home(text, home)
    };
    let command: Vec<String> = container.command.iter().flatten().map(expand).collect();
    let mut args: Vec<String> = container.args.iter().flatten().map(expand).collect();
    let mut notice = None;
    let script = match script {
        None => None,
        Some(script) => {
            let file = choose(container, &script, &mut args, &mut notice)?;
            let path = script.directory.join(&file).to_string_lossy().into_owned();
            Some((path, (script.first_line)(&file)))
        }
    };
    let one_liner = match command.as_slice() {
        [line] if args.is_empty() => {
            line.contains(char::is_whitespace) && !is_file(Path::new(line))
        }
        _ => false,
    };
    let argv = match (command, script) {
        (mut command, None) if one_liner => {
            vec!["bash".to_owned(), "-c".to_owned(), command.remove(0)]
        }
        // "$@" is where the script goes, as if the line had been typed before it.
        (command, Some((path, _))) if one_liner => {
            let line = format!("{} \"$@\"", command[0]);
            vec![
                "bash".to_owned(),
                "-c".to_owned(),
                line,
                "bash".to_owned(),
                path,
            ]
        }
        (command, Some((path, first_line))) if command.is_empty() => {
            let mut argv = interpreter(first_line.as_deref());
            argv.push(path);
            argv.extend(args);
            argv
        }
        (mut command, script) => {
            command.extend(script.map(|(path, _)| path));
            command.extend(args);
            command
        }
    };
    if argv.is_empty() {
        return Err(Waiting {
            reason: "CreateContainerError",
            message: format!(
                "no command specified: container {} has neither command nor args, and image {:?} \
                 brings none",
                container.name,
                container.image.as_deref().unwrap_or_default()
            ),
        });
    }
    let line = match argv.as_slice() {
        [shell, option, line] if option == "-c" && is_shell(shell) => hostpipe::one_liner(line),
        _ => None,
    };
    let for_host = line.is_some();
    let argv = match line {
        Some(line) => vec!["bash".to_owned(), "-c".to_owned(), line],
        None => argv,
    };
    Ok(Command {
        argv,
        notice,
        for_host,
    })
}

/// Whether the whole command is the documented one-liner, `echo 'CMD' > …/hostpipe/vk-cmd`, in one string: no image has
/// a program of such a name.
pub fn is_line_for_the_pipe(container: &Container) -> bool {
    let no_args = container.args.as_ref().is_none_or(Vec::is_empty);
    match container.command.as_deref() {
        Some([line]) if no_args => hostpipe::one_liner(line).is_some(),
        _ => false,
    }
}

fn is_shell(program: &str) -> bool {
    let name = program.rsplit('/').next();
    matches!(name, Some("sh" | "bash"))
}

/// Files of a config map are not executable, so that a script without a command is
/// handed to the interpreter it names.
fn interpreter(first_line: Option<&str>) -> Vec<String> {
    let Some(line) = first_line.and_then(|line| line.strip_prefix("#!")) else {
        return Vec::new();
    };
    // The kernel passes all that follows the interpreter as one argument.
    let (program, argument) = match line.trim().split_once(char::is_whitespace) {
        Some((program, argument)) => (program, Some(argument.trim())),
        None => (line.trim(), None),
    };
    [Some(program), argument]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect()
}

fn choose(
    container: &Container,
    script: &Script<'_>,
    args: &mut Vec<String>,
    notice: &mut Option<String>,
) -> Result<String, Waiting> {
    let has = |name: &str| script.files.iter().any(|file| file == name);
    let mount = container.image.as_deref().unwrap_or_default();
    if let Some(wanted) = script.wanted {
        if has(wanted) {
            return Ok(wanted.to_owned());
        }
        let message = format!(
            "annotation {SCRIPT_ANNOTATION}{} names {wanted:?}, which is no file of volume {mount:?} \
             (it has {})",
            container.name,
            script.files.join(", ")
        );
        return Err(Waiting {
            reason: "CreateContainerConfigError",
            message,
        });
    }
    if script.files.len() > 1 && args.first().is_some_and(|arg| has(arg)) {
        return Ok(args.remove(0));
    }
    match script.files {
        [] => Err(Waiting {
            reason: "CreateContainerConfigError",
            message: format!(
                "volume {mount:?}, the image of container {}, has no file",
                container.name
            ),
        }),
        [only] => Ok(only.clone()),
        [first, ..] => {
            *notice = Some(format!(
                "Volume {mount:?} has {} files; container {} runs {first:?}, the first by name. Name \
                 another one in the annotation {SCRIPT_ANNOTATION}{} or as the first of args",
                script.files.len(),
                container.name,
                container.name
            ));
            Ok(first.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        image: &str,
        command: &[&str],
        args: &[&str],
        files: Option<&[&str]>,
        wanted: Option<&str>,
    ) -> Result<Command, Waiting> {
        let list = |list: &[&str]| Some(list.iter().map(|it| (*it).to_owned()).collect());
        let container = Container {
            name: "c".into(),
            image: Some(image.into()),
            command: list(command),
            args: list(args),
            ..Container::default()
        };
        let files: Option<Vec<String>> =
            files.map(|files| files.iter().map(|it| (*it).to_owned()).collect());
        let first_line =
            |name: &str| (name == "run.py").then(|| "#! /usr/bin/env -S python3 -u\n".into());
        let script = files.as_deref().map(|files| Script {
            directory: Path::new("/r/c/job"),
            files,
            wanted,
            first_line: &first_line,
        });
        let own = BTreeMap::from([("N".to_owned(), "5".to_owned())]);
        let is_file = |path: &Path| path == Path::new("/opt/my program");
        super::command(&container, script, &Host::for_tests(), &own, is_file)
    }

    fn argv(image: &str, command: &[&str], args: &[&str], files: Option<&[&str]>) -> Vec<String> {
        run(image, command, args, files, None).unwrap().argv
    }

    #[test]
    fn the_documented_script_pod() {
        let argv = argv(
            "direct-stress",
            &["bash"],
            &["300", "2"],
            Some(&["stress.sh"]),
        );
        assert_eq!(argv, ["bash", "/r/c/job/stress.sh", "300", "2"]);
    }

    #[test]
    fn host_commands_are_never_joined() {
        assert_eq!(
            argv("host", &["echo"], &["a b", "$(N)", "~/x", "$1"], None),
            ["echo", "a b", "5", "/home/user/x", "$1"]
        );
        assert_eq!(argv("host", &[], &["echo", "hi"], None), ["echo", "hi"]);
        assert_eq!(
            argv("host", &["two words", "x"], &[], None),
            ["two words", "x"]
        );
    }

    #[test]
    fn one_liners_run_in_a_shell() {
        assert_eq!(
            argv("host", &["echo $(N) | cat"], &[], None),
            ["bash", "-c", "echo 5 | cat"]
        );
        assert_eq!(
            argv("host", &["/opt/my program"], &[], None),
            ["/opt/my program"]
        );
        assert_eq!(
            argv("s", &["bash -x"], &[], Some(&["a.sh"])),
            ["bash", "-c", "bash -x \"$@\"", "bash", "/r/c/job/a.sh"]
        );
    }

    #[test]
    fn a_line_for_the_pipe_is_run_as_the_command_in_it() {
        let line = "echo 'docker run x' > /root/hostpipe/vk-cmd";
        for command in [vec![line], vec!["/bin/sh", "-c", line]] {
            let run = run("host", &command, &[], None, None).unwrap();
            assert_eq!(run.argv, ["bash", "-c", "docker run x"]);
            assert!(run.for_host);
        }
        assert!(
            !run("host", &["echo x > /tmp/y"], &[], None, None)
                .unwrap()
                .for_host
        );
    }

    #[test]
    fn a_script_without_a_command_names_its_interpreter() {
        assert_eq!(
            argv("s", &[], &["1"], Some(&["run.py"])),
            ["/usr/bin/env", "-S python3 -u", "/r/c/job/run.py", "1"]
        );
        assert_eq!(argv("s", &[], &[], Some(&["a.sh"])), ["/r/c/job/a.sh"]);
    }

    #[test]
    fn one_of_several_scripts() {
        let files: &[&str] = &["a.sh", "b.sh"];
        let first = run("s", &["bash"], &["1"], Some(files), None).unwrap();
        assert_eq!(first.argv, ["bash", "/r/c/job/a.sh", "1"]);
        assert!(first.notice.unwrap().contains("runs \"a.sh\""));
        let named = run("s", &["bash"], &["b.sh", "1"], Some(files), None).unwrap();
        assert_eq!(
            (named.argv, named.notice),
            (
                vec!["bash".into(), "/r/c/job/b.sh".into(), "1".into()],
                None
            )
        );
        let annotated = run("s", &["bash"], &["1"], Some(files), Some("b.sh")).unwrap();
        assert_eq!(annotated.argv, ["bash", "/r/c/job/b.sh", "1"]);
        let missing = run("s", &["bash"], &[], Some(files), Some("c.sh")).unwrap_err();
        assert!(
            missing.message.contains("a.sh, b.sh"),
            "{}",
            missing.message
        );
        assert!(run("s", &["bash"], &[], Some(&[]), None).is_err());
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert!(
            run("host", &[], &[], None, None)
                .unwrap_err()
                .message
                .contains("no command")
        );
    }
}
