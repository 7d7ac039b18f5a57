//! At most one start per attempt.
