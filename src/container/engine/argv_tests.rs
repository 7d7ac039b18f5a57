//! Command lines as they are written, one expected text an engine.

use super::*;
use proptest::prelude::*;

fn engine(kind: Kind) -> Engine {
    Engine {
        kind,
        program: kind.program().to_owned(),
        global_args: Vec::new(),
        run_args: Vec::new(),
        pull_args: Vec::new(),
        gpu_args: None,
        environment: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        image_dir: "/images".to_owned(),
    }
}

fn image(kind: Kind) -> Image {
    match kind {
        Kind::Apptainer | Kind::Singularity => Image::Sif("/images/a.sif".to_owned()),
        Kind::Charliecloud => Image::Directory {
            path: "/images/a".to_owned(),
            environment: true,
        },
        _ => Image::Reference("example.org/a:1".to_owned()),
    }
}

fn plain(kind: Kind) -> Request {
    Request {
        name: "vk-u-c-0".to_owned(),
        image: image(kind),
        command: Some(words(&["sh", "-c"])),
        args: words(&["echo a b"]),
        environment: BTreeMap::new(),
        workdir: None,
        binds: Vec::new(),
        user: None,
        groups: Vec::new(),
        gpus: Gpus::None,
        home: None,
        read_only: false,
        memory: None,
        cpu_millis: None,
        stdin: false,
        tty: false,
    }
}

fn full(kind: Kind) -> Request {
    let bind = |source: &str, target: &str, read_only| Bind {
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
    };
    let by_daemon = matches!(kind, Kind::Docker | Kind::Podman | Kind::PodmanHpc);
    Request {
        command: (kind == Kind::Charliecloud).then(|| words(&["/entry"])),
        environment: [("TOKEN", "s3cret"), ("PATH", "/own"), ("LINES", "a\nb")]
            .into_iter()
            .filter(|(name, _)| kind != Kind::Charliecloud || *name != "LINES")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        workdir: Some("/job".to_owned()),
        binds: vec![
            bind("/host/data", "/data", false),
            bind("/host/a,b", "/etc/conf", true),
        ],
        user: by_daemon.then_some((1000, Some(100))),
        groups: if by_daemon { vec![7] } else { Vec::new() },
        gpus: Gpus::Devices(words(&["0", "2"])),
        home: Some("/home/u".to_owned()),
        read_only: true,
        memory: Some(1 << 20),
        cpu_millis: Some(1500),
        stdin: by_daemon,
        ..plain(kind)
    }
}

/// One word a line, then what goes beside argv.
fn show(invocation: &Invocation) -> String {
    let mut text = invocation.argv.join("\n");
    for (name, value) in &invocation.env {
        text.push_str(&format!("\n[env] {name}={value:?}"));
    }
    for file in &invocation.memory_files {
        text.push_str(&format!("\n[file] {file:?}"));
    }
    text
}

#[test]
fn a_plain_container_of_each_engine() {
    let lines = |kind| {
        engine(kind)
            .run(&plain(kind))
            .expect("a line")
            .argv
            .join(" ")
    };
    assert_eq!(
        lines(Kind::Docker),
        "docker run --name vk-u-c-0 --network=host --log-driver=none --pull=never --entrypoint=sh example.org/a:1 -c echo a b"
    );
    assert_eq!(
        lines(Kind::Podman),
        "podman run --name vk-u-c-0 --network=host --log-driver=none --pull=never --entrypoint=sh example.org/a:1 -c echo a b"
    );
    assert_eq!(
        lines(Kind::PodmanHpc),
        "podman-hpc run --name vk-u-c-0 --network=host --log-driver=none --pull=never --entrypoint=sh example.org/a:1 -c echo a b"
    );
    assert_eq!(
        lines(Kind::Apptainer),
        "apptainer --silent exec --no-eval --no-home --no-mount=cwd --pwd=/ /images/a.sif sh -c echo a b"
    );
    assert_eq!(
        lines(Kind::Singularity),
        "singularity --silent exec --no-eval --no-home --no-mount=cwd --pwd=/ /images/a.sif sh -c echo a b"
    );
    assert_eq!(
        lines(Kind::Shifter),
        "shifter --image=docker:example.org/a:1 -- sh -c echo a b"
    );
    assert_eq!(
        lines(Kind::Charliecloud),
        "ch-run --cd=/ --set-env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --set-env /images/a -- sh -c echo a b"
    );
}

#[test]
fn docker_with_all_that_can_be_asked_for() {
    let invocation = engine(Kind::Docker)
        .run(&full(Kind::Docker))
        .expect("a line");
    assert_eq!(
        show(&invocation),
        r#"docker
run
--name
vk-u-c-0
--network=host
--log-driver=none
--pull=never
--env
LINES
--env
TOKEN
--env-file=/proc/self/fd/3
--mount
type=bind,source=/host/data,target=/data
--mount
type=bind,"source=/host/a,b",target=/etc/conf,readonly
--mount
type=bind,source=/home/u,target=/home/u
--workdir=/job
--user=1000:100
--group-add=7
--read-only
--memory=1048576
--cpu-period=100000
--cpu-quota=150000
--interactive
--gpus="device=0,2"
example.org/a:1
echo a b
[env] PATH="/bin"
[env] LINES="a\nb"
[env] TOKEN="s3cret"
[file] "PATH=/own\n""#
    );
    assert_eq!(
        invocation.exec.wrap(&[], true, false).join(" "),
        "docker exec --interactive vk-u-c-0"
    );
    assert_eq!(
        invocation.teardown[0].join(" "),
        "docker rm --force --volumes vk-u-c-0"
    );
}

