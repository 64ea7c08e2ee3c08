//! The only place that turns a program's addresses into memory.
//!
//! **EFAULT policy.** The program shares the kernel's address space and privilege, so an address is checked for one thing,
//! that it lies in the program's half ([`addr::layout::USER_MAX`]), and then touched through the fault-safe accessors of
//! [`arch_x86_64::user`]. A fault that the address space cannot serve ends the copy: transfers of data stop short and
//! report what they moved, `EFAULT` when that is nothing; structures are all or nothing. No access panics. The accessors may sleep
//! (demand paging): call them with no lock held that the fault path takes.
//!
//! Key types: [`UserPtr`] for one value or array, [`UserSlice`] and [`UserIovecs`] for data
//! ([`vfs::io::Source`]/[`Sink`]), [`UserMemory`] for `ioctl`.

#![expect(unsafe_code, reason = "the accessors of program memory take raw addresses")]

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};

use addr::layout;
use arch_x86_64::user::{self, StringEnd};
use arch_x86_64::{TrapFrame, fpu, user_state};
use linux_abi::Errno;
use linux_abi::fs::{IOV_MAX, Iovec, MAX_RW_COUNT, PATH_MAX, Stat};
use vfs::io::{ArgMemory, Sink, Source};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::ctx::FromRegister;

/// Copies `buffer.len()` bytes in; returns how many were copied before the first bad page.
fn copy_in_partial(address: u64, buffer: &mut [u8]) -> usize {
    let len = clamp(address, buffer.len());
    // SAFETY: `clamp` keeps the range inside the program's half; the accessor survives unmapped pages.
    match unsafe { user::copy_in(buffer.as_mut_ptr(), address as *const u8, len) } {
        Ok(()) => len,
        Err(left) => len - left,
    }
}

/// Copies `data` out; returns how many bytes were copied before the first bad page.
fn copy_out_partial(address: u64, data: &[u8]) -> usize {
    let len = clamp(address, data.len());
    // SAFETY: `clamp` keeps the range inside the program's half; the accessor survives unmapped and read-only pages.
    match unsafe { user::copy_out(address as *mut u8, data.as_ptr(), len) } {
        Ok(()) => len,
        Err(left) => len - left,
    }
}

/// Bytes of `address..address + len` that lie in the program's half.
fn clamp(address: u64, len: usize) -> usize {
    layout::USER_MAX.saturating_sub(address).min(len as u64) as usize
}

