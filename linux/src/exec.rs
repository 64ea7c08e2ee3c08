//! Loading a program: from a path to an address space and the registers of the first thread.
//!
//! `#!` scripts are followed here (as binfmt_script does), then the ELF file and the dynamic linker it names are mapped
//! into a new space, the stack is laid out, and [`Loaded`] says where to begin. Everything that can be wrong with the file
//! is told as an [`ExecError`], which knows the errno, the exit code a shell would give, and the sentence for the user.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use addr::{PAGE_SIZE, VirtAddr, layout};
use arch_x86_64::{TrapFrame, cpu};
use elf::stack::{AuxValues, StackContents, StackImage};
use elf::{ElfError, HEADER_SIZE, Header, Image, Kind, Plan, PlanStep, Protection, script};
use kernel::mm::{Access, AddressSpace, Backing, MapFlags, MapRequest, Name, Placement, Prot, Sharing};
use linux_abi::Errno;
use vfs::running::Running;
use vfs::inode::MapKind;
use vfs::io::SliceSink;
use vfs::ops::Context;
use vfs::walk::Follow;
use vfs::mount::MountMode;
use vfs::{FileKind, Location};

use crate::calls;
use crate::process::{Executable, Ids};
use crate::signal::frame;
use crate::{random, rseq, vdso};

const PAGE: u64 = PAGE_SIZE as u64;
/// Scripts may name scripts; this deep.
const MAX_SCRIPTS: usize = 5;
/// Room for arguments and environment: a quarter of the stack limit, as on Linux.
const MAX_ARGUMENTS: u64 = 2 << 20;
/// Stack mapped from the start; the rest grows on faults.
const INITIAL_STACK: u64 = 128 << 10;
/// Two thirds of the program's half: where Linux puts position-independent programs.
const PIE_BASE: u64 = layout::USER_MAX / 3 * 2;
/// Randomness in pages, as on Linux x86-64: 28 bits for programs and mmap, 22 for the stack, 13 for brk.
const PIE_PAGES: u64 = 1 << 28;
const STACK_PAGES: u64 = 1 << 22;
const BRK_PAGES: u64 = 1 << 13;
/// Kept free below the highest possible stack top for the stack to grow into.
const STACK_ROOM: u64 = 128 << 20;

/// What to start.
pub struct Request {
    /// Path of the file.
    pub path: Vec<u8>,
    /// The file itself, where the path only names it (`fexecve`).
    pub file: Option<Location>,
    /// Arguments; the first is the program's name for itself.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` strings.
    pub envp: Vec<Vec<u8>>,
    /// Who executes it.
    pub ids: Ids,
    /// Whether set-id bits of the file count.
    pub set_id: SetId,
    /// RLIMIT_STACK.
    pub stack_limit: u64,
    /// RLIMIT_AS.
    pub size_limit: u64,
    /// RLIMIT_DATA.
    pub data_limit: u64,
}

/// What set-user-ID and set-group-ID bits of a program do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetId {
    /// They lend it the rights of the file's owner and group.
    Lends,
    /// Nothing (`PR_SET_NO_NEW_PRIVS`).
    Ignored,
}

/// Whose rights a program has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Those of who executes it.
    Own,
    /// Others, or who executes it had others lent already (`AT_SECURE`).
    Lent,
}

/// A loaded program.
pub struct Loaded {
    /// Who it runs as.
    pub ids: Ids,
    /// Whose rights it has.
    pub rights: Rights,
    /// Its address space.
    pub space: Arc<AddressSpace>,
    /// Registers at the first instruction.
    pub frame: TrapFrame,
    /// For `/proc`.
    pub executable: Executable,
    /// Last component of the path: the thread's name.
    pub name: Vec<u8>,
}

/// Why a program cannot be started.
#[derive(Debug)]
pub struct ExecError {
    path: Vec<u8>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// Looking the file up or reading it failed.
    File(Errno),
    /// The file is a directory or a device.
    NotRegular(FileKind),
    /// No execute permission.
    NotExecutable,
    /// The file is no program.
    Elf(ElfError),
    /// The `#!` line is no use.
    Script(script::ScriptError),
    /// Scripts naming scripts without end.
    TooManyScripts,
    /// The interpreter of a program or script is missing.
    Interpreter(Vec<u8>, Errno),
    /// The interpreter is not usable.
    BadInterpreter(Vec<u8>, ElfError),
    /// Arguments and environment are too long.
    TooManyArguments,
    /// Out of memory or of addresses.
    Memory(Errno),
}

