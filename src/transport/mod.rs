//! Where else images come from and go to, besides registries.
//!
//! So far OCI layout directories ([`oci`]).

pub mod oci;
