use std::sync::{Arc, Mutex};

use crate::auth::User;

/// What to do with fields that a kind does not have, and with fields that stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them, and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Warnings for the client of a request: `Warning: 299` headers. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds a warning. The same one is sent once.
    pub fn add(&self, warning: String) {
        let mut warnings = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Takes the warnings.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// Who writes, and how.
#[derive(Debug)]
pub struct Context {
    /// Who asks.
    pub user: Arc<User>,
    /// Do everything but the write.
    pub dry_run: bool,
    /// The name under which managed fields are recorded.
    pub field_manager: String,
    /// What to do with unknown and doubled fields.
    pub field_validation: FieldValidation,
    /// An apply wrote the managed fields itself.
    applies: bool,
    warnings: Warnings,
}

impl Context {
    /// A request of `user`.
    pub fn new(user: Arc<User>) -> Self {
        Self {
            user,
            dry_run: false,
            field_manager: String::new(),
            field_validation: FieldValidation::default(),
            applies: false,
            warnings: Warnings::default(),
        }
    }

    /// The same, with warnings collected in `warnings`.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Warnings) -> Self {
        self.warnings = warnings;
        self
    }

    /// A request of a part of this control plane, for example `system:kube-scheduler`; it may do
    /// everything. Its managed fields go under the name without `system:`.
    pub fn system(name: &str) -> Self {
        Self {
            field_manager: name.rsplit(':').next().unwrap_or(name).to_owned(),
            ..Self::new(Arc::new(User::system(name)))
        }
    }

    /// Adds a warning for the client.
    pub fn warn(&self, warning: impl Into<String>) {
        self.warnings.add(warning.into());
    }

    /// Whether managed fields are recorded: parts of this control plane that name no manager
    /// leave no trace.
    pub(super) fn tracks_fields(&self) -> bool {
        !self.field_manager.is_empty() && !self.applies
    }

    /// The same request in the middle of a server-side apply, which records managed fields itself.
    pub(super) fn for_apply(&self) -> Self {
        Self {
            user: self.user.clone(),
            dry_run: self.dry_run,
            field_manager: self.field_manager.clone(),
            field_validation: self.field_validation,
            applies: true,
            warnings: self.warnings.clone(),
        }
    }
}
