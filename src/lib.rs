//! cooper builds container images with no daemon and no root.
#![forbid(unsafe_code)]

pub mod dockerfile;
pub mod image;
pub mod plan;
pub mod store;
