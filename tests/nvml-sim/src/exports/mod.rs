//! The exported symbols, one file for each group of `nvml.h`. A function here names
//! its arguments, asks the library for its GPU, and writes the answer out; nothing else.
//!
//! # Safety
//! Every exported function is `unsafe`: the caller must keep NVML's contract, as the
//! types of the arguments (`edge`) state it.

#![expect(unsafe_code, reason = "exporting a C symbol is unsafe; no function here has an unsafe block")]
#![expect(non_snake_case, reason = "the names are NVML's")]

mod clocks;
mod ecc;
mod events;
mod fields;
mod gpm;
mod identity;
mod memory;
mod mig;
mod modes;
mod nvlink;
mod pcie;
mod power;
mod processes;
mod system;
mod thermal;
mod utilization;

/// Defines exported functions. Inside a body `FUNCTION` is the function's own name, by
/// which faults find it.
macro_rules! exports {
    ($( fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block )*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $ty),*) -> crate::abi::ReturnCode {
                const FUNCTION: &str = stringify!($name);
                crate::edge::answer(|| $body)
            }
        )*
        /// The functions of this file.
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}
use exports;

/// The names of all exported functions.
pub fn exported() -> impl Iterator<Item = &'static str> {
    let groups = [
        system::NAMES,
        identity::NAMES,
        modes::NAMES,
        pcie::NAMES,
        thermal::NAMES,
        power::NAMES,
        clocks::NAMES,
        utilization::NAMES,
        memory::NAMES,
        ecc::NAMES,
        processes::NAMES,
        events::NAMES,
        fields::NAMES,
        gpm::NAMES,
        mig::NAMES,
        nvlink::NAMES,
    ];
    groups.into_iter().flatten().copied()
}
