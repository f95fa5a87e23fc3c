//! The exported table, built at compile time: everything in it is static data.

use crate::config::Property;

/// Writes into a buffer of `N` bytes, or only counts when it is empty.
struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    const fn byte(&mut self, byte: u8) {
        if N > 0 {
            self.bytes[self.at] = byte;
        }
        self.at += 1;
    }

    const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    /// The inside of a JSON string: a doc comment begins with a space, which is left out.
    const fn escaped(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = if !bytes.is_empty() && bytes[0] == b' ' { 1 } else { 0 };
        while i < bytes.len() {
            match bytes[i] {
                b'"' | b'\\' => {
                    self.byte(b'\\');
                    self.byte(bytes[i]);
                }
                // Control characters have no place in a description.
                0..=31 => self.byte(b' '),
                byte => self.byte(byte),
            }
            i += 1;
        }
    }

    const fn properties(&mut self, properties: &[Property]) {
        self.raw(
            "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"type\":\"object\",\"additionalProperties\":false,\"properties\":{",
        );
        let mut i = 0;
        while i < properties.len() {
            let property = &properties[i];
            self.raw(if i == 0 { "\"" } else { ",\"" });
            self.raw(property.name);
            self.raw("\":{\"type\":\"");
            self.raw(property.kind);
            self.raw("\",\"default\":");
            self.raw(property.default);
            let mut j = 0;
            while j < property.bounds.len() {
                self.raw(",\"");
                self.raw(property.bounds[j].0);
                self.raw("\":");
                self.raw(property.bounds[j].1);
                j += 1;
            }
            self.raw(",\"description\":\"");
            self.escaped(property.description);
            self.raw("\"}");
            i += 1;
        }
        self.raw("}}\0");
    }
}

/// Bytes of [`schema`].
pub const fn schema_length(properties: &[Property]) -> usize {
    let mut writer = Writer::<0> { bytes: [], at: 0 };
    writer.properties(properties);
    writer.at
}

/// The JSON Schema of options, with a NUL at its end.
pub const fn schema<const N: usize>(properties: &[Property]) -> [u8; N] {
    let mut writer = Writer::<N> { bytes: [0; N], at: 0 };
    writer.properties(properties);
    writer.bytes
}

/// Exports components as a plug-in: defines the symbol that difflow looks up. Once per library.
///
/// Each component is `KIND Type { id, name, vendor, license, description }`, where KIND is `noise_schedule`, `annealing_schedule`,
/// `batch_transform`, `model_recipe` or `torch_model` (which needs the crate `difflow-plugin-torch`); `KIND Type with state { … }` when
/// it has [`State`](crate::State). The version is that of the crate.
#[macro_export]
macro_rules! plugin {
    ($($components:tt)+) => {
        $crate::entry! {
            /// The table that difflow looks up.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static difflow_plugin_entry_v1;
            $($components)+
        }
    };
}

