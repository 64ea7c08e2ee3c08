//! Nothing: this package only names others (see its Cargo.toml).
