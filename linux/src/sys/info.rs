//! The system and the caller: names, limits, usage, identities.
