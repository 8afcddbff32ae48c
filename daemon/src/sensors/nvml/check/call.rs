//! Calls by name and shape. The only `unsafe` of the check.
//!
//! Every answer goes into a buffer far larger than what the header gives for it, so that a newer library that writes more
//! does no harm.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// A function's arguments after the device, and what it answers. Numbers say how many values of an index are tried, then
/// how long a struct is, then its revision.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// No device; a 32-bit number.
    SystemNumber,
    /// No device; a text.
    SystemText,
    /// A 32-bit number.
    Number,
    /// A 64-bit number.
    Wide,
    /// Two 32-bit numbers.
    Pair,
    /// Four 32-bit numbers.
    Four,
    /// A text.
    Text,
    /// A 32-bit number for each value of an index.
    Of(u32),
    /// The same for two indices.
    Of2(u32, u32),
    /// A 64-bit number for each pair of two indices.
    WideOf2(u32, u32),
    /// A 64-bit number for each triple of three.
    WideOf3(u32, u32, u32),
    /// A struct: size and revision.
    Struct(u32, u32),
    /// A struct for each value of an index: how many, size.
    StructOf(u32, u32),
    /// A struct for each pair of two indices.
    StructOf2(u32, u32, u32),
    /// A counted list of structs of this size.
    List(u32),
}

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Numbers, in their order.
    Numbers(Vec<u64>),
    /// A text, as well as it can be read.
    Text(String),
    /// The bytes of a struct.
    Bytes(Vec<u8>),
}

/// Longest answer that is kept; NVML's own longest struct that is read has 8 KiB.
const ROOM: usize = 16 << 10;

/// An open library.
#[derive(Debug, Clone, Copy)]
pub struct Library(usize);

/// A device handle, as a number.
pub type Device = usize;

/// A field's number, its own return code, and the union's eight bytes.
pub type FieldAnswer = (u32, u32, u64);

type Raw = [usize; 5];

impl Library {
    /// Opens it, and leaves it open.
    pub fn open(path: &Path) -> Result<Library, String> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: a NUL-terminated path; what the library does when it is loaded is the reason why only trusted ones are.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: after a failure this is a NUL-terminated text that holds until the next call of this thread.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) };
            return Err(why.to_string_lossy().into_owned());
        }
        Ok(Library(handle as usize))
    }

    fn symbol(self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: the library stays open for the life of the process; the name is NUL-terminated.
        let found = unsafe { libc::dlsym(self.0 as *mut c_void, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    }

    /// Whether it has that symbol.
    pub fn has(self, name: &str) -> bool {
        self.symbol(name).is_some()
    }

    /// Calls a function of up to five arguments, each a number or an address; `None` when it is not there.
    fn call(self, name: &str, count: usize, [a, b, c, d, e]: Raw) -> Option<u32> {
        let symbol = self.symbol(name)?;
        // SAFETY: the table gives each function's shape as `nvml.h` declares it: as many arguments, each an integer of at most
        // a register or a pointer to memory of the caller's that is as long as said and longer. An integer narrower than a
        // register is taken from its low bits on the machines that NVML exists for (x86-64, AArch64).
        unsafe {
            Some(match count {
                0 => std::mem::transmute::<*mut c_void, extern "C" fn() -> u32>(symbol)(),
                1 => std::mem::transmute::<*mut c_void, extern "C" fn(usize) -> u32>(symbol)(a),
                2 => std::mem::transmute::<*mut c_void, extern "C" fn(usize, usize) -> u32>(symbol)(a, b),
                3 => std::mem::transmute::<*mut c_void, extern "C" fn(usize, usize, usize) -> u32>(symbol)(a, b, c),
                4 => std::mem::transmute::<*mut c_void, extern "C" fn(usize, usize, usize, usize) -> u32>(symbol)(
                    a, b, c, d,
                ),
                _ => std::mem::transmute::<*mut c_void, extern "C" fn(usize, usize, usize, usize, usize) -> u32>(
                    symbol,
                )(a, b, c, d, e),
            })
        }
    }

    /// `nvmlInit_v2`.
    pub fn init(self) -> Option<u32> {
        self.call("nvmlInit_v2", 0, [0; 5])
    }

    /// `nvmlErrorString`.
    pub fn error_text(self, code: u32) -> String {
        let Some(symbol) = self.symbol("nvmlErrorString") else { return format!("error {code}") };
        // SAFETY: as `nvml.h` declares it; the text is the library's own and lives as long as it.
        let text = unsafe {
            let function = std::mem::transmute::<*mut c_void, extern "C" fn(u32) -> *const c_char>(symbol);
            CStr::from_ptr(function(code))
        };
        text.to_string_lossy().into_owned()
    }

    /// `nvmlDeviceGetHandleByIndex_v2`.
    pub fn device(self, index: u32) -> Result<Device, u32> {
        let mut device = 0usize;
        match self.call("nvmlDeviceGetHandleByIndex_v2", 2, [index as usize, &raw mut device as usize, 0, 0, 0]) {
            Some(0) => Ok(device),
            Some(code) => Err(code),
            None => Err(FUNCTION_NOT_FOUND),
        }
    }

    /// One call with these indices. The code, and the answer when it is a success.
    pub fn ask(self, name: &str, shape: Shape, device: Device, indices: &[u32]) -> Option<(u32, Option<Value>)> {
        let mut memory = vec![0u64; ROOM / 8];
        let at = memory.as_mut_ptr() as usize;
        let index = |n: usize| indices.get(n).map_or(0, |it| *it as usize);
        let (count, arguments): (usize, Raw) = match shape {
            Shape::SystemNumber => (1, [at, 0, 0, 0, 0]),
            Shape::SystemText => (2, [at, TEXT, 0, 0, 0]),
            Shape::Text => (3, [device, at, TEXT, 0, 0]),
            Shape::Number | Shape::Wide => (2, [device, at, 0, 0, 0]),
            Shape::Struct(size, revision) => {
                if revision > 0 {
                    memory[0] = u64::from(size | (revision << 24));
                }
                (2, [device, at, 0, 0, 0])
            }
            Shape::Pair => (3, [device, at, at + 4, 0, 0]),
            Shape::Four => (5, [device, at, at + 4, at + 8, at + 12]),
            Shape::Of(_) | Shape::StructOf(..) => (3, [device, index(0), at, 0, 0]),
            Shape::Of2(..) | Shape::WideOf2(..) | Shape::StructOf2(..) => (4, [device, index(0), index(1), at, 0]),
            Shape::WideOf3(..) => (5, [device, index(0), index(1), index(2), at]),
            Shape::List(size) => {
                memory[0] = (ROOM as u64 - 8) / u64::from(size.max(1));
                (3, [device, at, at + 8, 0, 0])
            }
        };
        let code = self.call(name, count, arguments)?;
        Some((code, (code == 0).then(|| value(shape, &memory))))
    }

    /// Every field from 1 to `last`, asked for in one call: each one's own code and the union's eight bytes.
    pub fn fields(self, device: Device, last: u32) -> Option<(u32, Vec<FieldAnswer>)> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Field {
            field: u32,
            scope: u32,
            times: [i64; 2],
            value_type: u32,
            code: u32,
            value: u64,
        }
        let ask = |field| Field { field, scope: 0, times: [0; 2], value_type: 0, code: 0, value: 0 };
        let mut fields: Vec<Field> = (1..=last).map(ask).collect();
        let arguments = [device, fields.len(), fields.as_mut_ptr() as usize, 0, 0];
        let code = self.call("nvmlDeviceGetFieldValues", 3, arguments)?;
        Some((code, fields.iter().map(|it| (it.field, it.code, it.value)).collect()))
    }
}