/// As [`plugin!`], into a static of any name and without exporting it: for components inside a program.
#[macro_export]
macro_rules! entry {
    (
        $(#[$meta:meta])* $vis:vis static $entry:ident;
        $($kind:ident $type:ty $(, with $state:ident)? {
            id: $id:literal, name: $name:literal, vendor: $vendor:literal, license: $license:literal,
            description: $description:literal $(,)?
        })+
    ) => {
        $(#[$meta])*
        $vis static $entry: $crate::abi::Static<$crate::abi::Entry> = {
            use $crate::abi;
            use std::ffi::{CStr, c_char, c_void};

            const fn c(text: &'static str) -> *const c_char {
                text.as_ptr().cast()
            }

            /// # Safety
            /// As the header says of `create`.
            unsafe extern "C-unwind" fn create(
                id: *const c_char,
                config: abi::Str,
                out: *mut *mut abi::Instance,
                error: *mut abi::Error,
            ) -> abi::Status {
                // SAFETY: the host keeps the contract of `create` in the header.
                unsafe {
                    $(
                        if $crate::instance::same(id, $crate::__cstr!($id)) {
                            return $crate::instance::create::<$type>(config, out, error);
                        }
                    )+
                    $crate::Error::argument("there is no component of this id here").give(error)
                }
            }

            /// # Safety
            /// As the header says of `get_extension`.
            unsafe extern "C-unwind" fn get_extension(id: *const c_char, extension: *const c_char) -> *const c_void {
                // SAFETY: the host passes C strings.
                unsafe {
                    $(
                        if $crate::instance::same(id, $crate::__cstr!($id)) {
                            if $crate::instance::same(extension, $crate::__kind!($kind)) {
                                return $crate::__table!($kind, $type);
                            }
                            $(
                                if $crate::instance::same(extension, $crate::__extension!($state)) {
                                    return $crate::__table!($state, $type);
                                }
                            )?
                        }
                    )+
                    std::ptr::null()
                }
            }

            static COMPONENTS: abi::Static<[*const abi::Component; [$($id),+].len() + 1]> = abi::Static([
                $({
                    const PROPERTIES: &[$crate::config::Property] =
                        <<$type as $crate::Component>::Config as $crate::Config>::PROPERTIES;
                    static SCHEMA: [u8; $crate::export::schema_length(PROPERTIES)] =
                        $crate::export::schema(PROPERTIES);
                    static COMPONENT: abi::Static<abi::Component> = abi::Static(abi::Component {
                        struct_size: size_of::<abi::Component>() as u32,
                        id: c(concat!($id, "\0")),
                        kind: $crate::__kind!($kind).as_ptr(),
                        name: c(concat!($name, "\0")),
                        version: c(concat!(env!("CARGO_PKG_VERSION"), "\0")),
                        vendor: c(concat!($vendor, "\0")),
                        license: c(concat!($license, "\0")),
                        description: c(concat!($description, "\0")),
                        config_schema: SCHEMA.as_ptr().cast(),
                    });
                    &raw const COMPONENT.0
                },)+
                std::ptr::null(),
            ]);

            abi::Static(abi::Entry {
                struct_size: size_of::<abi::Entry>() as u32,
                abi_major: abi::ABI_MAJOR,
                abi_minor: abi::ABI_MINOR,
                init: ::std::option::Option::None,
                deinit: ::std::option::Option::None,
                components: COMPONENTS.0.as_ptr(),
                create: ::std::option::Option::Some(create),
                destroy: ::std::option::Option::Some($crate::instance::destroy),
                get_extension: ::std::option::Option::Some(get_extension),
            })
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __cstr {
    ($text:literal) => {
        const {
            match ::std::ffi::CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
                ::std::result::Result::Ok(text) => text,
                ::std::result::Result::Err(_) => panic!("an id holds a NUL"),
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kind {
    (noise_schedule) => {
        $crate::abi::NOISE_SCHEDULE
    };
    (annealing_schedule) => {
        $crate::abi::ANNEALING_SCHEDULE
    };
    (batch_transform) => {
        $crate::abi::BATCH_TRANSFORM
    };
    (model_recipe) => {
        $crate::abi::MODEL_RECIPE
    };
    (torch_model) => {
        $crate::abi::TORCH_MODEL
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __extension {
    (state) => {
        $crate::abi::STATE
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    (noise_schedule, $type:ty) => {
        (&raw const *$crate::noise::table::<$type>()).cast()
    };
    (annealing_schedule, $type:ty) => {
        (&raw const *$crate::annealing::table::<$type>()).cast()
    };
    (batch_transform, $type:ty) => {
        (&raw const *$crate::transform::table::<$type>()).cast()
    };
    (model_recipe, $type:ty) => {
        (&raw const *$crate::recipe::table::<$type>()).cast()
    };
    (torch_model, $type:ty) => {
        (&raw const *::difflow_plugin_torch::table::<$type>()).cast()
    };
    (state, $type:ty) => {
        (&raw const *$crate::state::table::<$type>()).cast()
    };
}
