//! Registries: pulling and pushing images by the OCI distribution protocol, anonymously.
//!
//! [`config`] decides where a name leads, from `registries.conf`; [`client`] does one exchange of the
//! protocol at a time; [`mod@pull`] and [`mod@push`] move whole images between a registry and the store.
//! [`web`] lends the connections to those who want a file of any other server.
//! Nothing a registry says is believed: documents are capped in size and hashed, layers go through
//! [`crate::store::Store::receive_blob`], which keeps what has the announced size and digest only.
//!
//! There is no asynchronous runtime. A few threads move layers side by side, and all of them are gone
//! when a function returns: the caller may have to be single-threaded afterwards.
//!
//! Not here yet: credentials, retries, resumed and chunked transfers. Their places are
//! `auth::fetch_token` and `Client::call`.

mod auth;
pub mod client;
pub mod config;
pub mod contents;
pub mod document;
pub mod error;
mod files;
mod http;
mod proxy;
pub mod pull;
pub mod push;
mod roots;
mod url;
pub mod web;
mod workers;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use config::{ConfigError, Endpoint, Registries, Security};
pub use contents::{Contents, ContentsError};
pub use document::{Document, DocumentError, Layer, Pulled};
pub use error::{ConnectionError, RegistryError};
pub use pull::{PullObserver, Resolved, fetch_layers, in_store, pull, resolve};
pub use push::{PushObserver, push};
pub use web::{Web, WebAnswer, WebError};
