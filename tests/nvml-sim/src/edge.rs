//! The ABI edge: the one file that reads or writes memory a C caller gave us.
//!
//! Arguments of the exported functions have types that say what the caller
//! promised: `Out` for a place to write one value, `Text` for a char buffer,
//! `Array` for a counted array, `Struct` for a versioned struct. All are one
//! pointer wide and may be null, which is `InvalidArgument`. They have no public
//! constructor: outside of tests only a C call makes one, and NVML's contract (the
//! pointer is null or valid for the stated length for the time of the call) is
//! what every `SAFETY` comment below rests on.

#![expect(unsafe_code, reason = "raw pointers of the C caller are handled here and nowhere else")]

use crate::abi::{Code, ReturnCode, Versioned};
use crate::faults::Corruption;
use core::ffi::{CStr, c_char, c_uint};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// What the inside of an exported function ends with.
pub(crate) type Answer<T> = Result<T, Code>;

/// Turns an answer into NVML's integer. A panic must not cross into C: it is `Unknown`.
pub(crate) fn answer(call: impl FnOnce() -> Answer<()>) -> ReturnCode {
    corrupt(None);
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code as ReturnCode,
        Err(_) => Code::Unknown as ReturnCode,
    }
}

/// A place for one value, not read before it is written: null, or valid and aligned.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// A value the caller has set and the call may change: null, or valid and initialised.
pub(crate) type InOut<'a, T> = Option<&'a mut T>;

/// Writing through an `Out`.
pub(crate) trait Put<T> {
    /// `InvalidArgument` for null.
    fn put(self, value: T) -> Answer<()>;
}

impl<T> Put<T> for Out<'_, T> {
    fn put(self, value: T) -> Answer<()> {
        let place = self.ok_or(Code::InvalidArgument)?;
        place.write(value);
        if let Some(byte) = corruption() {
            // SAFETY: the place is one `T` long, and nothing here reads it as a `T` again; for C every pattern is an integer.
            unsafe { ptr::write_bytes(ptr::from_mut(place).cast::<u8>(), byte, size_of::<T>()) };
        }
        Ok(())
    }
}

thread_local! {
    /// How the answers of the call under way are spoiled.
    static CORRUPT: Cell<Option<Corruption>> = const { Cell::new(None) };
}

/// Spoils the answers of this thread's call.
pub(crate) fn corrupt(how: Option<Corruption>) {
    CORRUPT.set(how);
}

/// The byte that answers are made of, when they are spoiled.
pub(crate) fn corruption() -> Option<u8> {
    CORRUPT.get().map(|how| match how {
        Corruption::Ones => 0xff,
        Corruption::Zeros => 0,
    })
}

/// A buffer for a C string; its length comes as the next argument.
#[repr(transparent)]
pub(crate) struct Text(*mut c_char);

impl Text {
    /// Writes `text` and its NUL, or `InsufficientSize` and nothing.
    pub(crate) fn put(self, length: c_uint, text: &str) -> Answer<()> {
        if self.0.is_null() {
            return Err(Code::InvalidArgument);
        }
        // One byte that begins no character of UTF-8.
        let bytes = match corruption() {
            None => text.as_bytes(),
            Some(0) => b"",
            Some(_) => b"\xff",
        };
        if bytes.len() >= length as usize {
            return Err(Code::InsufficientSize);
        }
        // SAFETY: the caller promises `length` writable bytes; text and NUL fit by the test above.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast::<c_char>(), self.0, bytes.len());
            self.0.add(bytes.len()).write(0);
        }
        Ok(())
    }
}

/// A C string the caller passes in.
#[repr(transparent)]
pub(crate) struct Name(*const c_char);

impl Name {
    /// The text; null and text that is not UTF-8 are `InvalidArgument`.
    pub(crate) fn read<'a>(self) -> Answer<&'a str> {
        if self.0.is_null() {
            return Err(Code::InvalidArgument);
        }
        // SAFETY: not null, and the caller promises a NUL-terminated string that outlives the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_| Code::InvalidArgument)
    }
}

/// An array whose length the caller gives in a count beside it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Array<T>(*mut T);