#[test]
fn apptainer_with_all_that_can_be_asked_for() {
    let invocation = engine(Kind::Apptainer)
        .run(&full(Kind::Apptainer))
        .expect("a line");
    assert_eq!(
        show(&invocation),
        r#"apptainer
--silent
run
--no-eval
--home=/home/u
--no-mount=cwd
--pwd=/job
--mount
type=bind,source=/host/data,destination=/data
--mount
type=bind,"source=/host/a,b",destination=/etc/conf,ro
--nv
/images/a.sif
echo a b
[env] PATH="/bin"
[env] APPTAINERENV_LINES="a\nb"
[env] APPTAINERENV_PATH="/own"
[env] APPTAINERENV_TOKEN="s3cret""#
    );
    assert!(
        invocation
            .exec
            .before
            .join(" ")
            .starts_with("apptainer --silent exec --no-eval")
    );
}

#[test]
fn shifter_with_all_that_can_be_asked_for() {
    let invocation = engine(Kind::Shifter)
        .run(&full(Kind::Shifter))
        .expect("a line");
    assert_eq!(
        show(&invocation),
        r#"shifter
--image=docker:example.org/a:1
--volume=/host/data:/data
--volume=/host/a,b:/etc/conf:ro
--workdir=/job
--module=gpu
--entrypoint
--
echo a b
[env] LINES="a\nb"
[env] PATH="/own"
[env] TOKEN="s3cret""#
    );
}

#[test]
fn charliecloud_with_all_that_can_be_asked_for() {
    let invocation = engine(Kind::Charliecloud)
        .run(&full(Kind::Charliecloud))
        .expect("a line");
    assert_eq!(
        show(&invocation),
        r#"ch-run
--bind=/host/data:/data
--bind=/host/a,b:/etc/conf
--bind=/home/u:/home/u
--cd=/job
--set-env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
--set-env
--env-no-expand
--set-env=/proc/self/fd/3
/images/a
--
/entry
echo a b
[env] PATH="/bin"
[file] "PATH='/own'\nTOKEN='s3cret'\n""#
    );
}

#[test]
fn the_sites_own_arguments_have_their_places() {
    let mut engine = engine(Kind::Docker);
    engine.global_args = words(&["-H", "unix:///s"]);
    engine.run_args = words(&["--ulimit=core=0"]);
    engine.gpu_args = Some(words(&["--device=/dev/x"]));
    let mut request = plain(Kind::Docker);
    request.gpus = Gpus::Visible;
    let line = engine.run(&request).expect("a line");
    let text = line.argv.join(" ");
    assert!(text.starts_with("docker -H unix:///s run "), "{text}");
    assert!(
        text.contains("--device=/dev/x --ulimit=core=0 --entrypoint=sh"),
        "{text}"
    );
    assert!(
        line.teardown[0]
            .join(" ")
            .starts_with("docker -H unix:///s rm")
    );
}

#[test]
fn what_an_engine_cannot_do_is_said() {
    let mut request = plain(Kind::Shifter);
    request.user = Some((0, None));
    let error = engine(Kind::Shifter)
        .run(&request)
        .expect_err("another user");
    assert!(error.to_string().contains("runAsUser"), "{error}");

    let mut request = plain(Kind::Charliecloud);
    request.command = None;
    let error = engine(Kind::Charliecloud)
        .run(&request)
        .expect_err("no command");
    assert!(
        error.to_string().starts_with("no command specified"),
        "{error}"
    );

    let mut request = plain(Kind::Docker);
    request
        .environment
        .insert("PATH".to_owned(), "a\nb".to_owned());
    let error = engine(Kind::Docker).run(&request).expect_err("two lines");
    assert!(error.to_string().contains("\"PATH\""), "{error}");

    let mut request = plain(Kind::Docker);
    request.image = Image::Sif("/a.sif".to_owned());
    let error = engine(Kind::Docker).run(&request).expect_err("a SIF");
    assert_eq!(
        error.to_string(),
        "docker cannot run a SIF file (images: of the site's profile)"
    );

    let mut request = plain(Kind::Apptainer);
    request.image = Image::Command(words(&["srun", "-n2"]));
    let line = engine(Kind::Apptainer).run(&request).expect("a program");
    assert_eq!(line.argv, ["srun", "-n2", "sh", "-c", "echo a b"]);
}

proptest! {
    #[test]
    fn no_value_of_a_variable_stands_in_argv(
        names in prop::collection::btree_set("[A-Z_]{1,8}", 0..6),
        kind in prop::sample::select(&Kind::ALL[..]),
    ) {
        let mut request = plain(kind);
        request.environment = names.iter().map(|name| (name.clone(), "s3cr3t".to_owned())).collect();
        if let Ok(invocation) = engine(kind).run(&request) {
            for word in invocation.argv.iter().chain(&invocation.exec.before).chain(invocation.teardown.iter().flatten()) {
                prop_assert!(!word.contains("s3cr3t"), "{}", word);
            }
            let given = invocation.env.iter().map(|(_, value)| value.matches("s3cr3t").count()).sum::<usize>()
                + invocation.memory_files.iter().map(|file| file.matches("s3cr3t").count()).sum::<usize>();
            prop_assert_eq!(given, names.len());
        }
    }

    #[test]
    fn paths_come_out_of_csv_as_they_went_in(source in "/[a-z,\"=: ]{0,8}", target in "/[a-z,\"=]{0,8}") {
        let text = mount(&Bind { source: source.clone(), target: target.clone(), read_only: true }, "target", "readonly");
        prop_assert_eq!(csv(&text), vec!["type=bind".to_owned(), format!("source={source}"), format!("target={target}"), "readonly".to_owned()]);
    }
}

/// Fields of a line of CSV (RFC 4180).
fn csv(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}
