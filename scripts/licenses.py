"""The licence texts of what is linked into difflow's programs: the Rust packages that they depend on, from cargo's own copies."""

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path

NAMES = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense).*")
# Code with the name of a licence in its own.
SOURCES = {".rs", ".c", ".cpp", ".h", ".py", ".toml", ".json"}
# Of a package, and of a library in C that it brings in a folder.
FOLDERS = ("*", "*/*")


def packages(root):
    """Returns cargo's entries of all packages that the workspace's programs link: normal dependencies, without those that run in the compiler."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout)
    entries = {entry["id"]: entry for entry in found["packages"]}
    edges = {node["id"]: node["deps"] for node in found["resolve"]["nodes"]}
    seen, waiting = set(), list(found["workspace_members"])
    while waiting:
        package = waiting.pop()
        if package in seen or any("proc-macro" in target["kind"] for target in entries[package]["targets"]):
            continue
        seen.add(package)
        waiting += [edge["pkg"] for edge in edges[package] if any(kind["kind"] is None for kind in edge["dep_kinds"])]
    members = set(found["workspace_members"])
    return sorted((entries[package] for package in seen - members), key=lambda entry: (entry["name"], entry["version"]))


def texts(folder):
    """Returns the licence texts in a package's folder."""
    files = {path for pattern in FOLDERS for path in folder.glob(pattern) if NAMES.fullmatch(path.name) and path.suffix not in SOURCES}
    return [path.read_text(errors="replace").strip() for path in sorted(files) if path.is_file()]


def gathered(root):
    """Returns one text: every package with its licence, then every licence text with the packages that have it."""
    owners, lines = defaultdict(list), []
    for entry in packages(root):
        name = f"{entry['name']} {entry['version']}"
        own = texts(Path(entry["manifest_path"]).parent)
        line = f"{name}: {entry['license'] or 'see its text'}, {entry['repository'] or 'https://crates.io/crates/' + entry['name']}"
        lines.append(line if own else f"{line}; its package has no text of the licence; authors: {', '.join(entry['authors']) or 'not named'}")
        for text in own:
            owners[text].append(name)
    parts = [f"{'-' * 100}\n{', '.join(names)}\n\n{text}\n" for text, names in owners.items()]
    return "Packages that are linked into difflow's programs.\n\n" + "\n".join(lines) + "\n\n" + "\n".join(parts)