impl<T: Copy> Array<T> {
    /// NVML's way to return lists: with too small a count only the needed count is
    /// set and the answer is `InsufficientSize`; else items and true count.
    pub(crate) fn put_counted(self, count: InOut<'_, c_uint>, items: &[T]) -> Answer<()> {
        let count = count.ok_or(Code::InvalidArgument)?;
        let room = std::mem::replace(count, items.len() as c_uint) as usize;
        if room < items.len() {
            return Err(Code::InsufficientSize);
        }
        if items.is_empty() {
            return Ok(());
        }
        if self.0.is_null() {
            return Err(Code::InvalidArgument);
        }
        // SAFETY: the caller promises `room` elements, and `items` is no longer than that.
        unsafe { ptr::copy_nonoverlapping(items.as_ptr(), self.0, items.len()) };
        Ok(())
    }

    /// Lets `fill` change each of `count` elements that the caller has set in part;
    /// only for structs of plain integers, for which the caller's zeroed or set
    /// memory is a value.
    pub(crate) fn update(self, count: usize, fill: impl FnMut(&mut T)) -> Answer<()> {
        if self.0.is_null() {
            return Err(Code::InvalidArgument);
        }
        // SAFETY: the caller promises `count` elements it has initialised, exclusively ours in this call.
        unsafe { std::slice::from_raw_parts_mut(self.0, count) }.iter_mut().for_each(fill);
        Ok(())
    }
}

/// A versioned struct: its first member tells which revision the caller was built with.
#[repr(transparent)]
pub(crate) struct Struct<T>(*mut T);

impl<T: Versioned> Struct<T> {
    /// The struct as the caller set it, once its version is the one known here.
    pub(crate) fn open<'a>(self) -> Answer<&'a mut T> {
        if self.0.is_null() {
            return Err(Code::InvalidArgument);
        }
        // SAFETY: not null, and every `Versioned` struct starts with its `c_uint` version, which the caller has set.
        let version = unsafe { self.0.cast::<c_uint>().read() };
        if version != T::version() {
            return Err(Code::ArgumentVersionMismatch);
        }
        // SAFETY: the version holds the struct's size, so the caller's struct is a whole `T` of plain integers.
        Ok(unsafe { &mut *self.0 })
    }

    /// Writes the answer, made from the version that the caller set, once that is the one known here.
    pub(crate) fn put(self, value: impl FnOnce(c_uint) -> T) -> Answer<()> {
        let place = self.0;
        let known = self.open()?;
        *known = value(T::version());
        if let Some(byte) = corruption() {
            let rest = size_of::<T>() - size_of::<c_uint>();
            // SAFETY: as in `open`; what lies behind the version is plain integers, for which every pattern is a value.
            unsafe { ptr::write_bytes(place.cast::<u8>().add(size_of::<c_uint>()), byte, rest) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::nvmlMemory_v2_t;

    #[test]
    fn text_never_overruns_its_buffer() {
        let mut buffer = [b'x' as c_char; 4];
        assert_eq!(Text(buffer.as_mut_ptr()).put(4, "abcd"), Err(Code::InsufficientSize));
        assert_eq!(buffer, [b'x' as c_char; 4], "nothing is written when it does not fit");
        assert_eq!(Text(buffer.as_mut_ptr()).put(4, "abc"), Ok(()));
        assert_eq!(buffer[3], 0);
        assert_eq!(Text(ptr::null_mut()).put(4, "abc"), Err(Code::InvalidArgument));
    }

    #[test]
    fn lists_report_the_room_they_need() {
        let mut items = [0u32; 2];
        let mut count = 1;
        let array = Array(items.as_mut_ptr());
        assert_eq!(array.put_counted(Some(&mut count), &[7, 8]), Err(Code::InsufficientSize));
        assert_eq!((count, items), (2, [0, 0]));
        assert_eq!(Array(items.as_mut_ptr()).put_counted(Some(&mut count), &[7, 8]), Ok(()));
        assert_eq!((count, items), (2, [7, 8]));
        assert_eq!(Array::<u32>(ptr::null_mut()).put_counted(Some(&mut count), &[]), Ok(()));
        assert_eq!(count, 0);
    }

    #[test]
    fn a_struct_of_another_version_is_refused() {
        let mut memory = nvmlMemory_v2_t { version: 40, total: 1, reserved: 0, free: 0, used: 0 };
        assert_eq!(Struct(&raw mut memory).open().err(), Some(Code::ArgumentVersionMismatch));
        memory.version = 40 | (2 << 24);
        assert_eq!(Struct(&raw mut memory).open().map(|it| it.total), Ok(1));
    }

    #[test]
    fn a_panic_is_an_unknown_error() {
        assert_eq!(answer(|| panic!("inside")), 999);
    }
}
