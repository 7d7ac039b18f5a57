//! Label and field selectors: parsing with the real server's messages, and matching.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

use crate::resource::ResourceDef;
use crate::status::ApiError;
use crate::store::Object;

/// What a list, a watch or a collection delete chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// Parses both selectors of a request.
    ///
    /// # Errors
    /// 400, worded as the real server does.
    pub fn parse(def: &ResourceDef, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: LabelSelector::parse(labels).map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(def, fields).map_err(ApiError::bad_request)?,
        })
    }

    /// Whether everything is chosen.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether a stored object is chosen.
    pub fn matches(&self, object: &Object) -> bool {
        self.labels.matches(&object.attributes.labels) && self.fields.matches(object)
    }
}
