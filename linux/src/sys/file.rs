//! Files, directories, links: the calls that take a path or a descriptor.
