//! The command line of `virtual-kubelet`, as the documents' `start.sh` writes it.

use std::ffi::OsString;

use crate::exit::UsageError;

/// The program's name that brings this command line.
pub const NAME: &str = "virtual-kubelet";

/// Whether the program was called by that name.
pub fn is_called(program: Option<&OsString>) -> bool {
    program
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name)
        .is_some_and(|name| name == NAME)
}

/// Writes `--nodename N --provider mock --klog.v 3 …` as a line of `vk-cmd agent` with the documented semantics.
/// `args` are those after the program's name.
///
/// # Errors
/// A flag that is not known, or one without its value.
pub fn translate(args: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    let mut line: Vec<OsString> = ["vk-cmd", "agent", "--compat", "virtual-kubelet-cmd"]
        .map(OsString::from)
        .to_vec();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (flag, joined) = match text.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(OsString::from(value))),
            None => (text.clone(), None),
        };
        let mut value = || joined.clone().or_else(|| args.next());
        let missing = || problem(&flag, "", "has no value", "write it after the flag");
        match flag.as_str() {
            "--help" | "-h" => line.push("--help".into()),
            "--kubeconfig" | "--nodename" | "--provider" => {
                line.push(flag.clone().into());
                line.push(value().ok_or_else(missing)?);
            }
            "--klog.v" | "-v" | "--log-level" => {
                let level = value().ok_or_else(missing)?;
                line.push("--log".into());
                line.push(filter(&level.to_string_lossy())?.into());
            }
            "--disable-taint" => line.push("--no-taint".into()),
            // Capacity is the allocation's; a file that says otherwise is not believed.
            "--provider-config" | "--os" | "--startup-timeout" => {
                value().ok_or_else(missing)?;
            }
            other if other.starts_with("--klog.") => {
                // How the original writes its log; there is one way here.
                if joined.is_none()
                    && !matches!(other, "--klog.logtostderr" | "--klog.alsologtostderr")
                {
                    value().ok_or_else(missing)?;
                }
            }
            other => {
                return Err(problem(
                    other,
                    "",
                    "is no flag of virtual-kubelet that is known here",
                    "known are --kubeconfig, --nodename, --provider, --klog.v, --disable-taint; `vk-cmd agent --help` \
                     has more",
                ));
            }
        }
    }
    Ok(line)
}

/// klog's verbosity as a filter of ours: 0 to 2 for operators, from 4 on for developers.
fn filter(level: &str) -> Result<&'static str, UsageError> {
    match level.parse::<u32>() {
        Ok(0) => Ok("warn"),
        Ok(1..=3) => Ok("warn,vk_cmd=info"),
        Ok(4..=5) => Ok("info,vk_cmd=debug"),
        Ok(_) => Ok("debug,vk_cmd=trace"),
        Err(_) => match level {
            "trace" => Ok("debug,vk_cmd=trace"),
            "debug" => Ok("info,vk_cmd=debug"),
            "info" => Ok("warn,vk_cmd=info"),
            "warning" | "warn" => Ok("warn"),
            "error" | "fatal" | "panic" => Ok("error"),
            _ => Err(problem(
                "--klog.v",
                level,
                "is no verbosity",
                "give a number from 0 to 10",
            )),
        },
    }
}

fn problem(flag: &str, value: &str, problem: &str, mend: &str) -> UsageError {
    UsageError {
        key: flag.to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        origin: "command line of virtual-kubelet".to_owned(),
        mend: mend.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<String, String> {
        let args = text.split_whitespace().map(OsString::from).collect();
        let words = translate(args).map_err(|error| error.to_string())?;
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn the_documented_line() {
        assert_eq!(
            line("--kubeconfig /k --nodename vk --provider mock --klog.v 3").expect("known"),
            "vk-cmd agent --compat virtual-kubelet-cmd --kubeconfig /k --nodename vk --provider mock --log \
             warn,vk_cmd=info"
        );
        assert_eq!(
            line("--nodename=vk --provider-config /x --klog.logtostderr").expect("known"),
            "vk-cmd agent --compat virtual-kubelet-cmd --nodename vk"
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert!(
            line("--nodname x")
                .expect_err("unknown")
                .contains("--nodname")
        );
        assert!(
            line("--nodename")
                .expect_err("no value")
                .contains("has no value")
        );
        assert!(
            line("--klog.v loud")
                .expect_err("no number")
                .contains("loud")
        );
    }
}
