//! What comes before the program on a command line: whose it is, and where it begins.

use std::path::Path;
use std::process::Command;

/// Words before the program's, and the user that it runs as.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    words: Vec<String>,
    owner: Option<u32>,
}

impl Before {
    /// Adds a command that ends with becoming what follows.
    pub(crate) fn behind(&mut self, words: &[&str]) {
        self.words
            .extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// Another user, whose group has the same number.
    pub(crate) fn user(&mut self, uid: u32) {
        self.owner = Some(uid);
    }

    /// The other user, where it is one.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// Gives files away to that user.
    pub(crate) fn give(&self, paths: &[&Path]) {
        for path in paths.iter().filter(|_| self.owner.is_some()) {
            std::os::unix::fs::chown(path, self.owner, self.owner).expect("root gives it away");
        }
    }

    /// The program behind all this, without arguments.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut words = self.words.clone();
        if let Some(uid) = self.owner {
            words.push("setpriv".to_owned());
            words.extend([format!("--reuid={uid}"), format!("--regid={uid}")]);
            words.push("--clear-groups".to_owned());
        }
        words.push(program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self.owner.is_some() {
            // That of whoever runs the test.
            command.env_remove("XDG_RUNTIME_DIR");
        }
        command
    }
}