/// `NVML_ERROR_FUNCTION_NOT_FOUND`.
const FUNCTION_NOT_FOUND: u32 = 13;
/// Room for a text: longer than any of NVML's.
const TEXT: usize = 256;

fn value(shape: Shape, memory: &[u64]) -> Value {
    let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let number =
        |n: usize| u64::from(u32::from_ne_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]]));
    match shape {
        Shape::SystemNumber | Shape::Number | Shape::Of(_) | Shape::Of2(..) => Value::Numbers(vec![number(0)]),
        Shape::Wide | Shape::WideOf2(..) | Shape::WideOf3(..) => Value::Numbers(vec![memory[0]]),
        Shape::Pair => Value::Numbers(vec![number(0), number(1)]),
        Shape::Four => Value::Numbers((0..4).map(number).collect()),
        Shape::SystemText | Shape::Text => {
            let text: Vec<u8> = bytes.into_iter().take(TEXT).take_while(|byte| *byte != 0).collect();
            Value::Text(String::from_utf8_lossy(&text).into_owned())
        }
        Shape::Struct(size, _) | Shape::StructOf(_, size) | Shape::StructOf2(_, _, size) => {
            Value::Bytes(bytes[..(size as usize).min(bytes.len())].to_vec())
        }
        Shape::List(size) => {
            let length = 8 + size as usize * number(0) as usize;
            Value::Bytes(bytes[..length.min(bytes.len())].to_vec())
        }
    }
}

/// The indices that a shape is asked with.
pub fn indices(shape: Shape) -> Vec<Vec<u32>> {
    let pairs = |a: u32, b: u32| (0..a).flat_map(move |x| (0..b).map(move |y| vec![x, y])).collect::<Vec<_>>();
    match shape {
        Shape::Of(n) | Shape::StructOf(n, _) => (0..n).map(|x| vec![x]).collect(),
        Shape::Of2(a, b) | Shape::WideOf2(a, b) | Shape::StructOf2(a, b, _) => pairs(a, b),
        Shape::WideOf3(a, b, c) => {
            pairs(a, b).into_iter().flat_map(|pair| (0..c).map(move |z| [pair.clone(), vec![z]].concat())).collect()
        }
        _ => vec![Vec::new()],
    }
}
