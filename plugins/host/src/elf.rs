//! Checks a library before the dynamic loader opens it: the loader's own messages for these cases are not helpful.

use std::fs;
use std::path::Path;

use difflow_plugin_abi::ENTRY_SYMBOL;

use crate::error::PluginError;

/// Offsets in the ELF header.
const CLASS: usize = 4;
const TYPE: usize = 16;
const MACHINE: usize = 18;
const HEADER: usize = 64;
/// `e_type` of a shared object.
const SHARED_OBJECT: u16 = 3;

#[cfg(target_arch = "x86_64")]
const OWN_MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const OWN_MACHINE: u16 = 183;

/// The file's bytes, if it is a shared library of this machine.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn read(path: &Path) -> Result<Vec<u8>, PluginError> {
    let problem = |problem: String| PluginError::File { path: path.to_owned(), problem };
    let meta = fs::metadata(path).map_err(|e| problem(format!("{e}; paths are relative to the dataflow file")))?;
    if meta.is_dir() {
        return Err(problem("is a folder; name the library in it".into()));
    }
    let bytes = fs::read(path).map_err(|e| problem(format!("cannot be read: {e}; check its permissions")))?;
    if bytes.len() < HEADER || !bytes.starts_with(b"\x7fELF") {
        return Err(problem("is not an ELF shared library".into()));
    }
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if bytes[CLASS] != 2 || number(MACHINE) != OWN_MACHINE {
        let found = machine(number(MACHINE));
        return Err(problem(format!("was built for {found}, this machine is {}; build it here", machine(OWN_MACHINE))));
    }
    if number(TYPE) != SHARED_OBJECT {
        return Err(problem("is an ELF file, but not a shared library; link it with -shared".into()));
    }
    Ok(bytes)
}

/// Whether the entry symbol's name occurs in the file at all: a folder can so be searched without loading what is in it.
pub fn names_entry(bytes: &[u8]) -> bool {
    let name = ENTRY_SYMBOL.as_bytes();
    bytes.windows(name.len()).any(|window| window == name)
}

/// Whether the name of libtorch's library, which a torch model is linked with, occurs in the file.
pub fn needs_libtorch(bytes: &[u8]) -> bool {
    let name = b"libtorch_cpu.so";
    bytes.windows(name.len()).any(|window| window == name)
}

fn machine(code: u16) -> String {
    match code {
        3 => "x86 (32 bits)".into(),
        40 => "ARM (32 bits)".into(),
        62 => "x86-64".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
        other => format!("another machine (ELF code {other})"),
    }
}
