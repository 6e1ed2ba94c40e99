//! The program `cooper`.
fn main() {}
