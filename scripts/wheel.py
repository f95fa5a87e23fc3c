#!/usr/bin/env python3
"""Makes a wheel from bin/ and the files of this checkout: dist/difflow-VERSION-py3-none-PLATFORM.whl.

A plain wheel is a zip file with a list of its files, so the standard library is enough. Nothing in it is an extension
module of Python: it brings programs, and files for them, laid out as in a checkout. docs/INSTALL.md says what is in it, and why.
"""

import argparse
import base64
import hashlib
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import licenses

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(__file__).resolve().parent / "wheel"

# What is taken of the checkout, as git knows it; the rest of a wheel is made here.
FILES = [
    "LICENSE", "README.md", "CHANGELOG.md", "dataflow.yml", "nodes/*.module.yml", "types", "docs", "data/tiny", "data/experiments", "data/sweeps", "data/tasks",
    "plugins", ":!plugins/host", ":!plugins/builtin",
]
# The one program that has all nodes, and the others that are programs of their own.
DIFFLOW = "difflow"
OTHERS = ["difflow-world"]
# What every Linux has that has a C++ program on it, and what PyTorch's package brings.
SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2", "libgcc_s.so.1", "libstdc++.so.6"}
TORCH = {"libtorch_cpu.so", "libtorch.so", "libc10.so", "libgomp.so.1"}
TORCH_PATH = "$ORIGIN/../../torch/lib"
LIMIT = 120_000_000


def fail(text):
    sys.exit(f"difflow: error: {text}")


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def version_of(pattern, path):
    found = re.search(pattern, (ROOT / path).read_text(), re.M)
    return found[1] if found else fail(f"{path}: nothing like {pattern} in it")


def tracked():
    """Returns the files of the checkout that belong into a wheel."""
    names = output("git", "ls-files", "-z", "--", *FILES).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def node_programs():
    """Returns what the programs of the nodes are called."""
    folders = [Path(name).parts[1] for name in output("git", "ls-files", "--", "nodes/*/src/main.rs").split()]
    return sorted(f"difflow-{folder}" for folder in folders if folder != "cli")


def stripped(path, folder):
    """Returns a library or program without its symbol table, which nobody reads in an installation: a quarter of its size."""
    to = Path(folder) / path.name
    subprocess.run(["strip", "-o", to, path], check=True)
    return to.read_bytes()


def platform(binaries):
    """Returns the platform tag: the newest glibc that one of the files names. Errors if one needs a library that is neither PyTorch's nor everywhere."""
    newest = (0, 0)
    for path in binaries:
        text = output("objdump", "-p", path)
        needed = set(re.findall(r"NEEDED\s+(\S+)", text))
        if strange := needed - SYSTEM - TORCH:
            fail(f"{path} needs {', '.join(sorted(strange))}, which an installation may not have")
        if needed & TORCH and path.name == DIFFLOW and TORCH_PATH not in text:
            fail(f"{path} does not look for libtorch in {TORCH_PATH}; nodes/cli/build.rs tells the linker")
        newest = max([newest, *((int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", text))])
    return f"manylinux_{newest[0]}_{newest[1]}_{os.uname().machine}"


def workspace():
    """Returns the Cargo.toml that the sources of plug-ins take versions from: the checkout's, with only those members."""
    members = sorted(Path(name).parent.as_posix() for name in tracked() if re.fullmatch(r"plugins/[^/]+/Cargo\.toml", name))
    text, count = re.subn(r"^members = .*$", "members = " + str(members).replace("'", '"'), (ROOT / "Cargo.toml").read_text(), flags=re.M)
    if count != 1:
        fail("Cargo.toml: its members are not on one line")
    return text.split("[profile", 1)[0]


def entry_points(programs):
    return "[console_scripts]\n" + "".join(f"{name} = difflow:main\n" for name in programs)


def metadata(version):
    torch = version_of(r"^TORCH_VERSION=(\S+)", "scripts/lib.sh")
    dora = version_of(r"\bDORA_VERSION=(\S+)", "scripts/lib.sh")
    return f"""Metadata-Version: 2.1
Name: difflow
Version: {version}
Summary: Turns an autoregressive language model into a diffusion language model, as a dora dataflow
License: Apache-2.0
Requires-Python: >=3.11
Requires-Dist: torch=={torch}
Requires-Dist: dora-rs-cli=={dora}
Description-Content-Type: text/markdown

{(ROOT / "README.md").read_text()}"""


class Wheel:
    """A wheel that is being written. Its bytes depend on its files only: no times, and in the order in which they are added."""

    def __init__(self, path):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
        self.record = []

    def add(self, name, data, executable=False):
        data = data.encode() if isinstance(data, str) else data
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
        self.zip.writestr(info, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(data)}\n")

    def close(self, info):
        self.record.append(f"{info}/RECORD,,\n")
        self.zip.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(self.record))
        self.zip.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, default=ROOT / "bin", help="folder with the programs; default: bin")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheel; default: dist")
    arguments = parser.parse_args()

    version = version_of(r'^version = "([^"]+)"', "Cargo.toml")
    programs = [arguments.bin / name for name in [DIFFLOW, *OTHERS]]
    plugins = sorted((arguments.bin / "plugins").glob("*.so"))
    # Difflow's for NCCL, where it was built.
    libraries = sorted(arguments.bin.glob("lib*.so"))
    if missing := [path for path in programs if not path.is_file()]:
        fail(f"{missing[0]} is not there; run: make build")
    tag = f"py3-none-{platform([*programs, *plugins, *libraries])}"
    nodes = node_programs()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"difflow-{version}-{tag}.whl"
    new = path.with_suffix(".partial")

    wheel = Wheel(new)
    wheel.add("difflow/__init__.py", (SOURCES / "start.py").read_text())
    for name in tracked():
        wheel.add(f"difflow/{name}", (ROOT / name).read_bytes())
    wheel.add("difflow/Cargo.toml", workspace())
    for name in nodes:
        wheel.add(f"difflow/bin/{name}", (SOURCES / "node.sh").read_text(), executable=True)
    with tempfile.TemporaryDirectory() as folder:
        for program in [*programs, *libraries]:
            wheel.add(f"difflow/bin/{program.name}", stripped(program, folder), executable=True)
        for plugin in plugins:
            wheel.add(f"difflow/bin/plugins/{plugin.name}", stripped(plugin, folder), executable=True)
    info = f"difflow-{version}.dist-info"
    wheel.add(f"{info}/METADATA", metadata(version))
    wheel.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: difflow\nRoot-Is-Purelib: false\nTag: {tag}\n")
    wheel.add(f"{info}/licenses/LICENSE", (ROOT / "LICENSE").read_text())
    wheel.add(f"{info}/licenses/THIRD-PARTY.txt", licenses.gathered(ROOT))
    # What the toolchain says of its standard library, where it has that installed.
    standard = Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if standard.is_file():
        wheel.add(f"{info}/licenses/RUST-STANDARD-LIBRARY.html", standard.read_text())
    wheel.add(f"{info}/entry_points.txt", entry_points([DIFFLOW, *OTHERS, *nodes]))
    wheel.close(info)

    size = new.stat().st_size
    if size > LIMIT:
        fail(f"{new} has {size / 1e6:.1f} MB; allowed: {LIMIT / 1e6:.0f} MB, so that an installation takes no longer than it must")
    new.rename(path)
    print(f"{path}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
