//! The Containerfile language: text in, instructions with source spans out.
pub mod ast;