/// Copies exactly `buffer.len()` bytes from the program.
///
/// # Errors
/// `EFAULT`.
pub fn copy_in(address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    if copy_in_partial(address, buffer) == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies all of `data` to the program.
///
/// # Errors
/// `EFAULT`.
pub fn copy_out(address: u64, data: &[u8]) -> Result<(), Errno> {
    if copy_out_partial(address, data) == data.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Stores the extended state of a signal frame; see [`user_state::save`].
///
/// # Errors
/// `EFAULT`.
pub(crate) fn save_state(address: u64, frame: &TrapFrame, note: [u64; 3], end: u32) -> Result<(), Errno> {
    check_state(address, size_of::<u32>())?;
    // SAFETY: the area and what follows it lie in the program's half, and it is aligned.
    unsafe { user_state::save(address, frame, note, end) }.map_err(|_| Errno::EFAULT)
}

/// Loads the extended state of a signal frame; see [`user_state::load`].
///
/// # Errors
/// `EFAULT`.
pub(crate) fn load_state(address: u64, frame: &mut TrapFrame) -> Result<(), Errno> {
    check_state(address, 0)?;
    // SAFETY: the area lies in the program's half; the system call has nothing in the registers.
    unsafe { user_state::load(address, frame) }.map_err(|_| Errno::EFAULT)
}

/// Whether an area of extended state, and `more` bytes behind it, may be at `address`.
fn check_state(address: u64, more: usize) -> Result<(), Errno> {
    let last = layout::USER_MAX - (fpu::xsave_size() + more) as u64;
    if address <= last && address.is_multiple_of(user_state::ALIGN) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// A pointer of the program to a `T`, or to the first of several.
pub struct UserPtr<T> {
    address: u64,
    target: PhantomData<*mut T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

impl<T> FromRegister for UserPtr<T> {
    fn from_register(value: u64) -> Self {
        Self::new(value)
    }
}

impl<T> UserPtr<T> {
    /// A pointer to `address`, which may be anything.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self { address, target: PhantomData }
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Whether this is a null pointer.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// `None` for a null pointer: optional arguments.
    #[must_use]
    pub fn non_null(self) -> Option<Self> {
        (self.address != 0).then_some(self)
    }

    /// The same address with another type.
    #[must_use]
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.address)
    }

    /// The element `index` places further on (negative indexes wrap, as in C).
    #[must_use]
    pub const fn add(self, index: usize) -> Self {
        Self::new(self.address.wrapping_add((index.wrapping_mul(size_of::<T>())) as u64))
    }
}

impl<T: FromBytes + IntoBytes> UserPtr<T> {
    /// Reads the value.
    ///
    /// # Errors
    /// `EFAULT`.
    #[inline]
    pub fn read(self) -> Result<T, Errno> {
        let mut value = MaybeUninit::<T>::uninit();
        if self.address > layout::USER_MAX - size_of::<T>() as u64 {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the range lies in the program's half; the accessor survives unmapped pages.
        let copied = unsafe { user::copy_in(value.as_mut_ptr().cast(), self.address as *const u8, size_of::<T>()) };
        // SAFETY: all of it was copied, and any bytes are a `T`.
        copied.map(|()| unsafe { value.assume_init() }).map_err(|_| Errno::EFAULT)
    }

    /// Reads `count` values.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn read_vec(self, count: usize) -> Result<Vec<T>, Errno> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        values.resize_with(count, T::new_zeroed);
        copy_in(self.address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Writes `value`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write(self, value: &T) -> Result<(), Errno> {
        copy_out(self.address, value.as_bytes())
    }

    /// Writes `value` unless the pointer is null.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_optional(self, value: &T) -> Result<(), Errno> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }

    /// Writes all of `values` from here on.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_slice(self, values: &[T]) -> Result<(), Errno> {
        copy_out(self.address, values.as_bytes())
    }
}

impl UserPtr<u32> {
    /// Reads the aligned word atomically.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` when it is not aligned.
    pub fn load(self) -> Result<u32, Errno> {
        self.check_word()?;
        // SAFETY: the address is aligned and in the program's half; the accessor survives unmapped pages.
        unsafe { user::load_u32(self.address as *const u32) }.map_err(|_| Errno::EFAULT)
    }

    /// Writes the aligned word atomically.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` when it is not aligned.
    pub fn store(self, value: u32) -> Result<(), Errno> {
        self.check_word()?;
        // SAFETY: as in `load`.
        unsafe { user::store_u32(self.address as *mut u32, value) }.map_err(|_| Errno::EFAULT)
    }

    /// Replaces `old` by `new` atomically; returns the value found.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` when it is not aligned.
    pub fn compare_exchange(self, old: u32, new: u32) -> Result<u32, Errno> {
        self.check_word()?;
        // SAFETY: as in `load`.
        unsafe { user::cmpxchg_u32(self.address as *mut u32, old, new) }.map_err(|_| Errno::EFAULT)
    }

    fn check_word(self) -> Result<(), Errno> {
        if !self.address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if self.address >= layout::USER_MAX { Err(Errno::EFAULT) } else { Ok(()) }
    }
}

impl UserPtr<u8> {
    /// Whether an empty string is there.
    #[must_use]
    pub fn is_empty_string(self) -> bool {
        // SAFETY: the address is in the program's half; the accessor survives unmapped pages.
        self.address < layout::USER_MAX && unsafe { user::load_u8(self.address as *const u8) } == Ok(0)
    }

    /// Reads a zero-terminated string of at most `max` bytes including the zero; the zero is not returned.
    ///
    /// # Errors
    /// `EFAULT`; `too_long` when no zero was found.
    pub fn read_string(self, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
        let mut short = StringBuffer::new();
        if let Some(text) = short.fill(self, max)? {
            return Ok(text.to_vec());
        }
        let mut text = Vec::new();
        text.try_reserve_exact(max).map_err(|_| Errno::ENOMEM)?;
        match copy_string(self.address, text.spare_capacity_mut(), max)? {
            StringEnd::Nul(len) => {
                // SAFETY: so many bytes were copied.
                unsafe { text.set_len(len) };
                Ok(text)
            }
            StringEnd::None => Err(too_long),
        }
    }

    /// Reads a path into `buffer`, or, if it is long, into memory of its own.
    ///
    /// # Errors
    /// As [`UserPtr::read_path`].
    pub fn read_path_into(self, buffer: &mut StringBuffer) -> Result<Cow<'_, [u8]>, Errno> {
        if let Some(text) = buffer.fill(self, PATH_MAX)? {
            return Ok(Cow::Borrowed(text));
        }
        self.read_path().map(Cow::Owned)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` for `PATH_MAX` bytes and more.
    pub fn read_path(self) -> Result<Vec<u8>, Errno> {
        self.read_string(PATH_MAX, Errno::ENAMETOOLONG)
    }
}

/// Copies a string of at most `max` bytes with its zero into `buffer`.
fn copy_string(address: u64, buffer: &mut [MaybeUninit<u8>], max: usize) -> Result<StringEnd, Errno> {
    let limit = clamp(address, max.min(buffer.len()));
    // SAFETY: `clamp` keeps the string inside the program's half; the accessor survives unmapped pages and writes no more than the limit.
    let end = unsafe { user::copy_string(buffer.as_mut_ptr().cast(), address as *const u8, limit) };
    match end {
        // The program's half ends before the string.
        Ok(StringEnd::None) if limit < max.min(buffer.len()) => Err(Errno::EFAULT),
        Ok(end) => Ok(end),
        Err(_) => Err(Errno::EFAULT),
    }
}

/// Room for a short string on the stack.
pub struct StringBuffer([MaybeUninit<u8>; 256]);

impl StringBuffer {
    /// Room.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; 256])
    }

    /// The string at `pointer`, which has at most `max` bytes with its zero; `None` if it does not fit here.
    fn fill(&mut self, pointer: UserPtr<u8>, max: usize) -> Result<Option<&[u8]>, Errno> {
        match copy_string(pointer.address(), &mut self.0, max)? {
            // SAFETY: so many bytes were copied.
            StringEnd::Nul(len) => Ok(Some(unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), len) })),
            StringEnd::None => Ok(None),
        }
    }
}

impl Default for StringBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// A run of program memory, consumed from its start. A [`Source`] and a [`Sink`].
#[derive(Clone, Copy, Debug)]
pub struct UserSlice {
    address: u64,
    len: usize,
}

impl UserSlice {
    /// `len` bytes from `pointer` on; no more than `MAX_RW_COUNT` of them.
    ///
    /// # Errors
    /// `EFAULT` when the range leaves the program's half; `EINVAL` when `len` is negative as a signed number.
    #[inline]
    pub fn new(pointer: UserPtr<u8>, len: usize) -> Result<Self, Errno> {
        let address = pointer.address();
        if len <= MAX_RW_COUNT && address <= layout::USER_MAX - len as u64 {
            return Ok(Self { address, len });
        }
        Self::cut(address, len)
    }

    /// What is left of a range that is too long, or leaves the program's half.
    #[cold]
    fn cut(address: u64, len: usize) -> Result<Self, Errno> {
        if len > isize::MAX as usize {
            return Err(Errno::EINVAL);
        }
        match address.checked_add(len as u64) {
            Some(end) if end <= layout::USER_MAX => Ok(Self { address, len: len.min(MAX_RW_COUNT) }),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Bytes left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.address += n as u64;
        self.len -= n;
    }

    /// Result of moving `wanted` bytes, or all but those that `outcome` says were left.
    #[inline]
    fn moved(&mut self, outcome: Result<(), usize>, wanted: usize) -> SysCount {
        let done = match outcome {
            Ok(()) => wanted,
            Err(left) if left == wanted => return Err(Errno::EFAULT),
            Err(left) => wanted - left,
        };
        self.advance(done);
        Ok(done)
    }
}

type SysCount = Result<usize, Errno>;

impl Source for UserSlice {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> SysCount {
        let wanted = buffer.len().min(self.len);
        // SAFETY: the slice lies in the program's half; the accessor survives unmapped pages.
        let outcome = unsafe { user::copy_in(buffer.as_mut_ptr(), self.address as *const u8, wanted) };
        self.moved(outcome, wanted)
    }

    #[inline]
    fn remaining(&self) -> usize {
        self.len
    }
}

impl Sink for UserSlice {
    #[inline]
    fn write(&mut self, data: &[u8]) -> SysCount {
        let wanted = data.len().min(self.len);
        // SAFETY: the slice lies in the program's half; the accessor survives unmapped and read-only pages.
        let outcome = unsafe { user::copy_out(self.address as *mut u8, data.as_ptr(), wanted) };
        self.moved(outcome, wanted)
    }

    #[inline]
    fn remaining(&self) -> usize {
        self.len
    }

    #[inline]
    fn write_zeroes(&mut self, count: usize) -> SysCount {
        let wanted = count.min(self.len);
        // SAFETY: the slice lies in the program's half; the accessor survives unmapped and read-only pages.
        let outcome = unsafe { user::zero(self.address as *mut u8, wanted) };
        self.moved(outcome, wanted)
    }
}

/// Stores a `struct stat`, but for the unused words at its end, in a brief system call. False: not all of it could be stored.
#[inline(always)]
#[must_use]
pub fn store_stat(address: u64, words: &[u64; STAT_WORDS]) -> bool {
    let fits = address <= layout::USER_MAX - size_of::<Stat>() as u64;
    // SAFETY: it lies in the program's half.
    fits && unsafe { user::store_stat(address as *mut u64, words) }
}

/// The words of a `struct stat` that are used.
pub const STAT_WORDS: usize = 15;
const _: () = assert!(size_of::<Stat>() == (STAT_WORDS + 3) * 8, "user::store_stat knows");

/// A short run of program memory, for brief system calls: what touches it touches no vector register. All of it is moved, or the
/// transfer fails.
#[derive(Clone, Copy, Debug)]
pub struct BriefSlice {
    address: u64,
    len: usize,
}

impl BriefSlice {
    /// Longer transfers are quicker with vector registers.
    const MAX: usize = 64;

    /// `len` bytes from `address` on, if they are few and in the program's half.
    #[inline(always)]
    #[must_use]
    pub fn new(address: u64, len: usize) -> Option<Self> {
        (len <= Self::MAX && address <= layout::USER_MAX - Self::MAX as u64).then_some(Self { address, len })
    }

    /// A place for a `T` at `address`, if it is in the program's half.
    #[inline(always)]
    #[must_use]
    pub fn of<T>(address: u64) -> Option<Self> {
        (address <= layout::USER_MAX - size_of::<T>() as u64).then_some(Self { address, len: size_of::<T>() })
    }
}

impl Source for BriefSlice {
    #[inline(always)]
    fn read(&mut self, buffer: &mut [u8]) -> SysCount {
        let wanted = buffer.len().min(self.len);
        // SAFETY: the slice lies in the program's half.
        let copied = unsafe { user::copy_few(buffer.as_mut_ptr(), self.address as *const u8, wanted) };
        if copied { Ok(wanted) } else { Err(Errno::EFAULT) }
    }

    #[inline(always)]
    fn remaining(&self) -> usize {
        self.len
    }
}

impl Sink for BriefSlice {
    #[inline(always)]
    fn write(&mut self, data: &[u8]) -> SysCount {
        let wanted = data.len().min(self.len);
        // SAFETY: the slice lies in the program's half.
        let copied = unsafe { user::copy_few(self.address as *mut u8, data.as_ptr(), wanted) };
        if copied { Ok(wanted) } else { Err(Errno::EFAULT) }
    }

    #[inline(always)]
    fn remaining(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn write_zeroes(&mut self, count: usize) -> SysCount {
        static ZEROES: [u8; BriefSlice::MAX] = [0; BriefSlice::MAX];
        self.write(&ZEROES[..count.min(ZEROES.len())])
    }
}

/// The buffers of `readv` and `writev`, consumed in order. A [`Source`] and a [`Sink`].
#[derive(Clone, Debug)]
pub struct UserIovecs {
    slices: Vec<UserSlice>,
    next: usize,
    remaining: usize,
}

impl UserIovecs {
    /// Reads an `iovec` array.
    ///
    /// # Errors
    /// `EINVAL` for more than `IOV_MAX` entries or a negative length, `EFAULT`, `ENOMEM`.
    pub fn read(pointer: UserPtr<Iovec>, count: usize) -> Result<Self, Errno> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut slices = Vec::with_capacity(count);
        let mut remaining = 0;
        for v in pointer.read_vec(count)? {
            let mut slice = UserSlice::new(UserPtr::new(v.base), v.len as usize)?;
            slice.len = slice.len.min(MAX_RW_COUNT - remaining);
            remaining += slice.len;
            slices.push(slice);
        }
        Ok(Self { slices, next: 0, remaining })
    }

    /// Runs `step` over the buffers in turn until one comes up short.
    fn each(&mut self, mut step: impl FnMut(&mut UserSlice, usize) -> SysCount) -> SysCount {
        let mut done = 0;
        while let Some(slice) = self.slices.get_mut(self.next) {
            if slice.len == 0 {
                self.next += 1;
                continue;
            }
            match step(slice, done) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    self.remaining -= n;
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Source for UserIovecs {
    fn read(&mut self, buffer: &mut [u8]) -> SysCount {
        self.each(|slice, done| Source::read(slice, &mut buffer[done..]))
    }

    fn remaining(&self) -> usize {
        self.remaining
    }
}

impl Sink for UserIovecs {
    fn write(&mut self, data: &[u8]) -> SysCount {
        self.each(|slice, done| Sink::write(slice, &data[done..]))
    }

    fn remaining(&self) -> usize {
        self.remaining
    }
}

/// The program's memory as `ioctl` implementations see it.
#[derive(Clone, Copy, Debug)]
pub struct UserMemory;

impl ArgMemory for UserMemory {
    fn load(&self, address: usize, buffer: &mut [u8]) -> Result<(), Errno> {
        copy_in(address as u64, buffer)
    }

    fn store(&self, address: usize, data: &[u8]) -> Result<(), Errno> {
        copy_out(address as u64, data)
    }
}
