//! Start, end, versions and error texts.

use super::exports;
use crate::abi::{Code, ReturnCode};
use crate::edge::{Out, Put, Text};
use crate::library;
use core::ffi::{c_char, c_int, c_uint};
use std::fs;

exports! {
    fn nvmlInit() { library::init(FUNCTION) }
    fn nvmlInit_v2() { library::init(FUNCTION) }
    fn nvmlInitWithFlags(_flags: c_uint) { library::init(FUNCTION) }
    fn nvmlShutdown() { library::shutdown(FUNCTION) }

    fn nvmlSystemGetDriverVersion(version: Text, length: c_uint) {
        library::system(FUNCTION, |moment| version.put(length, &moment.scenario.driver.version))
    }
    fn nvmlSystemGetNVMLVersion(version: Text, length: c_uint) {
        library::system(FUNCTION, |moment| version.put(length, &moment.scenario.driver.nvml))
    }
    fn nvmlSystemGetCudaDriverVersion(version: Out<c_int>) {
        library::system(FUNCTION, |moment| version.put(moment.scenario.driver.cuda))
    }
    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<c_int>) {
        library::system(FUNCTION, |moment| version.put(moment.scenario.driver.cuda))
    }
    fn nvmlSystemGetProcessName(pid: c_uint, name: Text, length: c_uint) {
        library::system(FUNCTION, |_| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|_| Code::NotFound)?;
            name.put(length, command.trim_end())
        })
    }
}

/// `nvmlErrorString`: works before `nvmlInit` and meets no fault, as a client calls it to
/// report one.
#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: ReturnCode) -> *const c_char {
    Code::text(code).as_ptr()
}