impl ExecError {
    fn new(path: &[u8], cause: Cause) -> Self {
        Self { path: path.to_vec(), cause }
    }

    /// What `execve` returns.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match &self.cause {
            Cause::File(e) | Cause::Memory(e) | Cause::Interpreter(_, e) => *e,
            Cause::NotRegular(_) | Cause::NotExecutable => Errno::EACCES,
            Cause::Elf(_) | Cause::Script(_) => Errno::ENOEXEC,
            Cause::BadInterpreter(..) => Errno::ELIBBAD,
            Cause::TooManyScripts => Errno::ELOOP,
            Cause::TooManyArguments => Errno::E2BIG,
        }
    }

    /// The exit code a shell gives: 127 for "not found", 126 for "found but cannot be started".
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match &self.cause {
            Cause::File(Errno::ENOENT | Errno::ENOTDIR) => 127,
            Cause::Memory(_) => 125,
            _ => 126,
        }
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start {}: ", String::from_utf8_lossy(&self.path))?;
        match &self.cause {
            Cause::File(Errno::ENOENT | Errno::ENOTDIR) => {
                f.write_str("there is no such file in the image; check the path, or add the file with --add")
            }
            Cause::File(Errno::EACCES) => f.write_str("a directory on its path may not be searched; check its permissions"),
            Cause::File(e) => write!(f, "it cannot be read ({e}); the image may be damaged"),
            Cause::NotRegular(FileKind::Directory) => f.write_str("it is a directory; name a program"),
            Cause::NotRegular(_) => f.write_str("it is not a regular file; name a program"),
            Cause::NotExecutable => f.write_str("it is not executable; set its x permission (chmod +x)"),
            Cause::Elf(e) => write!(f, "{e}"),
            Cause::Script(script::ScriptError::NoInterpreter) => f.write_str("its #! line names no interpreter; correct its first line"),
            Cause::Script(script::ScriptError::LineTooLong) => f.write_str("its #! line is longer than 255 bytes; shorten it"),
            Cause::TooManyScripts => write!(f, "its #! lines lead through more than {MAX_SCRIPTS} scripts; name a program there"),
            Cause::Interpreter(i, Errno::ENOENT) => write!(
                f,
                "its interpreter {} is not in the image; install it on the host or add it with --add",
                String::from_utf8_lossy(i)
            ),
            Cause::Interpreter(i, e) => write!(f, "its interpreter {} cannot be opened ({e})", String::from_utf8_lossy(i)),
            Cause::BadInterpreter(i, e) => write!(f, "its interpreter {} is no use: {e}", String::from_utf8_lossy(i)),
            Cause::TooManyArguments => f.write_str("its arguments and environment are too long; shorten them"),
            Cause::Memory(_) => f.write_str("there is not enough memory for it; give the machine more with --memory"),
        }
    }
}

impl core::error::Error for ExecError {}

/// Reads up to `buffer.len()` bytes at `offset`.
fn read_at(file: &Location, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut sink = SliceSink::new(buffer);
    let mut done = 0;
    loop {
        match file.inode().read_at(offset + done as u64, &mut sink)? {
            0 => return Ok(done),
            n => done += n,
        }
    }
}

/// The file at `path`, if it may be executed.
fn find(context: &Context<'_>, cwd: &Location, path: &[u8]) -> Result<Location, Cause> {
    check(context, context.lookup(cwd, path, Follow::Yes).map_err(Cause::File)?)
}

/// Who a program of `file` runs as (execve(2)).
fn ids_in(file: &Location, ids: &Ids, set_id: SetId) -> Ids {
    const SET_UID: u16 = 0o4000;
    const SET_GID: u16 = 0o2000;
    const GROUP_EXECUTE: u16 = 0o0010;
    let mut ids = ids.clone();
    let owner = file.inode().permissions();
    let lends = set_id == SetId::Lends && !file.mount().mode().contains(MountMode::NO_SET_ID);
    if lends && owner.mode & SET_UID != 0 {
        ids.euid = owner.uid;
    }
    if lends && owner.mode & SET_GID != 0 && owner.mode & GROUP_EXECUTE != 0 {
        ids.egid = owner.gid;
    }
    (ids.suid, ids.fsuid) = (ids.euid, ids.euid);
    (ids.sgid, ids.fsgid) = (ids.egid, ids.egid);
    ids
}

