//! `nvmlReturn_t`: the failures, by number, by name (for scenario files) and by text
//! (for `nvmlErrorString`). Success is not one of them: it is `Ok`.

use super::ReturnCode;
use std::ffi::CStr;

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// A failure as NVML reports it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $($variant = $number),*
        }

        impl Code {
            /// Every name a scenario may use, without the `NVML_ERROR_` prefix.
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),*];

            /// The code called `name`, with or without `NVML_ERROR_`.
            pub(crate) fn named(name: &str) -> Option<Self> {
                match name.strip_prefix("NVML_ERROR_").unwrap_or(name) {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// What `nvmlErrorString` says for `number`.
            pub(crate) fn text(number: ReturnCode) -> &'static CStr {
                match number {
                    0 => c"Success",
                    $($number => $text,)*
                    _ => c"Unknown Error",
                }
            }
        }
    };
}

codes! {
    Uninitialized = 1, "UNINITIALIZED", c"Uninitialized";
    InvalidArgument = 2, "INVALID_ARGUMENT", c"Invalid Argument";
    NotSupported = 3, "NOT_SUPPORTED", c"Not Supported";
    NoPermission = 4, "NO_PERMISSION", c"Insufficient Permissions";
    AlreadyInitialized = 5, "ALREADY_INITIALIZED", c"Already Initialized";
    NotFound = 6, "NOT_FOUND", c"Not Found";
    InsufficientSize = 7, "INSUFFICIENT_SIZE", c"Insufficient Size";
    InsufficientPower = 8, "INSUFFICIENT_POWER", c"Insufficient External Power";
    DriverNotLoaded = 9, "DRIVER_NOT_LOADED", c"Driver Not Loaded";
    Timeout = 10, "TIMEOUT", c"Timeout";
    IrqIssue = 11, "IRQ_ISSUE", c"Interrupt Request Issue";
    LibraryNotFound = 12, "LIBRARY_NOT_FOUND", c"NVML Shared Library Not Found";
    FunctionNotFound = 13, "FUNCTION_NOT_FOUND", c"Function Not Found";
    CorruptedInforom = 14, "CORRUPTED_INFOROM", c"Corrupted infoROM";
    GpuIsLost = 15, "GPU_IS_LOST", c"GPU is lost";
    ResetRequired = 16, "RESET_REQUIRED", c"GPU requires reset";
    OperatingSystem = 17, "OPERATING_SYSTEM", c"The operating system has blocked the request";
    LibRmVersionMismatch = 18, "LIB_RM_VERSION_MISMATCH", c"Driver/library version mismatch";
    InUse = 19, "IN_USE", c"In use by another client";
    Memory = 20, "MEMORY", c"Insufficient Memory";
    NoData = 21, "NO_DATA", c"No data";
    VgpuEccNotSupported = 22, "VGPU_ECC_NOT_SUPPORTED", c"vGPU ECC Not Supported";
    InsufficientResources = 23, "INSUFFICIENT_RESOURCES", c"Insufficient Resources";
    FreqNotSupported = 24, "FREQ_NOT_SUPPORTED", c"Requested frequency not supported";
    ArgumentVersionMismatch = 25, "ARGUMENT_VERSION_MISMATCH", c"Argument Version Mismatch";
    Deprecated = 26, "DEPRECATED", c"Function is deprecated";
    NotReady = 27, "NOT_READY", c"System not ready";
    GpuNotFound = 28, "GPU_NOT_FOUND", c"GPU not found";
    InvalidState = 29, "INVALID_STATE", c"Invalid state";
    Unknown = 999, "UNKNOWN", c"Unknown Error";
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn every_name_leads_to_its_number_and_text() {
        assert_eq!(Code::named("GPU_IS_LOST"), Some(Code::GpuIsLost));
        assert_eq!(Code::named("NVML_ERROR_TIMEOUT"), Some(Code::Timeout));
        assert_eq!(Code::named("SUCCESS"), None);
        assert_eq!(Code::GpuIsLost as u32, 15);
        assert_eq!(Code::text(15), c"GPU is lost");
        assert!(Code::NAMES.iter().all(|name| Code::named(name).is_some()));
    }
}
