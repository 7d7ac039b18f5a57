//! Everyday work with the real kubectl.
