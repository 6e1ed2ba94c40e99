//! cooper builds container images with no daemon and no root.
#![forbid(unsafe_code)]

pub mod build;
pub mod check;
pub mod cli;
pub mod context;
pub mod dockerfile;
pub mod image;
pub mod layer;
pub mod plan;
pub mod progress;
#[cfg(test)]
mod readme;
pub mod registry;
pub mod rootfs;
pub mod store;
pub mod transport;
