//! Guest and scenario tests: they boot the kernel with real programs.
