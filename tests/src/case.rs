//! What a boot test is: a program, how it is started, and what is compared.

use std::path::PathBuf;
use std::time::Duration;

/// How a source file becomes a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// gcc, dynamic, position-independent: Debian's default.
    Dynamic,
    /// gcc, dynamic, at a fixed address.
    NonPie,
    /// gcc -static.
    Static,
    /// gcc -static-pie.
    StaticPie,
    /// musl-gcc -static.
    MuslStatic,
    /// musl-gcc with musl's dynamic linker.
    MuslDynamic,
    /// g++.
    Cxx,
    /// rustc.
    Rust,
    /// go build, static.
    Go,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A file of `tests/guest`, compiled.
    Source(&'static str, Build),
    /// An installed program.
    Installed(&'static str),
    /// The program of a crate in the registry, `NAME@VERSION`.
    Registry(&'static str),
}

/// What the program reads.
#[derive(Debug, Clone)]
pub enum Stdin {
    /// Nothing: end of file at once.
    Empty,
    /// This text.
    Text(&'static str),
    /// The contents of a file.
    File(fn() -> PathBuf),
}

/// Whether standard error must be the same, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// It must.
    Compare,
    /// It is not looked at.
    Ignore,
}

/// Changes output before it is compared, for lines that must differ (addresses, process ids).
pub type Normalise = fn(&[u8]) -> Vec<u8>;

/// One program with its arguments, run on the host and then on each number of virtual CPUs.
#[derive(Debug, Clone)]
pub struct Case {
    /// `group/what`.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its input.
    pub stdin: Stdin,
    /// Environment beyond the fixed base.
    pub env: Vec<(String, String)>,
    /// `--add` options for `oxv run`.
    pub add: Vec<String>,
    /// `--package` options for `oxv run`.
    pub packages: Vec<&'static str>,
    /// The kind of machine; `None` is oxv's default.
    pub machine: Option<&'static str>,
    /// Memory of the virtual machine; `None` is oxv's default.
    pub memory: Option<&'static str>,
    /// Numbers of virtual CPUs to run with.
    pub cpus: Vec<u32>,
    /// Whether standard error is compared.
    pub stderr: Stderr,
    /// The exit code that the host's run must have (128+n for signal n).
    pub exit: i32,
    /// Applied to both standard outputs.
    pub normalise: Option<Normalise>,
    /// For one run in the guest.
    pub time_limit: Duration,
    /// Runs only when asked for by name or with `--include-ignored`.
    pub slow: bool,
}

impl Case {
    /// A case with everything at its usual value.
    #[must_use]
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        Self {
            name: name.into(),
            program,
            args: Vec::new(),
            stdin: Stdin::Empty,
            env: Vec::new(),
            add: Vec::new(),
            packages: Vec::new(),
            machine: None,
            memory: None,
            cpus: vec![1, 2, 4],
            stderr: Stderr::Ignore,
            exit: 0,
            normalise: None,
            time_limit: Duration::from_secs(90),
            slow: false,
        }
    }

    /// A self-checking C program of `tests/guest`, dynamic.
    #[must_use]
    pub fn c(source: &'static str) -> Self {
        let stem = source.strip_suffix(".c").unwrap_or(source);
        Self::new(format!("c/{stem}"), Program::Source(source, Build::Dynamic))
    }

    /// An installed program.
    #[must_use]
    pub fn installed(name: impl Into<String>, path: &'static str) -> Self {
        Self::new(name, Program::Installed(path))
    }

    /// Sets the kind of machine, and calls the case after it.
    #[must_use]
    pub fn on(mut self, machine: &'static str) -> Self {
        let what = self.name.rsplit('/').next().unwrap_or_default();
        self.name = format!("machine/{machine}/{what}");
        self.machine = Some(machine);
        self
    }

    /// Sets the arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the input to a text.
    #[must_use]
    pub fn stdin(mut self, text: &'static str) -> Self {
        self.stdin = Stdin::Text(text);
        self
    }

    /// Sets the input to a file.
    #[must_use]
    pub fn stdin_file(mut self, file: fn() -> PathBuf) -> Self {
        self.stdin = Stdin::File(file);
        self
    }

    /// Adds to the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds files to the image.
    #[must_use]
    pub fn with_files(mut self, what: impl Into<String>) -> Self {
        self.add.push(what.into());
        self
    }

    /// Adds installed packages to the image.
    #[must_use]
    pub fn packages(mut self, names: &[&'static str]) -> Self {
        self.packages.extend(names);
        self
    }

    /// Sets the guest's memory.
    #[must_use]
    pub fn memory(mut self, size: &'static str) -> Self {
        self.memory = Some(size);
        self
    }

    /// Sets the expected exit code.
    #[must_use]
    pub fn exit(mut self, code: i32) -> Self {
        self.exit = code;
        self
    }

    /// Compares standard error, too.
    #[must_use]
    pub fn with_stderr(mut self) -> Self {
        self.stderr = Stderr::Compare;
        self
    }

    /// Sets the numbers of virtual CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: &[u32]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// Changes both outputs before they are compared.
    #[must_use]
    pub fn normalise(mut self, function: Normalise) -> Self {
        self.normalise = Some(function);
        self
    }

    /// Sets the time limit of a guest run.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.time_limit = Duration::from_secs(seconds);
        self
    }

    /// Marks the case as one to run by name.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}
