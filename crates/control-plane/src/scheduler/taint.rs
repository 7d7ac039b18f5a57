//! Taints and tolerations.

use serde_json::Value;

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    fn parse(value: &Value) -> Option<Self> {
        match value.as_str() {
            Some("NoSchedule") => Some(Self::NoSchedule),
            Some("PreferNoSchedule") => Some(Self::PreferNoSchedule),
            Some("NoExecute") => Some(Self::NoExecute),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taint {
    pub(super) key: Box<str>,
    pub(super) value: Box<str>,
    pub(super) effect: Effect,
}

impl Taint {
    /// `None` for an effect that does not exist.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            key: value["key"].as_str().unwrap_or_default().into(),
            value: value["value"].as_str().unwrap_or_default().into(),
            effect: Effect::parse(&value["effect"])?,
        })
    }

    /// The taint that a cordoned node counts as having.
    pub(super) fn unschedulable() -> Self {
        Self {
            key: "node.kubernetes.io/unschedulable".into(),
            value: "".into(),
            effect: Effect::NoSchedule,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Toleration {
    /// Empty: every key, which only an `Exists` may say.
    key: Box<str>,
    /// `None`: every value.
    value: Option<Box<str>>,
    /// `None`: every effect.
    effect: Option<Effect>,
    /// An operator or effect that we do not know tolerates nothing.
    known: bool,
}

impl Toleration {
    pub(super) fn parse(toleration: &Value) -> Self {
        let text =
            |field: &str| -> Box<str> { toleration[field].as_str().unwrap_or_default().into() };
        let (value, known_operator) = match &*text("operator") {
            "" | "Equal" => (Some(text("value")), true),
            "Exists" => (None, true),
            _ => (None, false),
        };
        let effect = Effect::parse(&toleration["effect"]);
        Self {
            key: text("key"),
            value,
            effect,
            known: known_operator && (effect.is_some() || text("effect").is_empty()),
        }
    }

    pub(super) fn tolerates(&self, taint: &Taint) -> bool {
        self.known
            && self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
    }
}

/// Whether one of the tolerations tolerates the taint.
pub(super) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations
        .iter()
        .any(|toleration| toleration.tolerates(taint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        let taint = Taint::parse(&taint).expect("a taint");
        let cases = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "k", "operator": "exists"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "Never"}),
                false,
            ),
        ];
        for (toleration, expected) in cases {
            let parsed = Toleration::parse(&toleration);
            assert_eq!(parsed.tolerates(&taint), expected, "{toleration}");
        }
    }
}
