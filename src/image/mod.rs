//! The types an image is made of: digests, references, platforms, configuration, manifests.
//!
//! Pure data; nothing here reads a file or opens a connection. Descriptor, manifest and index are
//! those of the `oci-spec` crate; the configuration is our own (see [`config`] for why).

pub mod config;
pub mod digest;
pub mod media;
pub mod platform;
pub mod reference;

pub use config::{HealthcheckConfig, History, ImageConfig, RootFs, RuntimeConfig};
pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher};
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
pub use platform::Platform;
pub use reference::{ImageName, Reference, ReferenceError};
