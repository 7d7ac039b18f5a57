//! Lines as the reader's shell sees them.

use super::{ANSWER_VERB, DIR_VARIABLE};

/// What our own lines begin with: a no-op to a shell, and a mark to `hostpipe serve`.
pub const MARK: &str = ": vk-cmd;";
/// `PIPE_BUF` of Linux (pipe(7)): writes up to this size do not mix with those of others.
pub const MAX_LINE: usize = 4096;

/// The line that has the host answer the call `id` (letters and digits alone). `program` is the program's name in
/// the private directory.
///
/// A complaint of the shell (no such program, not executable) ends in a file beside the call's socket.
pub fn call(id: &str, program: &str, private: &str) -> String {
    let dir = format!("\"${{{DIR_VARIABLE}:-$HOME/hostpipe}}\"");
    format!(
        "{MARK} ( exec {dir}/{private}/{program} {ANSWER_VERB} {dir} {id} ) </dev/null >/dev/null \
         2>{dir}/{private}/s/{id}.err &\n"
    )
}

/// The command in the documented one-liner `echo 'CMD' > …/hostpipe/vk-cmd`; `None` where a line is anything else.
///
/// Knows the two kinds of quotes, escapes outside of them, and words without any; anything that a shell would work
/// out (variables, substitutions, globs, a second command) makes it a line that is run as it stands.
pub fn one_liner(line: &str) -> Option<String> {
    let words = words(line)?;
    let (echo, rest) = words.split_first()?;
    if *echo != Word::Plain("echo".to_owned()) {
        return None;
    }
    let (target, rest) = rest.split_last()?;
    let (arrow, command) = rest.split_last()?;
    if *arrow != Word::Redirect {
        return None;
    }
    let Word::Plain(target) = target else {
        return None;
    };
    if !target.ends_with("/hostpipe/vk-cmd") {
        return None;
    }
    let texts: Option<Vec<&str>> = command
        .iter()
        .map(|word| match word {
            Word::Plain(text) => Some(text.as_str()),
            Word::Redirect => None,
        })
        .collect();
    let command = texts?.join(" ");
    let command = command.trim();
    // An option of echo's is not a command.
    (!command.is_empty() && !command.starts_with('-')).then(|| command.to_owned())
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Plain(String),
    Redirect,
}

/// Splits a line into words; `None` where the shell would do more than split.
fn words(line: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' => words.extend(word.take().map(Word::Plain)),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '"' => break,
                        '\\' => match letters.next()? {
                            letter @ ('"' | '\\' | '$' | '`') => word.push(letter),
                            letter => word.extend(['\\', letter]),
                        },
                        '$' | '`' => return None,
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(letters.next()?),
            '>' => {
                // `2>file` redirects something else, `>>file` is as good as `>` for a FIFO.
                if word.is_some() {
                    return None;
                }
                letters.next_if_eq(&'>');
                words.push(Word::Redirect);
            }
            // The home of the target is all the same: only its end counts.
            '$' | '{' | '}' if words.last() == Some(&Word::Redirect) => {
                word.get_or_insert_default().push(letter);
            }
            '$' | '`' | ';' | '&' | '|' | '<' | '(' | ')' | '*' | '?' | '[' | '#' | '\n' => {
                return None;
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word.map(Word::Plain));
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_rows() {
        for (line, command) in [
            (
                "echo 'docker run godlovedc/lolcow:latest' > /root/hostpipe/vk-cmd",
                "docker run godlovedc/lolcow:latest",
            ),
            (
                "echo 'apptainer run docker://sylabsio/lolcow:latest' > $HOME/hostpipe/vk-cmd",
                "apptainer run docker://sylabsio/lolcow:latest",
            ),
            (
                "echo 'shifter --image=godlovedc/lolcow:latest --entrypoint' > ${HOME}/hostpipe/vk-cmd",
                "shifter --image=godlovedc/lolcow:latest --entrypoint",
            ),
            ("echo \"exit 7\" >~/hostpipe/vk-cmd", "exit 7"),
            ("echo date -u >> /x/hostpipe/vk-cmd", "date -u"),
            ("echo 'a' \"b\\\"\" c\\ d > /x/hostpipe/vk-cmd", "a b\" c d"),
        ] {
            assert_eq!(one_liner(line).as_deref(), Some(command), "{line}");
        }
    }

    #[test]
    fn other_lines_stay_what_they_are() {
        for line in [
            "",
            "echo 'date'",
            "echo 'date' > /tmp/out",
            "echo 'date' > /x/hostpipe/vk-cmd; date",
            "echo \"$CMD\" > /x/hostpipe/vk-cmd",
            "echo $CMD > /x/hostpipe/vk-cmd",
            "echo 'date > /x/hostpipe/vk-cmd",
            "printf 'date' > /x/hostpipe/vk-cmd",
            "echo 'date' 2> /x/hostpipe/vk-cmd",
            "echo -n > /x/hostpipe/vk-cmd",
            "echo > /x/hostpipe/vk-cmd",
            "> /x/hostpipe/vk-cmd",
            "echo a > b > /x/hostpipe/vk-cmd",
        ] {
            assert_eq!(one_liner(line), None, "{line}");
        }
    }

    #[test]
    fn a_call_is_one_short_line_that_says_nothing_of_what_it_is_for() {
        let line = call("0123456789abcdef", "vk-cmd-0.1.0-0123456789abcdef", ".vk");
        assert!(line.len() < 512, "{}", line.len());
        assert!(line.starts_with(MARK) && line.ends_with("&\n"));
        assert_eq!(line.matches('\n').count(), 1);
    }

    proptest! {
        #[test]
        fn what_single_quotes_hold_comes_out_whole(command in "[ -&(-~]{1,60}") {
            let line = format!("echo '{command}' > /root/hostpipe/vk-cmd");
            let wanted = command.trim();
            let wanted = (!wanted.is_empty() && !wanted.starts_with('-')).then_some(wanted);
            let found = one_liner(&line);
            prop_assert_eq!(found.as_deref(), wanted);
        }

        #[test]
        fn no_line_is_a_panic(line in ".{0,80}") {
            let _ = one_liner(&line);
        }
    }
}
