//! Plain data, and the layout of each mirrored type for the test against the object.

/// Plain data that can be copied out of any sufficiently long byte slice.
pub trait Plain: Copy + sealed::Sealed {
    /// Copies a value out of the front of `bytes`, at any alignment; `None` when there are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every implementor (the trait is sealed) is
        // `repr(C)` of integers only, for which any bytes are a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

pub(in crate::abi) mod sealed {
    pub trait Sealed {}
}

/// Size and fields of one mirrored type.
#[derive(Debug)]
pub struct Layout {
    /// Name of the struct in `include/abi.h`.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Name, offset and size of each field, in bytes.
    pub fields: Vec<(&'static str, usize, usize)>,
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $c:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
            impl $crate::abi::plain::sealed::Sealed for $name {}
            impl $crate::abi::plain::Plain for $name {}
        )*
        /// The mirrored types of this file: their name in C, its size, and its fields with their offsets; in bytes.
        #[must_use]
        pub fn layout() -> Vec<$crate::abi::Layout> {
            vec![$($crate::abi::Layout {
                name: $c,
                size: size_of::<$name>(),
                fields: vec![$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$ty>()),)*],
            },)*]
        }
    };
}

pub(super) use plain;
