//! Where else images come from and go to, besides registries.
//!
//! OCI layout directories ([`oci`]), and root file systems in a tar ([`tarball`]).

pub mod oci;
pub mod tarball;
