//! Media types of the OCI image specification, and Docker's older names for the same things.

/// OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Uncompressed layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Gzip-compressed layer.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Zstandard-compressed layer.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Uncompressed layer whose content the image's author may not pass on.
pub const RESTRICTED_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// The same, compressed with gzip.
pub const RESTRICTED_LAYER_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// The same, compressed with Zstandard.
pub const RESTRICTED_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The manifest types we can read, best first, for an HTTP `Accept` header.
pub const MANIFESTS: [&str; 4] = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Whether this is an index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    media_type == INDEX || media_type == DOCKER_INDEX
}

/// Whether this is a manifest of one image.
pub fn is_manifest(media_type: &str) -> bool {
    media_type == MANIFEST || media_type == DOCKER_MANIFEST
}

/// The OCI name of a layer's media type; `None` for a type that is no layer we can read.
pub fn oci_layer(media_type: &str) -> Option<&'static str> {
    match media_type {
        LAYER | "application/vnd.docker.image.rootfs.diff.tar" => Some(LAYER),
        LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(LAYER_GZIP),
        LAYER_ZSTD | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(LAYER_ZSTD),
        RESTRICTED_LAYER | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Some(RESTRICTED_LAYER),
        RESTRICTED_LAYER_GZIP | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            Some(RESTRICTED_LAYER_GZIP)
        }
        RESTRICTED_LAYER_ZSTD | "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd" => {
            Some(RESTRICTED_LAYER_ZSTD)
        }
        _ => None,
    }
}

/// Whether a layer of this type is to be had from the addresses in its descriptor and not passed on:
/// what Docker calls foreign, and OCI non-distributable.
pub fn is_restricted(media_type: &str) -> bool {
    matches!(oci_layer(media_type), Some(RESTRICTED_LAYER | RESTRICTED_LAYER_GZIP | RESTRICTED_LAYER_ZSTD))
}
