//! Builds images: a [`Tree`] describes what the guest shall see, [`plan`] decides where everything lies,
//! [`Plan::write`] streams the image out.
//!
//! ```
//! use erofs::write::{Attributes, Entry, Options, Tree, plan};
//!
//! let mut tree = Tree::new();
//! tree.insert("/etc/hostname", Entry::bytes("oxv\n", Attributes::file(0o644)))?;
//! let mut image = Vec::new();
//! plan(&tree, &Options::default())?.write(&mut image, &mut |_done, _total| {})?;
//! let image = erofs::Image::new(&image).expect("what was written can be read");
//! assert!(image.root().unwrap().lookup(b"etc").unwrap().is_some());
//! # Ok::<(), erofs::write::WriteError>(())
//! ```
//!
//! The image is a function of the tree, the options and the bytes of the files named: no clock, no random number, no
//! order of a hash table has a part in it. Files are read while the image is written, a piece at a time.
//!
//! # Layout
//! Block 0 has the superblock; inodes follow from right after it; then the blocks of large
//! directories; then the files, each on a block boundary with zeros after its end, so that every page of them can be
//! mapped in place. A file smaller than a block lies inline after its inode when both fit in one block.

mod content;
mod dirs;
mod emit;
mod error;
mod inodes;
mod plan;
mod share;
mod space;
mod tree;
mod xattrs;

pub use error::WriteError;
pub use plan::{Options, Plan, Sharing, plan};
pub use tree::{Attributes, Content, Entry, Node, Tree};