fn check(context: &Context<'_>, file: Location) -> Result<Location, Cause> {
    match file.inode().kind() {
        FileKind::Regular => {}
        other => return Err(Cause::NotRegular(other)),
    }
    file.require_executable().and_then(|()| context.check(&file, vfs::Access::EXECUTE)).map_err(|_| Cause::NotExecutable)?;
    Ok(file)
}

/// Follows `#!` lines: the file that is really a program, with the arguments it gets.
fn resolve(context: &Context<'_>, cwd: &Location, request: &mut Request) -> Result<(Location, Running), ExecError> {
    for depth in 0..=MAX_SCRIPTS {
        let path = request.path.clone();
        let fail = |cause| ExecError::new(&path, cause);
        let found = match request.file.take() {
            Some(file) => check(context, file),
            None => find(context, cwd, &path),
        };
        let file = found.map_err(|cause| match (depth, cause) {
            (1.., Cause::File(e)) => fail(Cause::Interpreter(path.clone(), e)),
            (_, cause) => fail(cause),
        })?;
        let running = Running::new(file.inode().clone()).map_err(|e| fail(Cause::File(e)))?;
        let mut start = [0; script::MAX_LINE];
        let len = read_at(&file, 0, &mut start).map_err(|e| fail(Cause::File(e)))?;
        let Some(line) = script::parse(&start[..len]) else { return Ok((file, running)) };
        let line = line.map_err(|e| fail(Cause::Script(e)))?;
        // The script's own name takes the place of argv[0].
        let mut argv = alloc::vec![line.interpreter.to_vec()];
        argv.extend(line.argument.map(<[u8]>::to_vec));
        argv.push(path.clone());
        argv.extend(request.argv.drain(..).skip(1));
        request.argv = argv;
        request.path = line.interpreter.to_vec();
    }
    Err(ExecError::new(&request.path, Cause::TooManyScripts))
}

/// An ELF file that has been looked at.
struct Opened {
    file: Location,
    image: Image,
}

/// A dynamic linker, to which nobody writes as long as it is being loaded.
struct Interpreter {
    elf: Opened,
    _running: Running,
}

/// What went wrong with an ELF file: its contents, or reading it.
enum OpenError {
    Elf(ElfError),
    Io(Errno),
}

impl From<ElfError> for OpenError {
    fn from(e: ElfError) -> Self {
        Self::Elf(e)
    }
}

impl From<Errno> for OpenError {
    fn from(e: Errno) -> Self {
        Self::Io(e)
    }
}

fn open_elf(file: Location) -> Result<Opened, OpenError> {
    let mut start = [0; HEADER_SIZE];
    let len = read_at(&file, 0, &mut start)?;
    let header = Header::parse(&start[..len])?;
    let mut table = alloc::vec![0; header.phdrs_len()];
    let len = read_at(&file, header.phoff, &mut table)?;
    let image = Image::parse(&header, &table[..len], file.inode().metadata().size)?;
    Ok(Opened { file, image })
}

fn prot(p: Protection) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, p.read);
    prot.set(Prot::WRITE, p.write);
    prot.set(Prot::EXEC, p.execute);
    prot
}

/// Writes into a space that need not be the current one.
///
/// # Errors
/// `EFAULT`, `ENOMEM`.
pub(crate) fn write_to(space: &AddressSpace, mut at: VirtAddr, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = bytes.len().min(PAGE_SIZE - at.page_offset());
        let frame = space.frame_at(at, Access::Write).map_err(|e| e.to_errno())?;
        frame.write(at.page_offset(), &bytes[..n]);
        bytes = &bytes[n..];
        at = at + n as u64;
    }
    Ok(())
}

fn run_step(space: &AddressSpace, opened: &Opened, name: &Name, step: PlanStep) -> Result<(), Errno> {
    match step {
        PlanStep::MapFile { address, len, offset, protection } => {
            let object = opened.file.inode().clone().mappable(MapKind::Private).ok_or(Errno::ENOEXEC)?;
            let backing = Backing::File { object, offset, sharing: Sharing::Private };
            let request = MapRequest {
                hint: VirtAddr(address),
                len,
                prot: prot(protection),
                placement: Placement::Fixed,
                backing,
                flags: MapFlags::empty(),
                name: Some(name.clone()),
            };
            space.map(request).map(drop)
        }
        PlanStep::MapZero { address, len, protection } => {
            space.map(MapRequest::anonymous(len, prot(protection)).fixed_at(VirtAddr(address))).map(drop)
        }
        PlanStep::Zero { address, len } => write_to(space, VirtAddr(address), &alloc::vec![0; len as usize]),
    }
}

