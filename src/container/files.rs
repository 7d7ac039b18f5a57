//! File operations that no planted symlink can redirect.