/// Where the image goes: `wanted`, or anywhere if that is `None`. Returns the bias.
fn choose_bias(space: &AddressSpace, image: &Image, wanted: Option<u64>) -> Result<u64, Errno> {
    if image.kind == Kind::Fixed {
        return Ok(0);
    }
    let span = image.span();
    let (len, align) = (span.end - span.start, image.align());
    if let Some(at) = wanted {
        return Ok((at & !(align - 1)).wrapping_sub(span.start & !(align - 1)));
    }
    // Found by mapping, then given up again: nothing else maps anything into a space that is being made.
    let found = space.map(MapRequest::anonymous(len + align - PAGE, Prot::empty()))?;
    space.unmap(found, len + align - PAGE)?;
    Ok(found.align_up(align).0.wrapping_sub(span.start & !(align - 1)))
}

fn load_image(space: &AddressSpace, opened: &Opened, root: &Location, wanted: Option<u64>) -> Result<(u64, Plan), Errno> {
    let bias = choose_bias(space, &opened.image, wanted)?;
    let plan = opened.image.plan(bias);
    let name = Name::from(opened.file.path_from(root));
    for &step in &plan.steps {
        run_step(space, opened, &name, step)?;
    }
    Ok((bias, plan))
}

fn random_pages(below: u64) -> u64 {
    random::next_u64() % below * PAGE
}

/// CPUID.1 EDX, which AT_HWCAP is on x86.
fn hwcap() -> u64 {
    u64::from(core::arch::x86_64::__cpuid(1).edx)
}

fn interpreter_path(opened: &Opened) -> Result<Option<Vec<u8>>, OpenError> {
    let Some(range) = opened.image.interpreter.clone() else { return Ok(None) };
    let mut path = alloc::vec![0; (range.end - range.start) as usize];
    let len = read_at(&opened.file, range.start, &mut path)?;
    if len != path.len() || path.pop() != Some(0) || path.is_empty() || path.contains(&0) {
        return Err(ElfError::BadInterpreter.into());
    }
    Ok(Some(path))
}

/// Finds, checks and loads a program.
///
/// # Errors
/// [`ExecError`].
pub fn load(context: &Context<'_>, cwd: &Location, mut request: Request) -> Result<Loaded, ExecError> {
    let first_path = request.path.clone();
    let (file, running) = resolve(context, cwd, &mut request)?;
    let ids = ids_in(&file, &request.ids, request.set_id);
    let changed = ids.euid != request.ids.euid || ids.egid != request.ids.egid;
    let lent = changed || ids.euid != ids.ruid || ids.egid != ids.rgid;
    let rights = if lent { Rights::Lent } else { Rights::Own };
    request.ids = ids;
    let path = request.path.clone();
    let fail = |cause| ExecError::new(&path, cause);
    let program = open_elf(file).map_err(|e| fail(program_cause(e)))?;
    let interpreter = match interpreter_path(&program).map_err(|e| fail(program_cause(e)))? {
        Some(name) => Some(open_interpreter(context, cwd, name).map_err(fail)?),
        None => None,
    };
    let memory = |e| fail(Cause::Memory(e));
    let space = AddressSpace::new().map_err(memory)?;
    calls::prepare(&space);
    let mut loaded = place(&space, context, &program, interpreter.as_ref(), &request, rights).map_err(|e| match e {
        Errno::E2BIG => fail(Cause::TooManyArguments),
        e => memory(e),
    })?;
    loaded.executable.running = Some(Arc::new(running));
    loaded.name = first_path.rsplit(|&b| b == b'/').next().unwrap_or_default().to_vec();
    Ok(loaded)
}

fn program_cause(error: OpenError) -> Cause {
    match error {
        OpenError::Elf(e) => Cause::Elf(e),
        OpenError::Io(e) => Cause::File(e),
    }
}

fn open_interpreter(context: &Context<'_>, cwd: &Location, name: Vec<u8>) -> Result<Interpreter, Cause> {
    let file = match find(context, cwd, &name) {
        Ok(file) => file,
        Err(Cause::File(e)) => return Err(Cause::Interpreter(name, e)),
        Err(_) => return Err(Cause::Interpreter(name, Errno::EACCES)),
    };
    let running = match Running::new(file.inode().clone()) {
        Ok(running) => running,
        Err(e) => return Err(Cause::Interpreter(name, e)),
    };
    let elf = open_elf(file).map_err(|e| match e {
        OpenError::Elf(e) => Cause::BadInterpreter(name, e),
        OpenError::Io(e) => Cause::Interpreter(name, e),
    })?;
    Ok(Interpreter { elf, _running: running })
}

/// Maps everything into `space` and builds the registers.
fn place(
    space: &Arc<AddressSpace>,
    context: &Context<'_>,
    program: &Opened,
    interpreter: Option<&Interpreter>,
    request: &Request,
    rights: Rights,
) -> Result<Loaded, Errno> {
    let root = context.viewer.root;
    let stack_top = layout::USER_MAX - random_pages(STACK_PAGES);
    let highest_mmap = layout::USER_MAX - STACK_PAGES * PAGE - STACK_ROOM;
    space.set_mmap_base(VirtAddr(highest_mmap - random_pages(PIE_PAGES)));
    space.set_stack_limit(request.stack_limit);
    space.set_size_limit(request.size_limit);
    space.set_data_limit(request.data_limit);
    let (_, plan) = load_image(space, program, root, Some(PIE_BASE + random_pages(PIE_PAGES)))?;
    space.set_brk_start(VirtAddr(plan.end + random_pages(BRK_PAGES)));
    let (base, entry) = match interpreter {
        Some(interpreter) => {
            let (bias, interpreter_plan) = load_image(space, &interpreter.elf, root, None)?;
            (bias, interpreter_plan.entry)
        }
        None => (0, plan.entry),
    };
    let aux = AuxValues {
        vdso: vdso::map(space)?.0,
        minsigstksz: frame::min_stack_size(),
        rseq_feature_size: rseq::FEATURE_SIZE,
        rseq_align: rseq::ALIGNMENT,
        hwcap: hwcap(),
        hwcap2: if cpu::has_fsgsbase() { 2 } else { 0 },
        phdr: plan.phdr,
        phnum: u64::from(program.image.phnum),
        base,
        entry: plan.entry,
        uid: request.ids.ruid,
        euid: request.ids.euid,
        gid: request.ids.rgid,
        egid: request.ids.egid,
        secure: u64::from(rights == Rights::Lent),
    };
    let stack = build_stack(space, stack_top, program.image.executable_stack, request, aux)?;
    let auxv = stack.bytes[(stack.auxv_start - stack.pointer) as usize..][..stack.auxv_len as usize].to_vec();
    let executable = Executable {
        location: Some(program.file.clone()),
        running: None,
        args: (stack.arg_start, stack.arg_end),
        env: (stack.arg_end, stack.env_end),
        auxv,
        stack_start: stack.pointer,
    };
    let frame = TrapFrame { rip: entry, rsp: stack.pointer, ..TrapFrame::new() };
    Ok(Loaded { ids: request.ids.clone(), rights, space: space.clone(), frame, executable, name: Vec::new() })
}

fn build_stack(
    space: &AddressSpace,
    top: u64,
    executable: bool,
    request: &Request,
    aux: AuxValues,
) -> Result<StackImage, Errno> {
    let mut random_bytes = [0; 16];
    random::fill(&mut random_bytes);
    let contents =
        StackContents { argv: &request.argv, envp: &request.envp, execfn: &request.path, random: random_bytes, aux };
    // The low bits of the stack pointer are random, too, in steps that keep it aligned.
    let shifted_top = top - random::next_u64() % 512 * 16;
    let limit = MAX_ARGUMENTS.min(request.stack_limit / 4);
    let image = StackImage::build(shifted_top, limit, &contents).map_err(|_| Errno::E2BIG)?;
    let len = (top - image.pointer + INITIAL_STACK).next_multiple_of(PAGE);
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, executable);
    let mut request = MapRequest::anonymous(len, prot).fixed_at(VirtAddr(top - len)).named(b"[stack]");
    request.flags = MapFlags::GROWS_DOWN;
    space.map(request)?;
    write_to(space, VirtAddr(image.pointer), &image.bytes)?;
    Ok(image)
}
